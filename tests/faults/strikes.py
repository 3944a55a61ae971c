"""The faults of a campaign. Each returns what it did; it raises Missed when there was nothing to hit."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress

import asyncpg
import psutil

from tests.faults.machine import Machine

FROZEN_S = (0.1, 4.0)
LONG_FROZEN_S = (16.0, 19.0)
"""Longer than the 15 s after which PostgreSQL ends a silent aggregator's session (docs/operations.md)."""
FREE_BYTES_MAX = 1 << 18
SESSIONS = "usename = 'gamepulse' AND backend_type = 'client backend'"
END_SESSIONS = f"SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE {SESSIONS}"
# Every aggregator gets every lock and is alone: two lead each shard, and only the watermark decides what counts.
LOCKS_LIE = """
CREATE FUNCTION public.pg_try_advisory_lock(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION public.pg_advisory_lock_shared(integer, integer) RETURNS void LANGUAGE sql AS 'SELECT';
"""
LOCKS_HOLD = """
DROP FUNCTION IF EXISTS public.pg_try_advisory_lock(integer, integer);
DROP FUNCTION IF EXISTS public.pg_advisory_lock_shared(integer, integer);
"""
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Missed(Exception):
    """What was to be hit was not there: it had not come back from the fault before."""


class Strikes:
    """Hits `machine`, by chance."""

    def __init__(self, machine: Machine, rng: random.Random) -> None:
        self._machine = machine
        self._rng = rng
        self._later: set[asyncio.Task[None]] = set()
        self._is_full = self._has_two_leaders = False
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[str]]]] = {
            "web worker killed": (4, lambda: self._kill(self._children(is_aggregator=False))),
            "web worker frozen": (4, lambda: self._freeze(self._children(is_aggregator=False), FROZEN_S)),
            "service killed": (3, lambda: self._kill(self._program("gamepulse"))),
            "service told to end": (2, lambda: self._kill(self._program("gamepulse"), signal.SIGTERM)),
            "aggregator killed": (4, lambda: self._kill(self._aggregators())),
            "aggregator frozen": (4, lambda: self._freeze(self._aggregators(), FROZEN_S)),
            "aggregator frozen for long": (1, lambda: self._freeze(self._aggregators(), LONG_FROZEN_S)),
            "PostgreSQL killed": (4, lambda: self._kill(self._program("postgres"))),
            "PostgreSQL restarted (fast)": (3, lambda: self._kill(self._program("postgres"), signal.SIGINT)),
            "PostgreSQL restarted (immediate)": (3, lambda: self._kill(self._program("postgres"), signal.SIGQUIT)),
            "PostgreSQL frozen": (3, self._freeze_postgres),
            "backend killed": (3, self._kill_backend),
            "backend frozen": (4, self._freeze_backend),
            "sessions ended": (4, self._end_sessions),
            "two leaders of each shard": (4, self._two_leaders),
            "Valkey killed": (1, lambda: self._kill(self._program("valkey"))),
            "Valkey frozen": (1, lambda: self._freeze(self._program("valkey"), FROZEN_S)),
            "network reset": (3, self._reset),
            "network stalled": (3, self._stall),
            "answers lost": (5, self._lose_answers),
            "disk full": (3, self._fill_disk),
        }

    async def strike(self, hit: dict[str, int]) -> str:
        """One fault; counted in `hit` under its kind. What was done."""
        while True:
            [kind] = self._rng.choices(list(self._kinds), [weight for weight, _ in self._kinds.values()])
            try:
                done = await self._kinds[kind][1]()
            except (Missed, psutil.NoSuchProcess):
                await asyncio.sleep(0.1)
                continue
            hit[kind] = hit.get(kind, 0) + 1
            return f"{kind}{done and ': '}{done}"

    async def over(self) -> None:
        """Returns once nothing is frozen, stalled or full any more."""
        while self._later:
            await asyncio.gather(*self._later)

    # -- whom ----------------------------------------------------------------------------------------------------------------

    def _program(self, name: str) -> list[psutil.Process]:
        process = self._machine.programs[name].process
        return [process] if process else []

    def _children(self, *, is_aggregator: bool) -> list[psutil.Process]:
        """The service's web workers, or its aggregator."""
        found = []
        for parent in self._program("gamepulse"):
            for child in parent.children():
                words = child.cmdline()
                if not any("resource_tracker" in word for word in words) and ("aggregate" in words) == is_aggregator:
                    found.append(child)
        return found

    def _aggregators(self) -> list[psutil.Process]:
        return [*self._children(is_aggregator=True), *self._program("aggregator")]

    def _one(self, processes: list[psutil.Process]) -> psutil.Process:
        if not processes:
            raise Missed
        return self._rng.choice(processes)

    # -- processes -----------------------------------------------------------------------------------------------------------

    async def _kill(self, processes: list[psutil.Process], number: int = signal.SIGKILL) -> str:
        one = self._one(processes)
        one.send_signal(number)
        return f"pid {one.pid}"

    async def _freeze(self, processes: list[psutil.Process], bounds_s: tuple[float, float]) -> str:
        return self._freeze_all([self._one(processes)], bounds_s)

    async def _freeze_postgres(self) -> str:
        postmaster = self._one(self._program("postgres"))
        return self._freeze_all([*postmaster.children(), postmaster], FROZEN_S)

    def _freeze_all(self, processes: list[psutil.Process], bounds_s: tuple[float, float]) -> str:
        seconds = self._rng.uniform(*bounds_s)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

        async def thaw() -> None:
            try:
                await asyncio.sleep(seconds)
            finally:  # also when the campaign ends before: nothing frozen is left behind
                for process in processes:
                    with suppress(psutil.NoSuchProcess):
                        process.resume()

        self._do_later(thaw())
        return f"pid {processes[-1].pid} for {seconds:.1f} s"

    def _do_later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    # -- PostgreSQL's sessions -----------------------------------------------------------------------------------------------

    async def _kill_backend(self) -> str:
        """PostgreSQL then ends all the others and recovers."""
        return await self._kill(await self._backends())

    async def _freeze_backend(self) -> str:
        """Amid a statement: those who begin later end before it."""
        return await self._freeze(await self._backends(), FROZEN_S)

    async def _backends(self) -> list[psutil.Process]:
        pids = await self._sessions("pid")
        return [one for postmaster in self._program("postgres") for one in postmaster.children() if one.pid in pids]

    async def _end_sessions(self) -> str:
        """Of those who are amid a statement or transaction, if there are any."""
        ended = await self._sessions("pid, pg_terminate_backend(pid)")
        if not ended:
            raise Missed
        return f"{len(ended)}"

    async def _sessions(self, columns: str) -> list[int]:
        """Those of the service that do something; a few tries to find one."""
        for _ in range(20):
            try:
                rows = await self._machine.sql(f"SELECT {columns} FROM pg_stat_activity WHERE {SESSIONS} AND state <> 'idle'")
            except AWAY:
                raise Missed from None
            if rows:
                return [row["pid"] for row in rows]
            await asyncio.sleep(0.01)
        raise Missed

    async def _two_leaders(self) -> str:
        if self._has_two_leaders or not self._program("aggregator"):
            raise Missed
        try:
            await self._machine.run(LOCKS_LIE)
            await self._machine.sql(END_SESSIONS)
        except AWAY:
            raise Missed from None
        self._has_two_leaders = True
        seconds = self._rng.uniform(2.0, 6.0)

        async def hold() -> None:
            await asyncio.sleep(seconds)
            while self._has_two_leaders:
                with suppress(*AWAY):
                    await self._machine.run(LOCKS_HOLD)
                    await self._machine.sql(END_SESSIONS)
                    self._has_two_leaders = False
                await asyncio.sleep(0.2)

        self._do_later(hold())
        return f"for {seconds:.1f} s"

    # -- network and disk ----------------------------------------------------------------------------------------------------

    async def _reset(self) -> str:
        self._machine.network.reset()
        return ""

    async def _stall(self) -> str:
        seconds = self._rng.uniform(0.1, 6.0)
        self._do_later(self._machine.network.stall(seconds))
        return f"for {seconds:.1f} s"

    async def _lose_answers(self) -> str:
        """What is committed meanwhile is answered to nobody."""
        seconds = self._rng.uniform(0.02, 1.0)
        cut = await self._machine.network.lose_answers(seconds)
        return f"for {seconds:.2f} s, {cut} connections"

    async def _fill_disk(self) -> str:
        if self._is_full:
            raise Missed
        try:
            self._machine.disk.fill(self._rng.randrange(FREE_BYTES_MAX))
        except OSError:  # written to between the look and the deed
            raise Missed from None
        self._is_full = True
        seconds = self._rng.uniform(0.2, 3.0)

        async def clear() -> None:
            await asyncio.sleep(seconds)
            self._machine.disk.clear()
            self._is_full = False

        self._do_later(clear())
        return f"for {seconds:.1f} s"
