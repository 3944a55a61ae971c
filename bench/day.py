"""How long questions about a day of 50 million reports take, over HTTP, with no answer kept anywhere.

`python -m bench.day` (15 min, 12 GB of disk for a while; `--quick` shows in half a minute that it works) writes a day of made-up
players' sessions (population.py) as ingest stores them, lets two aggregators count and roll them up, and asks. Valkey is away, so
that nothing is kept; each question waits for the one before. Prints figures and targets; JSON of a whole run in results/.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import Any

import asyncpg
import click
import httpx
from rich.console import Console

from bench import database
from bench.figures import Figures, Round
from bench.machine import Stolen, surroundings
from bench.population import BUILDS, countries, networks, parts
from bench.servers import free_ports
from bench.tables import targets_table
from bench.targets import Target, at_least, at_most, figure, judge
from bench.width import RESULTS, aggregators, settle, table
from gamepulse import migrate, receive

HOURS = 24
BATCHES, BATCH, EVERY_MS = 5, 20, 5_000
"""Of a session: it lasts eight minutes, a batch each 100 s, a report each 5 s."""
BATCH_EVERY = timedelta(milliseconds=BATCH * EVERY_MS)
COMMIT = 2_000
"""Rows written in one transaction: fewer than a step of aggregation reads."""
COLUMNS = ("received_at", "studio_id", "game_id", "rejected", "session_id", "labels", "match", "player", "records", "shard")
WARM_UP = 5
COUNTED = "SELECT sum(reports)::bigint FROM rollup_total WHERE dimension_set = 4 AND step = 'hour'"
START_LIMIT_S = 60
type Connection = asyncpg.Connection[asyncpg.Record]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much."""

    sessions_an_hour: int
    questions: int

    @property
    def reports(self) -> int:
        """Of the day."""
        return self.sessions_an_hour * HOURS * BATCHES * BATCH


FULL, QUICK = Plan(20_834, 300), Plan(30, 5)
ROWS = ("day", "filtered", "series", "compare", "network", "build", "known")
TARGETS: tuple[Target, ...] = (
    at_least("reports of the day", 50_000_000, ("data",), figure("data", "reports")),
    at_most("24 h by country and network, p99, ms", 50, ("day",), figure("day", "p99_ms")),
    at_most("one build against another over 24 h, p99, ms", 2_000, ("compare",), figure("compare", "p99_ms")),
)


async def put_day(connection: Connection, plan: Plan, until: datetime) -> None:
    """The day's batches in the order in which they came."""
    dice = random.Random(7)
    since = until - HOURS * timedelta(hours=1)
    waiting: list[tuple[Any, ...]] = []
    for hour in range(HOURS):
        begin = since + timedelta(hours=hour)
        for part in parts(plan.sessions_an_hour, BATCH, hour, begin, EVERY_MS):
            first = begin + timedelta(seconds=dice.uniform(100, 3_700))  # a batch is about the 100 s before it
            times = (min(first + n * BATCH_EVERY, until) for n in range(BATCHES))
            waiting += [(at, *part[2:10], receive.shard_of(part[5])) for at in times]
        waiting.sort(key=lambda row: row[0])
        end = begin + timedelta(hours=1) if hour < HOURS - 1 else until
        come = sum(1 for row in waiting if row[0] <= end)
        for rows in batched(waiting[:come], COMMIT, strict=False):
            await connection.copy_records_to_table("raw_batch", records=rows, columns=COLUMNS)
        del waiting[:come]
    await connection.execute("ANALYZE raw_batch")


async def count_day(port: int, connection: Connection, plan: Plan) -> None:
    """Count and roll up. Raises RuntimeError when that comes to another number of reports."""
    horizon = await connection.fetchval("SELECT max(xid)::text::bigint FROM raw_batch")
    with aggregators(port, 2):
        while await connection.fetchval("SELECT min(upto)::text::bigint FROM watermark") <= horizon:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    await settle(connection)
    await connection.execute("VACUUM ANALYZE")  # of a day's worth at once: it would come while questions are measured
    counted = await connection.fetchval(COUNTED)
    if counted != plan.reports:
        raise RuntimeError(f"{plan.reports} reports were written, {counted} are counted")


async def put(port: int, plan: Plan, until: datetime, console: Console) -> Figures:
    """The day, in tables and rollups; how much there is."""
    login = {"dsn": database.url(port)}
    await migrate.migrate(login)
    await migrate.put_demo(login, "a" * 43, "b" * 43)
    connection = await asyncpg.connect(database.url(port), command_timeout=3600)
    try:
        started = time.monotonic()
        await put_day(connection, plan, until)
        console.print(f"{plan.reports:,} reports written in {time.monotonic() - started:.0f} s")
        await count_day(port, connection, plan)
        console.print(f"counted and rolled up after {time.monotonic() - started:.0f} s")
        groups = await connection.fetchval("SELECT count(*) FROM dimension WHERE dimension_set = 4")
        sessions = await connection.fetchval("SELECT count(DISTINCT session_id) FROM session_seen")
        size = await connection.fetchval("SELECT pg_database_size(current_database())")
    finally:
        await connection.close()
    return {"reports": plan.reports, "groups": groups, "sessions": sessions, "disk_bytes": size}


