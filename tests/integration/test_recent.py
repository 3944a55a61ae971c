"""The last 23 hours together: made in time, right whatever comes late, used while they are right and no longer."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import numpy as np
import pytest

from gamepulse import database, gather, quality, roll, rows
from gamepulse.asker import Game
from tests.conftest import complete, rolled
from tests.deltas import WHERE, block, put_delta, put_names

HOUR, WIDTH = timedelta(hours=1), roll.STEPS["recent"]
GAME = Game(1, 1, "demo")
STALE = "INSERT INTO stale_rollup VALUES (1, 1, 0, $1, $2, 0, '23 hours')"
ROWS = f"SELECT dimension_id, {roll.MEASURES}"
TOTAL = f"SELECT {roll.MEASURES}, group_ids, group_reports, group_sessions, group_bad_sessions FROM rollup_total"
OF_HOURS = """
SELECT dimension_id, sum(reports)::bigint AS reports FROM rollup_hour
WHERE start >= $1 AND start < $1 + interval '23 hours' GROUP BY 1 ORDER BY 1"""
OF_RECENT = "SELECT dimension_id, reports FROM rollup_recent WHERE start = $1 ORDER BY 1"
type Database = asyncpg.Connection[asyncpg.Record]


pytestmark = pytest.mark.timeout(240)  # of which an hour is waited for, at most


@pytest.fixture(autouse=True)
def within_an_hour() -> None:
    """Wait where an hour would begin during the test, or the last one be due meanwhile: what is running is asked anew each time."""
    into_hour_s = time.time() % 3600
    if into_hour_s >= 3540 or 60 <= into_hour_s < 91:
        time.sleep(3601 - into_hour_s if into_hour_s >= 3540 else 91 - into_hour_s)


def running() -> datetime:
    return roll.floor(datetime.now(UTC), "hour")


def ended() -> list[datetime]:
    """When recent hours begin that must be there: those that ended 90 s ago."""
    now = datetime.now(UTC)
    return [start for n in roll.RECENT_KEPT if (start := running() - n * HOUR) + WIDTH + timedelta(seconds=90) < now]


async def roll_all(aggregator: Database) -> None:
    while await roll.roll(aggregator):
        pass


async def put_day(connection: Database, ids: list[int], dice: random.Random) -> None:
    """Something in each hour of the last 30."""
    for hours in range(30):
        await put_delta(connection, running() - hours * HOUR, block(sorted(dice.sample(ids, 3)), dice.randrange(1, 5)), hours)


async def last_day(pool: database.Pool, order: str = "count") -> quality.Quality:
    asked = gather.Span(running() - 24 * HOUR, running() + HOUR)
    return await quality.quality(pool, gather.Names(), GAME, ["region"], asked, 2, order)


async def wrong(connection: Database) -> list[tuple[str, datetime]]:
    """What is kept right and not marked, and not in all measures what its hours come to, group by group and in total."""
    found = []
    for step, start in await connection.fetch(
        "SELECT step, start FROM rollup_total WHERE step <> 'hour' AND (step, start) NOT IN (SELECT step, start FROM stale_rollup)"
        " AND (step <> 'recent' OR start >= $1)",
        running() - 25 * HOUR,
    ):
        hours = await connection.fetch(f"{ROWS} FROM rollup_hour WHERE start >= $1 AND start < $2", start, start + roll.STEPS[step])
        ids, owner = np.unique([row["dimension_id"] for row in hours], return_inverse=True)
        expected = rows.read(hours, 1).together(owner, len(ids))
        stored = await connection.fetch(f"{ROWS} FROM rollup_{step} WHERE start = $1 ORDER BY dimension_id", start)
        total = await connection.fetch(f"{TOTAL} WHERE step = $1 AND start = $2", step, start)
        is_right = rows.read(stored, 1).columns() == expected.columns()
        is_right &= rows.read(total, 0).columns() == rows.one_row([expected]).columns()
        is_right &= [one.tolist() for one in roll.ranks_of(total[0])] == [one.tolist() for one in roll.rank(ids, expected)]
        if not is_right:
            found.append((step, start))
    return found


async def test_they_are_what_the_hours_come_to(connection: Database, aggregator: Database) -> None:
    await put_day(connection, await put_names(connection, 5), random.Random(1))
    await roll_all(aggregator)
    made = [row["start"] for row in await connection.fetch("SELECT start FROM rollup_total WHERE step = 'recent'")]
    assert set(made) >= {*ended()}
    assert min(made) >= running() - max(roll.RECENT_KEPT) * HOUR
    for start in made:
        groups = await connection.fetch(OF_RECENT, start)
        assert groups
        assert groups == await connection.fetch(OF_HOURS, start)
    assert await wrong(connection) == []


@pytest.mark.parametrize("order", ["count", "bad_sessions"])
async def test_the_last_day_is_answered_by_them_while_they_are_right(
    connection: Database, aggregator: Database, asker: database.Pool, order: str
) -> None:
    await put_day(connection, await put_names(connection, 5), random.Random(2))
    await roll_all(aggregator)
    start = running() - 24 * HOUR
    for step in ("recent", "day"):  # at midnight it would be the day that answers
        await connection.execute(STALE + " ON CONFLICT DO NOTHING", step, start)
    by_hours = await last_day(asker, order)
    await connection.execute("DELETE FROM stale_rollup WHERE step = 'recent' AND start = $1", start)
    assert (await last_day(asker, order)).groups == by_hours.groups
    assert (await last_day(asker, order)).remainder == by_hours.remainder
    for table in ("rollup_hour", "rollup_quarter"):
        await connection.execute(f"DELETE FROM {table} WHERE start < $1", running() - HOUR)
    assert (await last_day(asker, order)).groups == by_hours.groups
    await connection.execute("DELETE FROM rollup_recent")
    assert (await last_day(asker, order)).groups != by_hours.groups


@pytest.mark.parametrize("groups_max", [200, 2])
async def test_what_comes_late_is_added_when_it_is_little_and_made_anew_when_it_is_much(
    connection: Database, aggregator: Database, monkeypatch: pytest.MonkeyPatch, groups_max: int
) -> None:
    ids = await put_names(connection, 6)
    await put_day(connection, ids, random.Random(3))
    await roll_all(aggregator)
    monkeypatch.setattr(roll, "MAKE_GROUPS", groups_max)
    dice, marked = random.Random(4), 0
    for upto, hours in enumerate(range(2, 26), 100):
        late = running() - hours * HOUR
        held = [step for step, start in await connection.fetch("SELECT step, start FROM rollup_total") if holds(step, start, late)]
        before = await connection.fetchval("SELECT count(*) FROM stale_rollup")
        await put_delta(connection, late, block(sorted(dice.sample(ids, 4)), 2), upto)
        assert await roll.Piece(WHERE, "hour", late).do(aggregator)
        assert len(held) > 1
        assert await wrong(connection) == []  # at no moment
        marked += await connection.fetchval("SELECT count(*) FROM stale_rollup") - before
        if upto % 3 == 0:
            await roll_all(aggregator)
    assert (marked > 0) == (groups_max == 2)
    await roll_all(aggregator)
    assert await wrong(connection) == []
    for start in ended():
        assert await connection.fetch(OF_RECENT, start) == await connection.fetch(OF_HOURS, start)


def holds(step: str, start: datetime, hour: datetime) -> bool:
    return start <= hour < start + roll.STEPS[step]


async def test_a_day_is_not_made_of_a_quarter_that_is_not_right(connection: Database, aggregator: Database) -> None:
    await put_day(connection, await put_names(connection, 5), random.Random(10))
    await roll_all(aggregator)
    day = roll.floor(running(), "day") - timedelta(days=1)
    for step in ("quarter", "day"):  # since it was looked what is due; just after midnight they are marked anyway
        await connection.execute(STALE + " ON CONFLICT DO NOTHING", step, day)
    assert not await roll.Piece(WHERE, "day", day).do(aggregator)
    assert await roll.Piece(WHERE, "quarter", day).do(aggregator)
    assert await roll.Piece(WHERE, "day", day).do(aggregator)
    assert await wrong(connection) == []


async def test_the_longest_span_may_begin_within_an_hour(connection: Database, aggregator: Database, asker: database.Pool) -> None:
    """It is widened to whole hours, to more than 366 days."""
    await put_day(connection, await put_names(connection, 5), random.Random(11))
    await roll_all(aggregator)
    asked = gather.Span(running() + HOUR / 2 - quality.SPAN_MAX, running() + HOUR / 2)
    for order in ("count", "sessions"):
        told = await quality.quality(asker, gather.Names(), GAME, ["region"], asked, 3, order)
        assert told.to - told.from_ == quality.SPAN_MAX + HOUR
        assert told.remainder is not None
        reports = sum(group.count for group in [*told.groups, told.remainder])
        assert reports == await connection.fetchval("SELECT sum(reports) FROM rollup_hour")


async def test_what_is_kept_right_no_more_is_not_used(connection: Database, aggregator: Database, asker: database.Pool) -> None:
    """An aggregator keeps them right for an hour longer than questions use them, should their clocks differ."""
    await put_day(connection, await put_names(connection, 5), random.Random(5))
    await roll_all(aggregator)
    for hours, is_used in ((25, True), (26, False)):
        start = running() - hours * HOUR
        asked = gather.Span(start, start + 24 * HOUR)
        of = gather.Of(1, 1, 0, ("region",))
        await connection.execute("DELETE FROM rollup_total WHERE step = 'day'")
        async with database.studio(asker, 1) as reader:
            found = await gather.sources(reader, of, asked, quality.SPAN_MAX, is_total=False)
        used = [one for part in found.coarse.values() for one in part]
        assert (roll.Start("recent", start) in used) == is_used, hours
        assert start in {row[0] for row in await connection.fetch("SELECT start FROM rollup_total WHERE step = 'recent'")}


async def test_they_go_when_nobody_asks_for_them_any_more(connection: Database, aggregator: Database) -> None:
    await put_day(connection, await put_names(connection, 5), random.Random(6))
    await roll_all(aggregator)
    groups = await connection.fetchval("SELECT count(*) FROM rollup_recent WHERE start = $1", ended()[0])
    kept = await connection.fetchval("SELECT count(*) FROM rollup_recent") - groups
    for table in ("rollup_recent", "rollup_total"):
        old = running() - 29 * HOUR
        where = "start = $1" if table == "rollup_recent" else "start = $1 AND step = 'recent'"
        await connection.execute(f"UPDATE {table} SET start = $2 WHERE {where}", ended()[0], old)
    await connection.execute(STALE, "recent", old)
    queries = database.queries("aggregate")
    for name in ("forget_recent", "forget_recent_marks"):
        await aggregator.execute(queries[name])
    told = [await aggregator.execute(queries["forget_recent_groups"], groups - 1) for _ in range(3)]
    assert told == [f"DELETE {groups - 1}", "DELETE 1", "DELETE 0"]
    assert await connection.fetchval("SELECT count(*) FROM rollup_recent") == kept
    for table in ("stale_rollup", "rollup_total"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE step = 'recent' AND start = $1", old) == 0
        assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE step = 'recent'") > 0


async def test_while_an_aggregator_of_the_version_before_rolls_there_are_none(connection: Database, aggregator: Database) -> None:
    """It does not mark them: in a deployment, and after going back."""
    ids = await put_names(connection, 5)
    await put_day(connection, ids, random.Random(8))
    await roll_all(aggregator)
    for step in ("quarter", "day", "quarter"):
        await aggregator.execute(
            "INSERT INTO stale_rollup (studio_id, game_id, dimension_set, step, start) VALUES (1, 1, 0, $1, $2)"
            " ON CONFLICT (studio_id, game_id, dimension_set, step, start) DO UPDATE SET made_upto = 0 WHERE stale_rollup.made_upto > 0",
            step, roll.floor(running(), "day") - timedelta(days=1),
        )  # fmt: skip
    for table in ("stale_rollup", "rollup_total"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE step = 'recent'") == 0
    widths = await connection.fetch("SELECT DISTINCT step, width FROM stale_rollup ORDER BY step")
    assert [tuple(row) for row in widths] == [("day", timedelta(days=1)), ("quarter", timedelta(hours=6))]
    await put_day(connection, ids, random.Random(9))
    await roll_all(aggregator)
    assert await wrong(connection) == []
    assert {row[0] for row in await connection.fetch("SELECT start FROM rollup_total WHERE step = 'recent'")} >= {*ended()}


async def test_aggregators_make_them_by_themselves(client: httpx.AsyncClient, connection: Database) -> None:
    await complete(client)  # the service's aggregator runs
    await put_day(connection, await put_names(connection, 3), random.Random(7))
    await rolled(connection, is_due=True)
    for _ in range(200):
        made = await connection.fetch(
            "SELECT start FROM rollup_total WHERE step = 'recent' AND start NOT IN (SELECT start FROM stale_rollup)"
        )
        if {row["start"] for row in made} >= {*ended()}:
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail(f"only {made} are made")
    assert await wrong(connection) == []
