"""Totals, and the groups of an hour or a day, as rows of PostgreSQL: how they are read and written."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
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
        cells = [buckets(owner[row], index, value, count) for row, index, value in self.histograms]
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
    """Rows whose columns from `first` on are COUNTS and KINDS."""
    at = first + len(COUNTS)
    every = np.arange(len(rows))
    sketches = [(every, [row[at + kind] for row in rows]) for kind in range(HISTOGRAMS, len(KINDS))]
    return Read(*_numbers(rows, first), sketches)


def read_merged(rows: Sequence[asyncpg.Record], first: int) -> Read:
    """Rows whose columns from `first` on are those of MERGED: each is several rows, one after another."""
    at = first + len(COUNTS) + HISTOGRAMS
    sketches = []
    for kind in range(len(KINDS) - HISTOGRAMS):
        encoded: list[bytes] = []
        sizes = []
        for row in rows:
            coupons, registers = row[at + 2 * kind], row[at + 2 * kind + 1]
            parts = [*sketch.parts(coupons or b""), *(registers or ())]
            encoded += parts
            sizes.append(len(parts))
        sketches.append((np.repeat(np.arange(len(rows)), np.array(sizes, dtype=np.int64)), encoded))
    return Read(*_numbers(rows, first), sketches)


MERGED = ", ".join(
    (
        *(f"sum({name})::bigint" for name in COUNTS),
        *(f"string_agg({name}, '')" for name in KINDS[:HISTOGRAMS]),
        *(
            f"string_agg({name}, '') FILTER (WHERE length({name}) <> {sketch.REGISTERS}), "
            f"array_agg({name}) FILTER (WHERE length({name}) = {sketch.REGISTERS})"
            for name in KINDS[HISTOGRAMS:]
        ),
    )
)
"""What a query that groups rows selects of them."""


def _numbers(rows: Sequence[asyncpg.Record], first: int) -> tuple[Ints, list[tuple[Ints, Ints, Ints]]]:
    """COUNTS, and histograms."""
    counts = np.array([row[first : first + len(COUNTS)] for row in rows], dtype=np.int64).reshape(-1, len(COUNTS))
    histograms = []
    for kind in range(first + len(COUNTS), first + len(COUNTS) + HISTOGRAMS):
        encoded = [row[kind] for row in rows]
        packed = b"".join(encoded)
        row = np.repeat(np.arange(len(rows)), np.array([len(one) // _BUCKET_BYTES for one in encoded], dtype=np.int64))
        histograms.append((row, np.frombuffer(packed, "<i2")[::4].astype(np.int64), np.frombuffer(packed, "<i8") >> 16))
    return counts, histograms


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
