"""Clients that keep a ledger: they send each batch until it is answered 202, and write down what they were told."""

import asyncio
import random
import time
from dataclasses import dataclass, field

import httpx

from tests.awake import awake_s
from tests.batches import Json, batch, event, report


@dataclass
class Ledger:
    """What the clients know; reports and events counted together unless said."""

    region: str = "ap-northeast-2"
    sent: int = 0
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    resent: int = 0
    slowest_s: float = 0.0
    batches: list[Json] = field(default_factory=list)

    def good_reports(self) -> int:
        """Reports of all batches that can be accepted."""
        return sum(1 for sent in self.batches for one in sent["reports"] if one["rtt_ms"])

    def bad_reports(self) -> int:
        return sum(1 for sent in self.batches for one in sent["reports"] if not one["rtt_ms"])


async def play(client: httpx.AsyncClient, seconds: float, clients: int, ledger: Ledger) -> None:
    """So many clients for so long, without a pause."""
    until = time.monotonic() + seconds
    await asyncio.gather(*(_play(client, until, ledger) for _ in range(clients)))


async def _play(client: httpx.AsyncClient, until: float, ledger: Ledger) -> None:
    while time.monotonic() < until:
        reports = [report(seq, rtt_ms=random.uniform(5, 300), region=ledger.region) for seq in range(random.randint(1, 20))]
        if random.random() < 0.2:
            reports.append(report(99, rtt_ms=0, region=ledger.region))
        sent = batch(reports, [event(100, region=ledger.region)])
        ledger.batches.append(sent)
        await deliver(client, sent, ledger)
        if random.random() < 0.1:  # once more, for good measure
            await deliver(client, sent, ledger)


async def deliver(client: httpx.AsyncClient, sent: Json, ledger: Ledger) -> None:
    """Send until answered 202; 503 and broken connections are what a client must live with, anything else is a failure."""
    while True:
        started = awake_s()
        try:
            answer = await client.post("/v1/reports", json=sent)
        except httpx.TransportError:
            ledger.resent += 1
            await asyncio.sleep(0.1)
            continue
        ledger.slowest_s = max(ledger.slowest_s, awake_s() - started)
        if answer.status_code == 202:
            break
        assert answer.status_code == 503, answer.text
        assert "retry-after" in answer.headers
        ledger.resent += 1
        await asyncio.sleep(0.1)
    told, items = answer.json(), len(sent["reports"]) + len(sent["events"])
    ledger.sent += items
    ledger.accepted += told["accepted"]
    ledger.duplicate += told["duplicate"]
    ledger.rejected += len(told["rejected"])
    assert told["accepted"] + told["duplicate"] + len(told["rejected"]) == items
