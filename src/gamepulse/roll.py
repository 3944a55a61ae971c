"""Rolls up: what the steps have added waits as deltas, and becomes minutes and hours; hours become quarters of days, and days; and
the last 23 of them "recent" hours, from any hour on.

Each piece of work is one transaction over one game and dimension set, which only one aggregator does at a time (an advisory lock,
asked for and never waited for). First all is read and merged, then all is written: from its first write on, the horizon of every
shard waits for a transaction. Exactly the deltas that were merged are taken away, so that none is added twice, whoever was frozen
or died in between; readers see a delta or what it was added to, never both.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any, NamedTuple

import asyncpg
import numpy as np

from gamepulse import database, metrics, sketch
from gamepulse.rollup import COUNTS, KINDS, REPORTS, Block, Ints, decode, encode, merge
from gamepulse.rows import Read, joined, one_row, read
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
LEFT_OUT_FIRST_S = 1.0
LEFT_OUT_S = 300.0
"""For so long at the most a piece is left out that failed again and again."""
MAKE_GROUPS = 200
"""Groups of a coarser step that are made in one transaction. So many that come late are added to what is made."""
LATE_AFTER = timedelta(minutes=5)
"""After its end, what comes for a minute is kept apart from what came in time."""
LOCKS = 0x6771
STEPS: Mapping[str, timedelta] = {
    "hour": timedelta(hours=1),
    "quarter": timedelta(hours=6),
    "recent": timedelta(hours=23),
    "day": timedelta(days=1),
}
"""Recent hours begin with any hour, the other steps with a multiple of their width, in UTC.

The last 24 hours are recent hours, the hour that has just ended, and the one that is running: so the recent hours are there before
they are asked for.
"""
RECENT_KEPT = range(22, 27)
"""So many hours before the running one recent hours begin that are kept right; questions use them for an hour less (`opening`)."""
MINUTE = timedelta(minutes=1)

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


class Start(NamedTuple):
    """One of STEPS, from one moment on."""

    step: str
    at: datetime


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


def rank(ids: Ints, rows: Read) -> Ranks:
    """The ranks of groups, rising by id."""
    return Ranks(ids, rows.counts[:, REPORTS], *(sketch.counts(encoded) for _, encoded in rows.sketches))


class Taken(RuntimeError):
    """Somebody else has added some of the same deltas."""


class Piece(NamedTuple):
    """What one transaction does: add the deltas of an hour, or make a part of a coarser step anew."""

    where: Where
    step: str
    start: datetime

    async def do(self, connection: database.Connection) -> bool:
        """Whether it was done; not when somebody else is at it."""
        if self.step == "hour":
            return await _add(connection, self.where, self.start)
        return await _make(connection, self.where, Start(self.step, self.start))


async def roll(connection: database.Connection) -> bool:
    """Do one piece of what is due. Whether one was done, so that there may be more."""
    for piece in await _due(connection):
        if await piece.do(connection):
            return True
    return False


class _LeftOut(NamedTuple):
    """Until when (monotonic) a piece that failed is left out, and for how long."""

    until: float
    wait_s: float


class Roller:
    """Does what is due, for ROLL_FOR_S at a time; a piece that fails is left out for a while, and the others go on."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._left_out: dict[Piece, _LeftOut] = {}
        self._due: deque[Piece] = deque()
        self._did_some = False
        self._oldest_at: float | None = None
        """Since when (monotonic) the oldest delta waits."""
        telemetry.observe.append(self._export)

    async def roll(self, connection: database.Connection) -> bool:
        """Whether there is more to do at once. What was due is asked for anew when all of it is done, for that may take long."""
        try:
            if not self._due:
                await self._look(connection)
        except Exception as error:
            if connection.is_closed():
                raise
            self._telemetry.failed("roll failed", error)
            return False
        started = time.monotonic()
        while self._due:
            if time.monotonic() - started > ROLL_FOR_S:
                return True
            piece = self._due.popleft()
            if piece not in self._left_out or self._left_out[piece].until <= started:
                self._did_some |= await self._try(connection, piece)
        return self._did_some

    async def _look(self, connection: database.Connection) -> None:
        now = time.monotonic()
        self._left_out = {piece: one for piece, one in self._left_out.items() if now < one.until + LEFT_OUT_S}
        age_s = await connection.fetchval(_SQL["oldest_delta_s"])
        self._oldest_at = None if age_s is None else now - age_s
        self._due.extend(await _due(connection))
        self._did_some = False

    async def _try(self, connection: database.Connection, piece: Piece) -> bool:
        try:
            done = await piece.do(connection)
        except Exception as error:
            if connection.is_closed():
                raise
            self._telemetry.failed("roll failed", error)
            before = self._left_out.get(piece)
            wait_s = LEFT_OUT_FIRST_S if before is None else min(2 * before.wait_s, LEFT_OUT_S)
            self._left_out[piece] = _LeftOut(time.monotonic() + wait_s, wait_s)
            return False
        self._left_out.pop(piece, None)
        return done

    def _export(self) -> None:
        age_s = 0.0 if self._oldest_at is None else time.monotonic() - self._oldest_at
        self._telemetry.metrics.set(metrics.AGGREGATE_DELTA_AGE, age_s)


