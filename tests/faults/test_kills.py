"""Killed in mid-flow: what was answered is there, nothing counts twice, and sent = accepted + duplicate + rejected."""

import asyncio
import random

import asyncpg
import httpx

from tests.conftest import Service, complete
from tests.ledger import Ledger, play

SECONDS = 12
type Database = asyncpg.Connection[asyncpg.Record]


async def test_killed_workers_and_aggregators_lose_and_double_nothing(
    service: Service, client: httpx.AsyncClient, connection: Database
) -> None:
    random.seed(11)
    ledger = Ledger()
    playing = asyncio.create_task(play(client, SECONDS, 12, ledger))
    kills = 0
    while not playing.done():
        await asyncio.sleep(random.uniform(0.3, 1.5))
        # The web worker once: Granian gives up on one that dies twice within seconds; then its supervisor steps in (tests/stack).
        victims = service.children(aggregator=kills != 3)
        for victim in victims:
            victim.kill()
        kills += bool(victims)
    await playing
    assert kills >= 4
    assert ledger.resent, "no request was ever cut off: this test has shown nothing"
    assert ledger.sent == ledger.accepted + ledger.duplicate + ledger.rejected
    good = ledger.good_reports()
    assert await connection.fetchval("SELECT sum(length(records) / 26) FROM raw_batch") == good
    assert await connection.fetchval("SELECT count(*) FROM batch_key") == len(ledger.batches)
    assert await connection.fetchval("SELECT sum(accepted) FROM batch_key") == good + len(ledger.batches)
    await complete(client)
    [total] = (await client.get("/v1/quality", params={"game": "demo", "group_by": ""})).json()["groups"]
    assert total["count"] == good
    assert total["events"]["connected"] == len(ledger.batches)
    assert total["rejected"] == ledger.bad_reports()
    totals = await connection.fetchrow("SELECT sum(reports), sum(events[2]) FROM player_total")
    assert tuple(totals or ()) == (good, len(ledger.batches))
