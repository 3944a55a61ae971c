"""When clients are asked to report next: the steps of the controller. That an overload ends is in integration/test_overload.py."""

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

from gamepulse.pace import LOAD_HIGH, LOAD_LOW, LOOK_EVERY_S, STRETCH_MAX, Pace


class Idle:
    """An acceptor in which nothing ever waits."""

    def crest(self) -> float:
        return 0.0


@pytest.fixture
async def pace() -> Any:
    pace = Pace(Idle(), 10)  # type: ignore[arg-type]  # it asks nothing else of it
    yield pace
    await pace.close()


async def test_it_stays_at_the_setting_without_load(pace: Pace) -> None:
    for load in (0.0, LOAD_HIGH, 0.0) * 100:
        pace.note(load)
        assert (pace.next_report_s, pace.retry_after_s) == (10, 1)


async def test_it_grows_twelvefold_at_the_most_and_falls_again_more_slowly(pace: Pace) -> None:
    told = []
    while pace.next_report_s < STRETCH_MAX * 10:
        pace.note(1.0)
        told.append(pace.next_report_s)
    assert all(0 <= after - before <= 1 for before, after in pairwise(told))
    pace.note(1.0)
    assert pace.next_report_s == STRETCH_MAX * 10
    rounds = 0
    while pace.next_report_s > 10:
        pace.note(0.0)
        rounds += 1
    assert rounds > 3 * len(told)
    assert told.index(20) * LOOK_EVERY_S > 10  # not before those have come who were told 10 s


async def test_it_keeps_what_is_neither_too_much_nor_too_little(pace: Pace) -> None:
    for _ in range(50):
        pace.note(1.0)
    at = pace.next_report_s
    while pace.load > LOAD_HIGH or pace.load < LOAD_LOW:
        pace.note((LOAD_HIGH + LOAD_LOW) / 2)
    at = pace.next_report_s
    for _ in range(50):
        pace.note((LOAD_HIGH + LOAD_LOW) / 2)
    assert pace.next_report_s == at > 10


async def test_whoever_is_refused_waits_as_long_but_not_all_as_long_as_each_other(pace: Pace) -> None:
    for _ in range(200):
        pace.note(1.0)
    waits = [pace.retry_after_s for _ in range(100)]
    more = pace.next_report_s - 10
    assert more / 2 - 1 <= min(waits) < max(waits) <= more


async def test_a_late_event_loop_is_a_load_too(pace: Pace) -> None:
    await asyncio.sleep(LOOK_EVERY_S * 1.2)
    assert pace.load < 0.5
    for _ in range(3):
        await asyncio.sleep(LOOK_EVERY_S * 0.9)
        time.sleep(LOOK_EVERY_S * 1.2)  # noqa: ASYNC251 — holds up the event loop
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert pace.load > 0.4
