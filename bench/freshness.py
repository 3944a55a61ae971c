"""How soon what was answered can be seen, in the whole stack under half of its peak: API, live page, Prometheus, Loki, Jaeger.

The page is watched as Chromium shows it, on the same cores as all else; what that costs is in the figures.
"""

import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from bench import browser, load
from bench.figures import Figures, Plan
from bench.processor import cpu_s
from gamepulse.records import RECORD
from stack.prepare import free_offset
from stack.settings import CHECKOUT

REGION = "freshness"  # of the probes alone
UP_LIMIT_S, DOWN_LIMIT_S = 3000, 120  # the first time its programs are built
SETTLE_S = 5.0
SEEN_LIMIT_S = 30.0
LOOK_EVERY_S = 0.1
ASK_EVERY_S = 0.5
TRACED = 5  # of the probes every fifth is looked for in Loki and Jaeger

type Json = dict[str, Any]


def measure(plan: Plan) -> Figures:
    """Seconds from a probe's answer until it is seen; a probe a second. Raises RuntimeError when something is not seen, or lost."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, _stack(Path(name) / "stack") as about:
        target = load.Target(int(about["urls"]["gamepulse"].rsplit(":", 1)[1]), about["demo"]["ingest_key"])
        peak = load.closed(target, plan.timed_s, Path(name), 1)
        rate = peak.requests / peak.duration_s / 2
        return asyncio.run(_under_load(about, target, rate, Path(name), plan.probes)) | {"peak_per_s": 2 * rate}


@contextmanager
def _stack(home: Path) -> Iterator[Json]:
    """The whole stack in a folder and on ports of its own, without the demo's players; its stack.json."""
    environ = os.environ | {"GAMEPULSE_HOME": str(home), "GAMEPULSE_PORT_OFFSET": str(free_offset()), "DETACH": "1", "DEMO": "0"}
    command = [sys.executable, "-m", "stack"]
    try:
        subprocess.run([*command, "up"], env=environ, cwd=CHECKOUT, timeout=UP_LIMIT_S, check=True)
        yield json.loads((home / "stack.json").read_text())
    finally:
        subprocess.run([*command, "down"], env=environ, cwd=CHECKOUT, timeout=DOWN_LIMIT_S, check=True, stdout=subprocess.DEVNULL)


async def _under_load(about: Json, target: load.Target, rate: float, folder: Path, probes: int) -> Figures:
    seconds = 2 * SETTLE_S + probes + SEEN_LIMIT_S / 2
    async with (
        httpx.AsyncClient(timeout=SEEN_LIMIT_S, trust_env=False) as client,
        browser.watching(about["urls"]["gamepulse"], REGION) as page,
    ):
        under_way = asyncio.create_task(asyncio.to_thread(load.paced, target, rate, seconds, folder, 2))
        await asyncio.sleep(SETTLE_S)
        started, used_s = time.monotonic(), cpu_s(page.tree)
        delays = await _probe(client, page, about["urls"], target.key, probes)
        browser_cores = (cpu_s(page.tree) - used_s) / (time.monotonic() - started)
        seen = await under_way
        if set(seen.answers) - {"202", "503"}:
            raise RuntimeError(f"at half the peak a batch was answered neither 202 nor 503: {seen}")
        await _check(client, about, seen.of("202").count)
    return {"offered_per_s": rate, "load_p99_ms": seen.of("202").p99_ms, **_summary(delays), "browser_cores": browser_cores}


