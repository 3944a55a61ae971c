"""Gathers what the rollups hold of a span, by group: all of minutes, of hours and days only the largest groups.

A span's total of each hour tells which groups there were and how large; so of thousands of groups the rows of those that are
shown are read, and the rest is the total without them.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import asyncpg
import msgspec
import numpy as np

from gamepulse import database, errors
from gamepulse.roll import MEASURES, STEPS, Ranks, floor, ranks_of
from gamepulse.rollup import REPORTS, SETS, Block, Ints, decode, encode, merge, regroup
from gamepulse.rows import MERGED, Read, joined, one_row, read, read_merged

ROWS_MAX = 150_000
"""Rows of hours and days that one question may read: so many can be merged within database.QUESTION_TIMEOUT_S."""
SLICE_BYTES_MAX = 16 * 2**20
"""Of rows that are read and merged at a time, each taken to be as large as it can be."""
ROW_BYTES = 28 * 2**10
"""Of the largest row: two sketches' registers, and two histograms of all buckets from 0.05 ms to 60 s."""
TOTALS_PER_READ = 24
"""Hours (quarters, days) whose groups are read at a time: 20 bytes a group."""
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
CANDIDATES = 4
"""By sessions, so many times the groups asked for are looked at: their hours can only be added, not united, to rank them."""
_SQL = database.queries("serve")
_RANKS = _SQL["rollup_totals"].format(measures="")
_TOTALS = _SQL["rollup_totals"].format(measures=f", {MEASURES}")
_TOTALS_FIRST = 5
"""The column of _TOTALS in which the measures begin."""

NO_ROWS = Read.of(Block.empty(np.zeros(0, dtype=np.int64)))
_NOTHING = np.zeros(0, dtype=np.int64), NO_ROWS
_GROUPS = {step: _SQL["groups"].format(step=step, measures=MERGED) for step in STEPS}

type Values = tuple[str, ...]
type Filters = tuple[tuple[str, tuple[str, ...]], ...]
"""Dimensions, each with the values of which a group must have one."""
NO_FILTERS: Filters = ()
NO_FINE: Mapping[int, bytes] = {}


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


class Start(NamedTuple):
    """An hour, quarter or day."""

    step: str
    at: datetime


class Sizes(NamedTuple):
    """What each id (rising) comes to in a span: sessions are added, not united; `rows` are those of hours, quarters and days."""

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
    """One row: all of `coarse` together; nothing when it was not asked for."""