async def _due(connection: database.Connection) -> list[Piece]:
    """What has waited longest first; hours and coarser steps in turn, so that neither keeps the other waiting."""
    hours = await connection.fetch(_SQL["due"], timedelta(seconds=ROLL_EVERY_S), ROLL_BYTES_MAX, PIECES_MAX)
    coarser = await connection.fetch(_SQL["stale"], PIECES_MAX)
    adds = [Piece(Where(*row[:3]), "hour", row["hour"]) for row in hours]
    makes = [Piece(Where(*row[:3]), row["step"], row["start"]) for row in coarser]
    return [piece for pair in zip_longest(adds, makes) for piece in pair if piece is not None]


type _Write = tuple[Any, ...]
"""A statement and its arguments."""


async def _add(connection: database.Connection, where: Where, hour: datetime) -> bool:
    """Add an hour's deltas to its minutes and to the hour. Raises Taken."""
    async with connection.transaction(isolation="read_committed"):  # what is read must be newer than the lock
        if not await _is_alone(connection, where):
            return False
        rows = await connection.fetch(_SQL["deltas"], *where, hour, ROLL_BYTES_MAX, ROLL_DELTAS_MAX)
        if not rows:
            return False
        blocks: dict[datetime, list[Block]] = {}
        for row in rows:
            blocks.setdefault(row["start"], []).append(decode(row["block"]))
        minutes = {start: merge(some) for start, some in sorted(blocks.items())}
        added = merge(list(minutes.values()))
        now = datetime.now(UTC)
        coarser = _coarser(hour, now)
        over = [one for one in coarser if one.at + STEPS[one.step] <= now] if len(added) <= MAKE_GROUPS else []
        made = await _made(connection, where, over) if over else {}
        writes = [await _minutes(connection, where, hour, minutes)]
        for one in (Start("hour", hour), *made):  # what is still to be made of one will be made of the hour as it is now
            writes += await _more(connection, where, one, added)
        writes += [_stale(where, rest)] if (rest := [one for one in coarser if one not in made]) else []
        keys = [[row[name] for row in rows] for name in ("start", "shard", "upto")]
        if await connection.execute(_SQL["delete_deltas"], *where, *keys) != f"DELETE {len(rows)}":
            raise Taken
        await _write(connection, writes)
    return True


def _coarser(hour: datetime, now: datetime) -> list[Start]:
    """What an hour is a part of."""
    running = floor(now, "hour")
    recent = [running - hours * STEPS["hour"] for hours in RECENT_KEPT]
    return [
        *(Start(step, floor(hour, step)) for step in ("quarter", "day")),
        *(Start("recent", at) for at in recent if at <= hour < at + STEPS["recent"]),
    ]


async def _made(connection: database.Connection, where: Where, starts: Sequence[Start]) -> dict[Start, int | None]:
    """Those that are there: right, or in the making, with the id up to which their groups are right."""
    return {Start(step, at): upto for step, at, upto in await connection.fetch(_SQL["made"], *where, *_columns(starts))}


def _columns(starts: Sequence[Start]) -> tuple[list[str], list[datetime]]:
    return [one.step for one in starts], [one.at for one in starts]


async def _write(connection: database.Connection, writes: list[_Write]) -> None:
    for statement, *arguments in writes:
        await connection.execute(statement, *arguments)


async def _is_alone(connection: database.Connection, where: Where) -> bool:
    alone: bool = await connection.fetchval(_SQL["alone"], LOCKS, (where.game_id << 3 | where.dimension_set) & 0x7FFFFFFF)
    return alone


async def _minutes(connection: database.Connection, where: Where, hour: datetime, added: Mapping[datetime, Block]) -> _Write:
    late_before = datetime.now(UTC) - LATE_AFTER
    minutes = dict(added)
    keys = [(start, start + MINUTE < late_before) for start in minutes]
    starts, is_late = [start for start, _ in keys], [late for _, late in keys]
    for row in await connection.fetch(_SQL["minutes"], *where, hour, starts, is_late):
        minutes[row["start"]] = merge([decode(row["block"]), minutes[row["start"]]])
    blocks = list(minutes.values())
    groups, reports = [len(one) for one in blocks], [int(one.counts[:, REPORTS].sum()) for one in blocks]
    return _SQL["put_minutes"], *where, starts, is_late, groups, reports, [encode(one) for one in blocks]


