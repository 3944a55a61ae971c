"""One policy for every call to what is outside the process: a time limit, retries with growing random pauses, a circuit breaker.

What is not done again by itself is the commit of reports: whether it was stored may be unknown, and the client asks again under the
same batch_id (accept.py).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from circuitbreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from gamepulse import metrics
from gamepulse.metrics import Metrics

ATTEMPTS_MAX = 3
PAUSE_FIRST_S = 0.05
"""At the most, and at random less: those who failed together must not come back together. Twice as long each time."""
PAUSE_MAX_S = 1.0
FAILURES_MAX = 5
"""In a row; then the breaker opens."""
OPEN_S = 2.0
"""For so long nothing is tried, then one call at a time."""
STATES: Final = (STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN)


class Open(OSError):
    """The breaker is open: nothing was tried."""


class Policy:
    """Of one dependency. `away`: what is raised when it is away, and not an answer of its own; `timeout_s`: for each try."""

    def __init__(self, name: str, away: tuple[type[Exception], ...], timeout_s: float) -> None:
        self.name = name
        self._away = away
        self._timeout_s = timeout_s
        self._breaker = CircuitBreaker(FAILURES_MAX, OPEN_S, away, name)
        self._is_trying = False

    @property
    def state(self) -> str:
        """closed, open, or half_open: the next call is let through to see."""
        state: str = self._breaker.state
        return STATE_OPEN if state == STATE_HALF_OPEN and self._is_trying else state

    @property
    def is_open(self) -> bool:
        """A call would be refused at once."""
        return self.state == "open"

    async def call[T](self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, which may be done several times. Raises Open, or what it raised at last."""

        async def once() -> T:
            async with self.guarded(), asyncio.timeout(self._timeout_s):
                return await work()

        return await self.retried(once)

    async def retried[T](self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, tried again when it fails soon: what hangs is not asked to hang again."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, self._away) and not isinstance(error, Open)),
            stop=stop_after_attempt(ATTEMPTS_MAX) | stop_after_delay(self._timeout_s),
            wait=wait_random_exponential(PAUSE_FIRST_S, PAUSE_MAX_S),
            reraise=True,
        ):
            with attempt:
                return await work()
        raise AssertionError("the last attempt has returned or raised")

    @asynccontextmanager
    async def guarded(self) -> AsyncIterator[None]:
        """One try, which the breaker counts. Raises Open.

        Who is cancelled has learnt nothing: that counts neither as a failure nor (as the library would have it) as a success.
        """
        if self.is_open:
            raise Open(f"{self.name} is away")
        is_trial = self._breaker.state == STATE_HALF_OPEN
        self._is_trying |= is_trial
        try:
            yield
        except self._away as error:
            self._breaker.__exit__(type(error), error, None)
            raise
        except Exception:  # an answer, though not a good one
            self._breaker.reset()
            raise
        else:
            self._breaker.reset()
        finally:
            self._is_trying &= not is_trial

    def observe(self, counted: Metrics) -> None:
        """The breaker's state as points."""
        for state in STATES:
            counted.set(metrics.BREAKER_STATE, self.state == state, self.name, state)


def pause_s(failures: int) -> float:
    """How long what works in the background waits after so many failures in a row: 10 s at the most."""
    return random.uniform(0.5, 1.0) * min(10.0, PAUSE_FIRST_S * 2.0**failures)
