"""The last hours together, so that questions about the last day read a tenth of the rows."""

from gamepulse.migrate import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Run 0006_recent.sql."""
    run_sql("0006_recent.sql")
