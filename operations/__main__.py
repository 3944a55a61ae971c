"""The command line: `python -m operations`. Secrets and addresses come from the environment."""

import asyncio
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import BinaryIO

import asyncpg
import click
import msgspec

from gamepulse import database
from gamepulse.batch import SLUG_PATTERN, SLUG_WORDS
from operations import logins, snapshots


@click.group(help=__doc__)
def main() -> None:
    """Entry point."""


def needed(name: str) -> str:
    """A variable of the environment, or what the file holds that <name>_FILE names. Raises click's error, naming it."""
    value = optional(name)
    if not value:
        raise click.ClickException(f"{name} (or {name}_FILE, a file with it) is needed")
    return value


def optional(name: str) -> str | None:
    path = os.environ.get(f"{name}_FILE")
    if path is None:
        return os.environ.get(name) or None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise click.ClickException(f"{name}_FILE cannot be read ({error.strerror})") from None


def _admin() -> database.Login:
    password = optional("DATABASE_ADMIN_PASSWORD")
    return {"dsn": needed("DATABASE_ADMIN_URL")} | ({"password": password} if password else {})


@main.command("migrate")
@click.option("--demo", type=click.File("rb"), help="Make the demo's game too, with the keys of this JSON file.")
def migrate_command(demo: BinaryIO | None) -> None:
    """Make owner, databases, tables and logins, or bring them to the newest version.

    DATABASE_ADMIN_URL, DATABASE_ADMIN_PASSWORD: of who may create roles and databases. MONITOR_PASSWORD,
    GRAFANA_READER_PASSWORD: of the Collector's and Grafana's logins. GRAFANA_PASSWORD: of the owner of Grafana's own
    database, if it is to be. OWNER_PASSWORD: if somebody is to sign in as the owner. SERVICE_PASSWORD: of the service's
    login, if that is not to sign in with tokens of AWS.
    """
    passwords = logins.Passwords(
        monitor=needed("MONITOR_PASSWORD"),
        reader=needed("GRAFANA_READER_PASSWORD"),
        owner=optional("OWNER_PASSWORD"),
        service=optional("SERVICE_PASSWORD"),
        grafana=optional("GRAFANA_PASSWORD"),
    )
    try:
        keys = msgspec.json.decode(demo.read(), type=logins.Demo) if demo else None
        version = asyncio.run(logins.prepare(_admin(), passwords, keys))
    except msgspec.MsgspecError as error:
        raise click.ClickException(f"the demo's keys: {error}") from None
    except (*database.UNREACHABLE, asyncpg.PostgresError) as error:
        raise click.ClickException(f"PostgreSQL: {error or type(error).__name__}") from None
    click.echo(f"The database is at version {version}; its logins are there.")


@main.command("grafana-login")
@click.option("--login", required=True, help="The login's name, as gamepulse_grafana_2.")
@click.option("--studio", required=True, type=int, help="The only studio that it reads.")
def grafana_login(login: str, studio: int) -> None:
    """Make a login for another Grafana organisation. GRAFANA_READER_PASSWORD: its password; the other variables as of `migrate`."""
    try:
        asyncio.run(logins.put_reader(_admin(), login, needed("GRAFANA_READER_PASSWORD"), studio))
    except (*database.UNREACHABLE, asyncpg.PostgresError) as error:
        raise click.ClickException(f"PostgreSQL: {error or type(error).__name__}") from None
    click.echo(f"{login} reads studio {studio}.")


