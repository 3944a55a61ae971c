"""How many values and combinations of them are kept apart, though several aggregators add them at a time."""

import asyncio

import asyncpg
import pytest

from gamepulse import labels
from gamepulse.labels import Labels
from gamepulse.origins import Combination
from gamepulse.rollup import OTHER, PLACE, SERVER, UNKNOWN, VALUES_MAX

type Database = asyncpg.Connection[asyncpg.Record]


def _places(regions: list[str]) -> list[Combination]:
    return [(1, 1, PLACE, (region, "ZZ")) for region in regions]


async def _step(one: Labels, connection: Database, regions: list[str]) -> set[str]:
    """What an aggregator does with the regions of a step."""
    await one.load(connection, {(1, 1)})
    bounded = [one.bounded(1, "region", region) for region in regions]
    await one.name(connection, _places(bounded))
    assert len(one.ids(_places(bounded))) == len(regions)
    return set(bounded)


async def test_two_aggregators_keep_one_limit_of_values(connection: Database) -> None:
    first, second, limit = Labels(), Labels(), VALUES_MAX["region"]
    mine, theirs = [f"mine-{n}" for n in range(limit - 40)], [f"theirs-{n}" for n in range(40)]
    assert await _step(first, connection, mine[:30]) == set(mine[:30])
    assert await _step(second, connection, theirs[:20]) == set(theirs[:20])
    assert await _step(first, connection, mine[:40]) == set(mine[:40])
    assert await _step(second, connection, theirs) == set(theirs)
    assert await _step(first, connection, [*mine, "late"]) == {*mine, OTHER}  # it has read that the other has 40
    assert await _step(second, connection, ["late", UNKNOWN, *mine]) == {OTHER, UNKNOWN, *mine}  # what the other knows passes
    assert await _step(first, connection, theirs) == set(theirs)
    named = "SELECT count(DISTINCT region) FROM dimension WHERE region NOT IN ($1, $2)"
    assert await connection.fetchval(named, OTHER, UNKNOWN) == limit
    third, fourth = Labels(), Labels()  # at the same moment: each takes what was free
    await connection.execute("DELETE FROM dimension")
    await third.load(connection, {(1, 1)})
    await fourth.load(connection, {(1, 1)})
    for one, name in ((third, "a"), (fourth, "b")):
        await one.name(connection, _places([one.bounded(1, "region", f"{name}-{n}") for n in range(limit + 20)]))
    assert await connection.fetchval(named, OTHER, UNKNOWN) == 2 * limit
    assert await _step(third, connection, ["more", "b-7"]) == {OTHER, "b-7"}


async def test_no_added_value_is_passed_over(connection: Database, database_url: str) -> None:
    """Though its row has a lower id than one that another process has added, and read, meanwhile."""
    first, second, reader = Labels(), Labels(), Labels()
    other = await asyncpg.connect(database_url)
    await first.load(connection, {(1, 1)})
    async with connection.transaction():
        await first.name(connection, _places(["slow"]))
        adding = asyncio.create_task(_step(second, other, ["quick"]))
        await asyncio.sleep(0.3)
        third = await asyncpg.connect(database_url)
        await reader.load(third, {(1, 1)})
    await adding
    await reader.load(third, {(1, 1)})
    await connection.execute("DELETE FROM dimension")  # so that it can only know what it has read
    assert {reader.ids(_places([region]))[0] > 0 for region in ("slow", "quick")} == {True}
    await other.close()
    await third.close()


async def test_combinations_are_bounded(connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "COMBINATIONS_MAX", 5)
    one = Labels()
    await one.load(connection, {(1, 1)})
    combinations: list[Combination] = [(1, 1, SERVER, ("r", f"s{n}")) for n in range(8)]
    for _ in range(2):
        await one.name(connection, combinations)
        ids = one.ids(combinations).tolist()
        assert len(set(ids[:5])) == 5
        assert set(ids[5:]) & set(ids[:5]) == set()
        assert len(set(ids[5:])) == 1
    rows = await connection.fetch("SELECT region, server FROM dimension")
    assert {tuple(row) for row in rows} == {*(("r", f"s{n}") for n in range(5)), (OTHER, OTHER)}


async def test_what_was_seen_so_long_ago_still_counts(connection: Database) -> None:
    await connection.execute(
        "INSERT INTO dimension (studio_id, game_id, dimension_set, region, country, seen)"
        " SELECT 1, 1, 0, 'old-' || n, 'ZZ', (now() AT TIME ZONE 'UTC')::date - $2::integer FROM generate_series(1, $1::integer) AS n",
        VALUES_MAX["region"], labels.ACTIVE_DAYS,
    )  # fmt: skip
    assert await _step(Labels(), connection, ["new", "old-7"]) == {OTHER, "old-7"}
