"""How sure a difference is: intervals over sessions cover the truth as often as they say, those over reports do not."""

from statistics import NormalDist
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest

from gamepulse import histogram, resample

CASES = 100
SESSIONS, REPORTS = 120, 30
BETWEEN, WITHIN = 0.4, 0.05
"""Standard deviations of the logarithm of round-trip time: sessions differ much, reports of one session hardly."""
SHIFT = 1.1
"""One side is slower by so much, in truth."""


def made_up(dice: np.random.Generator, median_ms: float) -> npt.NDArray[np.float64]:
    """Round-trip times in seconds: (sessions, reports)."""
    sessions = dice.normal(0, BETWEEN, (SESSIONS, 1))
    values: npt.NDArray[np.float64] = median_ms / 1e3 * np.exp(sessions + dice.normal(0, WITHIN, (SESSIONS, REPORTS)))
    return values


def sampled(rtt_s: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], is_naive: bool) -> resample.Sample:
    """Naive: each report is taken for a session of its own."""
    count = rtt_s.size if is_naive else len(rtt_s)
    session = np.repeat(np.arange(count), rtt_s.size // count)
    return resample.sample(session, histogram.bucket_indexes(rtt_s.ravel()), session, loss.ravel(), count)


def covered(is_naive: bool, cases: int) -> list[int]:
    """How many intervals hold the true difference: of p50, of p95, of loss."""
    dice = np.random.default_rng(11)
    levels = (0.5, 0.95)
    spread = np.hypot(BETWEEN, WITHIN)
    truth = [0.08 * (SHIFT - 1) * float(np.exp(NormalDist().inv_cdf(level) * spread)) for level in levels]
    found = [0, 0, 0]
    for _ in range(cases):
        sides = []
        for median_ms, lost in ((80 * SHIFT, 0.03), (80, 0.02)):
            rtt_s = made_up(dice, median_ms)
            loss = np.repeat(lost * dice.exponential(1, (SESSIONS, 1)), REPORTS, axis=1)
            sides.append(sampled(rtt_s, loss, is_naive))
        with patch.object(resample, "RESAMPLES", 300):  # is as good, and quicker
            intervals = resample.rtt_intervals(sides[0], sides[1], levels)
            of_loss = resample.loss_interval(sides[0], sides[1])
        assert intervals is not None and of_loss is not None
        for n, (interval, true) in enumerate(zip([*intervals, of_loss], [*truth, 0.01], strict=True)):
            found[n] += interval.low <= true <= interval.high
    return found


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Of 100 that cover with 0.95, fewer than 89 do once in a hundred times."""
    assert all(89 <= count <= 100 for count in covered(is_naive=False, cases=CASES))


def test_taking_reports_for_independent_does_not() -> None:
    assert all(count <= 6 for count in covered(is_naive=True, cases=10))


def test_fewer_than_thirty_sessions_say_nothing() -> None:
    dice = np.random.default_rng(1)
    few, enough = (made_up(dice, 80)[:count] for count in (resample.SESSIONS_MIN - 1, resample.SESSIONS_MIN))
    none = np.zeros(0)
    sides = [sampled(one, np.zeros(one.shape), False) for one in (few, enough)]
    assert resample.rtt_intervals(sides[0], sides[1], (0.5,)) is None
    assert resample.loss_interval(sides[0], sides[1]) is None
    assert resample.rtt_intervals(sides[1], sides[1], (0.5,)) is not None
    nobody = resample.sample(none.astype(np.int64), none.astype(np.int64), none.astype(np.int64), none, 0)
    assert resample.rtt_intervals(nobody, sides[1], (0.5,)) is None


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95, 1.0])
def test_a_quantile_is_within_its_bucket_of_the_exact_one(level: float) -> None:
    values = np.random.default_rng(2).lognormal(-3, 0.8, 20_000)
    of = resample.sample(
        np.zeros(len(values), dtype=np.int64), histogram.bucket_indexes(values), np.zeros(0, dtype=np.int64), np.zeros(0), 1
    )
    [found] = resample.quantile_s(of.first, of.rtt, level)
    assert found == pytest.approx(float(np.quantile(values, level)), rel=0.022 if level == 1.0 else 0.005)
