"""Admins of studios, where nobody can be asked for a password: an account's first one is kept in Secrets Manager only."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import asyncpg
from botocore.exceptions import BotoCoreError, ClientError

from gamepulse import admins, database, errors
from operations import aws, logins
from operations.snapshots import Failed


async def create(admin: database.Login, name: str, studio: str, secret: str | None) -> int:
    """As gamepulse.admins.create, with a random password that is kept as `secret`; None: the account is there. Raises Failed."""
    with _failing():
        return await admins.create(_inside(admin), name, studio, partial(_kept, secret) if secret else None)


async def reset_password(admin: database.Login, name: str, secret: str) -> None:
    """As gamepulse.admins.reset_password, with a random one that is kept as `secret`. Raises Failed."""
    with _failing():
        await admins.reset_password(_inside(admin), name, partial(_kept, secret))


async def reset_totp(admin: database.Login, name: str) -> None:
    """As gamepulse.admins.reset_totp. Raises Failed."""
    with _failing():
        await admins.reset_totp(_inside(admin), name)


def _inside(admin: database.Login) -> database.Login:
    return {**admin, "database": logins.DATABASE}


def _kept(secret: str) -> str:
    """A new password, kept before it is anybody's: nobody could sign in with one that is lost."""
    password = secrets.token_urlsafe(24)
    aws.keep(secret, password)
    return password


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except errors.Problem as problem:
        raise Failed(problem.detail) from problem
    except (BotoCoreError, ClientError) as error:
        raise Failed(str(error)) from error
    except (*database.UNREACHABLE, asyncpg.PostgresError) as error:
        raise Failed(f"PostgreSQL: {error or type(error).__name__}") from error
