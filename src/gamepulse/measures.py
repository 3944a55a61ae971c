"""What is known of each group, worked out for all groups at once: counts, histograms with their percentiles, distinct sessions."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from gamepulse import histogram, sketch
from gamepulse.rollup import HISTOGRAMS, KINDS, Block, Ints
from gamepulse.rows import Read
from gamepulse.score import BANDS_S

PERCENTILES: Final = (0.05, 0.50, 0.75, 0.95, 0.99)


class Histogram(NamedTuple):
    """Buckets (rising) and their counts; PERCENTILES in milliseconds, none of an empty one."""

    buckets: Ints
    counts: Ints
    percentiles_ms: list[float] | None


class Measures(NamedTuple):
    """One group's: COUNTS; histograms; reports up to the limit of each of BANDS_S; distinct sessions, and bad ones."""

    counts: list[int]
    rtt: Histogram
    jitter: Histogram
    up_to: list[int]
    sessions: int
    bad_sessions: int


def of_rows(rows: Read) -> list[Measures]:
    """Of each row of a Read that was put together."""
    bounds = np.arange(1, len(rows.counts) + 1)
    cells = [(np.searchsorted(row, bounds), index, value) for row, index, value in rows.histograms]
    return _measured(rows.counts, cells, [sketch.counts(encoded) for _, encoded in rows.sketches])


def of_block(block: Block) -> list[Measures]:
    """Of each group."""
    cells = [(np.cumsum(one.sizes), one.entry, one.value) for one in block.cells[:HISTOGRAMS]]
    return _measured(block.counts, cells, [block.sessions(kind) for kind in KINDS[HISTOGRAMS:]])


def without(total: Measures, shown: Measures) -> Measures:
    """A total less what is shown of it; of sessions: those that were seen in no shown group."""
    cells = [_less(getattr(total, kind), getattr(shown, kind)) for kind in KINDS[:HISTOGRAMS]]
    counts: Ints = np.array([total.counts]) - np.array([shown.counts])
    sessions = [np.array([max(getattr(total, kind) - getattr(shown, kind), 0)]) for kind in KINDS[HISTOGRAMS:]]
    return _measured(counts, [(np.array([len(index)]), index, value) for index, value in cells], sessions)[0]


def _less(total: Histogram, shown: Histogram) -> tuple[Ints, Ints]:
    counts = total.counts.copy()
    counts[np.searchsorted(total.buckets, shown.buckets)] -= shown.counts
    return total.buckets[counts > 0], counts[counts > 0]


def _measured(counts: Ints, cells: Sequence[tuple[Ints, Ints, Ints]], sessions: Iterable[Ints]) -> list[Measures]:
    """`cells`: of each histogram, where each group's end, their buckets and counts."""
    many = [histogram.Many(*one) for one in cells]
    histograms = []
    for (ends, index, value), one in zip(cells, many, strict=True):
        bounds = pairwise([0, *ends.tolist()])
        percentiles_ms = np.round(one.quantiles(PERCENTILES) * 1e3, 3).tolist()
        told = zip(bounds, percentiles_ms, strict=True)
        histograms.append([Histogram(index[a:b], value[a:b], of_group if b > a else None) for (a, b), of_group in told])
    up_to = np.stack([many[0].up_to(limit) for _, limit in BANDS_S], axis=1)
    columns = (counts.tolist(), *histograms, up_to.tolist(), *(one.tolist() for one in sessions))
    return [Measures(*of_group) for of_group in zip(*columns, strict=True)]


NOTHING = of_block(Block.empty(np.zeros(1, dtype=np.int64)))[0]
