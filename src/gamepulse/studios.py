"""Studios, their members, and the log of who did what to them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Literal

import msgspec

from gamepulse import database, errors
from gamepulse.accounts import AccountName
from gamepulse.asker import Asker, Role, require, signed_in

MEMBERS_MAX = 200
ENTRIES_MAX = 1_000
_LOCK = 0x6770_7374  # one change of a studio at a time ("gpst")
_SQL = database.queries("studios")

RoleName = Literal["viewer", "operator", "admin"]


class NewMember(msgspec.Struct):
    """An account and what it is to be."""

    name: AccountName
    role: RoleName


class MemberChange(msgspec.Struct):
    """What a member is to be from now on."""

    role: RoleName


class Member(msgspec.Struct):
    """An account of a studio. `has_totp`: an admin without it cannot do an admin's work yet."""

    account_id: int
    name: str
    role: RoleName
    has_totp: bool


class Entry(msgspec.Struct):
    """Who did what. `account_id` is null for nobody's account; `about`: whom or what; `player`: the hash of a player's id."""

    entry_id: int
    at: datetime
    actor: str
    account_id: int | None
    action: str
    game: str | None
    about: str | None
    player: str | None


class AuditLog(msgspec.Struct):
    """Entries, the latest first; `before`: what to ask for next, null at the end."""

    entries: list[Entry]
    before: int | None


def check_member(asker: Asker, studio_id: int, role: Role) -> None:
    """That the asker may do in this studio what takes `role`.

    Raises Problem: UNKNOWN_STUDIO for who is no member; as asker.require.
    """
    signed_in(asker)
    if studio_id not in asker.roles:
        raise errors.Problem(errors.UNKNOWN_STUDIO)
    require(asker, studio_id, role)


@asynccontextmanager
async def changing(pool: database.Pool, asker: Asker, studio_id: int, role: Role) -> AsyncIterator[database.Connection]:
    """A transaction that changes a studio, one at a time. The asker's role is read again: it may have been taken away just now.

    Raises Problem ROLE_REQUIRED.
    """
    async with database.manage(pool, studio_id) as connection:
        await _lock(connection, studio_id)
        held = await connection.fetchval(_SQL["role"], studio_id, asker.account_id)
        if held is None or Role[held.upper()] < role:
            raise errors.Problem(errors.ROLE_REQUIRED)
        yield connection


async def _lock(connection: database.Connection, studio_id: int) -> None:
    await connection.execute(_SQL["lock"], _LOCK, studio_id)


async def audit(
    connection: database.Connection,
    asker: Asker,
    studio_id: int,
    action: str,
    about: str | None = None,
    game_id: int | None = None,
    player: bytes | None = None,
) -> None:
    """Write down what the asker does, in the transaction in which it is done. `player`: the hash of an id, never the id."""
    await connection.execute(_SQL["audit"], studio_id, game_id, asker.account_id, asker.name, action, about, player)


async def members(pool: database.Pool, studio_id: int) -> list[Member]:
    """All of them, by name."""
    async with database.manage(pool, studio_id) as connection:
        rows = await connection.fetch(_SQL["members"], studio_id)
    return [Member(**row) for row in rows]


async def add_member(pool: database.Pool, asker: Asker, studio_id: int, wanted: NewMember) -> Member:
    """Raises Problem: UNKNOWN_ACCOUNT, ALREADY_MEMBER, TOO_MANY_MEMBERS, ROLE_REQUIRED."""
    async with changing(pool, asker, studio_id, Role.ADMIN) as connection:
        account_id = await connection.fetchval(_SQL["account_named"], wanted.name)
        if account_id is None:
            raise errors.Problem(errors.UNKNOWN_ACCOUNT)
        if await connection.fetchval(_SQL["count_members"], studio_id) >= MEMBERS_MAX:
            raise errors.Problem(errors.TOO_MANY_MEMBERS, f"At most {MEMBERS_MAX} members.")
        if await connection.execute(_SQL["put_member"], studio_id, account_id, wanted.role) == "INSERT 0 0":
            raise errors.Problem(errors.ALREADY_MEMBER)
        await audit(connection, asker, studio_id, "member_added", f"{wanted.name}: {wanted.role}")
        return await _member(connection, studio_id, account_id)


async def change_member(pool: database.Pool, asker: Asker, studio_id: int, account_id: int, role: RoleName) -> Member:
    """Raises Problem: UNKNOWN_MEMBER, LAST_ADMIN, ROLE_REQUIRED."""
    async with changing(pool, asker, studio_id, Role.ADMIN) as connection:
        before = await _member(connection, studio_id, account_id)
        if role != "admin":
            await _check_other_admins(connection, studio_id, account_id)
        await connection.execute(_SQL["set_role"], studio_id, account_id, role)
        await audit(connection, asker, studio_id, "member_changed", f"{before.name}: {before.role} → {role}")
        return await _member(connection, studio_id, account_id)


async def remove_member(pool: database.Pool, asker: Asker, studio_id: int, account_id: int) -> None:
    """Raises Problem: UNKNOWN_MEMBER, LAST_ADMIN, ROLE_REQUIRED. Whoever asks may leave by themselves."""
    role = Role.VIEWER if account_id == asker.account_id else Role.ADMIN
    async with changing(pool, asker, studio_id, role) as connection:
        gone = await _member(connection, studio_id, account_id)
        await _check_other_admins(connection, studio_id, account_id)
        await connection.execute(_SQL["remove_member"], studio_id, account_id)
        await audit(connection, asker, studio_id, "member_removed", gone.name)


async def _member(connection: database.Connection, studio_id: int, account_id: int) -> Member:
    row = await connection.fetchrow(_SQL["member"], studio_id, account_id)
    if row is None:
        raise errors.Problem(errors.UNKNOWN_MEMBER)
    return Member(**row)


async def _check_other_admins(connection: database.Connection, studio_id: int, account_id: int) -> None:
    if not await connection.fetchval(_SQL["other_admins"], studio_id, account_id):
        raise errors.Problem(errors.LAST_ADMIN)


async def audit_log(pool: database.Pool, studio_id: int, before: int | None, limit: int) -> AuditLog:
    """The latest `limit` entries, or those before the entry `before`."""
    async with database.manage(pool, studio_id) as connection:
        rows = await connection.fetch(_SQL["audit_log"], studio_id, before, limit + 1)
    entries = [
        Entry(
            **{name: row[name] for name in ("entry_id", "at", "actor", "account_id", "action", "game", "about")},
            player=row["subject"].hex() if row["subject"] is not None else None,
        )
        for row in rows[:limit]
    ]
    return AuditLog(entries, entries[-1].entry_id if len(rows) > limit else None)


async def put_admin(pool: database.Pool, studio: str, account_id: int, name: str, actor: str) -> int:
    """Make the studio, and the account its admin, as far as they are not; the studio's id. For who runs the service."""
    async with database.manage(pool, None) as connection:
        studio_id: int = await connection.fetchval(_SQL["put_studio"], studio)
    by = Asker(None, actor, {}, has_totp=False)
    async with database.manage(pool, studio_id) as connection:
        await _lock(connection, studio_id)
        if await connection.fetchval(_SQL["role"], studio_id, account_id) != "admin":
            await connection.execute(_SQL["put_member"], studio_id, account_id, "admin")
            await connection.execute(_SQL["set_role"], studio_id, account_id, "admin")
            await audit(connection, by, studio_id, "member_added", f"{name}: admin")
    return studio_id
