"""Ingest keys: which game a batch is for, and whether it may hold many sessions."""

import asyncio
import hashlib
import time
from contextlib import nullcontext
from typing import NamedTuple

from gamepulse import database, errors

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


class Keys:
    """The keys, looked up by hash and remembered in memory for FRESH_S, wrong ones too."""

    def __init__(self, pool: database.Pool) -> None:
        self._pool = pool
        self._right: dict[str, tuple[float, IngestKey | None]] = {}
        self._wrong: dict[str, tuple[float, IngestKey | None]] = {}
        self._one_stranger = asyncio.Lock()
        self._asked: dict[str, asyncio.Task[IngestKey | None]] = {}

    def remembered(self, secret: str) -> IngestKey | None:
        """The key with this secret, if it was right a moment ago."""
        fresh_until, key = self._right.get(secret, (0.0, None))
        return key if fresh_until >= time.monotonic() else None

    async def find(self, secret: str) -> IngestKey:
        """The key with this secret.

        Raises Problem: UNKNOWN_KEY; DATABASE_UNAVAILABLE when PostgreSQL cannot say; OVERLOADED amid a flood of wrong keys.
        """
        if len(secret) > KEY_LENGTH_MAX:
            raise _unknown()
        fresh_until, key = self._right.get(secret) or self._wrong.get(secret, (0.0, None))
        if fresh_until < time.monotonic():
            key = await asyncio.shield(self._ask(secret))
        if key is None:
            raise _unknown()
        return key

    def _ask(self, secret: str) -> asyncio.Task[IngestKey | None]:
        """One question at a time for each key, however many requests wait for it."""
        task = self._asked.get(secret)
        if task is None:
            if secret not in self._right and len(self._asked) >= STRANGERS_MAX:
                raise errors.Problem(errors.OVERLOADED)
            task = self._asked[secret] = asyncio.create_task(self._look_up(secret))
            task.add_done_callback(lambda _: self._asked.pop(secret, None))
        return task

    async def _look_up(self, secret: str) -> IngestKey | None:
        asked_at = time.monotonic()  # not when the answer came: it may have been revoked meanwhile
        # One at a time of those that were never right: those that were do not queue behind a flood of them.
        turn = nullcontext() if secret in self._right else self._one_stranger
        try:
            async with (
                asyncio.timeout(database.LOOK_UP_TIMEOUT_S),
                turn,
                database.use(self._pool, database.LOOK_UP_TIMEOUT_S) as connection,
            ):
                row = await connection.fetchrow(_SQL["ingest_key"], hash_key(secret))
        except database.UNREACHABLE as error:
            raise errors.Problem(errors.DATABASE_UNAVAILABLE) from error
        key = IngestKey(row["studio_id"], row["game_id"], row["slug"], row["kind"] == "server") if row else None
        self._right.pop(secret, None)
        self._wrong.pop(secret, None)
        known = self._right if key else self._wrong
        if len(known) >= KNOWN_MAX:
            known.pop(next(iter(known)))
        known[secret] = (asked_at + FRESH_S, key)
        return key


def hash_key(secret: str) -> bytes:
    """How a key is stored. A 256-bit random secret needs no slow hash."""
    return hashlib.sha256(secret.encode()).digest()


def _unknown() -> errors.Problem:
    return errors.Problem(errors.UNKNOWN_KEY)
