"""Rolls up: what the steps have added waits as deltas, and becomes minutes and hours; hours become quarters of days, and days.

Each piece of work is one transaction over one game and dimension set, which only one aggregator does at a time (an advisory lock,
asked for and never waited for). Deltas are taken away by the statement that tells them, so that none is added twice, whoever was
frozen or died in between; readers see a delta or what it was added to, never both.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any, NamedTuple

import asyncpg
import numpy as np

from gamepulse import database
from gamepulse.rollup import COUNTS, KINDS, REPORTS, Block, Ints, decode, encode, merge, regroup
from gamepulse.rows import block_of, measure_columns, read
from gamepulse.telemetry import Telemetry

ROLL_EVERY_S = 15.0
"""So long a delta may wait. What waits is read delta by delta."""
ROLL_BYTES_MAX = 32 * 2**20
"""Of one hour's deltas that are added in one transaction: it must end well within aggregate.FROZEN_AFTER_S."""
ROLL_DELTAS_MAX = 20_000
"""The same, in deltas: many of them may be small."""
ROLL_FOR_S = 0.3
"""After that the steps come first again."""
PIECES_MAX = 200
LEFT_OUT_S = 300.0
LATE_AFTER = timedelta(minutes=5)
"""After its end, what comes for a minute is kept apart from what came in time."""
LOCKS = 0x6771
STEPS: Mapping[str, timedelta] = {"hour": timedelta(hours=1), "quarter": timedelta(hours=6), "day": timedelta(days=1)}
_FINER = {"quarter": "hour", "day": "quarter"}
_COARSER = {"hour": "quarter", "quarter": "day"}
_MINUTE = timedelta(minutes=1)

MEASURES = ", ".join((*COUNTS, *KINDS))


def _put(query: str, step: str, first: int) -> str:
    types = ["bigint[]"] * len(COUNTS) + ["bytea[]"] * len(KINDS)
    return query.format(
        step=step,
        measures=MEASURES,
        columns=", ".join(f"${first + n}::{one}" for n, one in enumerate(types)),
        excluded=", ".join(f"{name} = excluded.{name}" for name in (*COUNTS, *KINDS)),
    )


_SQL = database.queries("aggregate")
_PUT_GROUPS = {step: _put(_SQL["put_groups"], step, 6) for step in STEPS}
_GROUPS = {step: _SQL["groups"].format(step=step, measures=MEASURES) for step in STEPS}
_PUT_TOTAL = _put(_SQL["put_rollup_total"], "", 10)
_TOTALS = _SQL["rollup_totals"].format(measures=MEASURES)


class Where(NamedTuple):
    """A game's dimension set."""

    studio_id: int
    game_id: int
    dimension_set: int


class Ranks(NamedTuple):
    """Which groups there are, rising by id, and how large: reports, distinct sessions, bad ones."""

    ids: Ints
    reports: Ints
    sessions: Ints
    bad_sessions: Ints

    def encode(self) -> list[bytes]:
        """As the columns of rollup_total."""
        return [self.ids.astype("<i8").tobytes(), *(np.minimum(one, 2**32 - 1).astype("<u4").tobytes() for one in self[1:])]


def ranks_of(row: asyncpg.Record) -> Ranks:
    """The ranks in a row of rollup_total."""
    rest = (np.frombuffer(row[f"group_{name}"], "<u4").astype(np.int64) for name in ("reports", "sessions", "bad_sessions"))
    return Ranks(np.frombuffer(row["group_ids"], "<i8").astype(np.int64), *rest)


def rank(block: Block) -> Ranks:
    """The ranks of a block's groups."""
    return Ranks(block.ids, block.counts[:, REPORTS], block.sessions(), block.sessions("bad_sessions"))


class Piece(NamedTuple):
    """What one transaction does: add the deltas of an hour, or make a quarter or a day anew."""

    where: Where
    step: str
    start: datetime

    async def do(self, connection: database.Connection) -> bool:
        """Whether it was done; not when somebody else is at it."""
        if self.step == "hour":
            return await _add(connection, self.where, self.start)
        return await _make(connection, self.where, self.step, self.start)


async def roll(connection: database.Connection) -> bool:
    """Do one piece of what is due. Whether one was done, so that there may be more."""
    for piece in await _due(connection):
        if await piece.do(connection):
            return True
    return False


