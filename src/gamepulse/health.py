"""Whether the process lives, is ready, and how what it depends on is doing."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec
import redis.asyncio as redis

from gamepulse import database, valkey
from gamepulse.pace import LOAD_HIGH, Pace
from gamepulse.resilience import Policy

CHECK_TIMEOUT_S = 1.0
KEPT_S = 1.0
"""So often, at most, a process asks what it depends on, however many ask it."""


class Entry(msgspec.Struct, omit_defaults=True):
    """One component: Healthy, Degraded (the service goes on without it) or Unhealthy. `data`: what more is known."""

    status: str
    duration: str
    description: str
    data: dict[str, str | float] = {}


class Health(msgspec.Struct, rename="camel"):
    """The document of HealthChecks UI: durations as hh:mm:ss.ffffff; and when it was made."""

    status: str
    total_duration: str
    checked_at: datetime
    entries: dict[str, Entry]


class Checks:
    """How all is doing, asked once for all who want to know within KEPT_S."""

    def __init__(self, pool: database.Pool, connection: redis.Redis, pace: Pace, policies: Sequence[Policy]) -> None:
        self._check = partial(_check_all, pool, connection, pace, policies)
        self._made: asyncio.Task[Health] | None = None
        self._fresh_until = 0.0

    async def document(self) -> Health:
        """Not older than KEPT_S."""
        now = time.monotonic()
        if self._made is None or (self._made.done() and now >= self._fresh_until):
            self._made, self._fresh_until = asyncio.create_task(self._check()), now + KEPT_S
        return await asyncio.shield(self._made)


async def _check_all(pool: database.Pool, connection: redis.Redis, pace: Pace, policies: Sequence[Policy]) -> Health:
    """Ask every component, at the same time, for at most CHECK_TIMEOUT_S; `data` has the circuit breakers of each."""
    started, now = time.monotonic(), datetime.now(UTC)
    postgresql, cache = await asyncio.gather(
        _check(lambda: _ask(pool), "Unhealthy", "Reports are stored", "Reports are refused with 503"),
        _check(
            connection.ping, "Degraded", "Live pages are told of news, limits are shared",
            "Live pages look for news themselves, each process limits for itself",
        ),
    )  # fmt: skip
    entries = {"postgresql": postgresql, "valkey": cache, "ingest": _ingest(pace)}
    for policy in policies:
        name = policy.name.partition("-")[0]
        entry = entries.setdefault(name, Entry("Healthy", _duration(0), "What the service signs in to PostgreSQL with"))
        entry.data |= {policy.name: policy.state}
        if policy.is_open and entry.status == "Healthy":
            entry.status = "Degraded"
    worst = max((entry.status for entry in entries.values()), key=("Healthy", "Degraded", "Unhealthy").index)
    return Health(worst, _duration(time.monotonic() - started), now, entries)


def _ingest(pace: Pace) -> Entry:
    started = time.monotonic()
    data: dict[str, str | float] = {"load": round(pace.load, 3), "next_report_s": pace.next_report_s}
    is_easy = pace.load <= LOAD_HIGH
    description = "Clients report as often as is set" if is_easy else "Clients are asked to report later"
    return Entry("Healthy" if is_easy else "Degraded", _duration(time.monotonic() - started), description, data)


async def _ask(pool: database.Pool) -> None:
    async with database.use(pool, CHECK_TIMEOUT_S) as connection:
        await connection.fetchval("SELECT 1")


async def _check(ask: Callable[[], Awaitable[object]], otherwise: str, good: str, bad: str) -> Entry:
    started = time.monotonic()
    try:
        await asyncio.wait_for(ask(), CHECK_TIMEOUT_S)
    except (*database.UNREACHABLE, *valkey.AWAY):
        return Entry(otherwise, _duration(time.monotonic() - started), bad)
    return Entry("Healthy", _duration(time.monotonic() - started), good)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes) // 60:02d}:{int(minutes) % 60:02d}:{rest:09.6f}"
