"""A PostgreSQL that is away: questions are refused at once after a few, people see why, and it ends by itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from gamepulse import database, resilience
from gamepulse.health import KEPT_S
from tests.awake import awake_s
from tests.batches import batch
from tests.conftest import INGEST_KEY, free_port, serve

QUESTION = "/v1/quality?game=demo"
HEADERS = {"authorization": f"Bearer {INGEST_KEY}"}


@asynccontextmanager
async def listening(
    port: int, handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[None]:
    """Serves a port of this machine; at the end every connection is ended."""
    handlers: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        with suppress(OSError, asyncio.CancelledError):
            await handle(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve_one, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def relay(port: int, target: int) -> AbstractAsyncContextManager[None]:
    """From a port of this machine to another."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", target)
        try:
            await asyncio.gather(copy(reader, behind_writer), copy(behind_reader, writer))
        finally:
            behind_writer.close()
            with suppress(OSError):
                await behind_writer.wait_closed()

    return listening(port, both)


async def test_questions_are_refused_at_once_until_it_is_back(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    port, target = free_port(), int(database_url.rpartition(":")[2].partition("/")[0])
    behind = database_url.replace(f":{target}/", f":{port}/")
    async with AsyncExitStack() as back:
        service = back.enter_context(serve(behind, valkey_url, tmp_path / "log"))
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
            refused = [await client.get(QUESTION) for _ in range(resilience.FAILURES_MAX)]
            assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "database_unavailable")}
            started = awake_s()
            for _ in range(10):
                assert (await client.get(QUESTION)).status_code == 503
            assert awake_s() - started < resilience.OPEN_S
            health = (await client.get("/health")).json()
            of_postgresql = health["entries"]["postgresql"]
            assert (health["status"], of_postgresql["status"]) == ("Unhealthy", "Unhealthy")
            assert of_postgresql["data"]["postgresql-account"] == "open"
            assert (await client.post("/v1/reports", json=batch(), headers=HEADERS)).status_code == 503
            await back.enter_async_context(relay(port, target))
            deadline = awake_s() + 10
            while (answer := await client.get(QUESTION)).status_code != 200:
                assert awake_s() < deadline, answer.text
                await asyncio.sleep(0.1)
            assert (await client.post("/v1/reports", json=batch(), headers=HEADERS)).status_code == 202
            await asyncio.sleep(KEPT_S)  # what was told before is told for so long
            health = (await client.get("/health")).json()
            assert health["status"] == "Healthy"
            assert health["entries"]["postgresql"]["data"]["postgresql-account"] == "closed"
        service.stop()


async def test_connecting_is_tried_again_and_a_commit_is_not() -> None:
    tried: list[str] = []
    for role in ("account", "ingest"):

        async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter, role: str = role) -> None:
            tried.append(role)

        port = free_port()
        async with listening(port, hang_up):
            pool = await database.open_pool({"dsn": f"postgresql://x@127.0.0.1:{port}/x?sslmode=disable"}, role, size=1)
            with pytest.raises(database.UNREACHABLE):
                async with database.use(pool, 2):
                    pass
            pool.terminate()
    assert tried == ["account"] * resilience.ATTEMPTS_MAX + ["ingest"]
