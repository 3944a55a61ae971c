"""A clock that stands while the machine does: a bound on time is on what the product takes, not on what a host takes from both."""

import asyncio
import threading
import time
from collections.abc import Awaitable

SLEEP_S = 0.01
LATE_S = 0.05
"""A thread that sleeps wakes up later than this only when nothing of this machine, or of this process, could run."""


class _Clock:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stood_s = 0.0
        self._woke = time.monotonic()
        threading.Thread(target=self._sleep_forever, daemon=True).start()

    def _sleep_forever(self) -> None:
        while True:
            time.sleep(SLEEP_S)
            with self._lock:
                now = time.monotonic()
                self._stood_s += self._late_s(now)
                self._woke = now

    def _late_s(self, now: float) -> float:
        late_s = now - self._woke - SLEEP_S
        return late_s if late_s > LATE_S else 0.0

    def now(self) -> float:
        with self._lock:
            now = time.monotonic()
            return now - self._stood_s - self._late_s(now)


_clock: list[_Clock] = []


def awake_s() -> float:
    """As time.monotonic(), without the time for which the machine stood."""
    if not _clock:
        _clock.append(_Clock())
    return _clock[0].now()


async def sleep_awake(seconds: float) -> None:
    """As asyncio.sleep(), of awake_s()."""
    until, left = awake_s() + seconds, seconds
    while left > 0:
        await asyncio.sleep(min(left, 0.1))
        left = until - awake_s()


async def in_time[T](waiting: Awaitable[T], seconds: float) -> T:
    """What comes, and within so many seconds of awake_s()."""
    started = awake_s()
    found = await asyncio.wait_for(waiting, 30)
    assert awake_s() - started < seconds
    return found
