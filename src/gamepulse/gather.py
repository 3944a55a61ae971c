"""Gathers what the rollups hold of a span, by group: all of minutes, of hours and days only the largest groups.

A span's total of each hour tells which groups there were and how large; so of thousands of groups the rows of those that are
shown are read, and the rest is the total without them.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from heapq import nsmallest
from itertools import pairwise
from typing import NamedTuple

import asyncpg
import msgspec
import numpy as np

from gamepulse import database, errors, sketch
from gamepulse.roll import MEASURES, STEPS, Ranks, floor, ranks_of
from gamepulse.rollup import HISTOGRAMS, KINDS, REPORTS, SETS, Block, Cells, Ints, added, buckets, decode, merge
from gamepulse.rows import Read, read

ROWS_MAX = 100_000
"""Rows of hours and days that one question may read."""
FINE = timedelta(hours=6)
"""A longer span is answered in whole hours."""
FINE_BYTES_MAX = 16 * 2**20
"""Of minutes that one question reads; with more it is answered in whole hours."""
WAITING_BYTES_MAX = 8 * 2**20
WAITING_MAX = 2_000
"""Deltas that one question reads. When more wait, they are left out, and the answer is complete up to the first of them."""
NAMES_MAX = 500_000
"""Groups' names that a process remembers."""
CANDIDATES = 4
"""By sessions, so many times the groups asked for are looked at: their hours can only be added, not united, to rank them."""
_SQL = database.queries("serve")
_TOTALS = _SQL["rollup_totals"].format(measures=MEASURES)

type Values = tuple[str, ...]


class Span(msgspec.Struct, frozen=True):
    """Whole minutes from one moment to another, in UTC."""

    start: datetime
    end: datetime


class Of(NamedTuple):
    """A game's dimension set, and which of its dimensions are asked for."""

    studio_id: int
    game_id: int
    dimension_set: int
    group_by: tuple[str, ...]

    @property
    def where(self) -> tuple[int, int, int]:
        """What every query begins with."""
        return self[:3]


class Measures(NamedTuple):
    """One group's measures: COUNTS; buckets of round-trip time and jitter with their counts; distinct sessions."""

    counts: list[int]
    rtt: tuple[Ints, Ints]
    jitter: tuple[Ints, Ints]
    sessions: int
    bad_sessions: int


class Piece(NamedTuple):
    """A part of a span that is read from one kind of rollup: "minute", or one of STEPS."""

    step: str
    start: datetime
    end: datetime


def pieces(asked: Span, stale: set[tuple[str, datetime]], finest: timedelta) -> list[Piece]:
    """How to put a span together: joined where pieces of one kind meet. Nothing stale, nothing coarser than `finest`."""
    found: list[Piece] = []
    at = asked.start
    stale_days = {floor(start, "day") for _, start in stale}
    while at < asked.end:
        for step in ("day", "quarter", "hour"):
            end = at + STEPS[step]
            is_stale = at in stale_days if step == "day" else (step, at) in stale
            if at == floor(at, step) and end <= asked.end and not is_stale and finest >= STEPS[step]:
                break
        else:
            step, end = "minute", min(floor(at, "hour") + STEPS["hour"], asked.end)
        if found and found[-1].step == step:
            found[-1] = Piece(step, found[-1].start, end)
        else:
            found.append(Piece(step, at, end))
        at = end
    return found


def whole_hours(span: Span) -> Span:
    """The span, widened to whole hours."""
    return Span(floor(span.start, "hour"), floor(span.end + STEPS["hour"] - timedelta(microseconds=1), "hour"))


class Fine(NamedTuple):
    """A block of one minute."""

    start: datetime
    block: Block


class Coarse(NamedTuple):
    """An hour's (quarter's, day's) total and its groups' sizes."""

    step: str
    start: datetime
    ranks: Ranks


class Sources(NamedTuple):
    """What was read of a span before it is known which groups are shown. `total`: the totals of all `coarse`."""

    asked: Span
    as_of: datetime
    fine: list[Fine]
    coarse: list[Coarse]
    total: Read


