"""A campaign of random faults under load: `python -m tests.faults.campaign --faults 1000 --seed 7`.

Real programs, clients that keep a ledger on disk, faults one after the other and over one another; every BALANCE_EVERY faults all
come to rest and the books must agree. Imports nothing of GamePulse's. CONTRIBUTING.md says how to read its outcome.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from stack.prepare import free_offset
from stack.settings import read_settings
from tests.faults.books import Books
from tests.faults.clients import Broken, Crowd, Ledger
from tests.faults.machine import Disk, Machine
from tests.faults.strikes import Strikes

BALANCE_EVERY = 50
TELL_EVERY = 25
CALM_SHARE = 0.7
"""Of the faults, so many wait until the service has answered after the one before; the others strike while it still comes back."""
CALM_S = 1.0
BACK_WITHIN_S = 60
TOLD_MAX = 15
LOGGED_S = 1.0
"""The programs' last lines reach their logs by then."""


class Campaign:
    """`faults` faults, chosen by `seed`."""

    def __init__(self, machine: Machine, faults: int, seed: int) -> None:
        self._machine = machine
        self._faults = faults
        self._seed = seed
        self._rng = random.Random()
        self._strikes = Strikes(machine, self._rng)
        ledger = Ledger(machine.settings.home / "ledger.jsonl")
        keys = (machine.keys.ingest_key, machine.keys.server_key)
        self._crowd = Crowd(machine.url, keys, ledger, random.Random(seed + 1))
        self._books = Books(machine, ledger)
        self._began = time.monotonic()
        self.struck = 0
        self.hit: dict[str, int] = {}
        self.last: deque[str] = deque(maxlen=TOLD_MAX)

    async def run(self) -> None:
        """All of them. Raises Broken (in a group) when a promise was not kept."""
        while self.struck < self._faults:
            async with self._crowd.playing():
                await self._answered()
                for _ in range(min(BALANCE_EVERY, self._faults - self.struck)):
                    await self._one()
                await self._strikes.over()
                await self._machine.ready()
                await self._answered()
            began = time.monotonic()
            compared = await self._books.balance()
            say(f"after {self.struck} faults the books agree within {time.monotonic() - began:.0f} s: {compared}; {self._seen()}")
        if not any(self._crowd.counts.answers[what] for what in ("503", "none")):
            raise Broken("no client has noticed anything: this campaign has shown nothing")
        say("faults: " + ", ".join(f"{count} × {kind}" for kind, count in sorted(self.hit.items())))

    async def _one(self) -> None:
        """A fault at a random moment."""
        self._rng.seed(f"{self._seed} {self.struck}")  # anew: what was missed once does not change all that follow
        if self._rng.random() < CALM_SHARE:
            await self._answered()
        await asyncio.sleep(self._rng.uniform(0, CALM_S))
        at = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        done = await self._strikes.strike(self.hit)
        self.struck += 1
        self.last.append(f"  {self.struck:4} {at} {done}")
        if self.struck % TELL_EVERY == 0:
            took_s = time.monotonic() - self._began
            left_min = took_s / self.struck * (self._faults - self.struck) / 60
            say(f"{self.struck} of {self._faults} faults in {took_s / 60:.1f} min, about {left_min:.0f} min to go")

    async def _answered(self) -> None:
        """Returns once a batch is accepted that was not yet. Raises Broken when none is."""
        before, deadline = self._crowd.counts.done, time.monotonic() + BACK_WITHIN_S
        while self._crowd.counts.done < before + 3:
            if time.monotonic() > deadline:
                raise Broken(f"nothing was accepted for {BACK_WITHIN_S} s: {self._seen()}")
            await asyncio.sleep(0.02)

    def _seen(self) -> str:
        seen = self._crowd.counts.answers
        return f"answers {', '.join(f'{count:,} × {what}' for what, count in sorted(seen.items()))}"


def say(text: str) -> None:
    print(text, flush=True)


async def run(machine: Machine, faults: int, seed: int) -> bool:
    """Whether every promise was kept; tells what was not."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with machine.running():
        campaign = Campaign(machine, faults, seed)
        try:
            await campaign.run()
        except (Broken, TimeoutError, ExceptionGroup) as broken:
            say(f"\nBROKEN after fault {campaign.struck} of seed {seed}")
            await asyncio.sleep(LOGGED_S)
            for error in _leaves(broken):
                say(f"{error or type(error).__name__}")
            say("the last faults:\n" + "\n".join(campaign.last))
            say(f"ledger and logs: {machine.settings.home}")
            return False
    return True


def _leaves(error: BaseException) -> list[BaseException]:
    return [leaf for one in error.exceptions for leaf in _leaves(one)] if isinstance(error, BaseExceptionGroup) else [error]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    arguments = parser.parse_args()
    say(f"{arguments.faults} faults, seed {arguments.seed}")
    home = Path(tempfile.mkdtemp(prefix="gamepulse-faults-"))
    settings = read_settings(os.environ | {"GAMEPULSE_HOME": str(home), "GAMEPULSE_PORT_OFFSET": str(free_offset())})
    disk = Disk(home / "postgres")
    is_kept = asyncio.run(run(Machine(settings, disk), arguments.faults, arguments.seed))
    if is_kept:
        disk.close()
        shutil.rmtree(home)
    sys.exit(not is_kept)


if __name__ == "__main__":
    main()
