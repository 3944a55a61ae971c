"""The whole stack under faults: programs killed, stopped and hung amid the flow; afterwards all books agree."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable

import asyncpg
import httpx
import psutil
import pytest

from tests.conftest import Stack, wait_for
from tests.ledger import Ledger, play
from tests.stack.conftest import Stores

REGION = "faults"


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {stack.file['demo']['ingest_key']}"}
    async with httpx.AsyncClient(base_url=stack.url("gamepulse"), headers=headers, timeout=20) as client:
        yield client


def children(stack: Stack, is_aggregator: bool) -> list[psutil.Process]:
    """Of the service: its aggregator, or its web workers."""
    found = []
    for child in psutil.Process(stack.file["processes"]["gamepulse"]).children():
        words = child.cmdline()
        if not any("resource_tracker" in word for word in words) and ("aggregate" in words) == is_aggregator:
            found.append(child)
    return found


def kill(stack: Stack, name: str, number: int = signal.SIGKILL) -> None:
    os.kill(stack.file["processes"][name], number)


def kill_children(stack: Stack, is_aggregator: bool) -> None:
    for one in children(stack, is_aggregator):
        one.kill()


# What is done amid the flow, and whether clients must have noticed.
FAULTS: dict[str, tuple[Callable[[Stack], None], bool]] = {
    "web worker killed": (lambda stack: kill_children(stack, is_aggregator=False), True),
    "aggregator killed": (lambda stack: kill_children(stack, is_aggregator=True), False),
    "service killed": (lambda stack: kill(stack, "gamepulse"), True),
    "PostgreSQL killed": (lambda stack: kill(stack, "postgres"), True),
    "PostgreSQL stopped": (lambda stack: kill(stack, "postgres", signal.SIGINT), True),
    "Valkey killed": (lambda stack: kill(stack, "valkey"), False),
    "Collector killed": (lambda stack: kill(stack, "collector"), False),
}


TOLD = {"web worker killed": ["Unexpected exit from worker-1"], "aggregator killed": ["the aggregator ended with status -9"]}


async def _books_agree(stack: Stack, client: httpx.AsyncClient, stores: Stores, ledger: Ledger, before: int) -> None:
    """What clients were told = what PostgreSQL holds = what the rollups say = what Prometheus counts."""
    assert ledger.sent == ledger.accepted + ledger.duplicate + ledger.rejected
    good = before + ledger.good_reports()
    connection = await asyncpg.connect(stack.file["database_url"])
    stored = await connection.fetchval("SELECT count(*) FROM raw_batch, raw_reports(raw_batch) WHERE region = $1", REGION)
    await connection.close()
    assert stored == good
    deadline = time.monotonic() + 30
    while await _counted(client) != good:
        assert time.monotonic() < deadline, f"rollups: {await _counted(client)}, stored: {good}"
        await asyncio.sleep(0.5)
    total = f'sum(player_reports_total{{game="demo",region="{REGION}"}})'
    await asyncio.to_thread(wait_for, "Prometheus' counter", lambda: stores.number(total) == good, 60)


async def _counted(client: httpx.AsyncClient) -> int:
    try:
        answer = await client.get("/v1/quality", params={"game": "demo", "group_by": "region", "limit": 1000})
    except httpx.TransportError:
        return -1
    if answer.status_code != 200:
        return -1
    counts: list[int] = [group["count"] for group in answer.json()["groups"] if group["region"] == REGION]
    return sum(counts)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", FAULTS)
async def test_books_agree_after(fault: str, stack: Stack, client: httpx.AsyncClient, stores: Stores) -> None:
    strike, is_noticed = FAULTS[fault]
    before = max(await _counted(client), 0)
    ledger = Ledger(REGION)
    playing = asyncio.create_task(play(client, 6, 8, ledger))
    await asyncio.sleep(2)
    strike(stack)
    await playing
    assert bool(ledger.resent) or not is_noticed, "nobody noticed: this test has shown nothing"
    assert is_noticed or not ledger.resent, "a request was cut off by what it must not depend on"
    assert len(ledger.batches) > 50
    await _books_agree(stack, client, stores, ledger, before)
    for line in TOLD.get(fault, ()):  # by the parent, which is there to tell of it
        query = f'{{service_name="gamepulse"}} |= `{line}` | service_instance_id=~"parent-.+"'
        await asyncio.to_thread(wait_for, query, lambda query=query: stores.loki(query), 30)
    await asyncio.to_thread(wait_for, "all are well", lambda: stack.run("status").returncode == 0, 30)


@pytest.mark.timeout(180)
async def test_a_hung_collector_slows_nobody_and_nothing_is_missing_afterwards(
    stack: Stack, client: httpx.AsyncClient, stores: Stores
) -> None:
    before = max(await _counted(client), 0)
    ledger = Ledger(REGION)
    collector = psutil.Process(stack.file["processes"]["collector"])
    collector.suspend()
    try:
        await play(client, 8, 8, ledger)
    finally:
        collector.resume()
    assert not ledger.resent
    assert ledger.slowest_s < 2  # nobody waited for the exporter's time-out of 5 s
    await _books_agree(stack, client, stores, ledger, before)