async def _more(connection: database.Connection, where: Where, start: Start, added: Block) -> list[_Write]:
    """What comes to a step's groups and total."""
    stored = await connection.fetch(_GROUPS[start.step], *where, [start.at], added.ids.tolist())
    of_stored = np.searchsorted(added.ids, np.array([row["dimension_id"] for row in stored], dtype=np.int64))
    owner = np.concatenate([np.arange(len(added)), of_stored])
    groups = joined([Read.of(added), read(stored, 1)]).together(owner, len(added))
    ranks = rank(added.ids, groups)
    totals = await connection.fetch(_TOTALS, *where, *_columns([start]))
    if totals:
        ranks = _in_place(ranks_of(totals[0]), ranks)
    return [_groups(where, start, added.ids, groups), _total(where, start, ranks, one_row([read(totals, 0), Read.of(added)]))]


def _groups(where: Where, start: Start, ids: Ints, rows: Read) -> _Write:
    return _PUT_GROUPS[start.step], *where, start.at, ids.tolist(), *rows.columns()


def _in_place(old: Ranks, new: Ranks) -> Ranks:
    """All ranks; the new ones in the place of those of the same groups."""
    stays = ~np.isin(old.ids, new.ids)
    columns = [np.concatenate([a[stays], b]) for a, b in zip(old, new, strict=True)]
    order = np.argsort(columns[0])
    return Ranks(*(column[order] for column in columns))


def _total(where: Where, start: Start, ranks: Ranks, total: Read) -> _Write:
    return _PUT_TOTAL, *where, *start, *ranks.encode(), *total.columns()


def _stale(where: Where, starts: Sequence[Start]) -> _Write:
    return _SQL["put_stale"], *where, *_columns(starts), [STEPS[one.step] for one in starts]


def floor(at: datetime, step: str) -> datetime:
    """The start of the step in which a time lies, in UTC."""
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (at - midnight) // STEPS[step] * STEPS[step]


async def _parts(connection: database.Connection, where: Where, start: Start) -> list[Start]:
    """What a step is made of: hours; a day of quarters, and recent hours of those quarters that are right, and hours."""
    end = start.at + STEPS[start.step]
    if start.step == "day":
        return [Start("quarter", start.at + n * STEPS["quarter"]) for n in range(4)]
    first, quarters = floor(start.at, "quarter"), list[Start]()
    if start.step == "recent":
        every = (first + n * STEPS["quarter"] for n in range(5))
        inside = [Start("quarter", at) for at in every if start.at <= at and at + STEPS["quarter"] <= end]
        quarters = [one for one, made_upto in (await _made(connection, where, inside)).items() if made_upto is None]
    hours = (Start("hour", start.at + n * STEPS["hour"]) for n in range((end - start.at) // STEPS["hour"]))
    return [*quarters, *(one for one in hours if Start("quarter", floor(one.at, "quarter")) not in quarters)]


async def _has_stale_quarters(connection: database.Connection, where: Where, day: datetime) -> bool:
    has: bool = await connection.fetchval(_SQL["has_stale_quarters"], *where, day, day + STEPS["day"])
    return has


async def _make(connection: database.Connection, where: Where, start: Start) -> bool:
    """Make the next MAKE_GROUPS groups of a step that is over anew from the finer rows; with the last ones it is right."""
    async with connection.transaction(isolation="read_committed"):  # what is read must be newer than the lock
        if not await _is_alone(connection, where):
            return False
        made_upto = await connection.fetchval(_SQL["made_upto"], *where, *start)
        if made_upto is None or (start.step == "day" and await _has_stale_quarters(connection, where, start.at)):
            return False
        totals = await connection.fetch(_TOTALS, *where, *_columns(await _parts(connection, where, start)))
        every = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(ranks_of(row).ids for row in totals)]))
        left = every[every > made_upto]
        writes: list[_Write] = []
        if totals:
            ids, rows = left[:MAKE_GROUPS], list[asyncpg.Record]()
            for step in STEPS:
                at = [row["start"] for row in totals if row["step"] == step]
                if at:
                    rows += await connection.fetch(_GROUPS[step], *where, at, ids.tolist())
            owner = np.searchsorted(ids, np.array([row["dimension_id"] for row in rows], dtype=np.int64))
            made = read(rows, 1).together(owner, len(ids))
            ranks = rank(ids, made)
            if made_upto:
                before = await connection.fetch(_TOTALS, *where, *_columns([start]))
                ranks = _in_place(ranks_of(before[0]), ranks)
            writes = [_groups(where, start, ids, made), _total(where, start, ranks, one_row([read(totals, 0)]))]
        if len(left) > MAKE_GROUPS:
            writes.append((_SQL["make_on"], *where, *start, int(left[MAKE_GROUPS - 1])))
        else:
            writes.append((_SQL["fresh"], *where, *start))
            if start.step == "quarter":
                writes.append(_stale(where, [Start("day", floor(start.at, "day"))]))
        await _write(connection, writes)
    return True
