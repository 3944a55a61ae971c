"""What a studio may ask about a player's data: all of it (export), or that it goes (erasure); and games that keep raw data shorter.

An erasure is written down with the request and done by the aggregator, because only there it is known which reports are counted:
a step under way would else bring the player's sessions back. It is done when `done_at` says so, however often processes die on
the way. docs/adr/0036-erasure.md.
"""

import time
from asyncio import Semaphore
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from gamepulse import database, errors, records, studios
from gamepulse.asker import Asker, Game, Role
from gamepulse.gather import in_thread
from gamepulse.receive import hash_player, shard_of
from gamepulse.sessions import KnownSession, TimelineEvent, TimelineReport, events_of, reports_of
from gamepulse.tally import EPOCH

PENDING_MAX = 1_000
"""Erasures of a studio that are not done yet."""
SESSIONS_AT_ONCE = 50
"""Erased in a transaction for each shard, whose steps wait for so long."""
ROWS_AT_ONCE = 1_000
"""Deleted at a time of a game that keeps raw data shorter."""
SLICE_TIMEOUT_S = 5
EXPORTS_MAX = 1
"""Pages that a process makes at a time."""
EXPORTED_SESSIONS_MAX = 10_000
EXPORTED_BATCHES_AT_ONCE = 50
_EXPIRED = ("expire_batches", "expire_seen", "expire_others")
_SQL = database.queries("erase")


class Erasure(msgspec.Struct):
    """What was asked for, and how far it is: done when `done_at` is not null. `batches`: parts of batches that were deleted."""

    erasure_id: UUID
    requested_at: datetime
    done_at: datetime | None
    sessions: int
    batches: int


class ExportedPlace(msgspec.Struct):
    """When and where a session was on a day, as it is kept to find it by."""

    day: date
    region: str
    server: str
    country: str
    subdivision: str | None
    network: str | None
    connection: str | None
    platform: str | None
    build: str | None
    match: str | None
    first_at: datetime
    last_at: datetime
    reports: int
    bad_reports: int
    events: int


class ExportedSession(msgspec.Struct):
    """A line of an export: a session; its batches follow."""

    session: UUID
    places: list[ExportedPlace]


class ExportedBatch(KnownSession):
    """A line of an export: the session's part of a batch."""

    received_at: datetime
    clock_offset_ms: int | None
    rejected: int
    reports: list[TimelineReport]
    events: list[TimelineEvent]


class ExportedEnd(msgspec.Struct):
    """The last line; without it the export broke off. `is_cut`: there are more sessions."""

    sessions: int
    batches: int
    is_cut: bool


async def request(pool: database.Pool, asker: Asker, game: Game, player: str, key: bytes) -> Erasure:
    """Have a player erased. Raises Problem: TOO_MANY_ERASURES, ROLE_REQUIRED."""
    hashed = hash_player(player, game.game_id, key)
    async with studios.changing(pool, asker, game.studio_id, Role.ADMIN) as connection:
        if await connection.fetchval(_SQL["count_pending"], game.studio_id) >= PENDING_MAX:
            raise errors.Problem(errors.TOO_MANY_ERASURES)
        row = await connection.fetchrow(_SQL["request"], game.studio_id, game.game_id, hashed)
        assert row is not None
        await studios.audit(connection, asker, game.studio_id, "erasure", str(row["erasure_id"]), game.game_id, hashed)
    return Erasure(**row)


async def find(pool: database.Pool, game: Game, erasure_id: UUID) -> Erasure:
    """Raises Problem UNKNOWN_ERASURE."""
    async with database.manage(pool, game.studio_id) as connection:
        row = await connection.fetchrow(_SQL["erasure"], game.studio_id, game.game_id, erasure_id)
    if row is None:
        raise errors.Problem(errors.UNKNOWN_ERASURE)
    return Erasure(**row)


# -- export ----------------------------------------------------------------------------------------------------------------------


class _Export(NamedTuple):
    pool: database.Pool
    game: Game
    player: bytes

    @property
    def where(self) -> tuple[int, int, bytes]:
        return self.game.studio_id, self.game.game_id, self.player