async def sources(connection: database.Connection, of: Of, asked: Span, finest: timedelta) -> Sources:
    """All of a span but the rows of hours and days. The span is widened to whole hours where minutes would be too much."""
    as_of = await connection.fetchval(_SQL["as_of"])
    if finest >= STEPS["hour"] and (asked.end - asked.start > FINE or await _is_too_fine(connection, of, asked, finest)):
        asked = whole_hours(asked)
    waiting = await connection.fetchrow(_SQL["waiting"], *of.where, asked.start, asked.end)
    assert waiting is not None
    rows = []
    if waiting["deltas"] > WAITING_MAX or waiting["bytes"] > WAITING_BYTES_MAX:
        as_of = min(as_of, waiting["since"])
    elif waiting["deltas"]:
        rows += await connection.fetch(_SQL["deltas"], *of.where, asked.start, asked.end)
    coarse: list[tuple[str, asyncpg.Record]] = []
    minutes_bytes = 0
    for piece in pieces(asked, await _stale(connection, of, asked), finest):
        if piece.step == "minute":
            minutes_bytes += await connection.fetchval(_SQL["minutes_bytes"], *of.where, piece.start, piece.end)
            if minutes_bytes > 4 * FINE_BYTES_MAX:
                raise errors.Problem(errors.TOO_MUCH)
            rows += await connection.fetch(_SQL["minutes"], *of.where, piece.start, piece.end)
        else:
            found = await connection.fetch(_TOTALS, *of.where, piece.step, piece.start, piece.end)
            coarse += [(piece.step, row) for row in found]
    return await asyncio.to_thread(_sources, asked, as_of, rows, coarse)


def _sources(asked: Span, as_of: datetime, rows: list[asyncpg.Record], coarse: list[tuple[str, asyncpg.Record]]) -> Sources:
    fine = [Fine(row["start"], decode(row["block"])) for row in rows]
    ranked = [Coarse(step, row["start"], ranks_of(row)) for step, row in coarse]
    return Sources(asked, as_of, fine, ranked, read([row for _, row in coarse], 0))


async def _stale(connection: database.Connection, of: Of, asked: Span) -> set[tuple[str, datetime]]:
    rows = await connection.fetch(_SQL["stale"], *of.where, asked.start, asked.end)
    return {(row["step"], row["start"]) for row in rows}


async def _is_too_fine(connection: database.Connection, of: Of, asked: Span, finest: timedelta) -> bool:
    size = 0
    for piece in pieces(asked, set(), finest):
        if piece.step == "minute":
            size += await connection.fetchval(_SQL["minutes_bytes"], *of.where, piece.start, piece.end)
    return size > FINE_BYTES_MAX


# -- names -----------------------------------------------------------------------------------------------------------------------


class Names:
    """The values of dimensions by id. A row of `dimension` never changes in what is kept here."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, int, int], dict[int, Values]] = {}

    async def of(self, connection: database.Connection, of: Of, ids: Ints) -> list[Values]:
        """The values of what is asked for, for each id."""
        if sum(map(len, self._values.values())) > NAMES_MAX:
            self._values.clear()
        known = self._values.setdefault(of.where, {})
        wanted = ids.tolist()
        missing = list(set(wanted) - known.keys())
        if missing:
            dimensions = SETS[of.dimension_set]
            query = _SQL["dimensions"].format(dimensions=", ".join(dimensions))
            for dimension_id, *values in await connection.fetch(query, of.studio_id, of.game_id, missing):
                known[dimension_id] = tuple(values)
        at = [SETS[of.dimension_set].index(dimension) for dimension in of.group_by]
        every = [known[one] for one in wanted]
        return every if of.group_by == SETS[of.dimension_set] else [tuple([one[n] for n in at]) for one in every]


_names = Names()


class Groups(NamedTuple):
    """Which groups there are: their values, and for each id (rising) its group."""

    values: list[Values]
    ids: Ints
    codes: Ints

    def of(self, ids: Ints) -> Ints:
        """The group of each id."""
        return self.codes[np.searchsorted(self.ids, ids)]


async def groups(connection: database.Connection, of: Of, found: Sources) -> Groups:
    """The groups of what was read."""
    parts = [*(one.ranks.ids for one in found.coarse), *(one.block.ids for one in found.fine)]
    ids = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))
    names = await _names.of(connection, of, ids)
    codes: dict[Values, int] = {}
    of_id = np.array([codes.setdefault(values, len(codes)) for values in names], dtype=np.int64)
    return Groups(list(codes), ids, of_id)


def largest(found: Sources, known: Groups, order: str, count: int) -> list[int]:
    """The groups that are largest by reports, or by what the hours' sessions come to."""
    size = np.zeros(len(known.values))
    for one in found.coarse:
        size += np.bincount(known.of(one.ranks.ids), weights=getattr(one.ranks, order), minlength=len(size))
    if found.fine:
        block = merge([one.block for one in found.fine])
        of_block = block.counts[:, REPORTS] if order == "reports" else block.sessions(order)
        size += np.bincount(known.of(block.ids), weights=of_block, minlength=len(size))
    sizes = size.tolist()
    return nsmallest(count, range(len(sizes)), key=lambda code: (-sizes[code], known.values[code]))


