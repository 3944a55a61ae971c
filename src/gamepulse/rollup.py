"""What a rollup holds: its dimension sets, and blocks of many groups' measures, which merge in any order."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from gamepulse import sketch
from gamepulse.batch import EVENT_KINDS, QUALITIES
from gamepulse.histogram import ZERO_BUCKET

SETS: Final[tuple[tuple[str, ...], ...]] = (
    ("region", "country"),
    ("region", "country", "connection", "platform", "build"),
    ("region", "country", "subdivision", "network"),
    ("region", "server"),
    ("country", "network"),
)
"""The dimensions that are rolled up together, by number of the set: place, client, network, server, carrier.

The last one is a part of the third: a country's network is there in a few rows for each region and subdivision, and a day's answer
about thousands of networks must not read all of them.
"""
PLACE, CLIENT, NETWORK, SERVER, CARRIER = range(5)
DIMENSIONS: Final = ("region", "country", "subdivision", "network", "connection", "platform", "build", "server")

UNKNOWN = "unknown"
OTHER = "(other)"
"""Stands for all values beyond a dimension's limit; no client can send it, for its parentheses."""
VALUES_MAX: Final = {"region": 100, "platform": 50, "build": 500, "network": 5_000, "server": 5_000}
"""Different values of one game at a time; the others come from fixed lists."""

COUNTS: Final = ("reports", "rejected", "loss_count", "loss_ppm_sum", *EVENT_KINDS, *QUALITIES)
"""What is only added. Loss is in parts per million, so that its sum is exact."""
REPORTS, REJECTED, LOSS_COUNT, LOSS_PPM_SUM, EVENTS = range(5)
WORDS = EVENTS + len(EVENT_KINDS)
KINDS: Final = ("rtt", "jitter", "sessions", "bad_sessions")
"""What each group has a list of: histograms' buckets with their counts, then sketches' entries."""
HISTOGRAMS: Final = 2
"""The first so many of KINDS are histograms."""
_OFFSET = 1 << 15  # bucket indexes are i16
SPREAD_MAX = 2
"""Histograms are added in place when that takes no more than so many places for each bucket that there is."""

type Ints = npt.NDArray[np.int64]


