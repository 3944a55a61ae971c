"""Whether the process lives, is ready, and how what it depends on is doing."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import redis.asyncio as redis
from redis.exceptions import RedisError

from gamepulse import database

CHECK_TIMEOUT_S = 1.0


class Entry(msgspec.Struct):
    """One dependency: Healthy, Degraded (the service goes on without it) or Unhealthy."""

    status: str
    duration: str
    description: str


class Health(msgspec.Struct, rename="camel"):
    """The document of HealthChecks UI: durations as hh:mm:ss.ffffff."""

    status: str
    total_duration: str
    entries: dict[str, Entry]


async def check(pool: database.Pool, valkey: redis.Redis) -> Health:
    """Ask every dependency, at the same time, for at most CHECK_TIMEOUT_S."""
    started = time.monotonic()
    postgresql, cache = await asyncio.gather(
        _check(lambda: _ask(pool), "Unhealthy", "Reports are stored", "Reports are refused with 503"),
        _check(valkey.ping, "Degraded", "Live pages are told of news", "Live pages look for news themselves"),
    )
    entries = {"postgresql": postgresql, "valkey": cache}
    worst = max((entry.status for entry in entries.values()), key=("Healthy", "Degraded", "Unhealthy").index)
    return Health(worst, _duration(time.monotonic() - started), entries)


async def _ask(pool: database.Pool) -> None:
    async with database.use(pool, CHECK_TIMEOUT_S) as connection:
        await connection.fetchval("SELECT 1")


async def _check(ask: Callable[[], Awaitable[object]], otherwise: str, good: str, bad: str) -> Entry:
    started = time.monotonic()
    try:
        await asyncio.wait_for(ask(), CHECK_TIMEOUT_S)
    except (*database.UNREACHABLE, RedisError):
        return Entry(otherwise, _duration(time.monotonic() - started), bad)
    return Entry("Healthy", _duration(time.monotonic() - started), good)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes) // 60:02d}:{int(minutes) % 60:02d}:{rest:09.6f}"