# -- measures --------------------------------------------------------------------------------------------------------------------


async def rows_of(
    connection: database.Connection, of: Of, coarse: Sequence[Coarse], ids: Ints
) -> tuple[Read, Ints, list[datetime]]:
    """The rows of some ids in hours and days: their measures, ids and starts. Raises Problem TOO_MUCH."""
    if len(ids) * len(coarse) > ROWS_MAX:
        raise errors.Problem(errors.TOO_MUCH)
    starts: dict[str, list[datetime]] = {}
    for one in coarse:
        starts.setdefault(one.step, []).append(one.start)
    rows: list[asyncpg.Record] = []
    for step, at in starts.items():
        query = _SQL["groups"].format(step=step, measures=MEASURES)
        rows += await connection.fetch(query, *of.where, at, ids.tolist())
    measured = await asyncio.to_thread(read, rows, 2)
    return measured, np.array([row[0] for row in rows], dtype=np.int64), [row[1] for row in rows]


def measure(parts: Sequence[tuple[Block, Ints]], rows: Read, owner: Ints, count: int) -> list[Measures]:
    """The measures of `count` groups, of blocks and rows together; each block's and each row's groups are given."""
    owners = np.concatenate([owner, *(of for _, of in parts)])
    counts = added(np.concatenate([rows.counts, *(block.counts for block, _ in parts)]), owners, count)
    histograms = [_histogram(parts, rows, owner, kind, count) for kind in range(HISTOGRAMS)]
    sessions = [_sessions(parts, rows, owner, kind, count).tolist() for kind in range(HISTOGRAMS, len(KINDS))]
    lists = [_lists(cells) for cells in histograms]
    return [Measures(*of_group) for of_group in zip(counts.tolist(), *lists, *sessions, strict=True)]


def _lists(cells: Cells) -> list[tuple[Ints, Ints]]:
    """Each group's buckets and counts."""
    ends = np.cumsum(cells.sizes).tolist()
    return [(cells.entry[a:b], cells.value[a:b]) for a, b in pairwise([0, *ends])]


def _histogram(parts: Sequence[tuple[Block, Ints]], rows: Read, owner: Ints, kind: int, count: int) -> Cells:
    row, index, value = rows.histograms[kind]
    cells = [block.cells[kind] for block, _ in parts]
    owners = np.concatenate([owner[row], *(np.repeat(of, one.sizes) for (_, of), one in zip(parts, cells, strict=True))])
    indexes = np.concatenate([index, *(one.entry for one in cells)])
    return buckets(owners, indexes, np.concatenate([value, *(one.value for one in cells)]), count)


def _sessions(parts: Sequence[tuple[Block, Ints]], rows: Read, owner: Ints, kind: int, count: int) -> Ints:
    row, entry, dense_row, dense = sketch.decode(rows.sketches[kind - HISTOGRAMS])
    cells = [block.cells[kind] for block, _ in parts]
    owners = np.concatenate([owner[row], *(np.repeat(of, one.sizes) for (_, of), one in zip(parts, cells, strict=True))])
    return sketch.count_together(owners, np.concatenate([entry, *(one.entry for one in cells)]), owner[dense_row], dense, count)


def without(total: Measures, shown: Measures) -> Measures:
    """A total less what is shown of it; of sessions: those that were seen in no shown group."""
    histograms = [_less(getattr(total, name), getattr(shown, name)) for name in ("rtt", "jitter")]
    return Measures(
        [a - b for a, b in zip(total.counts, shown.counts, strict=True)],
        histograms[0],
        histograms[1],
        max(total.sessions - shown.sessions, 0),
        max(total.bad_sessions - shown.bad_sessions, 0),
    )


def _less(total: tuple[Ints, Ints], shown: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    index, value = total[0], total[1].copy()
    value[np.searchsorted(index, shown[0])] -= shown[1]
    return index[value > 0], value[value > 0]