@contextmanager
def service(database_port: int) -> Iterator[httpx.Client]:
    """The service beside that database, without Valkey and telemetry; a client of it."""
    port, nobody = free_ports()[:2]
    environment = os.environ | {
        "GAMEPULSE_DATABASE_URL": database.url(database_port),
        "GAMEPULSE_VALKEY_URL": f"redis://127.0.0.1:{nobody}/0",
        "GAMEPULSE_PORT": str(port),
        "GAMEPULSE_PLAYER_HASH_KEY": "00" * 32,
        "OTEL_SDK_DISABLED": "true",
    }
    command = [sys.executable, "-m", "gamepulse", "serve"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
                deadline = time.monotonic() + START_LIMIT_S
                while not _is_ready(client):
                    if time.monotonic() > deadline:
                        raise RuntimeError("the service is not ready")
                    time.sleep(0.1)
                yield client
        finally:
            process.terminate()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def questions(until: datetime) -> dict[str, tuple[str, dict[str, str]]]:
    """What is asked, by row: path and parameters."""
    span = {"from": (until - timedelta(hours=HOURS)).isoformat(), "to": until.isoformat()}
    of_game = {"game": "demo"} | span
    evening = {"from": (until - timedelta(hours=3)).isoformat(), "to": (until - timedelta(hours=2)).isoformat()}
    country = countries()[0]
    return {
        "day": ("/v1/quality", of_game | {"group_by": "country,network"}),
        "filtered": ("/v1/quality", of_game | {"group_by": "network", "country": country}),
        "series": ("/v1/quality/series", of_game | {"group_by": "country", "step": "1h"}),
        "compare": ("/v1/quality/compare", of_game | {"a.build": BUILDS[-1], "b.build": BUILDS[-2]}),
        "network": (f"/v1/games/demo/networks/{networks()[country][0]}/sessions", evening),
        "build": (f"/v1/games/demo/builds/{BUILDS[-1]}/sessions", evening),
    }


def ask(client: httpx.Client, path: str, params: dict[str, str], times: int) -> tuple[Figures, Any]:
    """Milliseconds of a question asked so many times, the first WARM_UP not counted; the last answer."""
    took_ms = []
    stolen = Stolen()
    for _ in range(WARM_UP + times):
        started = time.perf_counter()
        answer = client.get(path, params=params).raise_for_status()
        took_ms.append((time.perf_counter() - started) * 1e3)
    centiles = statistics.quantiles(took_ms[WARM_UP:], n=100)
    figures = {"p50_ms": centiles[49], "p99_ms": centiles[98], "bytes": len(answer.content), "stolen_percent": stolen.percent}
    return figures, answer.json()


def known(client: httpx.Client, path: str, params: dict[str, str], plan: Plan) -> Figures:
    """The same by one who has the answer; those that are answered 304."""
    took_ms: list[float] = []
    stolen, tag = Stolen(), ""
    while len(took_ms) < plan.questions:
        started = time.perf_counter()
        answer = client.get(path, params=params, headers={"if-none-match": tag})
        if answer.status_code == 304:
            took_ms.append((time.perf_counter() - started) * 1e3)
        tag = answer.headers["etag"]
    centiles = statistics.quantiles(took_ms, n=100)
    return {"p50_ms": centiles[49], "p99_ms": centiles[98], "bytes": 0, "stolen_percent": stolen.percent}


def measure(plan: Plan, console: Console) -> Round:
    """All rows. Raises RuntimeError when an answer is not about all reports."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        port = free_ports()[0]
        stack.enter_context(database.postgres(folder / "postgres", port))
        until = datetime.now(UTC)
        measured = {"data": asyncio.run(put(port, plan, until, console))}
        database.query(port, "CHECKPOINT")
        client = stack.enter_context(service(port))
        asked = questions(until)
        for row, (path, params) in asked.items():
            times = max(plan.questions // 5, 5) if row == "compare" else plan.questions
            measured[row], answer = ask(client, path, params, times)
            console.print(row, measured[row])
            if row == "day":
                counted = sum(group["count"] for group in [*answer["groups"], *filter(None, [answer["remainder"]])])
                if counted != plan.reports:
                    raise RuntimeError(f"the answer is about {counted} reports of {plan.reports}")
            if row == "compare":
                measured[row]["sessions"] = min(answer[side]["sampled_sessions"] for side in "ab")
        measured["known"] = known(client, *asked["day"], plan)
    return measured


@click.command()
@click.option("--quick", is_flag=True, help="Small numbers: shows that it works.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the JSON.")
def main(quick: bool, results: Path) -> None:
    """Measure questions about a day of many reports on this machine."""
    console, plan = Console(width=160), QUICK if quick else FULL
    measured = measure(plan, console)
    verdicts = judge([measured], TARGETS)
    rows = [{"row": row} | {name: round(measured[row][name], 1) for name in ("p50_ms", "p99_ms", "stolen_percent")} for row in ROWS]
    console.print(table(f"{plan.reports:,} reports, {measured['data']['groups']:,.0f} networks", rows))
    console.print(targets_table(verdicts))
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"day-{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
    written = surroundings() | {"plan": asdict(plan), "day": measured, "targets": [one.told() for one in verdicts]}
    path.write_text(json.dumps(written, indent=2) + "\n")
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
