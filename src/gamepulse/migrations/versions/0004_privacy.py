"""Erasures by player, and a retention of raw data for each game."""

from gamepulse.migrate import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Run 0004_privacy.sql."""
    run_sql("0004_privacy.sql")
