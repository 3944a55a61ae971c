"""What no route does, but only who runs the service: a studio with its first admin, and a second factor whose device is lost."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from gamepulse import accounts, database, errors, studios

ACTOR = "gamepulse admin"
"""In the audit log."""


async def create(login: database.Login, name: str, studio: str, password: Callable[[], str] | None) -> int:
    """Make the account and the studio, as far as it is not there, and the account its admin; the studio's id.

    `password` is asked for the new account's, when all else about it is right. None: the account is there already. Raises
    msgspec.ValidationError for a name or a password that cannot be; Problem: NAME_TAKEN, UNKNOWN_ACCOUNT, PASSWORD_IS_NAME.
    """
    msgspec.convert(name, accounts.AccountName)
    async with _pool(login, "account") as pool:
        account_id = await accounts.find_id(pool, name)
        if password is None and account_id is None:
            raise errors.Problem(errors.UNKNOWN_ACCOUNT)
        if password is not None:
            if account_id is not None:
                raise errors.Problem(errors.NAME_TAKEN)
            wanted = msgspec.convert({"name": name, "password": password()}, accounts.NewAccount)
            account_id = (await accounts.create(pool, accounts.Passwords(), wanted)).account_id
    assert account_id is not None
    async with _pool(login, "manage") as pool:
        return await studios.put_admin(pool, studio, account_id, name, ACTOR)


async def reset_totp(login: database.Login, name: str) -> None:
    """Neither second factor nor sign-in is left. Raises Problem UNKNOWN_ACCOUNT."""
    async with _pool(login, "account") as pool:
        if not await accounts.reset_totp(pool, name, ACTOR):
            raise errors.Problem(errors.UNKNOWN_ACCOUNT)


@asynccontextmanager
async def _pool(login: database.Login, role: str) -> AsyncIterator[database.Pool]:
    pool = await database.open_pool(login, role, size=1)
    try:
        yield pool
    finally:
        pool.terminate()
