"""How good a connection is said to be: at the limits of the sources, and for voice against figures that others published."""

import pytest

from gamepulse import score


@pytest.mark.parametrize(
    ("rtt_ms", "band"),
    [(1, "excellent"), (100, "excellent"), (100.1, "good"), (200, "good"), (201, "fair"), (400, "fair"), (401, "poor")],
)
def test_bands_are_mirrors(rtt_ms: float, band: str) -> None:
    assert score.band(rtt_ms) == band


@pytest.mark.parametrize(
    ("rtt_ms", "loss", "points", "class_", "reason"),
    [
        (9.9, 0.0, 30, "great", None),
        (10, 0.0, 20, "average", "RTT 10 ms"),
        (20, 0.009, 15, "average", "RTT 20 ms"),
        (50, 0.01, 5, "poor", "RTT 50 ms"),
        (9, 0.018, 25, "good", "loss 1.8 %"),
        (9, 0.05, 20, "average", "loss 5.0 %"),
        (100, 0.25, -20, "bad", "RTT 100 ms"),
        (19, 0.5, -10, "bad", "loss 50.0 %"),
        (500, 1.0, -40, "bad", "RTT 500 ms"),
        (30, None, 5, None, "RTT 30 ms"),
    ],
)
def test_points_and_class_are_aims(rtt_ms: float, loss: float | None, points: int, class_: str | None, reason: str | None) -> None:
    assert score.aim(rtt_ms, loss) == (points, class_, reason)


@pytest.mark.parametrize(
    ("r", "mos"), [(0, 1.0), (50, 2.58), (60, 3.10), (70, 3.60), (80, 4.03), (90, 4.34), (93.2, 4.41), (100, 4.5)]
)
def test_opinions_are_those_of_the_table_in_g_107(r: float, mos: float) -> None:
    assert score.opinion(r) == pytest.approx(mos, abs=0.007)


def test_voice_is_scored_as_the_e_model_does() -> None:
    assert score.mos(0, 0, 0) == pytest.approx(score.opinion(93.2), abs=0.02)
    assert score.mos(20, 1, 0) - score.mos(20, 1, 0.1) == pytest.approx(score.opinion(92.4) - score.opinion(92.4 - 27.1), abs=0.01)
    falling = [score.mos(rtt_ms, 5, 0.01) for rtt_ms in (20, 100, 200, 300, 500, 1_000)]
    assert falling == sorted(falling, reverse=True)
    assert score.mos(200, 20, 0.01) > score.mos(200, 60, 0.01) > score.mos(200, 60, 0.05)
    assert score.mos(60_000, 60_000, 1) == 1.0
    assert all(
        1 <= score.mos(rtt, jitter, loss) <= 4.5 for rtt in range(0, 3_000, 50) for jitter in (0, 50) for loss in (0, 0.2, 1)
    )
