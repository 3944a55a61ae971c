"""Reads the rows of the groups that are shown, from hours and coarser steps, and merges them with the minutes, slice by slice."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple

import asyncpg
import numpy as np

from gamepulse import database, errors
from gamepulse.gather import NO_ROWS, Groups, Of, Sources, in_thread
from gamepulse.roll import STEPS, Start
from gamepulse.rollup import Ints, decode, regroup
from gamepulse.rows import ALL, Read, joined, one_row, read_one

ROWS_MAX = 150_000
"""Rows of hours and coarser steps that one question may read: so many can be merged within database.QUESTION_TIMEOUT_S."""
SLICE_BYTES_MAX = 16 * 2**20
"""Of rows that are read and merged at a time, each taken to be as large as it can be."""
ROW_BYTES = 28 * 2**10
"""Of the largest row: two sketches' registers, and two histograms of all buckets from 0.05 ms to 60 s."""
_NOTHING = np.zeros(0, dtype=np.int64), NO_ROWS
_GROUPS = {step: database.queries("serve")["groups"].format(step=step, measures=ALL) for step in STEPS}


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


class _Rows(NamedTuple):
    """All rows of one kind of rollup, as one; of its starts the number of the question's step."""

    steps: list[int]
    row: asyncpg.Record

    def places(self) -> tuple[Ints, Ints]:
        """Step and id of each row."""
        ids, positions = (np.array(one, dtype=np.int64) for one in self.row[:2])
        return np.array(self.steps)[positions - 1], ids


type Take = Callable[[Ints, Read], None]
"""Is given numbers (step × groups + place, rising) and a row of measures for each, in a thread."""


async def merge_rows(connection: database.Connection, of: Of, found: Sources, chosen: Chosen, width: timedelta, take: Take) -> None:
    """Read and merge what is chosen of a span's steps, a slice at a time. Raises Problem TOO_MUCH."""
    if found.sizes.rows[np.isin(found.sizes.ids, chosen.ids)].sum() > ROWS_MAX:
        raise errors.Problem(errors.TOO_MUCH)
    if not len(chosen.ids):
        return
    merging, every = _Merging(found, chosen, take), [*slices(found, len(chosen.ids))]

    async def read_(one: Slice) -> list[_Rows]:
        rows: list[_Rows] = []
        for step in STEPS:
            at = [start.at for start in one.starts if start.step == step]
            if at:
                row = await connection.fetchrow(_GROUPS[step], *of.where, at, chosen.ids[one.since : one.until].tolist())
                if row is not None and row[0] is not None:
                    rows.append(_Rows([(one - found.asked.start) // width for one in at], row))
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
                await asyncio.wait([reading])  # the transaction's end is next on this connection


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

    def add(self, one: Slice, rows: Sequence[_Rows], upto: int | None) -> None:
        """Hand on what is whole now: all numbers below `upto`, which is where the next slice begins."""
        if one.fine:
            self._fine, self._fine_at = self._minutes(one.fine), 0
        until = int(np.searchsorted(self._fine[0], np.inf if upto is None else upto))
        fine = self._fine[0][self._fine_at : until], self._fine[1].part(self._fine_at, until)
        self._fine_at = until
        new = [(self._numbers(*some.places()), read_one(some.row, 2)) for some in rows]
        numbers, measured = _together([self._carried, fine, *new])
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


def total(found: Sources) -> Read:
    """All groups of a span together: one row."""
    blocks = [decode(one) for one in found.fine.values()]
    owner = np.zeros(sum(map(len, blocks)), dtype=np.int64)
    return one_row([found.total, *([Read.of(regroup(blocks, owner, np.zeros(1, dtype=np.int64)))] if blocks else [])])
