"""The one histogram: OpenTelemetry's exponential histogram at scale 5, over seconds.

Bucket i holds the values in (2^(i/32), 2^((i+1)/32)] seconds (OpenTelemetry data model, "ExponentialHistogram"). Histograms
merge by adding their counts. A quantile is told by the geometric middle of its bucket: at most 1.1 % off.
"""

import math
import struct
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

SCALE = 5
BUCKETS_PER_OCTAVE = 2**SCALE
ZERO_BUCKET = -32768
"""Index under which exact zeros are counted (OpenTelemetry's zero_count)."""

type Ints = npt.NDArray[np.int64]
type Buckets = dict[int, int]
"""Bucket index → count."""


def bucket_indexes(seconds: npt.NDArray[np.float64]) -> Ints:
    """The bucket index of each value (seconds, ≥ 0); zeros get ZERO_BUCKET."""
    with np.errstate(divide="ignore"):
        octaves = np.log2(seconds)
    return np.where(seconds > 0, np.ceil(octaves * BUCKETS_PER_OCTAVE) - 1, ZERO_BUCKET).astype(np.int64)


def middles(indexes: Ints) -> npt.NDArray[np.float64]:
    """The geometric middle of each bucket, in seconds; 0 for the zero bucket."""
    return np.where(indexes == ZERO_BUCKET, 0.0, np.exp2((indexes + 0.5) / BUCKETS_PER_OCTAVE))


def upper_bound(index: int) -> float:
    """The greatest value that falls into a bucket, in seconds."""
    return 0.0 if index == ZERO_BUCKET else math.exp2((index + 1) / BUCKETS_PER_OCTAVE)


def add(into: Buckets, other: Buckets) -> None:
    """Merge `other` into `into`."""
    for index, count in other.items():
        into[index] = into.get(index, 0) + count


def encode(buckets: Buckets) -> bytes:
    """Bytes of a histogram: width of a count (1, 2, 4 or 8), then all indexes (i16), then all counts; little-endian."""
    if not buckets:
        return b""
    indexes = sorted(buckets)
    counts = [buckets[index] for index in indexes]
    width, code = next((w, c) for w, c in ((1, "B"), (2, "H"), (4, "I"), (8, "Q")) if max(counts) < 1 << (8 * w))
    return struct.pack(f"<B{len(indexes)}h{len(indexes)}{code}", width, *indexes, *counts)


def decode(encoded: bytes) -> Buckets:
    """The reverse of encode()."""
    if not encoded:
        return {}
    width = encoded[0]
    n = (len(encoded) - 1) // (2 + width)
    values = struct.unpack(f"<{n}h{n}{ {1: 'B', 2: 'H', 4: 'I', 8: 'Q'}[width] }", encoded[1:])
    return dict(zip(values[:n], values[n:], strict=True))


def merge(encoded: Iterable[bytes]) -> Buckets:
    """The sum of encoded histograms."""
    merged: Buckets = {}
    for one in encoded:
        add(merged, decode(one))
    return merged


def quantiles(buckets: Buckets, levels: Iterable[float]) -> list[float] | None:
    """The quantiles (`inverted_cdf`: the smallest value with at least that share at or below it), in seconds.

    Hyndman & Fan 1996, definition 1. None when the histogram is empty.
    """
    indexes = sorted(buckets)
    counts = [buckets[index] for index in indexes]
    return quantiles_of(np.array(indexes, dtype=np.int64), np.array(counts, dtype=np.int64), levels)


def quantiles_of(indexes: Ints, counts: Ints, levels: Iterable[float]) -> list[float] | None:
    """The same of buckets in rising order."""
    [found] = Many(np.array([len(indexes)]), indexes, counts).quantiles(levels).tolist()
    return found if len(indexes) else None


class Many:
    """Histograms one after another: where each ends; their buckets, rising in each, and counts."""

    def __init__(self, ends: Ints, indexes: Ints, counts: Ints) -> None:
        self._starts, self._ends = np.concatenate([[0], ends[:-1]]), ends
        self._indexes, self._counts = indexes, counts
        self._cumulated = np.concatenate([[0], np.cumsum(counts)])
        self._before = self._cumulated[self._starts]
        self.sizes: Ints = self._cumulated[self._ends] - self._before
        """How many values each has."""

    def quantiles(self, levels: Iterable[float]) -> npt.NDArray[np.float64]:
        """As quantiles() tells them, of each histogram (histograms, levels); of one that is empty they mean nothing."""
        ranks = np.maximum(np.ceil(self.sizes[:, None] * np.array([*levels]) - 1e-9), 1)
        found = np.searchsorted(self._cumulated[1:], self._before[:, None] + ranks)
        return middles(np.append(self._indexes, ZERO_BUCKET)[found])  # appended to: the last ones may be empty

    def up_to(self, seconds: float) -> Ints:
        """How many values lie at or below a limit: exact where the limit is a bucket's bound, else to the bucket of the limit."""
        last = math.ceil(math.log2(seconds) * BUCKETS_PER_OCTAVE) - 1
        within = np.concatenate([[0], np.cumsum(np.where(self._indexes <= last, self._counts, 0))])
        found: Ints = within[self._ends] - within[self._starts]
        return found
