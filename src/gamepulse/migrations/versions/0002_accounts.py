"""Accounts, sign-ins, members of studios; thresholds by profile, regions, keys with names; an audit log that stays as it is."""

from gamepulse.migrate import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Run 0002_accounts.sql."""
    run_sql("0002_accounts.sql")
