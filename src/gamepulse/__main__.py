"""The command line: gamepulse serve | aggregate | migrate | demo | admin | settings.

Each command imports what it needs: the libraries of all of them take a second, and `serve` is three processes.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, BinaryIO

import asyncpg
import click
import msgspec
from msgspec import Meta

from gamepulse import __version__, database, errors, settings
from gamepulse.settings import Settings


class DemoKeys(msgspec.Struct):
    """What `gamepulse demo` reads: keys of at least 32 characters."""

    ingest_key: Annotated[str, Meta(min_length=32, max_length=128)]
    server_key: Annotated[str, Meta(min_length=32, max_length=128)]


@click.group(help=__doc__)
@click.version_option(__version__)
def main() -> None:
    """Entry point."""


def _settings() -> Settings:
    try:
        return settings.load()
    except ValueError as error:
        raise click.ClickException(f"{error}. See `gamepulse settings`.") from None


@main.command()
def serve() -> None:
    """Serve HTTP and aggregate until SIGTERM."""
    from gamepulse import geography, run

    configured = _settings()
    try:
        geography.Geography(configured.trusted_proxies, configured.geo_database)  # as each worker will
    except geography.UNREADABLE as error:
        raise click.ClickException(f"GAMEPULSE_GEO_DATABASE: {error}") from None
    try:
        run.serve(configured)
    except database.Unsafe as error:
        raise click.ClickException(str(error)) from None


@main.command("aggregate")
@click.option("--parent", type=int, help="End when the process with this id, our parent, ends.")
def aggregate_command(parent: int | None) -> None:
    """Aggregate only, until SIGTERM (`serve` starts one by itself)."""
    from gamepulse import aggregate

    asyncio.run(aggregate.main(_settings(), parent_pid=parent))


@main.command("migrate")
def migrate_command() -> None:
    """Bring the database to the newest version."""
    from gamepulse import migrate

    login = database.login(_settings())
    with _told():
        version = asyncio.run(migrate.migrate(login))
    click.echo(f"The database is at version {version}.")


@main.command()
@click.argument("keys", type=click.File("rb"), default="-")
def demo(keys: BinaryIO) -> None:
    """Make the public game `demo`; reads {"ingest_key", "server_key"} as JSON from the file KEYS, or else from standard input."""
    from gamepulse import migrate

    try:
        read = msgspec.json.decode(keys.read(), type=DemoKeys)
    except msgspec.DecodeError as error:
        raise click.ClickException(f"{keys.name}: {error}") from None
    login = database.login(_settings())
    with _told():
        asyncio.run(migrate.put_demo(login, read.ingest_key, read.server_key))
    click.echo("The game `demo` is there.")


@main.group()
def admin() -> None:
    """First admins, forgotten passwords, lost second factors. For who runs the service: asks for nobody's sign-in."""


@admin.command("create")
@click.argument("name")
@click.option("--studio", required=True, help="The studio's name; it is made if there is none.")
@click.option(
    "--existing", is_flag=True, help="The account is there, and known to be that person's: anyone may have taken the name."
)
def create_admin(name: str, studio: str, existing: bool) -> None:
    """Make the account NAME, and the studio if there is none, and the account its admin.

    The password is asked for, or read from standard input. An admin's work then takes a second factor (POST
    /v1/account/totp).
    """
    from gamepulse import admins

    login = database.login(_settings())
    with _told():
        studio_id = asyncio.run(admins.create(login, name, studio, None if existing else _password))
    click.echo(f"{name} is an admin of the studio {studio} ({studio_id}).")


def _password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    return sys.stdin.readline().rstrip("\n")


@admin.command("reset-password")
@click.argument("name")
def reset_password(name: str) -> None:
    """Give the account NAME another password, asked for or read from standard input; all its sign-ins end."""
    from gamepulse import admins

    login = database.login(_settings())
    with _told():
        asyncio.run(admins.reset_password(login, name, _password))
    click.echo(f"{name} has another password, and is signed in nowhere.")


@admin.command("reset-totp")
@click.argument("name")
def reset_totp(name: str) -> None:
    """Take the second factor from the account NAME, whose device is lost; all its sign-ins end."""
    from gamepulse import admins

    login = database.login(_settings())
    with _told():
        asyncio.run(admins.reset_totp(login, name))
    click.echo(f"{name} has no second factor any more, and is signed in nowhere.")


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong is told in a line."""
    try:
        yield
    except errors.Problem as problem:
        raise click.ClickException(problem.detail) from None
    except database.Unsafe as error:
        raise click.ClickException(str(error)) from None
    except database.UNREACHABLE as error:
        raise click.ClickException(f"PostgreSQL is away ({type(error).__name__}): {error}") from None
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError):
        raise click.ClickException("The database is older than this version: run `gamepulse migrate` first.") from None
    except asyncpg.PostgresError as error:  # a wrong name, password or right
        raise click.ClickException(f"PostgreSQL: {error}") from None


@main.command("settings")
def settings_command() -> None:
    """List all settings: environment variables and their defaults. GAMEPULSE_<NAME>_FILE names a file with the value instead."""
    for field in msgspec.structs.fields(Settings):
        default = "required" if field.required else f"default {field.default!r}"
        click.echo(f"{settings.variable(field.name):38} {default}")


if __name__ == "__main__":
    main()
