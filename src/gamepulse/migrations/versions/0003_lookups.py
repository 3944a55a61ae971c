"""Sessions by network, by build, and in random order."""

from gamepulse.migrate import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Run 0003_lookups.sql."""
    run_sql("0003_lookups.sql")