async def _probe(
    client: httpx.AsyncClient, page: browser.Watched, urls: dict[str, str], key: str, probes: int
) -> dict[str, list[float]]:
    """Send a probe a second, each of another player, and look for each everywhere; seconds from its answer, by place."""
    answered: list[float] = []
    watched: dict[str, list[float]] = {"quality": [], "stream": [], "page": [], "prometheus": []}
    traced: dict[str, list[float]] = {"loki": [], "jaeger": []}
    async with asyncio.timeout(probes + SETTLE_S + SEEN_LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(_watch(watched["quality"], probes, LOOK_EVERY_S, lambda: _in_quality(client, urls["gamepulse"])))
        tasks.create_task(_watch(watched["prometheus"], probes, ASK_EVERY_S, lambda: _in_prometheus(client, urls["prometheus"])))
        tasks.create_task(_watch_stream(watched["stream"], probes, client, urls["gamepulse"]))
        tasks.create_task(_watch_page(watched["page"], probes, page))
        for number in range(probes):
            trace_id = secrets.token_hex(16)
            await _send(client, urls["gamepulse"], key, number, trace_id)
            answered.append(time.monotonic())
            if number % TRACED == 0:
                begin_ns = time.time_ns() - 1_000_000_000
                in_loki = partial(_in_loki, client, urls["loki"], trace_id, begin_ns)
                tasks.create_task(_await(traced["loki"], answered[-1], in_loki))
                tasks.create_task(_await(traced["jaeger"], answered[-1], partial(_in_jaeger, client, urls["jaeger"], trace_id)))
            await asyncio.sleep(1.0)
    delays = {place: [at - since for at, since in zip(times, answered, strict=True)] for place, times in watched.items()}
    return delays | traced


async def _send(client: httpx.AsyncClient, url: str, key: str, number: int, trace_id: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    report = {"seq": number, "at": now_ms, "region": REGION, "rtt_ms": 30.0}
    batch = {"batch_id": str(uuid.uuid4()), "game": "demo", "sent_at": now_ms, "session": str(uuid.uuid4()), "reports": [report]}
    headers = {"Authorization": f"Bearer {key}", "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    answer = await client.post(f"{url}/v1/reports", json=batch, headers=headers)
    while answer.status_code == 503:  # as it is asked to; it is fresh from when it is answered
        await asyncio.sleep(float(answer.headers["retry-after"]))
        answer = await client.post(f"{url}/v1/reports", json=batch, headers=headers)
    if answer.status_code != 202:
        raise RuntimeError(f"a probe was answered {answer.status_code}: {answer.text}")


async def _watch(times: list[float], probes: int, every_s: float, count: Callable[[], Awaitable[int]]) -> None:
    """Note when each probe was first counted."""
    while len(times) < probes:
        _note(times, await count())
        await asyncio.sleep(every_s)


def _note(times: list[float], count: int) -> None:
    times.extend([time.monotonic()] * (count - len(times)))


async def _watch_page(times: list[float], probes: int, page: browser.Watched) -> None:
    """When each probe's player was on the screen."""
    shown_s = await page.shown_s(probes)
    ahead_s = time.monotonic() - time.time()
    times.extend(at_s + ahead_s for at_s in shown_s)


async def _watch_stream(times: list[float], probes: int, client: httpx.AsyncClient, url: str) -> None:
    """When each probe was in the stream that the page reads."""
    async with client.stream("GET", f"{url}/v1/live", params={"game": "demo"}) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                _note(times, _count_of(json.loads(line.removeprefix("data:"))["regions"]))
            if len(times) >= probes:
                return


async def _in_quality(client: httpx.AsyncClient, url: str) -> int:
    answer = await client.get(f"{url}/v1/quality", params={"game": "demo", "group_by": "region"})
    return _count_of(answer.raise_for_status().json()["groups"])


def _count_of(groups: list[Json]) -> int:
    return next((int(group["count"]) for group in groups if group["region"] == REGION), 0)


async def _in_prometheus(client: httpx.AsyncClient, url: str, labels: str = f'region="{REGION}"') -> int:
    query = f"sum(player_reports_total{{{labels}}})"
    answer = await client.get(f"{url}/api/v1/query", params={"query": query})
    found = answer.raise_for_status().json()["data"]["result"]
    return int(float(found[0]["value"][1])) if found else 0


async def _in_loki(client: httpx.AsyncClient, url: str, trace_id: str, begin_ns: int) -> bool:
    params = {"query": f'{{service_name="gamepulse"}} | trace_id="{trace_id}"', "start": str(begin_ns)}
    answer = await client.get(f"{url}/loki/api/v1/query_range", params=params)
    return bool(answer.raise_for_status().json()["data"]["result"])


async def _in_jaeger(client: httpx.AsyncClient, url: str, trace_id: str) -> bool:
    return (await client.get(f"{url}/api/traces/{trace_id}")).is_success


async def _await(delays: list[float], answered: float, is_there: Callable[[], Awaitable[bool]]) -> None:
    """Note how long after `answered` it is there."""
    while not await is_there():  # noqa: ASYNC110 — another program has it, and tells nobody
        await asyncio.sleep(ASK_EVERY_S / 2)
    delays.append(time.monotonic() - answered)


async def _check(client: httpx.AsyncClient, about: Json, answered: int) -> None:
    """All that was answered is stored, and Prometheus knows of all that is stored."""
    connection = await asyncpg.connect(about["database_url"])
    stored = await connection.fetchval(f"SELECT sum(length(records)) / {RECORD.itemsize} FROM raw_batch")
    await connection.close()
    if stored < answered * load.REPORTS:
        raise RuntimeError(f"{answered} batches were answered, but {stored} reports are stored")
    limit = time.monotonic() + SEEN_LIMIT_S
    while (counted := await _in_prometheus(client, about["urls"]["prometheus"], 'game="demo"')) != stored:
        if time.monotonic() > limit:
            raise RuntimeError(f"{stored} reports are stored, but Prometheus says {counted}")
        await asyncio.sleep(ASK_EVERY_S)


def _summary(delays: dict[str, list[float]]) -> Figures:
    figures: Figures = {}
    for place, seconds in delays.items():
        figures[f"{place}_p50_s"] = statistics.median(seconds)
        figures[f"{place}_p95_s"] = statistics.quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
        figures[f"{place}_max_s"] = max(seconds)
    return figures
