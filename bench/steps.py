"""What each step of a request costs in this process, without HTTP and PostgreSQL: µs of CPU, the least of some runs.

`python -m bench.steps` (10 s). Steps that hold others are named with them; docs/adr/0016 says what follows.
"""

import os
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import click
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from bench import load
from bench.servers import ROOT
from gamepulse import accept, receive, valkey
from gamepulse.accept import Stored
from gamepulse.batch import StrictBatch
from gamepulse.geography import Geography, Place
from gamepulse.keys import IngestKey
from gamepulse.leases import Leases
from gamepulse.limits import Limits
from gamepulse.pace import Pace
from gamepulse.receive import Sent
from gamepulse.reports import PATH, Ingest
from gamepulse.settings import Settings
from gamepulse.spans import CommitFacts, RequestFacts
from gamepulse.telemetry import Telemetry

REQUESTS, QUICK_REQUESTS = 500, 50
RUNS, QUICK_RUNS = 7, 20
GROUP = 16
"""Batches in a commit."""
DECODED = "JSON to reports (msgspec)"
RECEIVED = "receive.decode, with that"
PREPARED = "receive.prepare"
ALL = "all of reports.py, with these"
LIMITED = "limits of key, address and session, which are part of it"
PACKED = f"the commit's arguments, {GROUP} batches together"
TOLD = "telemetry"
KEY = IngestKey(1, 1, "demo", False)
SETTINGS = Settings(database_url="postgresql://nobody@127.0.0.1/none", player_hash_key="00" * 32)


class Anyone:
    """In the place of the key look-up: each key opens the demo."""

    def remembered(self, secret: str) -> IngestKey:
        return KEY


class Nowhere:
    """In the place of the commit: answered at once."""

    is_full = False
    full_games: frozenset[int] = frozenset()

    def crest(self) -> float:
        return 0.0

    async def accept(self, sent: Sent) -> Stored:
        return Stored(sent.fingerprint, sent.accepted, sent.rejected, is_duplicate=False)


def cost_us(step: Callable[[], object], times: int, runs: int) -> float:
    """CPU of this thread for one of `times` things that a step does."""
    least = float("inf")
    for _ in range(runs):
        started = time.thread_time_ns()
        step()
        least = min(least, time.thread_time_ns() - started)
    return least / times / 1e3


async def cost_of_requests_us(ingest: Ingest, bodies: list[bytes], runs: int) -> float:
    """The whole of reports.py for each body."""
    headers = [
        [
            (b"authorization", b"Bearer " + b"k" * 43),
            (b"content-type", b"application/json"),
            (b"x-forwarded-for", load.client_address(number).encode()),
        ]
        for number in range(load.ADDRESSES)
    ]

    async def send(message: Any) -> None:
        del message

    def receiver(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
        async def receive_() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        return receive_

    least = float("inf")
    for _ in range(runs):
        started = time.thread_time_ns()
        ingest.leases.begin_window()  # the same come again in each run
        for number, body in enumerate(bodies):
            of_request = headers[number % len(headers)]
            scope = {"type": "http", "method": "POST", "path": PATH, "headers": of_request, "client": ("127.0.0.1", 1)}
            await ingest(scope, receiver(body), send)
        least = min(least, time.thread_time_ns() - started)
    return least / len(bodies) / 1e3


def told(telemetry: Telemetry, requests: int) -> None:
    """Note so many requests, and make logs and points of them."""
    for _ in range(requests):
        facts = telemetry.begin("POST")
        facts.route, facts.status = PATH, 202
        telemetry.end(facts)
    telemetry.flush()


async def measure(requests: int, runs: int) -> dict[str, float]:
    """µs of CPU of each step. Lines of the access log go to standard output meanwhile."""
    text = load.body()
    bodies = [text.replace("@BATCH@", str(uuid.uuid4())).replace("@SESSION@", str(uuid.uuid4())).encode() for _ in range(requests)]
    contents = [receive.decode(body) for body in bodies]
    facts, place, now_ms = RequestFacts(0, "POST", 1, 0, False, 1, 1), Place("KR", "KR-11", "AS64500"), time.time_ns() // 1_000_000

    def prepared() -> list[Sent]:
        return [receive.prepare(content, KEY, place, now_ms, bytes(32), facts) for content in contents]

    def of(step: Callable[[], object]) -> float:
        return cost_us(step, requests, runs)

    sent = prepared()
    groups = [sent[at : at + GROUP] for at in range(0, requests, GROUP)]
    strict = msgspec.json.Decoder(StrictBatch)
    telemetry = Telemetry(SETTINGS, "web")
    geography = Geography("127.0.0.0/8", str(ROOT / "data" / "demo-geography.mmdb"))
    shared = Limits(valkey.connect(SETTINGS), valkey.policy(), bytes(32), telemetry.metrics)
    leases, pace = Leases(shared, telemetry), Pace(Nowhere(), 10)  # type: ignore[arg-type]  # what it takes the place of needs PostgreSQL
    ingest = Ingest(SETTINGS, Anyone(), geography, leases, Nowhere(), pace, telemetry)  # type: ignore[arg-type]  # as above

    addresses = load.client_addresses().split(",")

    def spend() -> None:
        leases.begin_window()
        for number, content in enumerate(contents):
            leases.spend_address(addresses[number % len(addresses)])
            leases.spend_key("k" * 43)
            leases.spend_session(content.sessions[0].session)  # type: ignore[arg-type]  # it has one

    costs = {
        DECODED: of(lambda: [strict.decode(body) for body in bodies]),
        RECEIVED: of(lambda: [receive.decode(body) for body in bodies]),
        PREPARED: of(prepared),
        LIMITED: of(spend),
        ALL: await cost_of_requests_us(ingest, bodies, runs),
        PACKED: of(lambda: [accept._arguments(group, CommitFacts.begin(GROUP, None)) for group in groups]),
        TOLD: of(lambda: told(telemetry, requests)),
    }
    await leases.close()
    await pace.close()
    await telemetry.close()
    return costs


@click.command()
@click.option("--quick", is_flag=True, help="Few requests: shows that it works.")
def main(quick: bool) -> None:
    """Measure and print."""
    shown = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the access log goes
    table = Table(title=f"a batch of {load.REPORTS} reports, {len(load.body()):,} bytes")
    table.add_column("step")
    table.add_column("µs", justify="right")
    costs = uvloop.run(measure(QUICK_REQUESTS, QUICK_RUNS) if quick else measure(REQUESTS, RUNS))
    for name, cost in costs.items():
        table.add_row(name, f"{cost:.1f}")
    Console(file=shown).print(table)


if __name__ == "__main__":
    main()
