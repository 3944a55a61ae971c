"""Locks that a test holds, and waiting for who waits for them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg

from tests.awake import awake_s

type Database = asyncpg.Connection[asyncpg.Record]


@asynccontextmanager
async def locked(connection: Database, table: str) -> AsyncIterator[None]:
    """While this lasts nobody can read or write a table."""
    async with connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


async def wait_for_locks(connection: Database, pool: str, count: int = 1) -> None:
    """Wait until so many of a pool's sessions wait for what `locked` holds with this connection."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = $1"
    )
    deadline = awake_s() + 30
    while (found := await connection.fetchval(waiting, f"gamepulse-{pool}")) < count:
        assert awake_s() < deadline, found
        await asyncio.sleep(0.02)
        await connection.execute("SELECT pg_stat_clear_snapshot()")  # within a transaction it would say the same again


async def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = awake_s() + 30
    while not is_so():
        assert awake_s() < deadline
        await asyncio.sleep(0.01)
