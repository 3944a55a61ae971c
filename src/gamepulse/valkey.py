"""Valkey: the connection, and what is raised when it is away."""

import asyncio
from typing import Final

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gamepulse.resilience import Policy
from gamepulse.settings import Settings

AWAY: Final = (RedisError, OSError, TimeoutError)
TIMEOUT_S = 0.25
"""For an answer. Nothing that waits for Valkey may wait long: all of it can do without."""
CONNECT_TIMEOUT_S = 1.0
CONNECTIONS_MAX = 4
"""Of a client; the others wait. An answer takes a fraction of a millisecond, a new connection more."""


def connect(settings: Settings, timeout_s: float | None = TIMEOUT_S) -> redis.Redis:
    """A client, which connects when it is first used. It tries nothing again by itself: that is the policy's."""
    pool = redis.BlockingConnectionPool.from_url(
        settings.valkey_url,
        max_connections=CONNECTIONS_MAX,
        timeout=TIMEOUT_S,
        password=settings.valkey_password or None,
        socket_timeout=timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    return redis.Redis.from_pool(pool)


def policy() -> Policy:
    """A process has one for all that it asks of Valkey."""
    return Policy("valkey", AWAY, TIMEOUT_S)


def in_time() -> asyncio.Timeout:
    """TIMEOUT_S for all that is done within."""
    return asyncio.timeout(TIMEOUT_S)
