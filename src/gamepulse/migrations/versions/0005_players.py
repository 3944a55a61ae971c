"""Every player of a session, not only the first."""

from gamepulse.migrate import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Run 0005_players.sql."""
    run_sql("0005_players.sql")
