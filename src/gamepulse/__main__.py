"""The command line: gamepulse serve | aggregate | migrate | demo | admin | settings.

Each command imports what it needs: the libraries of all of them take a second, and `serve` is three processes.
"""

import asyncio
import sys
from typing import Annotated, BinaryIO

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
    from gamepulse import run

    configured = _settings()
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

    try:
        version = asyncio.run(migrate.migrate(database.login(_settings())))
    except database.Unsafe as error:
        raise click.ClickException(str(error)) from None
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
    asyncio.run(migrate.put_demo(database.login(_settings()), read.ingest_key, read.server_key))
    click.echo("The game `demo` is there.")


@main.group()
def admin() -> None:
    """First admins, and lost second factors. For who runs the service: asks for nobody's sign-in."""


@admin.command("create")
@click.argument("name")
@click.option("--studio", required=True, help="The studio's name; it is made if there is none.")
def create_admin(name: str, studio: str) -> None:
    """Make the account NAME an admin of the studio; what there is not yet is made.

    A new account's password is asked for, or read from standard input. An admin's work then takes a second factor (POST
    /v1/account/totp).
    """
    try:
        click.echo(asyncio.run(_create_admin(database.login(_settings()), name, studio)))
    except msgspec.ValidationError as error:
        raise click.ClickException(str(error)) from None
    except errors.Problem as problem:
        raise click.ClickException(problem.detail) from None
    except database.UNREACHABLE as error:
        raise click.ClickException(f"PostgreSQL is away ({type(error).__name__}).") from None


async def _create_admin(login: database.Login, name: str, studio: str) -> str:
    from gamepulse import accounts, studios

    account_pool = await database.open_pool(login, "account", size=1)
    manage_pool = await database.open_pool(login, "manage", size=1)
    try:
        account_id = await accounts.find_id(account_pool, name)
        if account_id is None:
            wanted = msgspec.convert({"name": name, "password": _password()}, accounts.NewAccount)
            account_id = (await accounts.create(account_pool, accounts.Passwords(), wanted)).account_id
        studio_id = await studios.put_admin(manage_pool, studio, account_id, name, actor="gamepulse admin")
    finally:
        account_pool.terminate()
        manage_pool.terminate()
    return f"{name} is an admin of the studio {studio} ({studio_id})."


def _password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    return sys.stdin.readline().rstrip("\n")


@admin.command("reset-totp")
@click.argument("name")
def reset_totp(name: str) -> None:
    """Take the second factor from the account NAME, whose device is lost; all its sign-ins end."""
    from gamepulse import accounts

    async def reset() -> bool:
        pool = await database.open_pool(database.login(_settings()), "account", size=1)
        try:
            return await accounts.reset_totp(pool, name, actor="gamepulse admin")
        finally:
            pool.terminate()

    try:
        is_there = asyncio.run(reset())
    except database.UNREACHABLE as error:
        raise click.ClickException(f"PostgreSQL is away ({type(error).__name__}).") from None
    if not is_there:
        raise click.ClickException(f"There is no account {name}.")
    click.echo(f"{name} has no second factor any more, and is signed in nowhere.")


@main.command("settings")
def settings_command() -> None:
    """List all settings: environment variables and their defaults. GAMEPULSE_<NAME>_FILE names a file with the value instead."""
    for field in msgspec.structs.fields(Settings):
        default = "required" if field.required else f"default {field.default!r}"
        click.echo(f"{settings.variable(field.name):38} {default}")


if __name__ == "__main__":
    main()
