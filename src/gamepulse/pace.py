"""When clients are asked to report next: later when this process has more to do than it can, so that an overload ends by itself.

The load is how much waited at most for its commit, as a share of what may, or how late the event loop was, whichever is worse.
Under load the answer's `next_report_s` doubles in about the time that it asks for, since clients that were told earlier come back
no sooner; it is halved four times as slowly. Whoever is refused is asked to wait as long.
"""

import asyncio
import math
import random

from gamepulse.accept import Acceptor

STRETCH_MAX = 12
LOOK_EVERY_S = 0.5
LOAD_HIGH = 0.5
LOAD_LOW = 0.25
LAG_FULL_S = 0.5
"""The event loop comes so late to a timer: requests wait at least as long."""


class Pace:
    """`next_report_s`: the setting, which is stretched up to STRETCH_MAX times."""

    def __init__(self, acceptor: Acceptor, next_report_s: int) -> None:
        self._acceptor = acceptor
        self._shortest_s = next_report_s
        self._stretch = 1.0
        self.load = 0.0
        self.next_report_s = next_report_s
        self._task = asyncio.create_task(self._look_forever())

    @property
    def told_s(self) -> int:
        """For whoever is stored: `next_report_s`, under load up to a third sooner, or those told together stay together."""
        more = self.next_report_s - self._shortest_s
        return self._shortest_s + round(more * random.uniform(2 / 3, 1.0))

    @property
    def retry_after_s(self) -> int:
        """For whoever is refused: spread, or all come at once."""
        return max(1, round((self._stretch - 1) * self._shortest_s * random.uniform(0.5, 1.0)))

    def note(self, load: float) -> None:
        """The load (1: full) in the last LOOK_EVERY_S."""
        self.load = (self.load + load) / 2
        rounds = LOOK_EVERY_S / max(1.0, self._shortest_s * self._stretch)
        if self.load > LOAD_HIGH:
            self._stretch = min(float(STRETCH_MAX), self._stretch * 2**rounds)
        elif self.load < LOAD_LOW:
            self._stretch = max(1.0, self._stretch / 2 ** (rounds / 4))
        self.next_report_s = math.ceil(self._shortest_s * self._stretch - 1e-9)

    async def close(self) -> None:
        """It stays as it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _look_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            self.note(min(1.0, max(self._acceptor.crest(), (loop.time() - due) / LAG_FULL_S)))
