"""Invariant 3, further on: what is counted is in its minutes and hours once, whoever dies, doubles or comes late; and in answers."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partialmethod
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest

from gamepulse import database, gather, quality, roll, settings
from gamepulse.asker import Game
from gamepulse.quality import Quality
from gamepulse.rollup import SETS, encode
from gamepulse.telemetry import Telemetry
from tests.batches import Json, batch, event, now_ms, report
from tests.conftest import complete, rolled, service_environ
from tests.deltas import MARK, WHERE, block, put_delta, put_names

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
ONE_HOUR = timedelta(hours=1)
GAME = Game(1, 1, "demo")
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


@contextmanager
def before_statements(monkeypatch: pytest.MonkeyPatch, one: Database, then: Callable[[str], Awaitable[None]]) -> Iterator[None]:
    """Does something before each statement of one connection, which it is told."""

    async def called(self: Database, statement: str, *args: Any, call: Any, **options: Any) -> Any:
        if self is one:
            await then(statement)
        return await call(self, statement, *args, **options)

    with monkeypatch.context() as patched:
        for name in ("fetch", "fetchrow", "fetchval", "execute"):
            call = getattr(asyncpg.Connection, name)
            patched.setattr(asyncpg.Connection, name, partialmethod(called, call=call))
        yield


QUARTER = roll.floor(datetime.now(UTC) - timedelta(hours=14), "quarter")
HOUR = QUARTER + ONE_HOUR


async def asked(pool: database.Pool, group_by: Sequence[str] = ("region",), limit: int = 10, order: str = "count") -> Quality:
    """What is about HOUR."""
    span = gather.Span(QUARTER - 6 * ONE_HOUR, QUARTER + 12 * ONE_HOUR)
    return await quality.quality(pool, gather.Names(), GAME, group_by, span, limit, order)


async def counted(connection: Database) -> list[tuple[int, int, int]]:
    """Of each dimension set: reports in deltas and minutes, in deltas and hours, in deltas and hours' totals; all of one moment."""
    found = []
    async with connection.transaction(isolation="repeatable_read", readonly=True):
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
    for statement in range(1, 20):
        one = await asyncpg.connect(database_url, server_settings={"role": "gamepulse_aggregate"})
        left = statement

        async def end_it(_: str, one: Database = one) -> None:
            nonlocal left
            if left == 0:
                await connection.execute("SELECT pg_terminate_backend($1)", one.get_server_pid())
            left -= 1

        with before_statements(monkeypatch, one, end_it):
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
    sent, is_over = 0, False

    async def go_on() -> int:
        roller = await asyncpg.connect(database_url, server_settings={"role": "gamepulse_aggregate"})
        try:
            done = 0
            while not is_over:
                done += await roll.roll(roller)
            return done
        finally:
            await roller.close()

    async with asyncio.TaskGroup() as rollers:
        rolling = [rollers.create_task(go_on()) for _ in range(3)]
        for n in range(6):
            sent += len(await send(client, random.Random(n), 10))
        await complete(client)
        await rolled(connection, is_due=True)
        is_over = True
    assert all(one.result() > 3 for one in rolling)
    assert await counted(connection) == [(sent, sent, sent)] * len(SETS)


