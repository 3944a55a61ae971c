"""`python -m deploy --help`: what `make synth`, `deploy`, `destroy`, `cost` call. docs/deploy.md says what is needed first."""

import sys
import tempfile
from functools import partial
from pathlib import Path

import click
from botocore.exceptions import BotoCoreError, ClientError
from click.core import ParameterSource

from deploy.account import log_of, open_account, run_task, tell
from deploy.config import NAME, read_config
from deploy.console import PAGES
from deploy.console import console as forward
from deploy.cost import PLAYERS, report
from deploy.cost import write as write_cost
from deploy.diagram import write as draw
from deploy.environment import NAMES, read_environment
from deploy.prove import prove as proven
from deploy.purge import purge as purge_in
from deploy.release import cdk_command, check_is_ours
from deploy.release import deploy as deploy_to
from deploy.release import destroy as destroy_in
from deploy.synth import synthesise
from deploy.usage import Assumed
from stack.settings import CHECKOUT, Problem

JOBS = ("migrate", "backup", "rotate")
ENVIRONMENT = click.argument("environment", metavar="ENV", type=click.Choice(NAMES))


@click.group()
def main() -> None:
    """GamePulse on AWS."""


@main.command()
@ENVIRONMENT
@click.option("--to", type=click.Path(path_type=Path), default=CHECKOUT / "cdk.out", help="The folder; default: cdk.out")
def synth(environment: str, to: Path) -> None:
    """Write the templates, without an account."""
    synthesise(read_environment(environment), to)
    click.echo("\n".join(str(path) for path in sorted(to.glob(f"gamepulse-{environment}-*.template.json"))))


@main.command()
@ENVIRONMENT
@click.option("--version", help="One that has been pushed; default: this checkout's")
def deploy(environment: str, version: str | None) -> None:
    """Bootstrap, images, migration, stacks, and a look whether it answers. Can be run again after any failure."""
    variables = read_environment(environment, version)
    with tempfile.TemporaryDirectory() as folder:
        synthesise(variables, Path(folder))
        deploy_to(open_account(read_config(variables)), cdk_command(Path(folder)))


@main.command()
@ENVIRONMENT
def destroy(environment: str) -> None:
    """Take all away but what has data. Not for production."""
    variables = read_environment(environment)
    with tempfile.TemporaryDirectory() as folder:
        synthesise(variables, Path(folder))
        destroy_in(open_account(read_config(variables)), cdk_command(Path(folder)))


@main.command()
@ENVIRONMENT
@click.option("--snapshots", is_flag=True, help="The database's last snapshot and its log, too")
def purge(environment: str, snapshots: bool) -> None:
    """Take away, after `destroy`, what has data: all of it is listed, and the environment's name has to be typed."""
    account = open_account(read_config(read_environment(environment)))
    purge_in(account, partial(click.prompt, default="", show_default=False), snapshots=snapshots)


@main.command()
def diagram() -> None:
    """Draw docs/deploy.md's picture anew from the templates."""
    with tempfile.TemporaryDirectory() as folder:
        synthesise(read_environment("staging"), Path(folder))
        draw(Path(folder), "staging")


@main.command()
@ENVIRONMENT
@click.argument("name", metavar="NAME", type=click.Choice(tuple(PAGES)))
@click.option("--port", type=click.IntRange(1, 65535), help="On this machine; default: the program's own")
def console(environment: str, name: str, port: int | None) -> None:
    """Open a program's own page on this machine, by SSM."""
    forward(open_account(read_config(read_environment(environment))), name, port or PAGES[name])


@main.command()
@ENVIRONMENT
@click.argument("name", metavar="NAME", type=click.Choice(JOBS))
@click.argument("arguments", nargs=-1)
def job(environment: str, name: str, arguments: tuple[str, ...]) -> None:
    """Run a job now, with other ARGUMENTS than its own if there are any: `backup fetch` brings a backup of Prometheus back."""
    account = open_account(read_config(read_environment(environment)))
    check_is_ours(account)
    tell(log_of(account, name, run_task(account, name, name, command=list(arguments) or None)))


@main.command()
@ENVIRONMENT
@click.argument("name", metavar="NAME")
@click.option("--studio", required=True, help="The studio's name; it is made if there is none.")
def admin(environment: str, name: str, studio: str) -> None:
    """Make the account NAME, an admin of the studio. Its password comes into Secrets Manager, under the name that is told."""
    account = open_account(read_config(read_environment(environment)))
    check_is_ours(account)
    command = ["admin", "create", name, "--studio", studio, "--secret", f"{NAME}/{environment}/admin/{name}"]
    tell(log_of(account, "migrate", run_task(account, "migrate", "migrate", command=command)))


@main.command()
@ENVIRONMENT
@click.option("--cap-usd", default=50.0, show_default=True, help="What it may cost")
@click.option("--usd-an-hour", default=4.0, show_default=True, help="What the environment costs (docs/cost.md)")
@click.option("--keep", is_flag=True, help="Do not destroy it at the end")
@click.option("--to", type=click.Path(path_type=Path), default=CHECKOUT / "evidence.json", help="The file; default: evidence.json")
def prove(environment: str, cap_usd: float, usd_an_hour: float, keep: bool, to: Path) -> None:
    """Show on a real account what cannot be shown without one. Stops tasks and takes a zone away: not for production."""
    variables = read_environment(environment)
    with tempfile.TemporaryDirectory() as folder:
        synthesise(variables, Path(folder))
        account, cdk = open_account(read_config(variables)), cdk_command(Path(folder))
        if not proven(account, cdk, cap_usd=cap_usd, usd_an_hour=usd_an_hour, keep=keep, to=to):
            raise Problem(f"Not all held: {to}")


@main.command()
@click.option("--players", type=click.IntRange(1), multiple=True, default=PLAYERS, show_default=True, help="At a time, at the peak")
@click.option("--interval-s", type=click.FloatRange(1), default=Assumed().interval_s, show_default=True, help="From batch to batch")
@click.option("--peak-to-mean", type=click.FloatRange(1), default=Assumed().peak_to_mean, show_default=True, help="Of a day")
@click.option("--sessions", type=click.IntRange(1), default=Assumed().sessions, show_default=True, help="In a batch")
@click.option("--write", "is_written", is_flag=True, help="Into docs/cost.md, with what is assumed there")
@click.pass_context
def cost(
    context: click.Context, players: tuple[int, ...], interval_s: float, peak_to_mean: float, sessions: int, is_written: bool
) -> None:
    """Reckon what a month costs."""
    if is_written:
        if any(
            context.get_parameter_source(name) is not ParameterSource.DEFAULT for name in context.params if name != "is_written"
        ):
            raise click.UsageError("--write takes no other option: docs/cost.md has what is printed without any")
        write_cost()
    else:
        click.echo(report(players, Assumed(interval_s=interval_s, peak_to_mean=peak_to_mean, sessions=sessions)))


if __name__ == "__main__":
    try:
        main()
    except (Problem, ValueError) as problem:
        sys.exit(f"\n{problem}")
    except (BotoCoreError, ClientError) as error:
        sys.exit(
            f"\nAWS: {error}\nWhose credentials are used: `aws sts get-caller-identity`; docs/deploy.md says which are needed."
        )
