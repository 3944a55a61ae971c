"""Invariant 3, further on: what is counted is in its minutes and hours once, whoever dies, doubles or comes late; and in answers."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import numpy as np
import pytest

from gamepulse import gather, labels, quality, roll, settings
from gamepulse.rollup import SETS, VALUES_MAX
from gamepulse.telemetry import Telemetry
from tests.batches import Json, batch, event, now_ms, report
from tests.conftest import complete, rolled, service_environ

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
type Database = asyncpg.Connection[asyncpg.Record]


async def send(client: httpx.AsyncClient, rng: random.Random, batches: int) -> list[Json]:
    """Batches over the last 23 hours, from many places; all their reports, with the batch's session and build."""
    reports: list[Json] = []
    for _ in range(batches):
        at = now_ms() - rng.choice([0, rng.randrange(3 * MINUTE_MS), rng.randrange(23 * HOUR_MS)])
        region = rng.choice(["ap-northeast-2", "eu-west-1", "us-east-1"])
        some = [report(n, at=at - n * 1_000, region=region, rtt_ms=round(rng.lognormvariate(4, 1), 3)) for n in range(10)]
        sent = batch(some, [event(99, at=at, kind="disconnected", region=region)], build=f"1.{rng.randrange(40)}")
        assert (await client.post("/v1/reports", json=sent)).json()["accepted"] == 11
        reports += [one | {"session": sent["session"], "build": sent["build"]} for one in some]
    return reports


async def ask(client: httpx.AsyncClient, **params: Any) -> Json:
    answer: Json = (await client.get("/v1/quality", params={"game": "demo"} | params)).json()
    return answer


@pytest.fixture
async def aggregator(database_url: str) -> AsyncIterator[Database]:
    connection = await asyncpg.connect(database_url, server_settings={"role": "gamepulse_aggregate"})
    yield connection
    connection.terminate()


async def counted(connection: Database) -> list[tuple[int, int, int]]:
    """Of each dimension set: reports in deltas and minutes, in deltas and hours, in deltas and hours' totals."""
    found = []
    for number in range(len(SETS)):
        sums = [
            await connection.fetchval(f"SELECT coalesce(sum(reports), 0)::bigint FROM {table} WHERE dimension_set = $1", number)
            for table in ("rollup_delta", "rollup_minute", "rollup_hour")
        ]
        total = await connection.fetchval(
            "SELECT coalesce(sum(reports), 0)::bigint FROM rollup_total WHERE dimension_set = $1 AND step = 'hour'", number
        )
        found.append((sums[0] + sums[1], sums[0] + sums[2], sums[0] + total))
    return found


async def test_a_roll_that_is_cut_off_anywhere_has_done_nothing(
    client: httpx.AsyncClient, connection: Database, aggregator: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is ended by PostgreSQL before each of a roll's statements in turn."""
    sent = len(await send(client, random.Random(1), 10))
    await complete(client)
    monkeypatch.setattr(roll, "ROLL_EVERY_S", 0.0)
    cut_off = 0
    for statement in range(1, 14):
        one = await asyncpg.connect(database_url, server_settings={"role": "gamepulse_aggregate"})
        left = statement

        async def ended(self: Database, *args: Any, call: Any, one: Database = one, **options: Any) -> Any:
            nonlocal left
            if self is one and left == 0:
                await connection.execute("SELECT pg_terminate_backend($1)", one.get_server_pid())
            left -= self is one
            return await call(self, *args, **options)

        with monkeypatch.context() as patched:
            for name in ("fetch", "fetchrow", "fetchval", "execute"):
                call = getattr(asyncpg.Connection, name)
                patched.setattr(
                    asyncpg.Connection, name, lambda self, *args, call=call, **options: ended(self, *args, call=call, **options)
                )
            try:
                await roll.roll(one)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                cut_off += 1
        one.terminate()
        assert await counted(connection) == [(sent, sent, sent)] * len(SETS), statement
    assert cut_off >= 8
    while await roll.roll(aggregator):
        pass
    assert await counted(connection) == [(sent, sent, sent)] * len(SETS)


async def test_many_that_roll_at_once_add_once(
    client: httpx.AsyncClient, connection: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll, "ROLL_EVERY_S", 0.0)
    rollers = [await asyncpg.connect(database_url, server_settings={"role": "gamepulse_aggregate"}) for _ in range(3)]
    sent, is_over = 0, False

    async def go_on(roller: Database) -> int:
        done = 0
        while not is_over:
            done += await roll.roll(roller)
        return done

    rolling = [asyncio.create_task(go_on(roller)) for roller in rollers]
    for n in range(6):
        sent += len(await send(client, random.Random(n), 10))
    await complete(client)
    await rolled(connection)
    is_over = True
    assert all(done > 3 for done in await asyncio.gather(*rolling))
    assert await counted(connection) == [(sent, sent, sent)] * len(SETS)
    for roller in rollers:
        await roller.close()


async def test_a_piece_that_fails_is_left_out_and_the_others_go_on(
    client: httpx.AsyncClient, connection: Database, aggregator: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll, "ROLL_EVERY_S", 0.0)
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poison'; END $$;"
        "CREATE TRIGGER poison BEFORE INSERT ON rollup_hour FOR EACH ROW WHEN (new.dimension_set = 1) EXECUTE FUNCTION refuse()"
    )
    sent = len(await send(client, random.Random(1), 10))
    await complete(client)
    telemetry = Telemetry(settings.load(service_environ(database_url)), "test")
    roller, another = roll.Roller(telemetry), roll.Roller(telemetry)
    while await roller.roll(aggregator):
        pass
    assert await counted(connection) == [(sent, sent, sent)] * len(SETS)  # what failed still waits, and counts
    waiting = await connection.fetch("SELECT DISTINCT dimension_set FROM rollup_delta")
    assert [row["dimension_set"] for row in waiting] == [1]
    await connection.execute("DROP TRIGGER poison ON rollup_hour")
    assert await roller.roll(aggregator) is False  # not yet again
    while await another.roll(aggregator):
        pass
    assert await connection.fetchval("SELECT count(*) FROM rollup_delta") == 0


