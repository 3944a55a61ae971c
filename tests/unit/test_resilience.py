"""The one policy for what is outside the process: what is tried again, when the breaker opens, and what counts."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from gamepulse import metrics, resilience
from gamepulse.metrics import Metrics
from gamepulse.resilience import ATTEMPTS_MAX, FAILURES_MAX, Open, Policy


def policy(timeout_s: float = 1.0) -> Policy:
    return Policy("it", (OSError, TimeoutError), timeout_s)


def failing(times: int, calls: list[float]) -> Callable[[], Awaitable[str]]:
    """Fails so often, then answers."""

    async def work() -> str:
        calls.append(time.monotonic())
        if len(calls) <= times:
            raise ConnectionRefusedError
        return "answer"

    return work


async def test_what_fails_soon_is_tried_again_after_growing_random_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilience, "PAUSE_FIRST_S", 0.2)
    calls: list[float] = []
    assert await policy().call(failing(ATTEMPTS_MAX - 1, calls)) == "answer"
    assert len(calls) == ATTEMPTS_MAX
    with pytest.raises(ConnectionRefusedError):
        await policy().call(failing(ATTEMPTS_MAX, calls := []))
    assert len(calls) == ATTEMPTS_MAX
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)
    for _ in range(8):
        await policy().call(failing(1, []))
    assert len(pauses) == 8 and max(pauses) <= 0.2
    assert max(pauses) - min(pauses) > 0.01  # random: those who failed together do not come back together


async def test_what_hangs_is_asked_once() -> None:
    calls: list[float] = []

    async def hang() -> None:
        calls.append(time.monotonic())
        await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await policy(0.1).call(hang)
    assert len(calls) == 1


async def opened(of: Policy) -> None:
    for _ in range(FAILURES_MAX):
        assert not of.is_open
        with pytest.raises(ConnectionRefusedError):
            async with of.guarded():
                raise ConnectionRefusedError
    assert of.is_open


async def test_it_opens_after_failures_in_a_row_and_lets_one_trial_through_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilience, "OPEN_S", 0.2)
    of = policy()
    await opened(of)
    calls: list[float] = []
    with pytest.raises(Open):
        await of.call(failing(0, calls))
    assert not calls
    await asyncio.sleep(0.25)
    assert of.state == "half_open"
    async with of.guarded():
        assert of.state == "open"  # for all others
        with pytest.raises(Open):
            async with of.guarded():
                pass
        assert of.is_open  # who was refused has not ended the trial
    assert of.state == "closed"


async def test_a_trial_that_fails_opens_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilience, "OPEN_S", 0.2)
    of = policy()
    await opened(of)
    await asyncio.sleep(0.25)
    with pytest.raises(ConnectionRefusedError):
        async with of.guarded():
            raise ConnectionRefusedError
    assert of.is_open


async def test_an_answer_that_is_no_success_closes_it_and_a_cancelled_call_does_nothing() -> None:
    of = policy()
    for _ in range(FAILURES_MAX - 1):
        with pytest.raises(ConnectionRefusedError):
            async with of.guarded():
                raise ConnectionRefusedError
    with pytest.raises(asyncio.CancelledError):
        async with of.guarded():
            raise asyncio.CancelledError  # the asker has gone: nothing was learnt
    with pytest.raises(ConnectionRefusedError):
        async with of.guarded():
            raise ConnectionRefusedError
    assert of.is_open
    other = policy()
    for _ in range(3 * FAILURES_MAX):
        with pytest.raises((LookupError, ConnectionRefusedError)):
            async with other.guarded():
                raise ConnectionRefusedError
        with pytest.raises(LookupError):
            async with other.guarded():
                raise LookupError
    assert other.state == "closed"


async def test_its_state_is_a_metric() -> None:
    of, counted = policy(), Metrics()
    await opened(of)
    of.observe(counted)
    [metric] = counted.points(1)
    assert metric.name == metrics.BREAKER_STATE.name
    states = {point.attributes[1].value.string_value: point.as_double for point in metric.gauge.data_points}
    assert states == {"closed": 0, "open": 1, "half_open": 0}
