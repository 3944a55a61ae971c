"""How sure a difference between two groups of sessions is: sessions are drawn anew, each with all its reports.

Reports of one session are alike, so that many of them say little more than one does. What is drawn is therefore a session (the
cluster bootstrap: Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8; percentile interval, 5.2).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gamepulse.histogram import BUCKETS_PER_OCTAVE

RESAMPLES = 1_000
AT_ONCE = 100
"""Resamples drawn at a time: 2,000 sessions of them take 5 MB."""
LEVEL = 0.95
SESSIONS_MIN = 30
SEED = 1
"""Always the same: a question about the same data is answered the same."""

type Floats = npt.NDArray[np.float64]
type Ints = npt.NDArray[np.int64]


class Sample(NamedTuple):
    """Some sessions: a histogram of round-trip times each (sessions, buckets), whose first bucket is `first`; sums for loss."""

    first: int
    rtt: npt.NDArray[np.float32]
    loss_sum: Floats
    loss_count: Floats


class Interval(NamedTuple):
    """A 95 % confidence interval of a difference."""

    low: float
    high: float


def sample(session: Ints, bucket: Ints, loss_session: Ints, loss: Floats, sessions: int) -> Sample:
    """From values: the session (0 to `sessions` − 1) and the bucket of each round trip; the session and the loss of each report."""
    first = int(bucket.min()) if len(bucket) else 0
    width = int(bucket.max()) - first + 1 if len(bucket) else 1
    rtt = np.bincount(session * width + bucket - first, minlength=sessions * width).reshape(sessions, width)
    return Sample(
        first,
        rtt.astype(np.float32),
        np.bincount(loss_session, weights=loss, minlength=sessions),
        np.bincount(loss_session, minlength=sessions).astype(np.float64),
    )


def quantile_s(first: int, counts: npt.NDArray[np.floating], level: float) -> Floats:
    """A quantile of each histogram (rows), in seconds: interpolated within its bucket, along its logarithm."""
    cumulated = np.cumsum(counts, axis=-1, dtype=np.float64)
    rank = level * cumulated[..., -1:]
    at = np.minimum((cumulated < rank).sum(axis=-1, keepdims=True), counts.shape[-1] - 1)
    inside = np.take_along_axis(counts, at, axis=-1)
    share = (rank - np.take_along_axis(cumulated, at, axis=-1) + inside) / inside
    found: Floats = np.exp2((first + at + share) / BUCKETS_PER_OCTAVE)[..., 0]
    return found


def rtt_intervals(a: Sample, b: Sample, levels: tuple[float, ...]) -> list[Interval] | None:
    """For each level, of the difference of quantiles a − b, in seconds; None with too few sessions."""
    sides = [one._replace(rtt=one.rtt[one.rtt.any(axis=1)]) for one in (a, b)]

    def statistics(side: Sample, weights: npt.NDArray[np.float32]) -> Floats:
        drawn = weights @ side.rtt
        return np.stack([quantile_s(side.first, drawn, level) for level in levels])

    return _intervals(sides[0], sides[1], (len(sides[0].rtt), len(sides[1].rtt)), statistics)


def loss_interval(a: Sample, b: Sample) -> Interval | None:
    """Of the difference of mean loss a − b; None with too few sessions."""
    sides = []
    for one in (a, b):
        knows = one.loss_count > 0
        sides.append(one._replace(loss_sum=one.loss_sum[knows], loss_count=one.loss_count[knows]))

    def statistics(side: Sample, weights: npt.NDArray[np.float32]) -> Floats:
        exact = weights.astype(np.float64)
        return ((exact @ side.loss_sum) / (exact @ side.loss_count))[np.newaxis]

    found = _intervals(sides[0], sides[1], (len(sides[0].loss_count), len(sides[1].loss_count)), statistics)
    return found[0] if found else None


def _intervals(
    a: Sample, b: Sample, sessions: tuple[int, int], statistics: Callable[[Sample, npt.NDArray[np.float32]], Floats]
) -> list[Interval] | None:
    if min(sessions) < SESSIONS_MIN:
        return None
    dice = np.random.default_rng(SEED)
    drawn = []
    for _ in range(RESAMPLES // AT_ONCE):
        of_a, of_b = (statistics(side, _weights(dice, count)) for side, count in zip((a, b), sessions, strict=True))
        drawn.append(of_a - of_b)
    bounds = np.quantile(np.concatenate(drawn, axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return [Interval(low, high) for low, high in bounds.T.tolist()]


def _weights(dice: np.random.Generator, sessions: int) -> npt.NDArray[np.float32]:
    """How often each session is drawn, in AT_ONCE resamples of as many sessions as there are."""
    drawn = dice.integers(sessions, size=(AT_ONCE, sessions)) + sessions * np.arange(AT_ONCE)[:, np.newaxis]
    return np.bincount(drawn.ravel(), minlength=AT_ONCE * sessions).reshape(AT_ONCE, sessions).astype(np.float32)