class Cells(NamedTuple):
    """One kind's lists of all groups, one after another: how many each group has, buckets or entries, and buckets' counts.

    A sketch's entries have no counts: `value` is empty.
    """

    sizes: Ints
    entry: Ints
    value: Ints

    def rows(self) -> Ints:
        """The group of each cell, by position."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


class Block:
    """The measures of many groups: `ids` (n, rising), `counts` (n, len(COUNTS)), `cells` for each of KINDS."""

    __slots__ = ("cells", "counts", "ids")

    def __init__(self, ids: Ints, counts: Ints, cells: Sequence[Cells]) -> None:
        self.ids = ids
        self.counts = counts
        self.cells = cells

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def empty(cls, ids: Ints) -> Self:
        """Groups of which nothing is known."""
        nothing = np.zeros(0, dtype=np.int64)
        cells = Cells(np.zeros(len(ids), dtype=np.int64), nothing, nothing)
        return cls(ids, np.zeros((len(ids), len(COUNTS)), dtype=np.int64), [cells] * len(KINDS))

    def split(self, starts: Sequence[int]) -> "list[Block]":
        """The groups from each position to the next, the last one to the end."""
        bounds = np.array([*starts, len(self)], dtype=np.int64)
        at = [np.concatenate([[0], np.cumsum(one.sizes)])[bounds] for one in self.cells]
        return [
            Block(
                self.ids[since:until],
                self.counts[since:until],
                [
                    Cells(one.sizes[since:until], one.entry[ends[n] : ends[n + 1]], one.value[ends[n] : ends[n + 1]])
                    for one, ends in zip(self.cells, at, strict=True)
                ],
            )
            for n, (since, until) in enumerate(pairwise(bounds.tolist()))
        ]

    def select(self, where: npt.NDArray[np.bool_]) -> "Block":
        """Some of the groups."""
        cells = []
        for one in self.cells:
            cell = np.repeat(where, one.sizes)
            cells.append(Cells(one.sizes[where], one.entry[cell], one.value[cell] if len(one.value) else one.value))
        return Block(self.ids[where], self.counts[where], cells)

    def sessions(self, kind: str = "sessions") -> Ints:
        """The number of distinct sessions (or bad ones) of each group."""
        cells = self.cells[KINDS.index(kind)]
        return sketch.count(cells.rows(), cells.entry, len(self))


def merge(blocks: Sequence[Block]) -> Block:
    """All groups of some blocks, those with the same id together."""
    if len(blocks) == 1:
        return blocks[0]
    all_ids = np.concatenate([np.zeros(0, dtype=np.int64), *(block.ids for block in blocks)])
    ids, owner = np.unique(all_ids, return_inverse=True)
    return regroup(blocks, owner, ids)


def regroup(blocks: Sequence[Block], owner: Ints, ids: Ints) -> Block:
    """The groups of some blocks put together anew: `owner` has, for each of all their groups, its position in `ids`."""
    if not blocks:
        return Block.empty(ids)
    counts = added(np.concatenate([block.counts for block in blocks]), owner, len(ids))
    cells = []
    for kind in range(len(KINDS)):
        parts = [block.cells[kind] for block in blocks]
        rows = np.repeat(owner, np.concatenate([one.sizes for one in parts]))
        index = np.concatenate([one.entry for one in parts])
        if kind < HISTOGRAMS:
            cells.append(buckets(rows, index, np.concatenate([one.value for one in parts]), len(ids)))
        else:
            cells.append(entries(rows, index, len(ids)))
    return Block(ids, counts, cells)


def added(values: Ints, owner: Ints, groups: int) -> Ints:
    """The sum of the rows of each owner: (groups, columns)."""
    found = np.zeros((groups, values.shape[1]), dtype=np.int64)
    if len(owner):
        order = np.argsort(owner, kind="stable")
        starts = _starts(owner[order])
        found[owner[order][starts]] = np.add.reduceat(values[order], starts, axis=0)
    return found


def buckets(rows: Ints, index: Ints, value: Ints, groups: int) -> Cells:
    """Histograms of unordered buckets; equal ones are added."""
    if len(index):
        first = int(index.min()) - 1
        is_zero = index == ZERO_BUCKET if first < ZERO_BUCKET else None
        if is_zero is not None:  # zeros' bucket is far from all others: here it is next to them
            first = int(np.where(is_zero, _OFFSET, index).min()) - 1
        width = max(int(index.max()) - first + 1, 1)
        if groups * width <= SPREAD_MAX * len(index):
            at = index - first
            if is_zero is not None:
                at[is_zero] = 0
            return _spread(rows, at, value, groups, width, first)
    keys = (rows << 16) | (index + _OFFSET)
    order = np.argsort(keys)
    keys = keys[order]
    if len(keys):
        starts = _starts(keys)
        keys, value = keys[starts], np.add.reduceat(value[order], starts)
    return Cells(np.bincount(keys >> 16, minlength=groups), (keys & 0xFFFF) - _OFFSET, value)


def _spread(rows: Ints, at: Ints, value: Ints, groups: int, width: int, first: int) -> Cells:
    """The same where there are many for each bucket: added in place is quicker than sorted. Sums are exact below 2^53."""
    sums = np.bincount(rows * width + at, weights=value, minlength=groups * width)
    found = np.flatnonzero(sums)
    row, at = found // width, found % width
    return Cells(np.bincount(row, minlength=groups), np.where(at == 0, ZERO_BUCKET, at + first), sums[found].astype(np.int64))


def counted(rows: Ints, index: Ints, groups: int) -> Cells:
    """Histograms of single values, given by their buckets."""
    keys = np.sort((rows << 16) | (index + _OFFSET))
    starts = _starts(keys)
    keys, value = keys[starts], np.diff(starts, append=len(keys))
    return Cells(np.bincount(keys >> 16, minlength=groups), (keys & 0xFFFF) - _OFFSET, value)


def entries(rows: Ints, entry: Ints, groups: int) -> Cells:
    """Sketches of unordered entries."""
    rows, entry = sketch.union(rows, entry, groups)
    return Cells(np.bincount(rows, minlength=groups), entry, np.zeros(0, dtype=np.int64))


def _starts(keys: Ints) -> Ints:
    """Where each run of equal keys begins."""
    new = np.ones(len(keys), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    return np.flatnonzero(new)


# -- as bytes: docs/records.md -------------------------------------------------------------------------------------------------

_WIDTHS = (1, 2, 4, 8)


def encode(block: Block) -> bytes:
    """The bytes of a block."""
    lengths = [len(block), *(len(cells.entry) for cells in block.cells)]
    parts = [np.array(lengths, dtype="<u4").tobytes(), block.ids.astype("<i8").tobytes()]
    parts += [_packed(block.counts[:, column]) for column in range(len(COUNTS))]
    for kind, cells in enumerate(block.cells):
        parts.append(_packed(cells.sizes))
        if kind < HISTOGRAMS:
            parts += [cells.entry.astype("<i2").tobytes(), _packed(cells.value)]
        else:
            parts.append(cells.entry.astype("<u4").tobytes())
    return b"".join(parts)


def decode(encoded: bytes) -> Block:
    """The reverse of encode()."""
    reader = _Reader(encoded)
    n, *lengths = reader.take("<u4", 1 + len(KINDS)).tolist()
    ids = reader.take("<i8", n)
    counts = np.empty((n, len(COUNTS)), dtype=np.int64)
    for column in range(len(COUNTS)):
        counts[:, column] = reader.packed(n)
    cells = []
    for kind, length in enumerate(lengths):
        sizes = reader.packed(n)
        if kind < HISTOGRAMS:
            cells.append(Cells(sizes, reader.take("<i2", length), reader.packed(length)))
        else:
            cells.append(Cells(sizes, reader.take("<u4", length), np.zeros(0, dtype=np.int64)))
    return Block(ids, counts, cells)


def _packed(values: Ints) -> bytes:
    """The width of a value in bytes (0: all are 0), then the values."""
    most = int(values.max()) if len(values) else 0
    if most == 0:
        return b"\0"
    width = next(width for width in _WIDTHS if most < 1 << (8 * width))
    return bytes((width,)) + values.astype(f"<u{width}").tobytes()


class _Reader:
    """Takes arrays from bytes, one after another."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._at = 0

    def take(self, dtype: str, count: int) -> Ints:
        values = np.frombuffer(self._encoded, dtype, count, self._at)
        self._at += values.nbytes
        return values.astype(np.int64)

    def packed(self, count: int) -> Ints:
        width = self._encoded[self._at]
        self._at += 1
        return self.take(f"<u{width}", count) if width else np.zeros(count, dtype=np.int64)
