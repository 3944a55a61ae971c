"""`python -m stack up|down|status`: the stack of GamePulse on this machine, without containers."""

import sys

import click

from stack.down import take_down
from stack.settings import Problem, read_settings
from stack.status import print_status
from stack.up import bring_up


@click.group()
def main() -> None:
    """Run GamePulse and its observability stack. Settings: GAMEPULSE_HOME, GAMEPULSE_PORT_OFFSET, DETACH, DEMO, ALERT_WEBHOOK."""


@main.command()
def up() -> None:
    """Start everything and print the URLs; in the foreground until Ctrl-C, unless DETACH=1."""
    bring_up(read_settings())


@main.command()
def down() -> None:
    """Stop everything; the data stays."""
    take_down(read_settings())


@main.command()
def status() -> None:
    """Say what runs, since when, and what is wrong."""
    sys.exit(0 if print_status(read_settings()) else 1)


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"\n{problem}")
