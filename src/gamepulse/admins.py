"""What no route does, but only who runs the service: a studio's first admin, a forgotten password, a lost second factor."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gamepulse import accounts, database, errors, studios

ACTOR = "gamepulse admin"
"""In the audit log."""
_STUDIO_PATTERN = r"^[^\x00-\x1f\x7f]{1,64}$(?!\n)"
_WORDS = {accounts.NAME_PATTERN: accounts.NAME_WORDS, _STUDIO_PATTERN: "a studio's name: 1 to 64 printable characters"}
StudioName = Annotated[str, Meta(pattern=_STUDIO_PATTERN)]


async def create(login: database.Login, name: str, studio: str, password: Callable[[], str] | None) -> int:
    """Make the account and the studio, as far as it is not there, and the account its admin; the studio's id.

    `password` is asked for the new account's, when all else about it is right. None: the account is there already. Raises Problem:
    INVALID_PARAMETER for a name or a password that cannot be; NAME_TAKEN, UNKNOWN_ACCOUNT, PASSWORD_IS_NAME.
    """
    _checked(name, accounts.AccountName)
    _checked(studio, StudioName)
    async with _pool(login, "account") as pool:
        if password is None:
            account_id = await _known(pool, name)
        elif await accounts.find_id(pool, name) is None:
            account_id = (await accounts.create(pool, accounts.Passwords(), _wanted(name, password()))).account_id
        else:
            raise errors.Problem(errors.NAME_TAKEN)
    async with _pool(login, "manage") as pool:
        return await studios.put_admin(pool, studio, account_id, name, ACTOR)


async def reset_password(login: database.Login, name: str, password: Callable[[], str]) -> None:
    """Another password; no sign-in is left. Raises as `create`."""
    async with _pool(login, "account") as pool:
        account_id = await _known(pool, name)
        await accounts.reset_password(pool, accounts.Passwords(), account_id, _wanted(name, password()), ACTOR)


async def reset_totp(login: database.Login, name: str) -> None:
    """Neither second factor nor sign-in is left. Raises Problem UNKNOWN_ACCOUNT."""
    async with _pool(login, "account") as pool:
        await accounts.reset_totp(pool, await _known(pool, name), name, ACTOR)


async def _known(pool: database.Pool, name: str) -> int:
    account_id = await accounts.find_id(pool, name)
    if account_id is None:
        raise errors.Problem(errors.UNKNOWN_ACCOUNT)
    return account_id


def _wanted(name: str, password: str) -> accounts.NewAccount:
    wanted: accounts.NewAccount = _checked({"name": name, "password": password}, accounts.NewAccount)
    return wanted


def _checked(value: object, of: Any) -> Any:
    try:
        return msgspec.convert(value, of)
    except msgspec.ValidationError as error:
        raise errors.Problem(errors.INVALID_PARAMETER, errors.in_words(error, _WORDS)) from None


@asynccontextmanager
async def _pool(login: database.Login, role: str) -> AsyncIterator[database.Pool]:
    pool = await database.open_pool(login, role, size=1)
    try:
        yield pool
    finally:
        pool.terminate()
