"""What is known of each group, worked out for all groups at once: counts, histograms with their percentiles, distinct sessions."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from gamepulse import histogram, sketch
from gamepulse.rollup import HISTOGRAMS, KINDS, Block, Ints
from gamepulse.rows import Read
from gamepulse.score import BANDS_S

PERCENTILES: Final = (0.05, 0.50, 0.75, 0.95, 0.99)


class Measures(NamedTuple):
    """One group's.

    COUNTS; PERCENTILES of RTT and jitter, none of what nobody knows; reports with an RTT up to the limit of each of BANDS_S, and
    with any; distinct sessions, and bad ones.
    """

    counts: list[int]
    rtt_ms: list[float] | None
    jitter_ms: list[float] | None
    up_to: list[int]
    sessions: int
    bad_sessions: int


def of_rows(rows: Read) -> list[Measures]:
    """Of each row of a Read that was put together."""
    bounds = np.arange(1, len(rows.counts) + 1)
    cells = [histogram.Many(np.searchsorted(row, bounds), index, value) for row, index, value in rows.histograms]
    return _measured(rows.counts, cells, _sessions(rows))


def of_block(block: Block) -> list[Measures]:
    """Of each group."""
    cells = [histogram.Many(np.cumsum(one.sizes), one.entry, one.value) for one in block.cells[:HISTOGRAMS]]
    return _measured(block.counts, cells, [block.sessions(kind) for kind in KINDS[HISTOGRAMS:]])


def without(total: Read, shown: Read) -> Measures:
    """A total less what is shown of it, a row each; of sessions: those that were seen in no shown group."""
    cells = [_less(*pair) for pair in zip(total.histograms, shown.histograms, strict=True)]
    sessions = [np.maximum(a - b, 0) for a, b in zip(_sessions(total), _sessions(shown), strict=True)]
    return _measured(total.counts - shown.counts, cells, sessions)[0]


def _sessions(rows: Read) -> list[Ints]:
    """Of all sketches at once."""
    return np.split(sketch.counts([one for _, encoded in rows.sketches for one in encoded]), len(rows.sketches))


def _less(total: tuple[Ints, Ints, Ints], shown: tuple[Ints, Ints, Ints]) -> histogram.Many:
    _, index, value = total
    left = value.copy()
    left[np.searchsorted(index, shown[1])] -= shown[2]
    is_left = left > 0
    return histogram.Many(np.array([np.count_nonzero(is_left)]), index[is_left], left[is_left])


def _measured(counts: Ints, cells: Sequence[histogram.Many], sessions: Iterable[Ints]) -> list[Measures]:
    percentiles_ms = [
        [told if size else None for told, size in zip(_rounded_ms(one), one.sizes.tolist(), strict=True)] for one in cells
    ]
    up_to = np.stack([*(cells[0].up_to(limit) for _, limit in BANDS_S), cells[0].sizes], axis=1)
    columns = (counts.tolist(), *percentiles_ms, up_to.tolist(), *(one.tolist() for one in sessions))
    return [Measures(*of_group) for of_group in zip(*columns, strict=True)]


def _rounded_ms(cells: histogram.Many) -> list[list[float]]:
    told: list[list[float]] = np.round(cells.quantiles(PERCENTILES) * 1e3, 3).tolist()
    return told


NOTHING = of_block(Block.empty(np.zeros(1, dtype=np.int64)))[0]
