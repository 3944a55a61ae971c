"""What a rollup holds: its dimension sets and its measures, which merge in any order."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import datasketches
import numpy as np
import numpy.typing as npt

from gamepulse import histogram
from gamepulse.batch import EVENT_KINDS, QUALITIES

SETS: Final[tuple[tuple[str, ...], ...]] = (
    ("region", "country"),
    ("region", "country", "connection", "platform", "build"),
    ("region", "country", "subdivision", "network"),
    ("region", "server"),
)
"""The dimensions that are rolled up together, by number of the set: place, client, network, server."""
PLACE, CLIENT, NETWORK, SERVER = range(4)
DIMENSIONS: Final = ("region", "country", "subdivision", "network", "connection", "platform", "build", "server")

UNKNOWN = "unknown"
OTHER = "(other)"
"""Stands for all values beyond a dimension's limit; no client can send it, for its parentheses."""
VALUES_MAX: Final = {"region": 100, "platform": 50, "build": 500, "network": 5_000, "server": 5_000}
"""Different values of one game; the others come from fixed lists."""

SKETCH_LG_K = 12
"""HyperLogLog with 4,096 registers of 4 bits: standard error 1.6 %, exact to a few while small (Apache DataSketches)."""


class Key(NamedTuple):
    """A rollup row's key but for its shard. `start_min`: minutes since the epoch."""

    studio_id: int
    game_id: int
    dimension_set: int
    start_min: int
    dimensions: tuple[str, ...]


class Measures:
    """The measures of one rollup row. Histograms are over seconds; loss is in parts per million, so that sums are exact."""

    __slots__ = ("bad_sessions", "events", "jitter", "loss_count", "loss_ppm_sum", "qualities", "rejected", "reports", "rtt",
        "sessions")  # fmt: skip

    def __init__(self) -> None:
        self.reports = 0
        self.rejected = 0
        self.loss_count = 0
        self.loss_ppm_sum = 0
        self.events = [0] * len(EVENT_KINDS)
        self.qualities = [0] * len(QUALITIES)
        self.rtt: histogram.Buckets = {}
        self.jitter: histogram.Buckets = {}
        self.sessions: Sketch = Sketch()
        self.bad_sessions: Sketch = Sketch()

    def merge(self, other: "Measures") -> None:
        """Add another row's measures."""
        self.reports += other.reports
        self.rejected += other.rejected
        self.loss_count += other.loss_count
        self.loss_ppm_sum += other.loss_ppm_sum
        self.events = [a + b for a, b in zip(self.events, other.events, strict=True)]
        self.qualities = [a + b for a, b in zip(self.qualities, other.qualities, strict=True)]
        histogram.add(self.rtt, other.rtt)
        histogram.add(self.jitter, other.jitter)
        self.sessions.merge(other.sessions)
        self.bad_sessions.merge(other.bad_sessions)


class Sketch:
    """A distinct count of sessions (HyperLogLog); merges in any order."""

    __slots__ = ("_encoded", "_union")

    def __init__(self, encoded: bytes = b"") -> None:
        self._encoded = encoded
        self._union: datasketches.hll_union | None = None

    def add(self, hashes: Iterable[int]) -> None:
        """Count sessions, each by a 64-bit number of its own."""
        union = self._open()
        for one in hashes:
            union.update(one)

    def merge(self, other: "Sketch") -> None:
        """Count all that another sketch has counted."""
        encoded = other.encode()
        if not encoded:
            return
        if self._union is None and not self._encoded:
            self._encoded = encoded
        else:
            self._open().update(datasketches.hll_sketch.deserialize(encoded))

    def encode(self) -> bytes:
        """Apache DataSketches' compact HLL_4 serialisation; empty for none."""
        if self._union is not None:
            self._encoded = self._union.get_result(datasketches.tgt_hll_type.HLL_4).serialize_compact()
            self._union = None
        return self._encoded

    def count(self) -> int:
        """The estimated number of distinct sessions."""
        encoded = self.encode()
        return round(datasketches.hll_sketch.deserialize(encoded).get_estimate()) if encoded else 0

    def _open(self) -> datasketches.hll_union:
        if self._union is None:
            self._union = datasketches.hll_union(SKETCH_LG_K)
            if self._encoded:
                self._union.update(datasketches.hll_sketch.deserialize(self._encoded))
        return self._union


def sketch_of(hashes: npt.NDArray[np.int64]) -> Sketch:
    """A sketch of these sessions."""
    sketch = Sketch()
    sketch.add(hashes.tolist())
    return sketch