async def sources(connection: database.Connection, of: Of, asked: Span, width: timedelta, is_total: bool) -> Sources:
    """All of a span but the rows of hours and days, for steps of `width`. Raises Problem TOO_MUCH.

    The span is widened to whole hours where minutes would be too much and the steps are not finer.
    """
    as_of = await connection.fetchval(_SQL["as_of"])
    if width >= STEPS["hour"] and (asked.end - asked.start > FINE or await _is_too_fine(connection, of, asked, width)):
        asked = whole_hours(asked)
    waiting = await connection.fetchrow(_SQL["waiting"], *of.where, asked.start, asked.end)
    assert waiting is not None
    rows = []
    if waiting["deltas"] > WAITING_MAX or waiting["bytes"] > WAITING_BYTES_MAX:
        as_of = min(as_of, waiting["since"])
    elif waiting["deltas"]:
        rows += await connection.fetch(_SQL["deltas"], *of.where, asked.start, asked.end)
    coarse: dict[int, list[Start]] = {}
    sizes, total = NO_SIZES, NO_ROWS
    totals: list[asyncpg.Record] = []
    minutes_bytes = 0
    for piece in pieces(asked, await _stale(connection, of, asked), width):
        if piece.step == "minute":
            minutes_bytes += await connection.fetchval(_SQL["minutes_bytes"], *of.where, piece.start, piece.end)
            if minutes_bytes > 4 * FINE_BYTES_MAX:
                raise errors.Problem(errors.TOO_MUCH)
            rows += await connection.fetch(_SQL["minutes"], *of.where, piece.start, piece.end)
            continue
        for start, end in _parts(piece):
            found = await connection.fetch(_TOTALS if is_total else _RANKS, *of.where, piece.step, start, end)
            for row in found:
                coarse.setdefault((row["start"] - asked.start) // width, []).append(Start(piece.step, row["start"]))
            totals += found
            if len(totals) >= TOTALS_PER_READ:
                sizes, total = await in_thread(_add, sizes, total, totals, is_total)
                totals = []
    if totals:
        sizes, total = await in_thread(_add, sizes, total, totals, is_total)
    fine, sizes = await in_thread(_fine, sizes, rows, asked.start, width)
    return Sources(asked, as_of, fine, coarse, sizes, total)


def _parts(piece: Piece) -> Iterator[tuple[datetime, datetime]]:
    """The piece in parts of TOTALS_PER_READ."""
    at, part = piece.start, TOTALS_PER_READ * STEPS[piece.step]
    while at < piece.end:
        yield at, min(at + part, piece.end)
        at += part


def _add(sizes: Sizes, total: Read, rows: list[asyncpg.Record], is_total: bool) -> tuple[Sizes, Read]:
    """Sizes and total with more of them."""
    sizes = _sum([sizes, *(_sizes(ranks_of(row), 1) for row in rows)])
    if is_total and rows:
        total = one_row([total, read(rows, _TOTALS_FIRST)])
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
    first = int(every.min(initial=0))
    spread = int(every.max(initial=0)) - first + 1
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
    return fine, _sum(parts)


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
        """The values of the set's dimensions, for each id."""
        known = self._values.setdefault(of.where, {})
        wanted = ids.tolist()
        missing = list(set(wanted) - known.keys())
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
        codes = np.flatnonzero(sizes >= least).tolist()
    else:
        codes = list(range(len(sizes)))
    return sorted(codes, key=lambda code: (-sizes[code], known.values[code]))[:count]


# -- measures --------------------------------------------------------------------------------------------------------------------


class Chosen(NamedTuple):
    """What is merged into which: ids, and the place of each among `groups`, rising."""

    ids: Ints
    places: Ints
    groups: int


def choose(known: Groups, chosen: Sequence[int], count: int | None = None) -> Chosen:
    """Each chosen group for itself, or all as one (`count` 1)."""
    place = np.full(len(known.values), -1)
    place[chosen] = 0 if count == 1 else np.arange(len(chosen))
    places = place[known.codes]
    order = np.argsort(places, kind="stable")[np.count_nonzero(places < 0) :]
    return Chosen(known.sizes.ids[order], places[order], count or len(chosen))


class Slice(NamedTuple):
    """What is read and merged at a time: of some steps the minutes, and of some ids (from one position to another) some starts."""

    number: int
    """Of its first step."""
    fine: list[int]
    starts: list[Start]
    since: int
    until: int


def slices(found: Sources, ids: int) -> Iterator[Slice]:
    """Steps together as long as they are small; one that is large in several slices, its ids one after another."""
    steps: list[int] = []
    size = 0
    for step in sorted(found.fine.keys() | found.coarse.keys()):
        starts = found.coarse.get(step, [])
        more = ROW_BYTES * len(starts) * ids + 4 * len(found.fine.get(step, b""))
        if steps and size + more > SLICE_BYTES_MAX:
            yield _whole(found, steps, ids)
            steps, size = [], 0
        if ROW_BYTES * len(starts) * ids > SLICE_BYTES_MAX:
            yield from _cut(step, starts, ids)
        else:
            steps.append(step)
            size += more
    if steps:
        yield _whole(found, steps, ids)


def _whole(found: Sources, steps: list[int], ids: int) -> Slice:
    return Slice(steps[0], steps, [start for step in steps for start in found.coarse.get(step, [])], 0, ids)


def _cut(step: int, starts: list[Start], ids: int) -> Iterator[Slice]:
    rows = max(SLICE_BYTES_MAX // ROW_BYTES, 1)
    width = max(rows // len(starts), 1)
    for since in range(0, ids, width):
        for at in range(0, len(starts), rows):
            yield Slice(step, [] if since or at else [step], starts[at : at + rows], since, min(since + width, ids))


type Take = Callable[[Ints, Read], None]
"""Is given numbers (step × groups + place, rising) and a row of measures for each, in a thread."""


async def merge_rows(connection: database.Connection, of: Of, found: Sources, chosen: Chosen, width: timedelta, take: Take) -> None:
    """Read and merge what is chosen of a span's steps, a slice at a time. Raises Problem TOO_MUCH."""
    if found.sizes.rows[np.isin(found.sizes.ids, chosen.ids)].sum() > ROWS_MAX:
        raise errors.Problem(errors.TOO_MUCH)
    if not len(chosen.ids):
        return
    merging, every = _Merging(found, chosen, take), [*slices(found, len(chosen.ids))]

    async def read_(one: Slice) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = []
        for step in STEPS:
            at = [start.at for start in one.starts if start.step == step]
            if at:
                ids = chosen.ids[one.since : one.until].tolist()
                rows += await connection.fetch(_GROUPS[step], *of.where, at, ids, found.asked.start, int(width.total_seconds()))
        return rows

    rows = await read_(every[0])
    for one, following in pairwise([*every, None]):
        assert one is not None
        upto = None if following is None else following.number * chosen.groups + int(chosen.places[following.since])
        merged = in_thread(merging.add, one, rows, upto)
        if following is None:
            await merged
        else:  # PostgreSQL reads meanwhile
            reading = asyncio.create_task(read_(following))
            try:
                await merged
                rows = await reading
            finally:
                reading.cancel()


async def as_one(
    connection: database.Connection, of: Of, found: Sources, known: Groups, chosen: Sequence[int], width: timedelta
) -> Read:
    """The chosen groups together over a span that is one step: one row, or none. Raises Problem TOO_MUCH."""
    parts = [NO_ROWS]

    def take(_: Ints, rows: Read) -> None:
        parts.append(rows)

    await merge_rows(connection, of, found, choose(known, chosen, 1), width, take)
    return parts[-1]


class _Merging:
    """Merges slices; a group that is cut by the end of one is carried to the next."""

    def __init__(self, found: Sources, chosen: Chosen, take: Take) -> None:
        self._found = found
        self._chosen = chosen
        self._order = np.argsort(chosen.ids)
        self._take = take
        self._carried = _NOTHING
        self._fine = _NOTHING
        self._fine_at = 0

    def add(self, one: Slice, rows: list[asyncpg.Record], upto: int | None) -> None:
        """Hand on what is whole now: all numbers below `upto`, which is where the next slice begins."""
        if one.fine:
            self._fine, self._fine_at = self._minutes(one.fine), 0
        until = int(np.searchsorted(self._fine[0], np.inf if upto is None else upto))
        fine = self._fine[0][self._fine_at : until], self._fine[1].part(self._fine_at, until)
        self._fine_at = until
        steps = np.array([row[1] for row in rows], dtype=np.int64)
        ids = np.array([row[0] for row in rows], dtype=np.int64)
        new = self._numbers(steps, ids), read_merged(rows, 2)
        numbers, measured = _together([self._carried, fine, new])
        whole = len(numbers) if upto is None else int(np.searchsorted(numbers, upto))
        self._carried = numbers[whole:], measured.part(whole, len(numbers))
        if whole:
            self._take(numbers[:whole], measured.part(0, whole))

    def _numbers(self, steps: Ints, ids: Ints) -> Ints:
        places: Ints = self._chosen.places[self._order[np.searchsorted(self._chosen.ids, ids, sorter=self._order)]]
        return steps * self._chosen.groups + places

    def _minutes(self, steps: list[int]) -> tuple[Ints, Read]:
        parts = [_NOTHING]
        for step in steps:
            if step in self._found.fine:
                block = decode(self._found.fine[step])
                block = block.select(np.isin(block.ids, self._chosen.ids))
                numbers, owner = np.unique(self._numbers(np.full(len(block), step), block.ids), return_inverse=True)
                parts.append((numbers, Read.of(regroup([block], owner, numbers))))
        return np.concatenate([numbers for numbers, _ in parts]), joined([one for _, one in parts])


def _together(parts: Sequence[tuple[Ints, Read]]) -> tuple[Ints, Read]:
    """Rising numbers, and a row for each."""
    numbers, owner = np.unique(np.concatenate([one for one, _ in parts]), return_inverse=True)
    return numbers, joined([one for _, one in parts]).together(owner, len(numbers))


def fine_row(fine: Mapping[int, bytes]) -> Read:
    """All groups of all minutes together."""
    blocks = [decode(one) for one in fine.values()]
    owner = np.zeros(sum(map(len, blocks)), dtype=np.int64)
    return Read.of(regroup(blocks, owner, np.zeros(1, dtype=np.int64)))
