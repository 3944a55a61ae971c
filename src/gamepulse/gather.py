"""Gathers what the rollups hold of a span: all of its minutes, and of hours and days which groups there were and how large.

That is in the total of each hour; so of thousands of groups only the rows of those that are shown need to be read (merging.py), and
the rest is the total without them.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from datetime import datetime, timedelta
from heapq import nsmallest
from itertools import batched
from typing import NamedTuple

import asyncpg
import msgspec
import numpy as np

from gamepulse import database, errors
from gamepulse.roll import MEASURES, MINUTE, STEPS, Ranks, Start, floor, ranks_of
from gamepulse.rollup import REPORTS, SETS, Block, Ints, decode, encode, merge
from gamepulse.rows import Read, joined, one_row, read

TOTALS_PER_READ = 24
"""Hours (or coarser steps) whose groups are read at a time: 20 bytes a group."""
FINE = timedelta(hours=6)
"""A longer span is answered in whole hours."""
FINE_BYTES_MAX = 16 * 2**20
"""Of minutes that one question reads; with more it is answered in whole hours."""
WAITING_BYTES_MAX = 8 * 2**20
WAITING_MAX = 2_000
"""Deltas that one question reads. When more wait, they are left out, and the answer is complete up to the first of them."""
NAMES_MAX = 200_000
"""Groups that one question may be about, and groups' names that a process remembers."""
IDS_SPREAD_MAX = 16
AT_ONCE_MAX = 20_000
"""So many groups' sizes are added in a millisecond."""
CANDIDATES = 4
"""By sessions, so many times the groups asked for are looked at: their hours can only be added, not united, to rank them."""
_SQL = database.queries("serve")
_RANKS = _SQL["rollup_totals"].format(measures="")
_TOTALS = _SQL["rollup_totals"].format(measures=f", {MEASURES}")
_TOTALS_FIRST = 6
"""The column of _TOTALS in which the measures begin."""

NO_ROWS = Read.of(Block.empty(np.zeros(0, dtype=np.int64)))

type Values = tuple[str, ...]
type Filters = tuple[tuple[str, tuple[str, ...]], ...]
"""Dimensions, each with the values of which a group must have one."""
NO_FILTERS: Filters = ()


class Span(msgspec.Struct, frozen=True):
    """Whole minutes from one moment to another, in UTC."""

    start: datetime
    end: datetime


class Of(NamedTuple):
    """A game's dimension set, and which of its dimensions and groups are asked for."""

    studio_id: int
    game_id: int
    dimension_set: int
    group_by: tuple[str, ...]
    filters: Filters = NO_FILTERS

    @property
    def where(self) -> tuple[int, int, int]:
        """What every query begins with."""
        return self[:3]


class Piece(NamedTuple):
    """A part of a span that is read from one kind of rollup: "minute", or one of STEPS."""

    step: str
    start: datetime
    end: datetime


def pieces(asked: Span, stale: Set[tuple[str, datetime]], width: timedelta, recent: Set[datetime] = frozenset()) -> list[Piece]:
    """How to put steps of a `width` together: joined where pieces of one kind meet. Nothing stale; `recent`: which there are."""
    found: list[Piece] = []
    at = asked.start
    stale_days = {floor(start, "day") for step, start in stale if step != "recent"}

    def fits(step: str) -> bool:
        end = at + STEPS[step]
        if end > asked.end or (at - asked.start) // width != (end - MINUTE - asked.start) // width:
            return False
        if step == "recent":
            return at in recent and (step, at) not in stale
        return at == floor(at, step) and (at not in stale_days if step == "day" else (step, at) not in stale)

    while at < asked.end:
        step = next((step for step in ("day", "recent", "quarter", "hour") if fits(step)), "minute")
        end = at + STEPS[step] if step in STEPS else min(floor(at, "hour") + STEPS["hour"], asked.end)
        if found and found[-1].step == step:
            found[-1] = Piece(step, found[-1].start, end)
        else:
            found.append(Piece(step, at, end))
        at = end
    return found


def whole_hours(span: Span) -> Span:
    """The span, widened to whole hours."""
    return Span(floor(span.start, "hour"), floor(span.end + STEPS["hour"] - timedelta(microseconds=1), "hour"))


class Sizes(NamedTuple):
    """What each id (rising) comes to in a span: sessions are added, not united; `rows` are those of hours and coarser steps."""

    ids: Ints
    reports: Ints
    sessions: Ints
    bad_sessions: Ints
    rows: Ints


NO_SIZES = Sizes(*[np.zeros(0, dtype=np.int64)] * 5)


