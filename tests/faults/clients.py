"""Clients of the campaign: they send each batch until it is answered 202, and keep a ledger on disk of what they were told.

A line is on the disk (fdatasync) before a batch is first sent, and before a client goes on after a 202. A report's `seq` says which
batch it belongs to: batch n has n · SEQS to n · SEQS + SEQS − 1.
"""

import asyncio
import hashlib
import json
import os
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.batches import Json, event, now_ms, report

SEQS = 64
CLIENTS = 8
PAUSE_S = 0.25
PATIENCE_S = (1.0, 9.0)
"""How long a client waits for an answer: some give up before the service does, and what they sent may be stored later."""
REGIONS = ("ap-northeast-2", "eu-central-1", "us-east-1")
PLACES: tuple[dict[str, str], ...] = (
    {},
    {"cloudfront-viewer-country": "KR", "cloudfront-viewer-asn": "4766"},
    {"cloudfront-viewer-country": "DE"},
)
KINDS = ("connected", "disconnected", "reconnected", "complaint")
LATE_MS_MAX = 20 * 3_600_000  # reports of yesterday are taken up to 24 h late


class Broken(AssertionError):
    """A promise of the service that was not kept."""


class Ledger:
    """The clients' ledger: lines of JSON, each safe on the disk before `write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    async def write(self, **line: object) -> None:
        """One line."""
        self._file.write(json.dumps({"time": round(time.time(), 3)} | line).encode() + b"\n")
        await asyncio.to_thread(os.fdatasync, self._file.fileno())


@dataclass
class Batch:
    """What a client sends, and how it was answered so far."""

    number: int
    content: Json
    headers: dict[str, str]
    is_of_server: bool
    accepted: int = 0
    """Answers that said that this sending was the first."""
    answers: int = 0

    @property
    def items(self) -> list[Json]:
        return [item for part in self._parts() for item in (*part["reports"], *part["events"])]

    def _parts(self) -> list[Json]:
        parts: list[Json] = self.content.get("sessions") or [self.content]
        return parts

    def promise(self) -> Json:
        """The ledger's line: what must be found if this batch is answered 202."""
        reports = [one for part in self._parts() for one in part["reports"]]
        good = sorted((one for one in reports if one["rtt_ms"]), key=lambda one: one["seq"])
        return {
            "batch": self.number,
            "id": self.content["batch_id"],
            "items": len(self.items),
            "reports": len(good),
            "rejected": len(reports) - len(good),
            "kinds": sorted(one["kind"] for part in self._parts() for one in part["events"]),
            "sessions": [part["session"] for part in self._parts()],
            "region": reports[0]["region"],
            "minutes": Counter(str(one["at"] // 60_000) for one in good),
            "hash": hashlib.md5(",".join(map(_row, good)).encode(), usedforsecurity=False).hexdigest(),
        }


def _row(one: Json) -> str:
    """A report as books.REPORTS tells it."""
    return f"{one['seq']} {one['at']} {one['region']} {one['server']} {round(one['rtt_ms'] * 1000)} {round(one['loss'] * 1e6)}"


@dataclass
class Counts:
    """What the clients have seen."""

    answers: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        return self.answers["202"]


class Crowd:
    """CLIENTS clients against the service at `url`."""

    def __init__(self, url: str, keys: tuple[str, str], ledger: Ledger, rng: random.Random) -> None:
        self.counts = Counts()
        self._url, self._keys, self._ledger, self._rng = url, keys, ledger, rng
        self._next = 0
        self._recent: deque[Batch] = deque(maxlen=50)
        self._plays = asyncio.Event()

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[None]:
        """They play within; at the end each has the answer to its last batch. Raises ExceptionGroup of Broken."""
        self._plays.set()
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._play())
            try:
                yield
            finally:
                self._plays.clear()

    async def _play(self) -> None:
        session = str(uuid.uuid4())
        async with httpx.AsyncClient(base_url=self._url) as client:
            while self._plays.is_set():
                session = str(uuid.uuid4()) if self._rng.random() < 0.2 else session
                batch = self._make(session)
                await self._ledger.write(**batch.promise())
                await self._deliver(client, batch)
                self._recent.append(batch)
                if self._rng.random() < 0.08:  # an old one once more: it must be known
                    await self._deliver(client, self._rng.choice(self._recent))
                await asyncio.sleep(self._rng.uniform(0, PAUSE_S))

    def _make(self, session: str) -> Batch:
        """A batch of one session, or of four from a game server."""
        self._next += 1
        rng, at, seq, region = self._rng, now_ms(), self._next * SEQS, self._rng.choice(REGIONS)
        if rng.random() < 0.1:
            at -= rng.randrange(LATE_MS_MAX)
        is_of_server = rng.random() < 0.15
        content: Json = {"batch_id": str(uuid.uuid4()), "game": "demo"}
        if is_of_server:
            content["sessions"] = [self._part(str(uuid.uuid4()), region, at, range(seq + 6 * n, seq + 6 * n + 5)) for n in range(4)]
        else:
            content |= self._part(session, region, at, range(seq, seq + 20))
        return Batch(self._next, content, rng.choice(PLACES), is_of_server)

    def _part(self, session: str, region: str, at: int, seqs: range) -> Json:
        """One session's: a report each half second up to `at`, at times a bad one, at times an event."""
        rng = self._rng
        reports = [
            report(
                seq, at=at - n * 500, region=region, server=f"{region}-{rng.randrange(3)}",
                rtt_ms=rng.randrange(5_000, 300_000) / 1000, loss=rng.randrange(100_000) / 1e6,
            )
            for n, seq in enumerate(seqs)
        ]  # fmt: skip
        if rng.random() < 0.1:
            reports[-1]["rtt_ms"] = 0  # which is refused
        events = [event(seqs.stop, at=at, region=region, kind=rng.choice(KINDS))] if rng.random() < 0.3 else []
        return {
            "session": session,
            "platform": rng.choice(("windows", "android")),
            "build": "1.5.0",
            "reports": reports,
            "events": events,
        }

    async def _deliver(self, client: httpx.AsyncClient, batch: Batch) -> None:
        """Until answered 202. Sometimes the answer is not waited for, sometimes the batch is sent twice at the same time."""
        answers = batch.answers
        while batch.answers == answers:
            dice = self._rng.random()
            if dice < 0.05:
                await self._send_and_hang_up(batch)
            elif dice < 0.1:
                await asyncio.gather(self._send(client, batch), self._send(client, batch))
            else:
                await self._send(client, batch)
            if batch.answers == answers:
                await asyncio.sleep(self._rng.uniform(0.05, 0.4))

    async def _send(self, client: httpx.AsyncClient, batch: Batch) -> None:
        body, headers = self._request(batch)
        try:
            answer = await client.post("/v1/reports", content=body, headers=headers, timeout=self._rng.uniform(*PATIENCE_S))
        except httpx.TransportError:
            self.counts.answers["none"] += 1
            return
        self.counts.answers[str(answer.status_code)] += 1
        if answer.status_code == 503 and "retry-after" in answer.headers:
            return
        if answer.status_code != 202:
            raise Broken(f"batch {batch.number} was answered {answer.status_code} {answer.text}")
        await self._told(batch, answer.json())

    async def _told(self, batch: Batch, told: Json) -> None:
        accepted, duplicate, rejected = told["accepted"], told["duplicate"], len(told["rejected"])
        await self._ledger.write(told=batch.number, accepted=accepted, duplicate=duplicate, rejected=rejected)
        self.counts.answers["duplicate" if duplicate else "first"] += 1
        batch.answers += 1
        batch.accepted += accepted > 0
        if batch.accepted > 1:
            raise Broken(f"batch {batch.number} ({batch.content['batch_id']}) was told to be new a second time: {told}")
        if accepted + duplicate + rejected != len(batch.items) or (accepted and duplicate):
            raise Broken(f"batch {batch.number} had {len(batch.items)} items and was answered {told}")

    async def _send_and_hang_up(self, batch: Batch) -> None:
        body, headers = self._request(batch)
        url = httpx.URL(self._url)
        lines = [f"POST /v1/reports HTTP/1.1\r\nhost: {url.host}", *(f"{name}: {value}" for name, value in headers.items())]
        self.counts.answers["hung up"] += 1
        try:
            _, writer = await asyncio.open_connection(url.host, url.port)
            writer.write("\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body)
            await writer.drain()
            await asyncio.sleep(self._rng.choice((0.0, 0.005, 0.02)))
            writer.close()
            await writer.wait_closed()
        except OSError:
            self.counts.answers["none"] += 1

    def _request(self, batch: Batch) -> tuple[bytes, dict[str, str]]:
        key = self._keys[batch.is_of_server]
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}", **batch.headers}
        return json.dumps(batch.content | {"sent_at": now_ms()}).encode(), headers
