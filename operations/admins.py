"""Admins of studios, where nobody can be asked for a password: an account's first one is kept in Secrets Manager only."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from gamepulse import admins, database, errors
from operations import aws, logins
from operations.snapshots import Failed


async def create(admin: database.Login, name: str, studio: str, secret: str | None) -> int:
    """As gamepulse.admins.create, with a random password that is kept as `secret`; None: the account is there. Raises Failed.

    Kept before the account is made: one that nobody could sign in to would hold its name.
    """

    def password() -> str:
        assert secret is not None
        made = secrets.token_urlsafe(24)
        aws.keep(secret, made)
        return made

    with _failing():
        return await admins.create({**admin, "database": logins.DATABASE}, name, studio, password if secret else None)


async def reset_totp(admin: database.Login, name: str) -> None:
    """As gamepulse.admins.reset_totp. Raises Failed."""
    with _failing():
        await admins.reset_totp({**admin, "database": logins.DATABASE}, name)


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except errors.Problem as problem:
        raise Failed(problem.detail) from problem
    except (msgspec.ValidationError, BotoCoreError, ClientError) as error:
        raise Failed(str(error)) from error
    except (*database.UNREACHABLE, asyncpg.PostgresError) as error:
        raise Failed(f"PostgreSQL: {error or type(error).__name__}") from error
