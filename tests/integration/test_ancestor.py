"""The ancestor's endpoint: one round-trip time in each request goes the way of a batch of one report."""

import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import httpx
import pytest

from gamepulse import ancestor, database, errors, limits, receive
from tests.conftest import Cluster, Service, complete, serve

GOOD = {"type": "client", "rtt": 42.5, "quality": 0}
PATHS = ("/api/sod/rtt", "/api/sod/rtt/v1")
type Database = asyncpg.Connection[asyncpg.Record]


@pytest.fixture(scope="module")
def where(cluster: Cluster) -> Iterator[str]:
    """A database that all tests here share."""
    name = f"test_{secrets.token_hex(6)}"
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE bench OWNER bench")
    yield cluster.url(name)
    cluster.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def service(where: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve(
        where, valkey_url, tmp_path_factory.mktemp("ancestor") / "log", GAMEPULSE_ANCESTOR_GAME="demo", GAMEPULSE_EDGE=""
    ) as running:
        yield running


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        yield client


@pytest.fixture
async def connection(where: str) -> AsyncIterator[Database]:
    connection = await asyncpg.connect(where)
    yield connection
    await connection.close()


async def _stored(client: httpx.AsyncClient, field: str) -> Counter[Any]:
    """The values of a field in all that was stored."""
    timelines = [(await client.get(f"/v1/games/demo/sessions/{session}")).json() for session in ancestor.SESSIONS]
    return Counter(report[field] for timeline in timelines for report in timeline.get("reports", []))


async def test_it_is_stored_and_counted_like_a_report(client: httpx.AsyncClient, connection: Database) -> None:
    before, values = await connection.fetchval("SELECT count(*) FROM raw_batch"), await _stored(client, "rtt_ms")
    for n, path in enumerate(PATHS * 20):
        answer = await client.post(path, json=GOOD | {"type": ("client", "server")[n % 2], "rtt": 20 + n})
        assert (answer.status_code, answer.text) == (200, "Success")
        assert await connection.fetchval("SELECT count(*) FROM raw_batch") == before + n + 1  # safe before it is answered
    assert await _stored(client, "rtt_ms") - values == Counter(range(20, 60))
    await complete(client)
    quality = (await client.get("/v1/quality", params={"game": "demo"})).json()
    [group] = quality["groups"]
    assert (group["region"], group["count"]) == ("unknown", before + 40)
    assert group["sessions"] <= len(ancestor.SESSIONS)
    shards = {row["shard"] for row in await connection.fetch("SELECT DISTINCT shard FROM raw_batch")}
    assert len(shards) > 1
    assert {receive.shard_of(session) for session in ancestor.SESSIONS} == set(range(receive.SHARDS))


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (None, ["excellent", "good", "fair", "poor", "estimating"]),
        ("mirror-legacy", ["excellent", "good", "fair", "poor", "estimating"]),
        ("mirror", ["estimating", "poor", "fair", "good", "excellent"]),
    ],
)
async def test_both_scales_of_quality(client: httpx.AsyncClient, scale: str | None, words: list[str]) -> None:
    headers = {} if scale is None else {"X-Quality-Scale": scale}
    before = await _stored(client, "quality")
    for quality in range(5):
        for _ in range(quality + 1):
            assert (await client.post(PATHS[0], json=GOOD | {"quality": quality}, headers=headers)).status_code == 200
    assert await _stored(client, "quality") - before == {word: n + 1 for n, word in enumerate(words)}


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"type": "proxy"}, 422), ({"rtt": 0}, 422), ({"rtt": 60_000.1}, 422), ({"quality": 5}, 422),
        ({"quality": -1}, 422), ({"quality": 1.5}, 422), ({"rtt": None}, 422), ({"rtt": 60_000}, 200), ({"rtt": 0.01}, 200),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_refused(client: httpx.AsyncClient, wrong: dict[str, Any], status: int) -> None:
    answer = await client.post(PATHS[1], json=GOOD | wrong)
    assert answer.status_code == status, answer.text


async def test_an_unknown_scale_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATHS[0], json=GOOD, headers={"X-Quality-Scale": "unity"})).status_code == 422


async def test_a_client_sends_sixty_a_minute(client: httpx.AsyncClient) -> None:
    behind = {"x-forwarded-for": "203.0.113.8"}
    answers = [await client.post(PATHS[n % 2], json=GOOD, headers=behind) for n in range(limits.ANCESTOR.quota + 20)]
    counts = Counter(answer.status_code for answer in answers)
    assert counts.keys() == {200, 429}
    assert limits.ANCESTOR.burst <= counts[200] < limits.ANCESTOR.quota + 20
    assert answers[-1].headers["ratelimit-policy"] == '"ancestor";q=60;w=60'
    other = await client.post(PATHS[0], json=GOOD, headers={"x-forwarded-for": "203.0.113.9"})
    assert other.status_code == 200


async def test_what_is_refused_counts_as_well(client: httpx.AsyncClient) -> None:
    here = {"x-forwarded-for": "203.0.113.10", "content-type": "application/json"}
    bodies = (b"{", b"{}", json.dumps(GOOD | {"rtt": 0}).encode())
    answers = [
        await client.post(PATHS[n % 2], content=bodies[n % 3], headers=here | {"cloudfront-viewer-address": f"192.0.2.{n}:1"})
        for n in range(limits.ANCESTOR.quota + 20)  # what there is no edge for is not believed: it is one client
    ]
    counts = Counter(answer.status_code for answer in answers)
    assert counts.keys() == {400, 422, 429}
    assert counts[400] + counts[422] >= limits.ANCESTOR.burst
    assert all("ancestor" in answer.headers["ratelimit-policy"] for answer in answers)


async def test_it_is_not_there_unless_a_setting_names_its_game(where: str) -> None:
    pool = await database.open_pool({"dsn": where}, "ingest", size=1)
    for game in ("", "no-such-game"):
        with pytest.raises(errors.Problem, match="unknown_route"):
            await ancestor.Ancestor(game, pool, None, None).find()  # type: ignore[arg-type]  # it does not come to storing
    assert (await ancestor.Ancestor("demo", pool, None, None).find()).game == "demo"  # type: ignore[arg-type]
    pool.terminate()
