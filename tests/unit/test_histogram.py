"""Invariant 4, in numbers: the grid is OpenTelemetry's, a quantile is at most 1.1 % off, and merging is adding."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gamepulse import histogram
from gamepulse.metrics import HistogramState

SECONDS = st.floats(min_value=1e-5, max_value=60, allow_nan=False)


@given(st.lists(SECONDS, min_size=1, max_size=300))
def test_every_value_lies_within_its_bucket(values: list[float]) -> None:
    indexes = histogram.bucket_indexes(np.array(values))
    for value, index in zip(values, indexes.tolist(), strict=True):
        assert histogram.upper_bound(index - 1) * (1 - 1e-12) < value <= histogram.upper_bound(index) * (1 + 1e-12)
        assert 1 / 1.011 < value / float(histogram.middles(np.array([index]))[0]) < 1.011


def test_bounds_are_powers_of_two_to_the_32nd() -> None:
    # OpenTelemetry data model: at scale 5 the base is 2^(1/32), and an upper bound belongs to its bucket.
    assert histogram.bucket_indexes(np.array([1.0, 2.0, 0.5, 1.0000001])).tolist() == [-1, 31, -33, 0]
    assert math.isclose(histogram.upper_bound(31), 2.0)


@given(st.lists(st.lists(SECONDS, max_size=50), max_size=8), st.randoms())
def test_merging_in_any_order_gives_the_same(parts: list[list[float]], rng: object) -> None:
    encoded = []
    for part in parts:
        state = HistogramState()
        for value in part:
            state.record(value)
        encoded.append(histogram.encode(state.buckets))
    merged = histogram.merge(encoded)
    rng.shuffle(encoded)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert histogram.merge(encoded) == merged
    assert sum(merged.values()) == sum(len(part) for part in parts)
    indexes, counts = np.unique(histogram.bucket_indexes(np.array([v for part in parts for v in part])), return_counts=True)
    assert merged == dict(zip(indexes.tolist(), counts.tolist(), strict=True))


HARD = {
    "one value": np.full(1000, 0.0421),
    "two far apart": np.concatenate([np.full(500, 0.001), np.full(500, 59.0)]),
    "lognormal": np.random.default_rng(1).lognormal(-3, 1.5, 5000).clip(1e-5, 60),
    "heavy tail": (np.random.default_rng(2).pareto(0.7, 5000) * 0.01 + 0.005).clip(1e-5, 60),
    "uniform": np.random.default_rng(3).uniform(1e-5, 60, 5000),
    "on the bounds": np.exp2(np.arange(-500, 180) / 32),
}


@pytest.mark.parametrize("name", HARD)
def test_quantiles_are_at_most_1_1_percent_off(name: str) -> None:
    values = HARD[name]
    indexes, counts = np.unique(histogram.bucket_indexes(values), return_counts=True)
    levels = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0]
    told = histogram.quantiles(dict(zip(indexes.tolist(), counts.tolist(), strict=True)), levels)
    assert told is not None
    assert told == pytest.approx(np.quantile(values, levels, method="inverted_cdf"), rel=0.011)


def test_zero_is_counted_apart_and_nothing_is_nothing() -> None:
    assert histogram.bucket_indexes(np.array([0.0])).tolist() == [histogram.ZERO_BUCKET]
    assert histogram.quantiles({histogram.ZERO_BUCKET: 3}, [0.5]) == [0.0]
    assert histogram.quantiles({}, [0.5]) is None
    assert histogram.decode(histogram.encode({histogram.ZERO_BUCKET: 300, -5: 70_000, 7: 2**40})) == {
        histogram.ZERO_BUCKET: 300, -5: 70_000, 7: 2**40,
    }  # fmt: skip
