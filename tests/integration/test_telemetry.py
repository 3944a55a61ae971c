"""Invariants 5 and 6: telemetry never hurts, and nothing personal leaves."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.awake import awake_s
from tests.batches import batch, report
from tests.conftest import INGEST_KEY, Service, complete, free_port, serve, wait_for

HEADERS = {"authorization": f"Bearer {INGEST_KEY}"}


@contextmanager
def black_hole() -> Iterator[int]:
    """A Collector that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        held: list[socket.socket] = []
        server.settimeout(0.2)
        is_open = threading.Event()
        is_open.set()

        def accept() -> None:
            while is_open.is_set():
                try:
                    held.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        is_open.clear()
        thread.join()
        for one in held:
            one.close()


async def latencies_s(service: Service, requests: int) -> list[float]:
    """One client, one request after the other."""
    async with httpx.AsyncClient(base_url=service.url, headers=HEADERS, timeout=20) as client:
        took = []
        for _ in range(requests):
            started = awake_s()
            assert (await client.post("/v1/reports", json=batch(20))).status_code == 202
            took.append(awake_s() - started)
        return took


@pytest.mark.timeout(300)
async def test_a_collector_that_is_gone_or_hung_hurts_no_request(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    with black_hole() as hung:
        for name, port in (("hung", hung), ("gone", free_port())):
            endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "GAMEPULSE_TRACE_SAMPLE_RATIO": "1"}
            with serve(database_url, valkey_url, tmp_path / f"{name}.log", **endpoint) as service:
                await latencies_s(service, 50)
                [worker] = service.children(aggregator=False)
                before = worker.memory_info().rss
                took = await latencies_s(service, 1_500)
                grown = worker.memory_info().rss - before
                assert sorted(took)[len(took) // 2] < 0.1, name
                assert max(took) < 2, name  # nobody waited for a time-out of 5 s
                assert grown < 64 * 1024 * 1024, (name, grown)
                assert await asyncio.to_thread(service.stop) < 10, name


async def test_a_reader_of_stdout_that_hangs_hurts_no_request(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    pipe = tmp_path / "stdout"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # opened, never read
    try:
        with serve(database_url, valkey_url, pipe) as service:
            took = await latencies_s(service, 1_000)
            assert max(took) < 2
    finally:
        os.close(reader)


PLANTED = ["198.51.100.77", "player-4711", "Mozilla-secret-agent", "cookie-secret", "q-secret", "2001:db8::beef", INGEST_KEY]


async def test_nothing_personal_is_logged_or_answered(client: httpx.AsyncClient, service: Service) -> None:
    headers = {
        "x-forwarded-for": "198.51.100.77, 2001:db8::beef", "user-agent": "Mozilla-secret-agent", "cookie": "id=cookie-secret",
    }  # fmt: skip
    answers = [
        await client.post(
            "/v1/reports?x=q-secret", json=batch([report(), report(rtt_ms="player-4711")], player="player-4711"), headers=headers
        ),
        await client.post("/v1/reports", json=batch(platform="player-4711 x"), headers=headers),
        await client.post("/v1/reports", json=batch(player="player-4711\n"), headers=headers),
        await client.post("/v1/games/demo/player-sessions?x=q-secret", json={"player": "player-4711"}, headers=headers),
        await client.post("/v1/games/demo/player-sessions", json={"player": 7, "q-secret": 1}, headers=headers),
        await client.get("/v1/quality?game=player-4711&group_by=region", headers=headers),
        await client.get("/v1/games/demo/sessions/player-4711", headers=headers),
        await client.get("/player-4711", headers=headers),
    ]
    await complete(client)
    told = '"event":"request"'
    await asyncio.to_thread(wait_for, "all is told", lambda: service.log.read_text().count(told) >= len(answers))
    await asyncio.sleep(1)
    log = service.log.read_text()
    for secret in PLANTED:
        assert secret not in log, secret
        for answer in answers:
            assert secret not in answer.text, (secret, answer.url)


async def test_every_call_is_in_the_access_log_with_its_trace(client: httpx.AsyncClient, service: Service) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = await client.get("/v1/quality?game=nothing", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert answer.json()["trace_id"] == trace
    await client.get("/v1/games/demo/sessions/6f1e2f6e-0000-4000-8000-000000000000")
    route = "/v1/games/{game}/sessions/{session_id}"
    await asyncio.to_thread(wait_for, "the last is told", lambda: any(route in line for line in _lines(service)))
    lines = [json.loads(line) for line in _lines(service) if '"event":"request"' in line]
    [line] = [line for line in lines if line["trace_id"] == trace]
    assert (line["route"], line["status"], line["code"], line["method"]) == ("/v1/quality", 404, "unknown_game", "GET")
    assert any(line["route"] == route for line in lines)


def _lines(service: Service) -> list[str]:
    """Of its log, those that are written to their ends."""
    return service.log.read_text().rpartition("\n")[0].splitlines()


async def test_a_live_stream_is_no_slow_request(client: httpx.AsyncClient, service: Service) -> None:
    """It is answered when it begins, however long somebody watches: its length is no latency."""
    async with client.stream("GET", "/v1/live", params={"game": "demo"}) as stream:
        await anext(stream.aiter_lines())
        await asyncio.sleep(2)
    await asyncio.to_thread(wait_for, "it is told", lambda: any('"/v1/live"' in line for line in _lines(service)))
    [line] = [json.loads(line) for line in _lines(service) if '"/v1/live"' in line]
    assert (line["status"], line["level"]) == (200, "info")
    assert line["duration_ms"] < 1_500


async def test_memory_of_the_parent_and_its_children_is_sound(service: Service) -> None:
    parent = psutil.Process(service.process.pid)
    assert len(service.children(aggregator=True)) == 1
    assert len(service.children(aggregator=False)) == 1
    assert sum(one.memory_info().rss for one in [parent, *parent.children(recursive=True)]) < 600 * 1024 * 1024
