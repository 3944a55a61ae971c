"""Killed in mid-flow: what was answered is there, nothing counts twice, and sent = accepted + duplicate + rejected."""

import asyncio
import random
import time
from dataclasses import dataclass

import asyncpg
import httpx

from tests.batches import Json, batch, event, report
from tests.conftest import Service, complete

CLIENTS = 12
SECONDS = 12
type Database = asyncpg.Connection[asyncpg.Record]


@dataclass
class Ledger:
    """What the clients know."""

    sent: int = 0
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    resent: int = 0


async def deliver(client: httpx.AsyncClient, sent: Json, ledger: Ledger) -> None:
    """Send a batch until it is answered 202, as every client must; now and then once more for good measure."""
    items = len(sent["reports"]) + len(sent["events"])
    copies = 2 if random.random() < 0.1 else 1
    for _ in range(copies):
        while True:
            try:
                answer = await client.post("/v1/reports", json=sent)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 202:
                break
            assert answer is None or answer.status_code == 503, answer.text
            ledger.resent += 1
            await asyncio.sleep(0.1)
        told = answer.json()
        ledger.sent += items
        ledger.accepted += told["accepted"]
        ledger.duplicate += told["duplicate"]
        ledger.rejected += len(told["rejected"])
        assert told["accepted"] + told["duplicate"] + len(told["rejected"]) == items


async def play(client: httpx.AsyncClient, until: float, ledger: Ledger, batches: list[Json]) -> None:
    while time.monotonic() < until:
        wrong = [report(7, rtt_ms=0)] if random.random() < 0.2 else []
        sent = batch([report(seq, rtt_ms=random.uniform(5, 300)) for seq in range(random.randint(1, 20))] + wrong, [event(99)])
        batches.append(sent)
        await deliver(client, sent, ledger)


async def test_killed_workers_and_aggregators_lose_and_double_nothing(
    service: Service, client: httpx.AsyncClient, connection: Database
) -> None:
    random.seed(11)
    ledger, batches = Ledger(), list[Json]()
    until = time.monotonic() + SECONDS
    players = [asyncio.create_task(play(client, until, ledger, batches)) for _ in range(CLIENTS)]
    kills = 0
    while time.monotonic() < until - 1:
        await asyncio.sleep(random.uniform(0.3, 1.5))
        victims = service.children(aggregator=True)
        if kills == 3:  # the web worker once: Granian gives up on one that dies twice within seconds, and its supervisor steps in
            victims = service.children(aggregator=False)
        for victim in victims:
            victim.kill()
        kills += bool(victims)
    await asyncio.gather(*players)
    assert kills >= 4
    assert ledger.resent, "no request was ever cut off: this test has shown nothing"
    assert ledger.sent == ledger.accepted + ledger.duplicate + ledger.rejected
    good = sum(1 for sent in batches for one in sent["reports"] if one["rtt_ms"])
    stored = await connection.fetchval("SELECT sum(length(records) / 30) FROM raw_batch")
    assert stored == good
    assert await connection.fetchval("SELECT count(*) FROM batch_key") == len(batches)
    assert await connection.fetchval("SELECT sum(accepted) FROM batch_key") == good + len(batches)
    await complete(client)
    answer = (await client.get("/v1/quality", params={"game": "demo", "group_by": ""})).json()
    [total] = answer["groups"]
    assert total["count"] == good
    assert total["events"]["connected"] == len(batches)
    assert total["rejected"] == sum(1 for sent in batches for one in sent["reports"] if not one["rtt_ms"])
    totals = await connection.fetchrow("SELECT sum(reports), sum(events[2]) FROM player_total")
    assert tuple(totals or ()) == (good, len(batches))
