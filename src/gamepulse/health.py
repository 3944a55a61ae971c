"""Whether the process lives, is ready, and how what it depends on is doing."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import redis.asyncio as redis

from gamepulse import database, valkey
from gamepulse.pace import LOAD_HIGH, Pace
from gamepulse.resilience import Policy

CHECK_TIMEOUT_S = 1.0


class Entry(msgspec.Struct, omit_defaults=True):
    """One component: Healthy, Degraded (the service goes on without it) or Unhealthy. `data`: what more is known."""

    status: str
    duration: str
    description: str
    data: dict[str, str | float] = {}


class Health(msgspec.Struct, rename="camel"):
    """The document of HealthChecks UI: durations as hh:mm:ss.ffffff."""

    status: str
    total_duration: str
    entries: dict[str, Entry]


async def check(pool: database.Pool, connection: redis.Redis, pace: Pace, policies: Sequence[Policy]) -> Health:
    """Ask every component, at the same time, for at most CHECK_TIMEOUT_S; `data` has the circuit breakers of each."""
    started = time.monotonic()
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
    return Health(worst, _duration(time.monotonic() - started), entries)


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