class Exports:
    """Exports: however many are read, EXPORTS_MAX pages are made at a time."""

    def __init__(self) -> None:
        self._places = Semaphore(EXPORTS_MAX)

    async def begin(self, pool: database.Pool, asker: Asker, game: Game, player: str, key: bytes) -> AsyncIterator[bytes]:
        """The lines of an export, read page by page as they are sent. That it was asked for is written down."""
        of = _Export(pool, game, hash_player(player, game.game_id, key))
        async with database.studio(pool, game.studio_id) as connection:
            await studios.audit(connection, asker, game.studio_id, "export", game_id=game.game_id, player=of.player)
            rows = await connection.fetch(_SQL["export_sessions"], *of.where, EXPORTED_SESSIONS_MAX + 1)
        return self._lines(of, [row["session_id"] for row in rows])

    async def _lines(self, of: _Export, sessions: list[UUID]) -> AsyncIterator[bytes]:
        batches = 0
        for session in sessions[:EXPORTED_SESSIONS_MAX]:
            seen = await self._page(of, "export_seen", session)
            yield _line(ExportedSession(session, [ExportedPlace(**row) for row in seen]))
            after = (EPOCH, "(0,0)")
            while rows := await self._page(of, "export_batches", session, *after, EXPORTED_BATCHES_AT_ONCE):
                async with self._places:
                    lines = await in_thread(_batch_lines, session, rows)
                yield lines
                batches += len(rows)
                after = rows[-1]["received_at"], rows[-1]["place"]
        is_cut = len(sessions) > EXPORTED_SESSIONS_MAX
        yield _line(ExportedEnd(min(len(sessions), EXPORTED_SESSIONS_MAX), batches, is_cut))

    async def _page(self, of: _Export, name: str, *more: object) -> list[asyncpg.Record]:
        async with self._places, database.studio(of.pool, of.game.studio_id) as connection:
            return await connection.fetch(_SQL[name], *of.where, *more)


def _batch_lines(session: UUID, rows: list[asyncpg.Record]) -> bytes:
    lines = []
    for row in rows:
        labels: dict[str, Any] = dict(zip(records.LABELS, records.split_labels(row["labels"])[0], strict=True))
        batch = ExportedBatch(
            session=session,
            **labels,
            match=row["match"],
            received_at=row["received_at"],
            clock_offset_ms=row["clock_offset_ms"],
            rejected=row["rejected"],
            reports=reports_of(row),
            events=events_of(row),
        )
        lines.append(_line(batch))
    return b"".join(lines)


def _line(of: msgspec.Struct) -> bytes:
    return msgspec.json.encode(of) + b"\n"


# -- what the aggregator does ----------------------------------------------------------------------------------------------------


class Eraser:
    """Erasures, and games that keep raw data for a shorter time than `raw_retention_days`, a slice at a time."""

    def __init__(self, raw_retention_days: int) -> None:
        self._raw_retention_days = raw_retention_days
        self._shorter: list[tuple[int, int, date]] = []
        self._oldest_at: float | None = None
        """Since when (monotonic) the oldest erasure waits."""

    @property
    def oldest_s(self) -> float:
        """The age of the oldest erasure that is not done; 0 when there is none."""
        return 0.0 if self._oldest_at is None else time.monotonic() - self._oldest_at

    async def watch(self, connection: database.Connection) -> None:
        """Look what waits. Every aggregator does, because whoever should erase may be what hangs."""
        age_s = await connection.fetchval(_SQL["oldest_pending_s"])
        self._oldest_at = None if age_s is None else time.monotonic() - age_s

    async def look(self, connection: database.Connection) -> None:
        """Which games keep raw data for a shorter time; and what was erased long ago is not told any more."""
        await connection.execute(_SQL["forget_erasures"])
        self._shorter = [tuple(row) for row in await connection.fetch(_SQL["shorter"], self._raw_retention_days)]

    async def step(self, connection: database.Connection) -> bool:
        """Whether there may be more."""
        row = await connection.fetchrow(_SQL["due"])
        if row is not None:
            await erase_some(connection, dict(row))
        return await self._expire(connection) or row is not None

    async def _expire(self, connection: database.Connection) -> bool:
        if self._shorter:
            async with _slice(connection):
                deleted = {await connection.execute(_SQL[name], *self._shorter[-1], ROWS_AT_ONCE) for name in _EXPIRED}
            if deleted == {"DELETE 0"}:
                self._shorter.pop()
        return bool(self._shorter)


@asynccontextmanager
async def _slice(connection: database.Connection) -> AsyncIterator[None]:
    """A transaction for which steps wait; none of its statements may take long."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL statement_timeout = '{SLICE_TIMEOUT_S}s'")
        yield


async def erase_some(connection: database.Connection, due: Mapping[str, Any]) -> None:
    """The next sessions of an erasure; each goes as a whole, or stays."""
    of = (due["studio_id"], due["game_id"])
    player, number = due["player"], (*of, due["erasure_id"])
    found = await connection.fetch(_SQL["sessions"], *of, player, due["upto"], SESSIONS_AT_ONCE)
    by_shard: dict[int, list[UUID]] = defaultdict(list)
    for row in found:
        by_shard[shard_of(row["session_id"])].append(row["session_id"])
    for shard, sessions in by_shard.items():
        async with _slice(connection):
            upto = await connection.fetchval(_SQL["hold_shard"], shard)
            batches = await connection.execute(_SQL["erase_batches"], *of, player, sessions, upto)
            for name in ("pass_on", "erase_others", "erase_seen"):
                await connection.execute(_SQL[name], *of, player, sessions)
            await connection.execute(_SQL["note"], *number, len(sessions), int(batches.split()[-1]))
    if len(found) < SESSIONS_AT_ONCE:
        await connection.execute(_SQL["done"], *number)
    else:
        await connection.execute(_SQL["reached"], *number, found[-1]["session_id"])