class Sources(NamedTuple):
    """What was read of a span before it is known which groups are shown; `fine` and `coarse` by number of the question's step."""

    asked: Span
    as_of: datetime
    fine: dict[int, bytes]
    """All minutes of a step, as one block."""
    coarse: dict[int, list[Start]]
    sizes: Sizes
    total: Read
    """All of `coarse`, in a few rows; nothing when it was not asked for."""


async def sources(connection: database.Connection, of: Of, asked: Span, width: timedelta, is_total: bool) -> Sources:
    """All of a span but the rows of hours and days, for steps of `width`. Raises Problem TOO_MUCH.

    The span is widened to whole hours where minutes would be too much and the steps are not finer.
    """
    if width >= STEPS["hour"] and (asked.end - asked.start > FINE or await _is_too_fine(connection, of, asked, width)):
        asked = whole_hours(asked)
    opening = await connection.fetchrow(_SQL["opening"], *of.where, asked.start, asked.end)
    assert opening is not None
    as_of, rows = opening["as_of"], []
    if opening["deltas"] > WAITING_MAX or opening["bytes"] > WAITING_BYTES_MAX:
        as_of = min(as_of, opening["since"])
    elif opening["deltas"]:
        rows += await connection.fetch(_SQL["deltas"], *of.where, asked.start, asked.end)
    minutes_bytes, starts = 0, list[Start]()
    for piece in pieces(asked, set(opening["stale"]), width, set(opening["recent"])):
        if piece.step != "minute":
            starts += _starts(piece)
            continue
        minutes_bytes += await connection.fetchval(_SQL["minutes_bytes"], *of.where, piece.start, piece.end)
        if minutes_bytes > 4 * FINE_BYTES_MAX:
            raise errors.Problem(errors.TOO_MUCH)
        rows += await connection.fetch(_SQL["minutes"], *of.where, piece.start, piece.end)
    coarse: dict[int, list[Start]] = {}
    sizes, total = NO_SIZES, NO_ROWS
    for part in batched(starts, TOTALS_PER_READ, strict=False):
        columns = zip(*part, strict=True)
        totals = await connection.fetch(_TOTALS if is_total else _RANKS, *of.where, *map(list, columns))
        for row in totals:
            coarse.setdefault((row["start"] - asked.start) // width, []).append(Start(row["step"], row["start"]))
        sizes, total = await at_once(sum(len(row["group_ids"]) // 8 for row in totals), _add, sizes, total, totals, is_total)
    fine: dict[int, bytes] = {}
    if rows:
        fine, sizes = await in_thread(_fine, sizes, rows, asked.start, width)
    return Sources(asked, as_of, fine, coarse, sizes, total)


def _starts(piece: Piece) -> Iterator[Start]:
    at = piece.start
    while at < piece.end:
        yield Start(piece.step, at)
        at += STEPS[piece.step]


def _add(sizes: Sizes, total: Read, rows: list[asyncpg.Record], is_total: bool) -> tuple[Sizes, Read]:
    """Sizes and total with more of them."""
    sizes = _sum([sizes, *(_sizes(ranks_of(row), 1) for row in rows)])
    if is_total and rows:
        total = joined([total, read(rows, _TOTALS_FIRST)])
        total = one_row([total]) if len(total.counts) > TOTALS_PER_READ else total
    return sizes, total


def _sizes(ranks: Ranks, rows: int) -> Sizes:
    return Sizes(*ranks, np.full(len(ranks.ids), rows))


def _sum(parts: Sequence[Sizes]) -> Sizes:
    """Raises Problem TOO_MUCH when there are more than NAMES_MAX ids."""
    ids, of = _places(np.concatenate([one.ids for one in parts]))
    if len(ids) > NAMES_MAX:
        raise errors.Problem(errors.TOO_MUCH)
    sums = (np.bincount(of, weights=np.concatenate(column), minlength=len(ids)) for column in list(zip(*parts, strict=True))[1:])
    return Sizes(ids, *(one.astype(np.int64) for one in sums))


def _places(every: Ints) -> tuple[Ints, Ints]:
    """Different ids, rising, and the place of each. Ids lie close together, as a rule: then they need not be sorted."""
    first, last = (int(every.min()), int(every.max())) if len(every) else (0, 0)
    spread = last - first + 1
    if spread > IDS_SPREAD_MAX * len(every):
        return np.unique(every, return_inverse=True)
    is_there = np.zeros(spread, dtype=bool)
    is_there[every - first] = True
    return np.flatnonzero(is_there) + first, (np.cumsum(is_there) - 1)[every - first]


def _fine(sizes: Sizes, rows: list[asyncpg.Record], since: datetime, width: timedelta) -> tuple[dict[int, bytes], Sizes]:
    """One block for each step, and the sizes with those of the blocks."""
    blocks: dict[int, list[bytes]] = {}
    for row in rows:
        blocks.setdefault((row["start"] - since) // width, []).append(row["block"])
    fine: dict[int, bytes] = {}
    parts = [sizes]
    for step, encoded in sorted(blocks.items()):
        block = merge([decode(one) for one in encoded])
        fine[step] = encode(block) if len(encoded) > 1 else encoded[0]
        parts.append(_sizes(Ranks(block.ids, block.counts[:, REPORTS], block.sessions(), block.sessions("bad_sessions")), 0))
        if sum(len(one.ids) for one in parts) > 2 * NAMES_MAX:
            parts = [_sum(parts)]
    return fine, _sum(parts) if fine else sizes


async def in_thread[T](function: Callable[..., T], *arguments: object) -> T:
    """What takes long, in a thread: merging must not hold up those who send.

    A thread cannot be stopped: whoever is cancelled meanwhile goes when it has ended, so that no more of them run than questions
    are answered at a time.
    """
    running = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise


async def at_once[T](groups: int, function: Callable[..., T], *arguments: object) -> T:
    """What takes less time than a thread to wake up when there are few groups; in a thread when there are many."""
    return await in_thread(function, *arguments) if groups > AT_ONCE_MAX else function(*arguments)


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
        self._last: tuple[tuple[int, int, int], Ints, list[Values]] | None = None
        """The same groups are asked for again and again."""

    async def of(self, connection: database.Connection, of: Of, ids: Ints) -> list[Values]:
        """The values of the set's dimensions, for each id."""
        if self._last is None or self._last[0] != of.where or not np.array_equal(self._last[1], ids):
            self._last = of.where, ids, await self._find(connection, of, ids.tolist())
        return self._last[2]

    async def _find(self, connection: database.Connection, of: Of, wanted: list[int]) -> list[Values]:
        known = self._values.setdefault(of.where, {})
        missing = [one for one in wanted if one not in known]
        if sum(map(len, self._values.values())) + len(missing) > NAMES_MAX:
            known = {}
            self._values, missing = {of.where: known}, wanted
        if missing:
            query = _SQL["dimensions"].format(dimensions=", ".join(SETS[of.dimension_set]))
            for dimension_id, *values in await connection.fetch(query, of.studio_id, of.game_id, missing):
                known[dimension_id] = tuple(values)
        return [known[one] for one in wanted]


class Groups(NamedTuple):
    """Which groups there are: their values, and the sizes of their ids, with the group of each."""

    values: list[Values]
    sizes: Sizes
    codes: Ints


async def groups(connection: database.Connection, names: Names, of: Of, found: Sources) -> Groups:
    """The groups of what was read, but those that are filtered out."""
    values, sizes = await names.of(connection, of, found.sizes.ids), found.sizes
    dimensions = SETS[of.dimension_set]
    if of.filters:
        allowed = [(dimensions.index(dimension), frozenset(words)) for dimension, words in of.filters]
        kept = [n for n, one in enumerate(values) if all(one[at] in words for at, words in allowed)]
        values, sizes = [values[n] for n in kept], Sizes(*(column[kept] for column in sizes))
    if of.group_by == dimensions:  # an id each
        return Groups(values, sizes, np.arange(len(values)))
    at = [dimensions.index(dimension) for dimension in of.group_by]
    values = [tuple([one[n] for n in at]) for one in values]
    codes: dict[Values, int] = {}
    of_id = np.array([codes.setdefault(one, len(codes)) for one in values], dtype=np.int64)
    return Groups(list(codes), sizes, of_id)


def largest(known: Groups, order: str, count: int) -> list[int]:
    """The groups that are largest by reports, or by what the hours' sessions come to."""
    sizes = np.bincount(known.codes, weights=getattr(known.sizes, order), minlength=len(known.values))
    if len(sizes) > count:  # values decide between those that are as large as the last one
        least = np.partition(sizes, len(sizes) - count)[len(sizes) - count]
        codes = np.flatnonzero(sizes > least).tolist()
        codes += nsmallest(count - len(codes), np.flatnonzero(sizes == least).tolist(), key=known.values.__getitem__)
    else:
        codes = list(range(len(sizes)))
    return sorted(codes, key=lambda code: (-sizes[code], known.values[code]))
