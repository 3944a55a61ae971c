"""Sends data/ to the service as a game's players do: `python -m stack.replay --home DIR`, until it is stopped."""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import click
import httpx
import msgspec
import stamina

from stack.exact import File, file_batches
from stack.players import Batch, batches

IN_FLIGHT_MAX = 128  # requests, those that wait for their next try included
ONCE_IN_FLIGHT_MAX = 16
TIMEOUT_S = 10.0
RETRY_FIRST_S, RETRY_MAX_S, RETRY_JITTER_S = 0.5, 15.0, 1.0
ONCE_TIMEOUT_S = 120.0  # of one batch with all its tries
BEHIND_MAX_S = 1.0  # later than this, the play is put off instead of hurried
SUMMARY_S = 60.0
RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})

log = logging.getLogger("replay")


class Demo(msgspec.Struct):
    """The demo game and its keys."""

    game: str
    ingest_key: str
    server_key: str


class Urls(msgspec.Struct):
    """Where the service is."""

    gamepulse: str


class Stack(msgspec.Struct):
    """What the replay needs of stack.json."""

    urls: Urls
    demo: Demo


class Answer(msgspec.Struct):
    """What 202 says of a batch."""

    accepted: int
    duplicate: int
    rejected: list[object]


@dataclass(slots=True)
class Tally:
    """Reports and events by their fate; `batches` and `retried` count requests, `refused` those given up."""

    sent: int = 0
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    batches: int = 0
    retried: int = 0
    refused: int = 0

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.accepted += answer.accepted
        self.duplicate += answer.duplicate
        self.rejected += len(answer.rejected)


@dataclass(slots=True)
class Sender:
    """Sends batches and counts what became of them."""

    client: httpx.AsyncClient
    demo: Demo
    tally: Tally
    patience_s: float | None  # how long one batch is tried; None: for ever
    last_refusal: str = ""

    async def send(self, batch: Batch) -> None:
        """Send until it is answered for good: the same content each time, `sent_at` anew."""
        self.tally.batches += 1
        self.tally.sent += batch.report_count
        content = self.content(batch, now_ms())
        tries = stamina.retry_context(
            on=retry_delay,
            attempts=None,
            timeout=self.patience_s,
            wait_initial=RETRY_FIRST_S,
            wait_max=RETRY_MAX_S,
            wait_jitter=RETRY_JITTER_S,
        )
        try:
            async for attempt in tries:
                with attempt:
                    self.tally.retried += attempt.num > 1
                    self.tally.add(await self.post(batch, content))
        except httpx.HTTPError as error:
            self.give_up(reason(error))

    def give_up(self, why: str) -> None:
        """Count it; one line for a run of the same refusals, or a wrong key would fill the log."""
        self.tally.refused += 1
        if why != self.last_refusal:
            log.warning("batch given up: %s", why)
        self.last_refusal = why

    def content(self, batch: Batch, due_ms: int) -> dict[str, object]:
        """The body without `sent_at`: the session's fields inline, or many sessions with the server's key."""
        envelope: dict[str, object] = {"batch_id": str(batch.batch_id), "game": self.demo.game}
        sessions = [msgspec.to_builtins(session.shifted(due_ms)) for session in batch.sessions]
        return envelope | (sessions[0] if batch.key == "ingest_key" else {"sessions": sessions})

    async def post(self, batch: Batch, content: dict[str, object]) -> Answer:
        """One try; raises httpx.HTTPError when it is not answered with 202."""
        headers = {
            "Authorization": f"Bearer {getattr(self.demo, batch.key)}",
            "Content-Type": "application/json",
            "X-Forwarded-For": batch.address,
        }
        body = msgspec.json.encode(content | {"sent_at": now_ms()})
        response = await self.client.post("/v1/reports", content=body, headers=headers)
        response.raise_for_status()
        return msgspec.json.decode(response.content, type=Answer)


def retry_delay(error: Exception) -> bool | float:
    """Whether to try again: as the service says (`Retry-After`, spread), else by the growing back-off."""
    if not isinstance(error, httpx.HTTPStatusError):
        return isinstance(error, httpx.TransportError)
    if error.response.status_code not in RETRIED_STATUSES:
        return False
    after = error.response.headers.get("Retry-After", "")
    if not after.isdecimal():
        return True
    return min(float(after), RETRY_MAX_S) + random.uniform(0, RETRY_JITTER_S)


