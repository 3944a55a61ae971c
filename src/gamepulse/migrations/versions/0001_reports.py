"""Studios, games, keys, batches, rollups, look-ups, roles and row-level security."""

from gamepulse.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Run 0001_reports.sql."""
    run_sql("0001_reports.sql")
