"""Totals, and the groups of an hour or a day, as rows of PostgreSQL: how they are read and written."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

import asyncpg
import numpy as np

from gamepulse import histogram, sketch
from gamepulse.rollup import COUNTS, HISTOGRAMS, KINDS, Block, Cells, Ints, added, buckets
from gamepulse.totals import Total, TotalKey

_BUCKET_BYTES = 8
"""Of a bucket: its index (i16), then its count in 48 bits."""


def transposed(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Rows as columns, as unnest() takes them."""
    columns: list[list[object]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns


class Read(NamedTuple):
    """Rows of groups as they were read: counts (rows, len(COUNTS)); of histograms (row, index, count), of sketches (row, bytes)."""

    counts: Ints
    histograms: list[tuple[Ints, Ints, Ints]]
    sketches: list[tuple[Ints, list[bytes]]]

    @classmethod
    def of(cls, block: Block) -> Self:
        """The groups of a block as rows."""
        histograms = [(cells.rows(), cells.entry, cells.value) for cells in block.cells[:HISTOGRAMS]]
        every = np.arange(len(block))
        return cls(block.counts, histograms, [(every, _sketches(cells)) for cells in block.cells[HISTOGRAMS:]])

    def part(self, since: int, until: int) -> Self:
        """Some rows; of a Read that was put together."""
        bounds = [np.searchsorted(row, [since, until]) for row, _, _ in self.histograms]
        return type(self)(
            self.counts[since:until],
            [
                (row[a:b] - since, index[a:b], value[a:b])
                for (row, index, value), (a, b) in zip(self.histograms, bounds, strict=True)
            ],
            [(np.arange(until - since), encoded[since:until]) for _, encoded in self.sketches],
        )

    def together(self, owner: Ints, count: int) -> Self:
        """The rows put together as `count` rows, whose parts lie in their order: `owner` has the new row of each."""
        cells = [buckets(owner.take(row), index, value, count) for row, index, value in self.histograms]
        return type(self)(
            added(self.counts, owner, count),
            [(one.rows(), one.entry, one.value) for one in cells],
            [(np.arange(count), sketch.together(encoded, owner[row], count)) for row, encoded in self.sketches],
        )

    def columns(self) -> list[list[Any]]:
        """As columns: COUNTS, then KINDS as bytes; of a Read that was put together."""
        found: list[list[Any]] = [self.counts[:, n].tolist() for n in range(len(COUNTS))]
        for row, index, value in self.histograms:
            packed = ((value << 16) | (index & 0xFFFF)).astype("<i8").tobytes()
            ends = np.searchsorted(row, np.arange(len(self.counts) + 1)) * _BUCKET_BYTES
            found.append([packed[a:b] for a, b in pairwise(ends.tolist())])
        return found + [encoded for _, encoded in self.sketches]


def joined(reads: Sequence[Read]) -> Read:
    """All rows, one after another."""
    reads = [one for one in reads if len(one.counts)] or reads[:1]
    if len(reads) == 1:
        return reads[0]
    starts = np.cumsum([0, *(len(one.counts) for one in reads)]).tolist()
    histograms = []
    for kind in range(HISTOGRAMS):
        parts = [one.histograms[kind] for one in reads]
        row = np.concatenate([part[0] + start for part, start in zip(parts, starts, strict=False)])
        histograms.append((row, np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])))
    sketches = []
    for kind in range(len(KINDS) - HISTOGRAMS):
        of_row = np.concatenate([one.sketches[kind][0] + start for one, start in zip(reads, starts, strict=False)])
        sketches.append((of_row, [encoded for one in reads for encoded in one.sketches[kind][1]]))
    return Read(np.concatenate([one.counts for one in reads]), histograms, sketches)


def read(rows: Sequence[asyncpg.Record], first: int) -> Read:
    """Rows whose columns from `first` on are COUNTS, then KINDS."""
    kinds = first + len(COUNTS)
    counts = np.array([row[first:kinds] for row in rows], dtype=np.int64).reshape(-1, len(COUNTS))
    columns = [[row[kind] for row in rows] for kind in range(kinds, kinds + len(KINDS))]
    histograms = [_cells(b"".join(column), [*map(len, column)]) for column in columns[:HISTOGRAMS]]
    return Read(counts, histograms, [(np.arange(len(rows)), column) for column in columns[HISTOGRAMS:]])


def read_one(row: asyncpg.Record, first: int) -> Read:
    """All rows of a query that selects ALL as its columns from `first` on."""
    counts = np.array(row[first], dtype=np.int64)
    packed, lengths = row[first + 1 :: 2], row[first + 2 :: 2]
    sketches = []
    for kind in range(HISTOGRAMS, len(KINDS)):
        bounds = pairwise([0, *accumulate(lengths[kind])])
        sketches.append((np.arange(len(counts)), [packed[kind][a:b] for a, b in bounds]))
    return Read(counts, [_cells(*one) for one in zip(packed[:HISTOGRAMS], lengths, strict=False)], sketches)


ALL = ", ".join(
    (f"array_agg(ARRAY[{', '.join(COUNTS)}])", *(f"string_agg({name}, ''), array_agg(length({name}))" for name in KINDS))
)
"""What a query selects to have all of its rows as one: thousands of values less to send and to take apart."""


def _cells(packed: bytes, lengths: Sequence[int]) -> tuple[Ints, Ints, Ints]:
    """Histograms one after another, of so many bytes each."""
    row = np.repeat(np.arange(len(lengths)), np.array(lengths, dtype=np.int64) // _BUCKET_BYTES)
    return row, np.frombuffer(packed, "<i2")[::4].astype(np.int64), np.frombuffer(packed, "<i8") >> 16


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