def reason(error: httpx.HTTPError) -> str:
    """The error in a line: the status and the problem's code, never a body."""
    if not isinstance(error, httpx.HTTPStatusError):
        return repr(error)
    try:
        code = error.response.json().get("code")
    except (ValueError, AttributeError):
        code = None
    return f"{error.response.status_code} {code}"


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


async def send_paced(sender: Sender, planned: Iterable[Batch]) -> None:
    """Send each batch when it is due. When the service keeps us waiting, the rest of the play is put off."""
    free = asyncio.Semaphore(IN_FLIGHT_MAX)
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as sending:
        for batch in planned:
            ahead_s = began_s + batch.due_s - time.monotonic()
            if ahead_s < -BEHIND_MAX_S:
                began_s -= ahead_s
            await asyncio.sleep(max(0.0, ahead_s))
            await free.acquire()
            sending.create_task(sender.send(batch)).add_done_callback(lambda _: free.release())


async def send_at_once(sender: Sender, planned: Iterable[Batch]) -> None:
    """Send all batches, as fast as they are answered, a few at a time."""
    rest = iter(planned)

    async def send_in_turn() -> None:
        for batch in rest:
            await sender.send(batch)

    async with asyncio.TaskGroup() as sending:
        for _ in range(ONCE_IN_FLIGHT_MAX):
            sending.create_task(send_in_turn())


async def report_each_minute(tally: Tally) -> None:
    """One line a minute: what has been sent since the start, and what became of it."""
    while True:
        await asyncio.sleep(SUMMARY_S)
        log.info(" ".join(f"{name}={count}" for name, count in asdict(tally).items()))


def client_of(stack: Stack) -> httpx.AsyncClient:
    """A client of the service, never through a proxy of the environment."""
    limits = httpx.Limits(max_connections=IN_FLIGHT_MAX, max_keepalive_connections=32)
    return httpx.AsyncClient(base_url=stack.urls.gamepulse, timeout=TIMEOUT_S, limits=limits, trust_env=False)


async def replay_for_ever(stack: Stack, seed: int) -> None:
    """Play until cancelled."""
    tally = Tally()
    async with client_of(stack) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(report_each_minute(tally))
        await send_paced(Sender(client, stack.demo, tally, None), batches(seed, uuid.uuid4()))


async def replay_once(stack: Stack, file: File) -> Tally:
    """Send each row of the file exactly once."""
    tally = Tally()
    async with client_of(stack) as client:
        await send_at_once(Sender(client, stack.demo, tally, ONCE_TIMEOUT_S), file_batches(file, uuid.uuid4()))
    return tally


def read_stack(home: Path) -> Stack:
    """stack.json, waited for: the supervisor may start us before it is written."""
    path = home / "stack.json"
    if not path.exists():
        log.info("waiting for %s", path)
    while not path.exists():
        time.sleep(0.5)
    return msgspec.json.decode(path.read_bytes(), type=Stack)


def count_retries_only() -> None:
    """Keep a line for each request and each retry out of the log: an outage would fill it."""
    stamina.instrumentation.set_on_retry_hooks([])
    logging.getLogger("httpx").setLevel(logging.WARNING)


@click.command()
@click.option("--home", type=click.Path(path_type=Path), default=Path(".gamepulse"), show_default=True)
@click.option("--seed", default=1, show_default=True, help="Another seed is another play.")
@click.option("--file", type=click.Choice(get_args(File)), help="Replay this file, each row once (with --once).")
@click.option("--once", is_flag=True, help="Send the file as fast as it is answered, print a summary, and end.")
def main(home: Path, seed: int, file: File | None, once: bool) -> None:
    """Replay real measurements as players of the demo game."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    count_retries_only()
    if once != (file is not None):
        raise click.UsageError("--file and --once go together")
    stack = read_stack(home)
    if file is None:
        asyncio.run(replay_for_ever(stack, seed))
        return
    tally = asyncio.run(replay_once(stack, file))
    click.echo(msgspec.json.encode(asdict(tally)))
    if tally.refused:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