class Roller:
    """Does what is due, for ROLL_FOR_S at a time; a piece that fails is left out for a while, and the others go on."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._left_out: dict[Piece, float] = {}

    async def roll(self, connection: database.Connection) -> bool:
        """Whether there is more to do at once."""
        started, did_some = time.monotonic(), False
        self._left_out = {piece: until for piece, until in self._left_out.items() if until > started}
        for piece in await _due(connection):
            if time.monotonic() - started > ROLL_FOR_S:
                return True
            if piece not in self._left_out:
                did_some |= await self._try(connection, piece)
        return did_some

    async def _try(self, connection: database.Connection, piece: Piece) -> bool:
        try:
            return await piece.do(connection)
        except Exception as error:
            if connection.is_closed():
                raise
            self._telemetry.failed("roll failed", error)
            self._left_out[piece] = time.monotonic() + LEFT_OUT_S
            return False


async def _due(connection: database.Connection) -> list[Piece]:
    """What has waited longest first; hours and coarser steps in turn, so that neither keeps the other waiting."""
    hours = await connection.fetch(_SQL["due"], timedelta(seconds=ROLL_EVERY_S), ROLL_BYTES_MAX, PIECES_MAX)
    coarser = await connection.fetch(_SQL["stale"], PIECES_MAX)
    adds = [Piece(Where(*row[:3]), "hour", row["hour"]) for row in hours]
    makes = [Piece(Where(*row[:3]), row["step"], row["start"]) for row in coarser]
    return [piece for pair in zip_longest(adds, makes) for piece in pair if piece is not None]


async def _add(connection: database.Connection, where: Where, hour: datetime) -> bool:
    """Add an hour's deltas to its minutes and to the hour."""
    async with connection.transaction(isolation="read_committed"):  # what is read must be newer than the lock
        if not await _is_alone(connection, where):
            return False
        rows = await connection.fetch(_SQL["take_deltas"], *where, hour, ROLL_BYTES_MAX, ROLL_DELTAS_MAX)
        if not rows:
            return False
        blocks: dict[datetime, list[Block]] = {}
        for row in rows:
            blocks.setdefault(row["start"], []).append(decode(row["block"]))
        minutes = {start: merge(some) for start, some in sorted(blocks.items())}
        await _add_to_minutes(connection, where, minutes)
        added = merge(list(minutes.values()))
        stored = await connection.fetch(_GROUPS["hour"], *where, hour, hour + STEPS["hour"], added.ids.tolist())
        block = merge([block_of(stored, "dimension_id", 1), added])
        await _put_groups(connection, where, "hour", hour, block)
        await _add_to_total(connection, where, hour, added, block)
        await _make_stale(connection, where, "hour", hour)
    return True


async def _is_alone(connection: database.Connection, where: Where) -> bool:
    alone: bool = await connection.fetchval(_SQL["alone"], LOCKS, (where.game_id << 3 | where.dimension_set) & 0x7FFFFFFF)
    return alone


async def _add_to_minutes(connection: database.Connection, where: Where, added: Mapping[datetime, Block]) -> None:
    late_before = datetime.now(UTC) - LATE_AFTER
    minutes = dict(added)
    keys = [(start, start + _MINUTE < late_before) for start in minutes]
    starts, is_late = [start for start, _ in keys], [late for _, late in keys]
    for row in await connection.fetch(_SQL["minutes"], *where, starts, is_late):
        minutes[row["start"]] = merge([decode(row["block"]), minutes[row["start"]]])
    blocks = list(minutes.values())
    groups, reports = [len(one) for one in blocks], [int(one.counts[:, REPORTS].sum()) for one in blocks]
    await connection.execute(_SQL["put_minutes"], *where, starts, is_late, groups, reports, [encode(one) for one in blocks])


async def _put_groups(connection: database.Connection, where: Where, step: str, start: datetime, block: Block) -> None:
    await connection.execute(_PUT_GROUPS[step], *where, start, block.ids.tolist(), *measure_columns(block))


async def _add_to_total(connection: database.Connection, where: Where, hour: datetime, added: Block, groups: Block) -> None:
    """`added`: what comes to the hour; `groups`: the groups that it comes to, as they are now."""
    rows = await connection.fetch(_TOTALS, *where, "hour", hour, hour + STEPS["hour"])
    new = rank(groups)
    if rows:
        old = ranks_of(rows[0])
        stays = ~np.isin(old.ids, new.ids)
        ids = np.concatenate([old.ids[stays], new.ids])
        order = np.argsort(ids)
        new = Ranks(ids[order], *(np.concatenate([a[stays], b])[order] for a, b in zip(old[1:], new[1:], strict=True)))
    nothing = np.zeros(len(rows), dtype=np.int64)
    await _put_total(connection, where, "hour", hour, new, [read(rows, 0).block(nothing, np.arange(1)), added])


async def _put_total(
    connection: database.Connection, where: Where, step: str, start: datetime, ranks: Ranks, blocks: list[Block]
) -> None:
    owner = np.zeros(sum(len(one) for one in blocks), dtype=np.int64)
    together = regroup(blocks, owner, np.zeros(1, dtype=np.int64))
    columns: list[list[Any]] = measure_columns(together)
    await connection.execute(_PUT_TOTAL, *where, step, start, *ranks.encode(), *columns)


async def _make_stale(connection: database.Connection, where: Where, step: str, start: datetime) -> None:
    coarser = _COARSER.get(step)
    if coarser:
        await connection.execute(_SQL["put_stale"], *where, coarser, floor(start, coarser))


def floor(at: datetime, step: str) -> datetime:
    """The start of the step in which a time lies, in UTC."""
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (at - midnight) // STEPS[step] * STEPS[step]


async def _make(connection: database.Connection, where: Where, step: str, start: datetime) -> bool:
    """Make one closed quarter or day anew, from all groups of the finer rows."""
    async with connection.transaction(isolation="read_committed"):  # what is read must be newer than the lock
        if not await _is_alone(connection, where):
            return False
        finer, end = _FINER[step], start + STEPS[step]
        rows = await connection.fetch(_GROUPS[finer], *where, start, end, None)
        if rows:
            block = block_of(rows, "dimension_id", 1)
            await _put_groups(connection, where, step, start, block)
            await _put_total(connection, where, step, start, rank(block), [block])
        await connection.execute(_SQL["fresh"], *where, step, start)
        await _make_stale(connection, where, step, start)
    return True