class Telling(click.Command):
    """A command whose failure is told in a line."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except snapshots.Failed as error:
            raise click.ClickException(str(error)) from None


def _slug(_: click.Context, __: click.Parameter, value: str) -> str:
    if not re.fullmatch(SLUG_PATTERN, value):
        raise click.BadParameter(f"it is {SLUG_WORDS}")
    return value


GAME = click.argument("game", callback=_slug)


@main.command("game", cls=Telling)
@GAME
@click.option(
    "--secret", required=True, help="The name under which Secrets Manager gets the new key; it is made if it is not there."
)
def game_command(game: str, secret: str) -> None:
    """Make a GAME that is not public, of the studio `Prove`, and a key of it.

    DATABASE_ADMIN_URL, DATABASE_ADMIN_PASSWORD: as of `migrate`.
    """
    from operations import games  # noqa: PLC0415 — boto3 takes a second and 30 MB, which others need not

    asyncio.run(games.put_game(_admin(), game, secret))
    click.echo(f"The game {game} is there; its new key is in the secret {secret}.")


@main.command("stored", cls=Telling)
@GAME
def stored_command(game: str) -> None:
    """Say how many reports and events of a GAME are in PostgreSQL, as {"stored": 1}. DATABASE_ADMIN_URL, …: as above."""
    from operations import games  # noqa: PLC0415 — as above

    click.echo(json.dumps({"stored": asyncio.run(games.stored(_admin(), game))}))


KEPT = "The password is in the secret {}: read it, sign in, change it, and delete the secret."


@main.group()
def admin() -> None:
    """A studio's admin, forgotten passwords, lost second factors, where nobody can be asked for a password: in a task on AWS.

    DATABASE_ADMIN_URL, DATABASE_ADMIN_PASSWORD: as of `migrate`.
    """


@admin.command("create", cls=Telling)
@click.argument("name")
@click.option("--studio", required=True, help="The studio's name; it is made if there is none.")
@click.option(
    "--secret", help="The name under which Secrets Manager gets the new account's password. Without: the account is there."
)
def create_admin(name: str, studio: str, secret: str | None) -> None:
    """Make the account NAME with a random password, and it an admin of the studio; or an account that is there."""
    from operations import admins  # noqa: PLC0415 — boto3 takes a second and 30 MB, which others need not

    studio_id = asyncio.run(admins.create(_admin(), name, studio, secret))
    click.echo(f"{name} is an admin of the studio {studio} ({studio_id}).")
    if secret:
        click.echo(KEPT.format(secret))


@admin.command("reset-password", cls=Telling)
@click.argument("name")
@click.option("--secret", required=True, help="The name under which Secrets Manager gets the password.")
def reset_password(name: str, secret: str) -> None:
    """Give the account NAME another, random password; all its sign-ins end."""
    from operations import admins  # noqa: PLC0415 — as above

    asyncio.run(admins.reset_password(_admin(), name, secret))
    click.echo(f"{name} has another password, and is signed in nowhere.\n{KEPT.format(secret)}")


@admin.command("reset-totp", cls=Telling)
@click.argument("name")
def reset_totp(name: str) -> None:
    """Take the second factor from the account NAME, whose device is lost; all its sign-ins end."""
    from operations import admins  # noqa: PLC0415 — as above

    asyncio.run(admins.reset_totp(_admin(), name))
    click.echo(f"{name} has no second factor any more, and is signed in nowhere.")


TSDB = click.option("--tsdb", type=click.Path(file_okay=False, path_type=Path), default="/prometheus", show_default=True)
COPIES = click.option("--copies", type=click.Path(file_okay=False, path_type=Path), default="/prometheus-data", show_default=True)


@main.command("snapshots", cls=Telling)
@TSDB
@COPIES
@click.option("--prometheus", default="127.0.0.1:9090", show_default=True, help="Its address; it runs with --web.enable-admin-api.")
@click.option("--every", default=snapshots.EVERY_S, show_default=True, help="Seconds between two copies.")
def snapshots_command(tsdb: Path, copies: Path, prometheus: str, every: float) -> None:
    """Copy Prometheus' data every hour, and once more at SIGTERM, when Prometheus has ended. The latest two are kept."""
    snapshots.keep_taking(tsdb, copies, prometheus, click.echo, every)


@main.command(cls=Telling)
@TSDB
@COPIES
def restore(tsdb: Path, copies: Path) -> None:
    """Put the latest copy into Prometheus' folder, if that has no data. Before Prometheus starts."""
    snapshots.restore(tsdb, copies, click.echo)


@main.command("backup", cls=Telling)
@COPIES
def backup_command(copies: Path) -> None:
    """Put the latest copy of Prometheus' data into the bucket BACKUP_BUCKET."""
    from operations import backup  # noqa: PLC0415 — boto3 takes a second and 30 MB, which others need not

    backup.back_up(copies, needed("BACKUP_BUCKET"), click.echo)


@main.command(cls=Telling)
@COPIES
@click.option("--key", help="Of the backup; else the latest.")
def fetch(copies: Path, key: str | None) -> None:
    """Make a copy of a backup in BACKUP_BUCKET. While Prometheus' service has no task: the next one restores it."""
    from operations import backup  # noqa: PLC0415 — as above

    backup.fetch(copies, needed("BACKUP_BUCKET"), key, click.echo)


@main.command("rotate", cls=Telling)
def rotate_command() -> None:
    """Give the logins of telemetry new passwords. DATABASE_URL: without a user. ECS_CLUSTER: where their tasks run."""
    from operations import rotate  # noqa: PLC0415 — as above

    asyncio.run(rotate.rotate(needed("DATABASE_URL"), needed("ECS_CLUSTER"), click.echo))


@main.command()
def console() -> None:
    """Wait until SIGTERM: somebody forwards ports through this task."""
    is_ending = threading.Event()
    for end in (signal.SIGTERM, signal.SIGINT):  # a container's first process is not ended by what it does not handle
        signal.signal(end, lambda *_: is_ending.set())
    click.echo("Waiting, so that ports can be forwarded.")
    is_ending.wait()


if __name__ == "__main__":
    main()
