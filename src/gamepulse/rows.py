"""Totals, and the groups of an hour or a day, as rows of PostgreSQL: how they are read and written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg
import numpy as np

from gamepulse import histogram, sketch
from gamepulse.rollup import COUNTS, HISTOGRAMS, KINDS, Block, Cells, Ints, added, buckets, entries
from gamepulse.totals import Total, TotalKey

_BUCKET = np.dtype([("index", "<i2"), ("low", "<u4"), ("high", "<u2")])  # a count of 48 bits: eight bytes in all


def turned(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Rows turned into columns, as unnest() takes them."""
    columns: list[list[object]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns


def measure_columns(block: Block) -> list[list[Any]]:
    """The groups of a block as columns: COUNTS, then KINDS as bytes."""
    found: list[list[Any]] = [block.counts[:, n].tolist() for n in range(len(COUNTS))]
    for kind, cells in enumerate(block.cells):
        ends = np.cumsum(cells.sizes).tolist()
        if kind < HISTOGRAMS:
            packed = np.empty(len(cells.entry), dtype=_BUCKET)
            packed["index"], packed["low"], packed["high"] = cells.entry, cells.value & 0xFFFFFFFF, cells.value >> 32
            found.append([packed[a:b].tobytes() for a, b in zip([0, *ends], ends, strict=False)])
        else:
            found.append([sketch.encode(cells.entry[a:b]) for a, b in zip([0, *ends], ends, strict=False)])
    return found


class Read(NamedTuple):
    """Rows of groups as they were read: counts (rows, len(COUNTS)); for each histogram (row, index, count); sketches' bytes."""

    counts: Ints
    histograms: list[tuple[Ints, Ints, Ints]]
    sketches: list[list[bytes]]

    def block(self, owner: Ints, ids: Ints) -> Block:
        """The rows put together: `owner` has each row's position in `ids`."""
        cells: list[Cells] = [buckets(owner[row], index, value, len(ids)) for row, index, value in self.histograms]
        for encoded in self.sketches:
            row, entry, dense_row, dense = sketch.decode(encoded)
            more_row, more = sketch.entries(dense_row, dense)
            cells.append(entries(owner[np.concatenate([row, more_row])], np.concatenate([entry, more]), len(ids)))
        return Block(ids, added(self.counts, owner, len(ids)), cells)


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


def block_of(rows: Sequence[asyncpg.Record], ids: str, first: int) -> Block:
    """Rows of groups as a block; `ids` names the column that tells them apart, `first` is where COUNTS begin."""
    unique, owner = np.unique(np.array([row[ids] for row in rows], dtype=np.int64), return_inverse=True)
    return read(rows, first).block(owner, unique)


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
    return turned(rows, 13)
