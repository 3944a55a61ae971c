"""What each step of a request costs in this process, without HTTP and PostgreSQL: µs of CPU, the least of some runs.

`python -m bench.steps` (10 s). Steps that hold others are named with them; docs/adr/0016 says what follows.
"""

import os
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from bench import load
from bench.servers import ROOT
from gamepulse import accept, receive
from gamepulse.accept import Stored
from gamepulse.batch import StrictBatch
from gamepulse.geography import Geography, Place
from gamepulse.keys import IngestKey
from gamepulse.receive import Sent
from gamepulse.reports import PATH, Ingest
from gamepulse.settings import Settings
from gamepulse.spans import CommitFacts, RequestFacts
from gamepulse.telemetry import Telemetry

REQUESTS = 500
RUNS = 7
GROUP = 16
"""Batches in a commit."""
KEY = IngestKey(1, 1, "demo", False)
SETTINGS = Settings(database_url="postgresql://nobody@127.0.0.1/none", player_hash_key="00" * 32)


class Anyone:
    """In the place of the key look-up: each key opens the demo."""

    async def find(self, secret: str) -> IngestKey:
        return KEY


class Nowhere:
    """In the place of the commit: answered at once."""

    is_full = False

    async def accept(self, sent: Sent) -> Stored:
        return Stored(sent.fingerprint, sent.accepted, sent.rejected, is_duplicate=False)


def cost_us(step: Callable[[], object], times: int) -> float:
    """CPU of this thread for one of `times` things that a step does."""
    least = float("inf")
    for _ in range(RUNS):
        started = time.thread_time_ns()
        step()
        least = min(least, time.thread_time_ns() - started)
    return least / times / 1e3


async def cost_of_requests_us(ingest: Ingest, bodies: list[bytes]) -> float:
    """The whole of reports.py for each body."""
    headers = [
        (b"authorization", b"Bearer " + b"k" * 43),
        (b"content-type", b"application/json"),
        (b"x-forwarded-for", b"192.0.2.1"),
    ]

    async def send(message: Any) -> None:
        del message

    def receiver(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
        async def receive_() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        return receive_

    least = float("inf")
    for _ in range(RUNS):
        started = time.thread_time_ns()
        for body in bodies:
            scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers, "client": ("127.0.0.1", 1)}
            await ingest(scope, receiver(body), send)
        least = min(least, time.thread_time_ns() - started)
    return least / len(bodies) / 1e3


def told(telemetry: Telemetry) -> None:
    """Note REQUESTS requests, and make logs and points of them."""
    for _ in range(REQUESTS):
        facts = telemetry.begin("POST")
        facts.route, facts.status = PATH, 202
        telemetry.end(facts)
    telemetry.flush()


async def main() -> None:
    """Measure and print."""
    shown = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where the access log goes
    text = load.body()
    bodies = [text.replace("@BATCH@", str(uuid.uuid4())).replace("@SESSION@", str(uuid.uuid4())).encode() for _ in range(REQUESTS)]
    contents = [receive.decode(body) for body in bodies]
    facts, place, now_ms = RequestFacts(0, "POST", 1, 0, False, 1, 1), Place("KR", "KR-11", "AS64500"), time.time_ns() // 1_000_000

    def prepared() -> list[Sent]:
        return [receive.prepare(content, KEY, place, now_ms, bytes(32), facts) for content in contents]

    sent = prepared()
    groups = [sent[at : at + GROUP] for at in range(0, REQUESTS, GROUP)]
    strict = msgspec.json.Decoder(StrictBatch)
    telemetry = Telemetry(SETTINGS, "web")
    ingest = Ingest(SETTINGS, Anyone(), Geography("127.0.0.0/8", str(ROOT / "data" / "demo-geography.mmdb")), Nowhere(), telemetry)  # type: ignore[arg-type]  # what they take the place of needs PostgreSQL
    rows = [
        ("JSON to reports (msgspec)", cost_us(lambda: [strict.decode(body) for body in bodies], REQUESTS)),
        ("receive.decode, with that", cost_us(lambda: [receive.decode(body) for body in bodies], REQUESTS)),
        ("receive.prepare", cost_us(prepared, REQUESTS)),
        ("all of reports.py, with these", await cost_of_requests_us(ingest, bodies)),
        (f"the commit's arguments, {GROUP} batches together",
         cost_us(lambda: [accept._arguments(group, CommitFacts.begin(GROUP, None)) for group in groups], REQUESTS)),
        ("telemetry", cost_us(lambda: told(telemetry), REQUESTS)),
    ]  # fmt: skip
    table = Table(title=f"a batch of {load.REPORTS} reports, {len(bodies[0]):,} bytes")
    table.add_column("step")
    table.add_column("µs", justify="right")
    for name, cost in rows:
        table.add_row(name, f"{cost:.1f}")
    Console(file=shown).print(table)


if __name__ == "__main__":
    uvloop.run(main())
