"""Blocks merge to the same in any order; what they and rows tell is within the promised error on hard and on real data."""

import functools
import random
from itertools import chain
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gamepulse import histogram, measures, rollup, sketch
from gamepulse.histogram import ZERO_BUCKET
from gamepulse.rollup import COUNTS, REPORTS, Block
from gamepulse.rows import Read, joined, one_row, read
from stack.measurements import pairs, phones

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
GROUPS = 7
type Floats = npt.NDArray[np.float64]


@functools.cache
def milliseconds() -> dict[str, Floats]:
    """Hard distributions of round trips as they are stored (to a microsecond), and the real ones."""
    rng = np.random.default_rng(4)
    real = [figures.rtt_ms for figures in chain(pairs().values(), *phones().values()) if figures.rtt_ms is not None]
    made = {
        "constant": np.full(3_000, 42.1),
        "two far apart": np.concatenate([np.full(1_500, 1.0), np.full(1_500, 59_000.0)]),
        "heavy tail": rng.pareto(0.7, 5_000) * 10 + 5,
        "on the bounds of buckets": np.exp2(np.arange(-400, 180) / 32) * 1e3,
        "tiny": rng.uniform(0.1, 0.3, 3_000),
        "at the cap": np.minimum(rng.lognormal(10, 1, 3_000), 60_000),
        "real": np.array(real),
    }
    return {name: np.round(values.clip(0.05, 60_000), 3) for name, values in made.items()}


def block_of(values_ms: Floats, groups: npt.NDArray[np.int64], sessions: npt.NDArray[np.int64]) -> Block:
    """A block of reports, each with its group and its session."""
    ids, owner = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(ids), len(COUNTS)), dtype=np.int64)
    counts[:, REPORTS] = np.bincount(owner)
    cells = rollup.counted(owner, histogram.bucket_indexes(values_ms / 1e3), len(ids))
    coupons = sketch.coupons(b"".join(int(one).to_bytes(16) for one in sessions))
    seen = rollup.entries(owner, coupons, len(ids))
    return Block(ids, counts, [cells, cells, seen, seen])


def as_rows(block: Block) -> Read:
    return read(list(zip(*Read.of(block).columns(), strict=True)), 0)  # type: ignore[arg-type]  # rows as asyncpg has them


@pytest.mark.parametrize("name", milliseconds())
def test_percentiles_and_distinct_counts_in_any_merge_order(name: str) -> None:
    values = milliseconds()[name]
    rng = np.random.default_rng(len(values))
    groups, sessions = rng.integers(0, GROUPS, len(values)), rng.integers(0, len(values), len(values))
    whole = block_of(values, groups, sessions)
    dice = random.Random(7)
    for _ in range(4):
        order = np.split(rng.permutation(len(values)), sorted(dice.sample(range(len(values)), 9)))
        blocks = [block_of(values[some], groups[some], sessions[some]) for some in order if len(some)]
        while len(blocks) > 1:
            pair = [rollup.decode(rollup.encode(blocks.pop(dice.randrange(len(blocks))))) for _ in range(2)]
            blocks.append(rollup.merge(pair))
        assert rollup.encode(blocks[0]) == rollup.encode(whole)
        rows = [as_rows(block_of(values[some], groups[some], sessions[some])) for some in order if len(some)]
        owner = np.concatenate([np.unique(groups[some]) for some in order if len(some)])
        assert joined(rows).together(owner, GROUPS).columns() == Read.of(whole).columns()
    for told, where in [
        *zip(measures.of_rows(as_rows(whole)), (groups == n for n in range(GROUPS)), strict=True),
        (measures.of_rows(one_row([as_rows(whole)]))[0], groups >= 0),
    ]:
        exact = np.quantile(values[where], measures.PERCENTILES, method="inverted_cdf")
        assert told.rtt_ms is not None
        assert (np.abs(np.array(told.rtt_ms) - exact) <= 0.011 * exact + 0.0005).all()  # told in microseconds
        assert told.sessions == pytest.approx(len(np.unique(sessions[where])), rel=0.03)


def test_a_total_less_what_is_shown_is_the_rest() -> None:
    values = milliseconds()["real"]
    groups = np.arange(len(values)) % GROUPS
    block = block_of(values, groups, np.arange(len(values)))
    is_shown = np.arange(GROUPS) < 3
    total, shown, left = (one_row([as_rows(some)]) for some in (block, block.select(is_shown), block.select(~is_shown)))
    told, rest = measures.without(total, shown), measures.of_rows(left)[0]
    assert told[:4] == rest[:4]
    assert told.sessions == pytest.approx(rest.sessions, rel=0.05)  # the difference of two estimates


def test_some_rows_are_as_alone() -> None:
    values = milliseconds()["heavy tail"]
    rows = Read.of(block_of(values, np.arange(len(values)) % GROUPS, np.arange(len(values)) // 3))
    parts = [rows.part(a, b) for a, b in ((0, 2), (2, 2), (2, 6), (6, 7))]
    assert joined(parts).columns() == rows.columns()
    assert parts[2].columns() == [column[2:6] for column in rows.columns()]


def test_blocks_are_split_and_selected_by_group() -> None:
    values = milliseconds()["heavy tail"]
    block = block_of(values, np.arange(len(values)) % GROUPS, np.arange(len(values)) // 3)
    parts = block.split([0, 2, 5])
    assert [len(part) for part in parts] == [2, 3, 2]
    assert rollup.encode(rollup.merge(parts[::-1])) == rollup.encode(block)
    assert rollup.encode(block.select(np.isin(block.ids, [2, 3, 4]))) == rollup.encode(parts[1])


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([ZERO_BUCKET, -300, -299, 0, 7, 511]), st.integers(1, 2**40)), max_size=60
    )
)
def test_histograms_are_added_in_place_as_they_are_sorted(cells: list[tuple[int, int, int]]) -> None:
    rows, index, value = (np.array(column, dtype=np.int64) for column in (zip(*cells, strict=True) if cells else ([], [], [])))
    with patch.object(rollup, "SPREAD_MAX", 0):
        expected = rollup.buckets(rows, index, value, 5)
    with patch.object(rollup, "SPREAD_MAX", 1 << 20):
        found = rollup.buckets(rows, index, value, 5)
    for one, other in zip(found, expected, strict=True):
        assert one.tolist() == other.tolist()