async def test_a_roll_has_no_transaction_id_before_its_first_write(
    connection: Database, aggregator: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then no horizon waits for it: it may read and merge for long."""
    await put_delta(connection, HOUR, block([1, 2]), 1)
    found: list[tuple[str, bool]] = []

    async def look(statement: str) -> None:
        xid = await connection.fetchval("SELECT backend_xid FROM pg_stat_activity WHERE pid = $1", aggregator.get_server_pid())
        found.append((re.findall("^[A-Z]+", statement, re.MULTILINE)[0], xid is not None))

    with before_statements(monkeypatch, aggregator, look):
        while await roll.roll(aggregator):
            pass
    assert {word for word, has_xid in found if has_xid} == {"INSERT", "DELETE", "COMMIT"}
    assert {"SELECT", "DELETE"} <= {word for word, has_xid in found if not has_xid}


async def test_deltas_that_somebody_else_adds_meanwhile_are_added_once(
    connection: Database, aggregator: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the advisory lock: what is taken away must be exactly what was merged."""
    for upto in range(3):
        await put_delta(connection, HOUR, block([1, 2]), upto)
    other = await asyncpg.connect(database_url, server_settings={"role": "gamepulse_aggregate"})

    async def alone(*_: object) -> bool:
        return True

    monkeypatch.setattr(roll, "_is_alone", alone)
    overtaken = 0

    async def overtake(statement: str) -> None:
        nonlocal overtaken
        if "DELETE FROM rollup_delta" in statement and not overtaken:
            overtaken += 1
            await put_delta(connection, HOUR, block([2, 3]), 9)
            assert await roll.Piece(WHERE, "hour", HOUR).do(other)

    with before_statements(monkeypatch, aggregator, overtake), pytest.raises(roll.Taken):
        await roll.Piece(WHERE, "hour", HOUR).do(aggregator)
    await other.close()
    assert overtaken
    assert (await counted(connection))[0] == (8, 8, 8)


async def test_nothing_is_added_to_an_hour_while_its_quarter_is_made(
    connection: Database, aggregator: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock's own case: the quarter would be made of the hours of before, and no longer be stale."""
    await put_delta(connection, HOUR, block([1, 2]), 1)
    while await roll.roll(aggregator):
        pass
    await connection.execute("INSERT INTO stale_rollup VALUES (1, 1, 0, 'quarter', $1, 0, '6 hours')", QUARTER)
    await put_delta(connection, HOUR, block([2, 3]), 2)
    other = await asyncpg.connect(database_url, server_settings={"role": "gamepulse_aggregate"})
    added: list[bool] = []

    async def add(statement: str) -> None:
        if statement.startswith("INSERT INTO rollup_quarter") and not added:
            added.append(await roll.Piece(WHERE, "hour", HOUR).do(other))

    with before_statements(monkeypatch, aggregator, add):
        assert await roll.Piece(WHERE, "quarter", QUARTER).do(aggregator)
    await other.close()
    assert added == [False]
    while await roll.roll(aggregator):
        pass
    assert await connection.fetchval("SELECT sum(reports) FROM rollup_quarter") == 4
    assert await connection.fetchval("SELECT count(*) FROM stale_rollup WHERE step = 'quarter'") == 0


@pytest.mark.parametrize(("groups", "parts"), [(0, 1), (1, 1), (4, 1), (5, 2), (9, 3)])
async def test_a_quarter_is_made_in_parts(
    connection: Database, aggregator: Database, asker: database.Pool, monkeypatch: pytest.MonkeyPatch, groups: int, parts: int
) -> None:
    monkeypatch.setattr(roll, "MAKE_GROUPS", 4)
    ids = await put_names(connection, groups)
    for n in range(groups):
        await put_delta(connection, HOUR + timedelta(hours=n % 2), block(ids[: n + 1], n + 1), n)
    while await roll.Piece(WHERE, "hour", HOUR).do(aggregator) or await roll.Piece(WHERE, "hour", HOUR + ONE_HOUR).do(aggregator):
        pass
    before = await asked(asker)
    await connection.execute(MARK, QUARTER)
    quarter = roll.Piece(WHERE, "quarter", QUARTER)
    for part in range(parts):
        assert await connection.fetchval("SELECT count(*) FROM stale_rollup WHERE start = $1 AND step = 'quarter'", QUARTER) == 1
        assert await quarter.do(aggregator), part
        assert (await asked(asker)).groups == before.groups
    assert not await quarter.do(aggregator)
    assert await connection.fetchval("SELECT count(*) FROM rollup_quarter WHERE start = $1", QUARTER) == groups


@pytest.mark.parametrize("late", [[1, 4], [1, 3, 4], [3], [4]])
async def test_what_comes_between_two_parts_of_a_quarter_is_in_it(
    connection: Database, aggregator: Database, monkeypatch: pytest.MonkeyPatch, late: list[int]
) -> None:
    """Little is added to the groups that are made, with much it begins anew."""
    monkeypatch.setattr(roll, "MAKE_GROUPS", 2)
    hour, quarter = roll.Piece(WHERE, "hour", HOUR), roll.Piece(WHERE, "quarter", QUARTER)
    await put_delta(connection, HOUR, block([1, 2, 3]), 1)
    assert await hour.do(aggregator)
    assert await quarter.do(aggregator)
    await put_delta(connection, HOUR, block(late), 2)
    assert await hour.do(aggregator)
    upto = await connection.fetchval("SELECT made_upto FROM stale_rollup WHERE step = 'quarter'")
    assert upto == (0 if len(late) > roll.MAKE_GROUPS else 2)
    while await quarter.do(aggregator):
        pass
    expected = Counter([1, 2, 3, *late])
    made = await connection.fetch("SELECT dimension_id, reports FROM rollup_quarter ORDER BY dimension_id")
    assert [tuple(row) for row in made] == sorted(expected.items())
    total = await connection.fetchrow("SELECT * FROM rollup_total WHERE step = 'quarter'")
    assert total is not None
    assert (total["reports"], roll.ranks_of(total).reports.tolist()) == (expected.total(), [n for _, n in sorted(expected.items())])


async def test_a_roll_takes_so_many_deltas_and_bytes_and_the_next_one_follows(
    connection: Database, aggregator: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def left_of(count: int) -> int:
        await connection.execute("DELETE FROM rollup_delta")
        for upto in range(count):
            await put_delta(connection, HOUR, block([1, 2]), upto)
        assert await roll.Piece(WHERE, "hour", HOUR).do(aggregator)
        left: int = await connection.fetchval("SELECT count(*) FROM rollup_delta")
        return left

    size = len(encode(block([1, 2])))
    with monkeypatch.context() as patched:
        patched.setattr(roll, "ROLL_DELTAS_MAX", 3)
        assert [await left_of(count) for count in (3, 4)] == [0, 1]
    monkeypatch.setattr(roll, "ROLL_BYTES_MAX", 3 * size)  # the one that passes the limit is taken too
    assert [await left_of(count) for count in (3, 4)] == [0, 1]


async def test_a_piece_that_fails_again_is_left_out_for_longer(
    connection: Database, aggregator: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(roll, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(roll, "LEFT_OUT_FIRST_S", 1.0)
    monkeypatch.setattr(roll, "LEFT_OUT_S", 4.0)
    await put_delta(connection, HOUR, block([1]), 1)
    tried: list[float] = []

    async def fail(*_: object) -> bool:
        tried.append(now)
        raise asyncpg.DeadlockDetectedError

    with monkeypatch.context() as patched:
        patched.setattr(roll.Piece, "do", fail)
        telemetry = Telemetry(settings.load(service_environ(database_url)), "test")
        roller = roll.Roller(telemetry)
        while len(tried) < 6:
            assert await roller.roll(aggregator) is False
            now += 0.25
    assert [later - earlier for earlier, later in pairwise(tried)] == [1, 2, 4, 4, 4]
    now += 4
    assert await roller.roll(aggregator) is True


async def test_what_takes_long_to_find_is_done_all_the_same(
    connection: Database, aggregator: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many deltas it takes longer to find what is due than rolling up may take; and finding it may fail."""
    due, now = roll._due, 1000.0
    monkeypatch.setattr(roll, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(roll, "ROLL_FOR_S", 0.5)
    for n in range(2):
        await put_delta(connection, HOUR - n * timedelta(hours=1), block([1]), 1)

    async def slow(own: Database) -> list[roll.Piece]:
        nonlocal now
        now += 1
        return await due(own)

    async def fail(_: Database) -> list[roll.Piece]:
        raise asyncpg.QueryCanceledError

    roller = roll.Roller(Telemetry(settings.load(service_environ(database_url)), "test"))
    monkeypatch.setattr(roll, "_due", fail)
    assert await roller.roll(aggregator) is False
    monkeypatch.setattr(roll, "_due", slow)
    assert await roller.roll(aggregator) is True
    assert await connection.fetchval("SELECT count(*) FROM rollup_delta") == 0


async def test_deltas_are_deleted_each_by_its_key(connection: Database) -> None:
    """Whatever PostgreSQL takes their number to be: all columns of the key are looked up in the index."""
    statement = database.queries("aggregate")["delete_deltas"]
    plan = "\n".join([row[0] for row in await connection.fetch(f"EXPLAIN (GENERIC_PLAN) {statement}", 1, 1, 1, [], [], [])])
    condition = plan[plan.index("Index Cond") :].splitlines()[0]
    for column in ("studio_id", "game_id", "dimension_set", "start", "shard", "upto"):
        assert column in condition, plan


async def test_how_long_the_oldest_delta_waits_is_told(connection: Database, aggregator: Database, database_url: str) -> None:
    telemetry = Telemetry(settings.load(service_environ(database_url)), "test")
    roller = roll.Roller(telemetry)

    def told() -> float:
        for observe in telemetry.observe:
            observe()
        ages = [one for one in telemetry.metrics.points(1) if one.name == "aggregate.delta.age"]
        return ages[0].gauge.data_points[0].as_double

    await put_delta(connection, HOUR, block([1]), 1)
    await connection.execute("UPDATE rollup_delta SET at = now() - interval '100 s'")
    await roller.roll(aggregator)  # it is seen before it is rolled up
    assert told() == pytest.approx(100, abs=5)
    await roller.roll(aggregator)
    assert told() == 0


async def test_a_piece_that_fails_is_left_out_and_the_others_go_on(
    client: httpx.AsyncClient, connection: Database, aggregator: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roll, "ROLL_EVERY_S", 0.0)
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poison'; END $$;"
        "CREATE TRIGGER poison BEFORE INSERT ON rollup_hour FOR EACH ROW WHEN (new.dimension_set = 1) EXECUTE FUNCTION refuse()"
    )
    monkeypatch.setattr(roll, "LEFT_OUT_FIRST_S", 60)
    sent = len(await send(client, random.Random(1), 10))
    await complete(client)
    telemetry = Telemetry(settings.load(service_environ(database_url)), "test")
    roller, another = roll.Roller(telemetry), roll.Roller(telemetry)
    assert await _waiting_after(roller, aggregator, connection, [1]) == [1]
    assert await counted(connection) == [(sent, sent, sent)] * len(SETS)  # what failed still waits, and counts
    # Not by taking the trigger away: that locks tables which a roll has just in hand.
    await connection.execute("CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$")
    assert await roller.roll(aggregator) is False  # not yet again
    assert await _waiting_after(another, aggregator, connection, []) == []


async def _waiting_after(roller: roll.Roller, aggregator: Database, connection: Database, expected: list[int]) -> list[int]:
    """The sets of which deltas wait when the roller has done what it can; a piece that the service's own has just in hand is waited for."""
    for _ in range(100):
        while await roller.roll(aggregator):
            pass
        rows = await connection.fetch("SELECT DISTINCT dimension_set FROM rollup_delta ORDER BY 1")
        waiting = [row["dimension_set"] for row in rows]
        if waiting == expected:
            break
        await asyncio.sleep(0.1)
    return waiting
