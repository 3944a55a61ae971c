"""Ingest keys: which game a batch is for, and whether it may hold many sessions."""

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import NamedTuple

from gamepulse import database, errors
from gamepulse.limits import UNKNOWN_SECRETS, Charge, Limits

FRESH_S = 4.0
"""A revoked key is refused within 5 s everywhere."""
KNOWN_MAX = 10_000
"""Right ones, and wrong ones beside them: a flood of wrong keys drives no right one out."""
KEY_LENGTH_MAX = 128
STRANGERS_MAX = 64
"""Keys that were never right and wait to be looked up."""
_SQL = database.queries("accept")


class IngestKey(NamedTuple):
    """What a key opens."""

    studio_id: int
    game_id: int
    game: str
    is_server: bool


class LookUps[Found](ABC):
    """What secrets open, looked up one at a time for each and remembered in memory for FRESH_S, wrong ones too.

    `limits`: of those who guess; None where nobody can.
    """

    def __init__(self, pool: database.Pool, limits: Limits | None = None) -> None:
        self._pool = pool
        self._limits = limits
        self._right: dict[str, tuple[float, Found | None]] = {}
        self._wrong: dict[str, tuple[float, Found | None]] = {}
        self._one_stranger = asyncio.Lock()
        self._asked: dict[str, asyncio.Task[Found | None]] = {}

    @abstractmethod
    async def _read(self, connection: database.Connection, secret: str) -> Found | None:
        """Ask PostgreSQL."""

    def remembered(self, secret: str) -> Found | None:
        """What this secret opens, if it was right a moment ago."""
        fresh_until, found = self._right.get(secret, (0.0, None))
        return found if fresh_until >= time.monotonic() else None

    def forget(self, secret: str) -> None:
        """It is to be looked up anew."""
        self._right.pop(secret, None)

    async def look_up(self, secret: str, client: str = "") -> Found | None:
        """What this secret opens. `client`: who asks, as limits.client_of; empty for who is not limited.

        Raises Problem: DATABASE_UNAVAILABLE when PostgreSQL cannot say; OVERLOADED amid a flood of wrong secrets; RATE_LIMITED,
        before anything is looked up, for who has sent too many of them.
        """
        fresh_until, found = self._known(secret)
        guesser = ""
        if fresh_until < time.monotonic() and client and self._limits is not None and secret not in self._right:
            guesser = self._limits.hashed(client)
            await self._limits.ask(Charge(UNKNOWN_SECRETS, guesser, 0))
            fresh_until, found = self._known(secret)  # another may have asked meanwhile
        if fresh_until < time.monotonic():
            found = await asyncio.shield(self._ask(secret, guesser))
        return found

    def _known(self, secret: str) -> tuple[float, Found | None]:
        return self._right.get(secret) or self._wrong.get(secret, (0.0, None))

    def _ask(self, secret: str, guesser: str) -> asyncio.Task[Found | None]:
        """One question at a time for each secret, however many requests wait for it."""
        task = self._asked.get(secret)
        if task is None:
            if secret not in self._right and len(self._asked) >= STRANGERS_MAX:
                raise errors.Problem(errors.OVERLOADED)
            task = self._asked[secret] = asyncio.create_task(self._remember(secret, guesser))
            task.add_done_callback(lambda _: self._asked.pop(secret, None))
        return task

    async def _remember(self, secret: str, guesser: str) -> Found | None:
        asked_at = time.monotonic()  # not when the answer came: it may have been revoked meanwhile
        # One at a time of those that were never right: those that were do not queue behind a flood of them.
        turn = nullcontext() if secret in self._right else self._one_stranger
        try:
            async with (
                asyncio.timeout(database.LOOK_UP_TIMEOUT_S),
                turn,
                database.use(self._pool, database.LOOK_UP_TIMEOUT_S) as connection,
            ):
                found = await self._read(connection, secret)
        except database.UNREACHABLE as error:
            raise errors.Problem(errors.DATABASE_UNAVAILABLE) from error
        self._right.pop(secret, None)
        self._wrong.pop(secret, None)
        known = self._right if found else self._wrong
        if len(known) >= KNOWN_MAX:
            known.pop(next(iter(known)))
        known[secret] = (asked_at + FRESH_S, found)
        if guesser and not found and self._limits is not None:
            await self._limits.tell(Charge(UNKNOWN_SECRETS, guesser))
        return found


class Keys(LookUps[IngestKey]):
    """The ingest keys."""

    async def find(self, secret: str, client: str = "") -> IngestKey:
        """The key with this secret. Raises Problem UNKNOWN_KEY, or as `look_up`."""
        key = await self.look_up(secret, client) if len(secret) <= KEY_LENGTH_MAX else None
        if key is None:
            raise errors.Problem(errors.UNKNOWN_KEY)
        return key

    async def _read(self, connection: database.Connection, secret: str) -> IngestKey | None:
        row = await connection.fetchrow(_SQL["ingest_key"], hash_key(secret))
        return IngestKey(row["studio_id"], row["game_id"], row["slug"], row["kind"] == "server") if row else None


def hash_key(secret: str) -> bytes:
    """How a key is stored. A 256-bit random secret needs no slow hash."""
    return hashlib.sha256(secret.encode()).digest()
