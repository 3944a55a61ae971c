"""`python -m stack up|down|status|build|admin`: the stack of GamePulse on this machine, without containers."""

import os
import subprocess
import sys

import click

from stack.components import gamepulse_command, service_environment
from stack.down import take_down
from stack.keys import load_keys
from stack.programs import PROGRAMS, ensure_program
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


@main.command()
@click.argument("programs", nargs=-1, type=click.Choice(list(PROGRAMS)))
def build(programs: tuple[str, ...]) -> None:
    """Build those of the PROGRAMS that are not built yet; all, when none is named."""
    for name in programs or PROGRAMS:
        ensure_program(read_settings(), name)


@main.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1)
def admin(arguments: tuple[str, ...]) -> None:
    """Run `gamepulse admin …` on this stack's database."""
    settings = read_settings()
    environment = os.environ | service_environment(settings, load_keys(settings.home))
    sys.exit(subprocess.run(gamepulse_command("admin", *arguments), env=environment, check=False).returncode)


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"\n{problem}")
