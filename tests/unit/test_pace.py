"""When clients are asked to report next: the steps of the controller. That an overload ends is in integration/test_overload.py."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from heapq import heapify, heappop, heappush
from itertools import pairwise

import pytest

from gamepulse.pace import LAG_FULL_S, LOAD_HIGH, LOAD_LOW, LOOK_EVERY_S, STRETCH_MAX, Pace


class Idle:
    """An acceptor in which nothing ever waits."""

    def crest(self) -> float:
        return 0.0


@pytest.fixture
async def pace() -> AsyncIterator[Pace]:
    pace = Pace(Idle(), 10)  # type: ignore[arg-type]  # it asks nothing else of it
    yield pace
    await pace.close()


async def test_it_stays_at_the_setting_without_load(pace: Pace) -> None:
    for load in (0.0, LOAD_HIGH, 0.0) * 100:
        pace.note(load)
        assert (pace.next_report_s, pace.told_s, pace.retry_after_s) == (10, 10, 1)


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


async def test_whoever_is_stored_is_not_told_the_same_as_each_other(pace: Pace) -> None:
    for _ in range(200):
        pace.note(1.0)
    told = [pace.told_s for _ in range(200)]
    most = pace.next_report_s
    assert 10 + (most - 10) * 2 // 3 <= min(told) < max(told) <= most
    assert len(set(told)) > 20


class Late:
    """In the place of an event loop's clock and of asyncio.sleep: the loop comes so late to each timer, and then to no more."""

    def __init__(self, lags_s: list[float]) -> None:
        self.now_s, self.lags_s = 100.0, lags_s

    def time(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        if not self.lags_s:
            await asyncio.Event().wait()
        self.now_s += seconds + self.lags_s.pop(0)


async def test_a_late_event_loop_is_a_load_too(monkeypatch: pytest.MonkeyPatch) -> None:
    really = asyncio.sleep
    for lags_s, load in (
        ([0.0], 0.0),
        ([0.0, LAG_FULL_S / 2], 0.25),
        ([LAG_FULL_S, 3 * LAG_FULL_S], 0.75),
        ([LAG_FULL_S, 0.0, 0.0], 0.125),
    ):
        late = Late(lags_s)
        monkeypatch.setattr(asyncio, "get_running_loop", lambda late=late: late)
        monkeypatch.setattr(asyncio, "sleep", late.sleep)
        pace = Pace(Idle(), 10)  # type: ignore[arg-type]  # it asks nothing else of it
        await really(0)
        assert pace.load == pytest.approx(load)
        await pace.close()


async def test_an_event_loop_that_is_held_up_comes_late(pace: Pace) -> None:
    await asyncio.sleep(0)
    time.sleep(LOOK_EVERY_S + LAG_FULL_S)  # noqa: ASYNC251 — holds up the event loop
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert pace.load == 0.5


@pytest.mark.parametrize("times", [1.5, 3.0, 8.0])
async def test_in_a_simulation_no_overload_lasts(pace: Pace, times: float) -> None:
    """Clients that obey, at first each 10 s, are so many times what is stored in a second; a quarter of a second's may wait."""
    per_s, room, ticks_per_s = 50, 12, 50
    random.seed(7)  # retry_after_s as well
    due = [(random.uniform(0, 10), number) for number in range(round(times * per_s * 10))]
    heapify(due)
    waiting: deque[int] = deque()
    refused, crest = [0] * 20, 0.0
    for tick in range(300 * ticks_per_s):
        now = tick / ticks_per_s
        while due[0][0] <= now:
            _, client = heappop(due)
            if len(waiting) < room:
                waiting.append(client)
            else:
                refused[int(now) // 15] += 1
                heappush(due, (now + pace.retry_after_s, client))
            crest = max(crest, len(waiting) / room)
        for _ in range(min(len(waiting), per_s // ticks_per_s)):
            heappush(due, (now + pace.told_s, waiting.popleft()))
        if tick % (ticks_per_s * LOOK_EVERY_S) == 0:
            pace.note(crest)
            crest = len(waiting) / room
    assert refused[0] > 0
    assert sum(refused[-8:]) < 0.03 * 120 * per_s, refused