@pytest.mark.parametrize("group_by", ["region", "build", "region,country,platform,build", ""])
async def test_answers_are_the_same_before_and_after_they_are_rolled_up(
    client: httpx.AsyncClient, connection: Database, group_by: str
) -> None:
    reports = await send(client, random.Random(5), 60)
    await complete(client)
    span = {"from": (datetime.now(UTC) - timedelta(hours=24)).isoformat(), "group_by": group_by, "limit": 7}
    before = [await ask(client, **span, order=order) for order in ("count", "sessions", "bad_sessions")]
    await rolled(connection)
    for answer, order in zip(before, ("count", "sessions", "bad_sessions"), strict=True):
        after = await ask(client, **span, order=order)
        for name in ("groups", "remainder", "from", "to"):
            assert after[name] == answer[name], (order, name)
    groups, rest = before[0]["groups"], before[0]["remainder"]
    assert sum(one["count"] for one in [*groups, *([rest] if rest else [])]) == len(reports)
    assert sum(one["sessions"] for one in [*groups, *([rest] if rest else [])]) == 60
    if group_by == "build":
        for group in groups:
            exact = [one["rtt_ms"] for one in reports if one["build"] == group["build"]]
            assert group["count"] == len(exact)
            assert group["rtt_ms"]["p95"] == pytest.approx(np.quantile(exact, 0.95, method="inverted_cdf"), rel=0.011)
        assert rest["events"]["disconnected"] == rest["count"] / 10


async def test_too_many_deltas_are_left_out_and_that_is_told(
    client: httpx.AsyncClient, connection: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(client, random.Random(6), 5)
    await complete(client)
    await rolled(connection)
    first = (await ask(client))["as_of"]
    await send(client, random.Random(7), 5)
    await complete(client)
    monkeypatch.setattr(gather, "WAITING_MAX", 0)
    now = datetime.now(UTC)
    async with asyncpg.create_pool(database_url, server_settings={"role": "gamepulse_query"}, min_size=1, max_size=1) as pool:
        span = gather.Span(now - timedelta(hours=24), now + timedelta(hours=1))
        answer = await quality.quality(pool, gather.Names(), quality.Game(1, 1, "demo"), [], gather.whole_hours(span), 10, "count")
    assert [group.count for group in answer.groups] == [50]
    assert answer.as_of >= datetime.fromisoformat(first)
    assert answer.as_of < datetime.fromisoformat((await ask(client))["as_of"])


async def test_values_that_were_not_seen_for_long_are_free_again(client: httpx.AsyncClient, connection: Database) -> None:
    limit = VALUES_MAX["region"]
    await connection.execute(
        "INSERT INTO dimension (studio_id, game_id, dimension_set, region, country, seen)"
        " SELECT 1, 1, 0, 'old-' || n, 'ZZ', current_date - $2::integer FROM generate_series(1, $1::integer) AS n",
        limit, labels.ACTIVE_DAYS + 1,
    )  # fmt: skip
    await client.post("/v1/reports", json=batch([report(0, region="new"), report(1, region="old-7")]))
    await complete(client)
    found = (await ask(client, group_by="region"))["groups"]
    assert {group["region"] for group in found} == {"new", "old-7"}
    assert await connection.fetchval("SELECT count(*) FROM dimension WHERE region = 'old-7' AND dimension_set = 0") == 1
    assert await connection.fetchval("SELECT seen = current_date FROM dimension WHERE region = 'old-7' AND dimension_set = 0")


async def test_what_is_beyond_a_limit_is_marked(client: httpx.AsyncClient) -> None:
    for since in range(0, VALUES_MAX["region"] + 20, 60):
        answer = await client.post("/v1/reports", json=batch([report(n, region=f"r{since + n}", server=None) for n in range(60)]))
        assert answer.json()["accepted"] == 60
    await complete(client)
    found = (await ask(client, group_by="region", limit=1_000))["groups"]
    assert [(one["region"], one["count"]) for one in found if one.get("is_overflow")] == [("(other)", 20)]
    assert len(found) == VALUES_MAX["region"] + 1
