"""A PostgreSQL that hangs (it keeps its connections and says nothing) is worse than one that is away: nobody may wait for it for long."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from bench import database
from tests.awake import awake_s
from tests.batches import batch
from tests.conftest import INGEST_KEY, SERVER_KEY, Service, free_port, gamepulse, serve

HEADERS = {"authorization": f"Bearer {INGEST_KEY}"}


@contextmanager
def hung(postmaster: psutil.Process) -> Iterator[None]:
    """All of PostgreSQL's processes stand still."""
    stopped = [*postmaster.children(), postmaster]
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            process.resume()


@pytest.fixture
async def running(own_folder: Path, valkey_url: str, tmp_path: Path) -> AsyncIterator[tuple[Service, psutil.Process]]:
    """A service with a PostgreSQL of its own."""
    port = free_port()
    with database.postgres(own_folder / f"hung-{port}", port) as postmaster:
        url = database.url(port)
        gamepulse("migrate", url)
        gamepulse("demo", url, stdin=json.dumps({"ingest_key": INGEST_KEY, "server_key": SERVER_KEY}))
        with serve(url, valkey_url, tmp_path / "log") as service:
            yield service, postmaster


async def test_a_hung_database_is_told_in_seconds_and_does_not_hold_up_the_end(running: tuple[Service, psutil.Process]) -> None:
    service, postmaster = running
    async with httpx.AsyncClient(base_url=service.url, headers=HEADERS, timeout=30) as client:
        assert (await client.post("/v1/reports", json=batch(20))).status_code == 202
        with hung(postmaster):
            took = await asyncio.gather(*(_refused_after_s(client, n * 0.5) for n in range(20)))
            assert max(took) < 8, took
            assert (await client.get("/health/live")).status_code == 200
            assert (await client.get("/health/ready")).status_code == 200
            started = awake_s()
            assert (await client.get("/health")).status_code == 503
            assert awake_s() - started < 3
        sent = batch(20)
        for _ in range(20):  # and it goes on by itself
            answer = await client.post("/v1/reports", json=sent)
            if answer.status_code == 202:
                break
            await asyncio.sleep(0.5)
        assert answer.status_code == 202
        with hung(postmaster):
            late = asyncio.create_task(client.post("/v1/reports", json=batch(20)))
            await asyncio.sleep(0.5)
            started = awake_s()
            await asyncio.to_thread(service.stop, 30)
            assert awake_s() - started < 10
            assert (await late).status_code == 503


async def _refused_after_s(client: httpx.AsyncClient, delay_s: float) -> float:
    await asyncio.sleep(delay_s)
    started = awake_s()
    answer = await client.post("/v1/reports", json=batch(20))
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    return awake_s() - started


async def test_no_process_outlives_a_killed_parent(running: tuple[Service, psutil.Process]) -> None:
    service, _ = running
    children = psutil.Process(service.process.pid).children(recursive=True)
    assert len(children) >= 2
    service.process.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 10)
    assert not alive
