"""Answers of deltas, minutes and what is made of them: the same before and after, and within their limits."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import msgspec
import numpy as np
import pytest

from gamepulse import database, gather, labels, merging, quality, roll
from gamepulse.errors import Problem
from gamepulse.rollup import VALUES_MAX
from tests.batches import batch, report
from tests.conftest import complete, rolled
from tests.deltas import WHERE, block, put_delta, put_names
from tests.integration.test_roll import GAME, HOUR, ONE_HOUR, ask, asked, send

type Database = asyncpg.Connection[asyncpg.Record]


@pytest.mark.parametrize("group_by", ["region", "build", "region,country,platform,build", ""])
async def test_answers_are_the_same_before_and_after_they_are_rolled_up(
    client: httpx.AsyncClient, connection: Database, group_by: str
) -> None:
    reports = await send(client, random.Random(5), 60)
    await complete(client)
    now = datetime.now(UTC)
    end = roll.floor(now, "hour") + 2 * ONE_HOUR  # otherwise it would be another one when an hour begins meanwhile
    span = {"from": (now - timedelta(hours=24)).isoformat(), "to": end.isoformat(), "group_by": group_by, "limit": 7}
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


@pytest.mark.parametrize("limit", ["WAITING_MAX", "WAITING_BYTES_MAX"])
async def test_too_many_deltas_are_left_out_and_that_is_told(
    connection: Database, aggregator: Database, asker: database.Pool, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    ids = await put_names(connection, 1)
    await put_delta(connection, HOUR, block(ids), 0)
    assert await roll.Piece(WHERE, "hour", HOUR).do(aggregator)
    size = sum([await put_delta(connection, HOUR, block(ids), upto) for upto in (1, 2, 3)])
    await connection.execute("UPDATE rollup_delta SET since = '2026-01-01Z' WHERE upto = 2")
    await connection.execute("UPDATE watermark SET as_of = now()")
    for most, reports in ((3 if limit == "WAITING_MAX" else size, 4), (2 if limit == "WAITING_MAX" else size - 1, 1)):
        monkeypatch.setattr(gather, limit, most)
        answer = await asked(asker)
        assert [group.count for group in answer.groups] == [reports]
        assert (answer.as_of == datetime(2026, 1, 1, tzinfo=UTC)) == (reports == 1)


async def test_minutes_are_read_up_to_a_limit_of_bytes(
    connection: Database, aggregator: Database, asker: database.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await put_names(connection, 3)
    for minute in (5, 6, 7):
        await put_delta(connection, HOUR + timedelta(minutes=minute), block(ids), minute)
    assert await roll.Piece(WHERE, "hour", HOUR).do(aggregator)
    size = await connection.fetchval("SELECT sum(length(block)) FROM rollup_minute")
    span = gather.Span(HOUR + timedelta(minutes=6), HOUR + timedelta(minutes=7))
    whole = gather.Span(HOUR, HOUR + ONE_HOUR)
    for most, expected in ((size // 3, span), (size // 3 - 1, whole)):
        monkeypatch.setattr(gather, "FINE_BYTES_MAX", most)
        answer = await quality.quality(asker, gather.Names(), GAME, ["region"], span, 10, "count")
        assert (answer.from_, answer.to) == (expected.start, expected.end)
        assert sum(group.count for group in answer.groups) == (3 if expected is span else 9)
    monkeypatch.setattr(gather, "FINE_BYTES_MAX", size / 4)
    points = (await quality.series(asker, gather.Names(), GAME, ["region"], whole, "1m", 10)).lines[0].points
    assert [point.at.minute for point in points] == [5, 6, 7]
    monkeypatch.setattr(gather, "FINE_BYTES_MAX", (size - 1) / 4)
    with pytest.raises(Problem, match="too_much"):
        await quality.series(asker, gather.Names(), GAME, ["region"], whole, "1m", 10)


async def test_a_question_is_about_so_many_rows_and_groups(
    connection: Database, aggregator: Database, asker: database.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await put_names(connection, 6)
    for hours in range(2):
        await put_delta(connection, HOUR + hours * ONE_HOUR, block(ids), hours)
        assert await roll.Piece(WHERE, "hour", HOUR + hours * ONE_HOUR).do(aggregator)
    for of, limit, most, group_by in (
        (merging, "ROWS_MAX", 12, ["country"]), (merging, "ROWS_MAX", 6, ["region"]), (gather, "NAMES_MAX", 6, ["country"]),
    ):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(of, limit, most)
            answer = await asked(asker, group_by, 3)
            assert sum(group.count for group in [*answer.groups, *([answer.remainder] if answer.remainder else [])]) == 12
            patched.setattr(of, limit, most - 1)
            with pytest.raises(Problem, match="too_much"):
                await asked(asker, group_by, 3)


async def test_so_many_names_are_remembered(connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.array(await put_names(connection, 9))
    monkeypatch.setattr(gather, "NAMES_MAX", 6)
    names, of = gather.Names(), gather.Of(1, 1, 0, ("region",))
    read: list[int] = []
    fetch = asyncpg.Connection.fetch

    async def noted(self: Database, query: str, *args: Any) -> Any:
        read.append(len(args[2]))
        return await fetch(self, query, *args)

    monkeypatch.setattr(asyncpg.Connection, "fetch", noted)
    for some, missing in ((ids[:5], [5]), (ids[:6], [1]), (ids[:6], []), (ids[5:7], [2]), (ids[5:9], [2]), (ids[:1], [1])):
        read.clear()
        assert await names.of(connection, of, some) == [(f"r{one - ids[0] + 1}", "KR") for one in some]
        assert read == missing


@pytest.mark.parametrize("group_by", ["", "region", "platform", "build", "country,platform,build"])
async def test_answers_are_the_same_in_small_slices(
    client: httpx.AsyncClient, connection: Database, asker: database.Pool, monkeypatch: pytest.MonkeyPatch, group_by: str
) -> None:
    await send(client, random.Random(8), 40)
    await complete(client)
    await rolled(connection)
    await send(client, random.Random(9), 5)
    await complete(client)
    end = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    span = gather.Span(end - timedelta(hours=24), end)
    names = gather.Names()

    async def answers() -> list[Any]:
        dimensions = group_by.split(",") if group_by else []
        found: list[Any] = [
            await quality.quality(asker, names, GAME, dimensions, span, limit, order)
            for order in ("count", "sessions", "bad_sessions")
            for limit in (3, 100)
        ]
        found += [await quality.series(asker, names, GAME, dimensions, span, step, 5) for step in ("1m", "5m", "1h", "6h", "1d")]
        return [msgspec.structs.replace(one, as_of=end) for one in found]

    whole = await answers()
    sizes: list[int] = []
    fetchrow = asyncpg.Connection.fetchrow

    async def noted(self: Database, query: str, *args: Any) -> Any:
        row = await fetchrow(self, query, *args)  # all rows as one
        assert row is not None
        sizes.append(len(row[0] or ()) if "dimension_id = ANY ($5" in query else 0)
        return row

    monkeypatch.setattr(asyncpg.Connection, "fetchrow", noted)
    monkeypatch.setattr(gather, "TOTALS_PER_READ", 3)
    for rows in (1, 7, 40):
        monkeypatch.setattr(merging, "SLICE_BYTES_MAX", rows * merging.ROW_BYTES)
        assert await answers() == whole
        assert 0 < max(sizes) <= rows
        sizes.clear()


SEEN_TODAY = "SELECT seen = (now() AT TIME ZONE 'UTC')::date FROM dimension WHERE region = 'old-7' AND dimension_set = 0"


async def test_values_that_were_not_seen_for_long_are_free_again(client: httpx.AsyncClient, connection: Database) -> None:
    limit = VALUES_MAX["region"]
    await connection.execute(
        "INSERT INTO dimension (studio_id, game_id, dimension_set, region, country, seen)"
        " SELECT 1, 1, 0, 'old-' || n, 'ZZ', (now() AT TIME ZONE 'UTC')::date - $2::integer FROM generate_series(1, $1::integer) AS n",
        limit, labels.ACTIVE_DAYS + 1,
    )  # fmt: skip
    await client.post("/v1/reports", json=batch([report(0, region="new"), report(1, region="old-7")]))
    await complete(client)
    found = (await ask(client, group_by="region"))["groups"]
    assert {group["region"] for group in found} == {"new", "old-7"}
    assert await connection.fetchval("SELECT count(*) FROM dimension WHERE region = 'old-7' AND dimension_set = 0") == 1
    assert await connection.fetchval(SEEN_TODAY)


async def test_what_is_beyond_a_limit_is_marked(client: httpx.AsyncClient) -> None:
    for since in range(0, VALUES_MAX["region"] + 20, 60):
        answer = await client.post("/v1/reports", json=batch([report(n, region=f"r{since + n}", server=None) for n in range(60)]))
        assert answer.json()["accepted"] == 60
    await complete(client)
    found = (await ask(client, group_by="region", limit=1_000))["groups"]
    assert [(one["region"], one["count"]) for one in found if one.get("is_overflow")] == [("(other)", 20)]
    assert len(found) == VALUES_MAX["region"] + 1
