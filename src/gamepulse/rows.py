"""Totals, and the groups of an hour or a day, as rows of PostgreSQL: how they are read and written."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Self

import asyncpg
import numpy as np

from gamepulse import histogram, sketch
from gamepulse.rollup import COUNTS, HISTOGRAMS, KINDS, Block, Cells, Ints, added, buckets
from gamepulse.totals import Total, TotalKey

_BUCKET = np.dtype([("index", "<i2"), ("low", "<u4"), ("high", "<u2")])  # a count of 48 bits: eight bytes in all


def transposed(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Rows as columns, as unnest() takes them."""
    columns: list[list[object]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns


class Read(NamedTuple):
    """Rows of groups as they were read: counts (rows, len(COUNTS)); for each histogram (row, index, count); sketches' bytes."""

    counts: Ints
    histograms: list[tuple[Ints, Ints, Ints]]
    sketches: list[list[bytes]]

    @classmethod
    def of(cls, block: Block) -> Self:
        """The groups of a block as rows."""
        histograms = [(cells.rows(), cells.entry, cells.value) for cells in block.cells[:HISTOGRAMS]]
        return cls(block.counts, histograms, [_sketches(cells) for cells in block.cells[HISTOGRAMS:]])

    def part(self, since: int, until: int) -> Self:
        """Some rows; of a Read whose histograms lie in the order of its rows."""
        bounds = [np.searchsorted(row, [since, until]) for row, _, _ in self.histograms]
        return type(self)(
            self.counts[since:until],
            [
                (row[a:b] - since, index[a:b], value[a:b])
                for (row, index, value), (a, b) in zip(self.histograms, bounds, strict=True)
            ],
            [one[since:until] for one in self.sketches],
        )

    def together(self, owner: Ints, count: int) -> Self:
        """The rows put together as `count` rows: `owner` has the new row of each."""
        cells = [buckets(owner[row], index, value, count) for row, index, value in self.histograms]
        return type(self)(
            added(self.counts, owner, count),
            [(one.rows(), one.entry, one.value) for one in cells],
            [sketch.together(one, owner, count) for one in self.sketches],
        )

    def columns(self) -> list[list[Any]]:
        """As columns: COUNTS, then KINDS as bytes; of a Read whose histograms lie in the order of its rows."""
        found: list[list[Any]] = [self.counts[:, n].tolist() for n in range(len(COUNTS))]
        for row, index, value in self.histograms:
            cells = np.empty(len(index), dtype=_BUCKET)
            cells["index"], cells["low"], cells["high"] = index, value & 0xFFFFFFFF, value >> 32
            packed, ends = cells.tobytes(), np.searchsorted(row, np.arange(len(self.counts) + 1)) * _BUCKET.itemsize
            found.append([packed[a:b] for a, b in pairwise(ends.tolist())])
        return found + self.sketches


def joined(reads: Sequence[Read]) -> Read:
    """All rows, one after another."""
    starts = np.cumsum([0, *(len(one.counts) for one in reads)]).tolist()
    histograms = []
    for kind in range(HISTOGRAMS):
        parts = [one.histograms[kind] for one in reads]
        row = np.concatenate([part[0] + start for part, start in zip(parts, starts, strict=False)])
        histograms.append((row, np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])))
    sketches = [[row for one in reads for row in one.sketches[kind]] for kind in range(len(KINDS) - HISTOGRAMS)]
    return Read(np.concatenate([one.counts for one in reads]), histograms, sketches)


def read(rows: Sequence[asyncpg.Record], first: int) -> Read:
    """Rows whose columns from `first` on are COUNTS and KINDS."""
    counts = np.array([row[first : first + len(COUNTS)] for row in rows], dtype=np.int64).reshape(-1, len(COUNTS))
    histograms = []
    at = first + len(COUNTS)
    for kind in range(HISTOGRAMS):
        encoded = [row[at + kind] for row in rows]
        cells = np.frombuffer(b"".join(encoded), _BUCKET)
        row = np.repeat(np.arange(len(rows)), np.array([len(one) // _BUCKET.itemsize for one in encoded], dtype=np.int64))
        histograms.append((row, cells["index"].astype(np.int64), cells["low"] + (cells["high"].astype(np.int64) << 32)))
    sketches = [[row[at + kind] for row in rows] for kind in range(HISTOGRAMS, len(KINDS))]
    return Read(counts, histograms, sketches)


def one_row(parts: Sequence[Read]) -> Read:
    """All rows together."""
    rows = joined(parts)
    return rows.together(np.zeros(len(rows.counts), dtype=np.int64), 1)


def _sketches(cells: Cells) -> list[bytes]:
    ends = np.cumsum(cells.sizes).tolist()
    return [sketch.encode(cells.entry[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


# -- totals -----------------------------------------------------------------------------------------------------------------------


def total_of(row: asyncpg.Record) -> Total:
    """A stored total."""
    total = Total()
    for name in ("reports", "rtt_us_sum", "jitter_us_sum", "loss_ppm_sum", "events", "qualities"):
        setattr(total, name, row[name])
    for name in ("rtt", "jitter", "loss"):
        setattr(total, name, histogram.decode(row[name]))
    return total


def _array(numbers: Iterable[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


def total_columns(totals: Mapping[TotalKey, Total]) -> list[list[object]]:
    """Totals as put_totals takes them."""
    rows = (
        (
            *key, t.reports, t.rtt_us_sum, t.jitter_us_sum, t.loss_ppm_sum, _array(t.events), _array(t.qualities),
            histogram.encode(t.rtt), histogram.encode(t.jitter), histogram.encode(t.loss),
        )
        for key, t in sorted(totals.items())
    )  # fmt: skip
    return transposed(rows, 13)
