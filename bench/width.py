"""How wide the rollups become, how fast the aggregator drains, and how both and questions stay as history grows.

`python -m bench.width` (12 min, 15 GB of disk for a while; `--quick` shows in one minute that it works) makes players with the
data's distributions (population.py), counts and encodes them with the service's own code, and prints two tables; JSON in results/.
"""

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import Any

import asyncpg
import click
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from bench import database
from bench.population import Part, parts
from bench.servers import ROOT, free_ports
from gamepulse import aggregate, gather, migrate, quality, roll, settings
from gamepulse.labels import COMBINATIONS_MAX, Labels
from gamepulse.quality import Game
from gamepulse.receive import SHARDS
from gamepulse.rollup import CARRIER, REPORTS, SETS, Block, encode, merge
from gamepulse.rows import Read
from gamepulse.tally import Columns, Combination, Thresholds
from gamepulse.telemetry import Telemetry

RESULTS = ROOT / "bench" / "results"
REPORTS_A_MINUTE = 12  # one each 5 s
BATCH = 20
GROUP_BY = ("country", "network")
THRESHOLDS = {1: Thresholds(200, 30, 0.05)}
GAME = Game(1, 1, "demo")
HOUR = timedelta(hours=1)
HOURS = 30
type Connection = asyncpg.Connection[asyncpg.Record]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of each."""

    players: tuple[int, ...]
    backlog: int
    """Reports to drain."""
    history: tuple[int, ...]
    """Rollup rows."""
    hour_players: int
    """Whose hours history is made of."""
    questions: int


FULL = Plan((1_000, 100_000, 1_000_000), 2_000_000, (150_000, 1_000_000, 10_000_000), 50_000, 300)
QUICK = Plan((1_000, 10_000), 200_000, (100_000, 200_000), 10_000, 20)


# -- rows and bytes a minute -------------------------------------------------------------------------------------------------------


class _Ids:
    """Numbers for combinations, within the limits of labels.py, without a database."""

    def __init__(self) -> None:
        self.labels = Labels()
        self._ids: dict[Combination, int] = {}
        self._counts = [0] * len(SETS)

    def of(self, combinations: Sequence[Combination]) -> Any:
        """The id of each."""
        return np.array([self._id(one) for one in combinations])

    def _id(self, one: Combination) -> int:
        if one not in self._ids:
            if self._counts[one[2]] >= COMBINATIONS_MAX:
                one = (*one[:3], ("(other)",) * len(SETS[one[2]]))
            self._counts[one[2]] += one not in self._ids
        return self._ids.setdefault(one, len(self._ids) + 1)


def count(some: Sequence[Part], ids: _Ids) -> dict[tuple[int, int], Block]:
    """The blocks of parts by dimension set and minute."""
    columns = Columns(some, THRESHOLDS, ids.labels.bounded)  # type: ignore[arg-type]  # parts are read as records are
    found = {}
    for number in range(len(SETS)):
        combinations, of = columns.combinations(number)
        for delta in columns.deltas(combinations, of, ids.of(combinations)):
            found[number, delta.start_min] = delta.block
    return found


def minute(players: int, reports: int, sessions: int = 1) -> dict[int, Block]:
    """The blocks of one minute (or more) of so many players, by dimension set: all their reports as if in one minute."""
    at = datetime.now(UTC).replace(second=59, microsecond=0)
    ids, merged = _Ids(), dict[int, Block]()
    for some in batched(parts(players, reports, 1, at, 1, sessions), 20_000, strict=False):
        for (number, _), block in count(some, ids).items():
            merged[number] = merge([merged[number], block]) if number in merged else block
    return merged


def widths(players: int) -> list[dict[str, object]]:
    """Groups and bytes of each set: a minute's block, and an hour's rows with twice as many sessions as players."""
    found: list[dict[str, object]] = []
    for number, block in minute(players, REPORTS_A_MINUTE).items():
        found.append({
            "players": players, "set": " · ".join(SETS[number]), "groups": len(block),
            "reports": int(block.counts[:, REPORTS].sum()), "minute_bytes": len(encode(block)),
            "hour_row_bytes": sum(len(one) for column in Read.of(block).columns()[-4:] for one in column) + len(block) * 8 * 16,
        })  # fmt: skip
    return found


# -- draining ----------------------------------------------------------------------------------------------------------------------


async def put_backlog(connection: Connection, reports: int, players: int, seed: int) -> None:
    """Batches of so many reports, as ingest stores them: from the database's owner, in transactions of 200 batches."""
    at = datetime.now(UTC)
    dice = random.Random(seed)
    names = ("received_at", "studio_id", "game_id", "rejected", "session_id", "labels", "records", "shard")
    every = (part for n in range(10**6) for part in parts(players, BATCH, seed + n, at, 500))
    for some in batched((next(every) for _ in range(reports // BATCH)), 200, strict=False):
        records = [(one[1], one[2], one[3], one[4], one[5], one[6], one[9], dice.randrange(SHARDS)) for one in some]
        await connection.copy_records_to_table("raw_batch", records=records, columns=names)


async def drain(url: str, owner: Connection, reports: int, players: int, seed: int) -> dict[str, float]:
    """How fast one aggregator counts a backlog, rolling up beside it as always; CPU of both sides."""
    await put_backlog(owner, reports, players, seed)
    await owner.execute("ANALYZE raw_batch")
    configured = settings.load({"GAMEPULSE_DATABASE_URL": url, "GAMEPULSE_PLAYER_HASH_KEY": "5a" * 32})
    telemetry = Telemetry(configured, "bench")
    leader = aggregate.Aggregator(configured, telemetry)
    started, used = time.monotonic(), time.process_time()
    running = asyncio.create_task(leader.run())
    horizon = await owner.fetchval("SELECT max(xid)::text::bigint FROM raw_batch")
    async with asyncio.timeout(900):
        while await owner.fetchval("SELECT min(upto)::text::bigint FROM watermark") <= horizon:  # noqa: ASYNC110 — PostgreSQL has no event
            await asyncio.sleep(0.1)
    seconds, used = time.monotonic() - started, time.process_time() - used
    leader.stop()
    await running
    await leader.close()
    await telemetry.close()
    return {"reports_per_s": reports / seconds, "seconds": seconds, "aggregator_cpu_s": used}


# -- history -----------------------------------------------------------------------------------------------------------------------

COPY_HOUR = """
INSERT INTO rollup_hour SELECT studio_id, game_id, dimension_id, start - hours * interval '1 hour', {rest}
FROM rollup_hour, generate_series($2::integer, $3::integer) AS hours WHERE dimension_set = 4 AND start = $1
"""
COPY_TOTAL = """
INSERT INTO rollup_total (studio_id, game_id, dimension_set, step, start, group_ids, group_reports, group_sessions,
    group_bad_sessions, {measures})
SELECT studio_id, game_id, dimension_set, step, start - hours * interval '1 hour', group_ids, group_reports, group_sessions,
    group_bad_sessions, {measures}
FROM rollup_total, generate_series($2::integer, $3::integer) AS hours WHERE dimension_set = 4 AND step = 'hour' AND start = $1
"""


async def put_hours(connection: Connection, players: int, now: datetime) -> int:
    """The last hours of country × network, made by roll.py from what these players say; the number of their rows."""
    labels = Labels()
    await labels.load(connection, [(1, 1)])
    for hours in range(HOURS):
        some = list(parts(players, REPORTS_A_MINUTE, hours % 4, now, 1))
        columns = Columns(some, THRESHOLDS, labels.bounded)  # type: ignore[arg-type]  # parts are read as records are
        combinations, of = columns.combinations(CARRIER)
        await labels.name(connection, combinations)
        for delta in columns.deltas(combinations, of, labels.ids(combinations)):
            await connection.execute(
                "INSERT INTO rollup_delta (studio_id, game_id, dimension_set, shard, start, upto, at, since, groups, reports,"
                " block) VALUES (1, 1, 4, 0, $1, $2, 'epoch', now(), $3, 1, $4)",
                now - hours * HOUR, hours, len(delta.block), encode(delta.block),
            )  # fmt: skip
    while await roll.roll(connection):
        pass
    rows: int = await connection.fetchval("SELECT count(*) FROM rollup_hour WHERE dimension_set = 4")
    return rows


async def grow(connection: Connection, rows: int, now: datetime) -> int:
    """Older hours until there are so many rollup rows; how many there are."""
    have = await connection.fetchval("SELECT count(*) FROM rollup_hour")
    hour = now.replace(minute=0, second=0, microsecond=0)
    an_hour = await connection.fetchval("SELECT count(*) FROM rollup_hour WHERE dimension_set = 4 AND start = $1", hour)
    done = await connection.fetchval("SELECT extract(epoch FROM $1 - min(start))::integer / 3600 FROM rollup_hour", hour)
    more = max(rows - have, 0) // an_hour
    first = (hour - (done + more + 24) * HOUR).date()
    await connection.execute("SELECT create_partitions($1, $2)", first, hour.date())
    rest = ", ".join(["dimension_set", *roll.MEASURES.split(", ")])
    for since in range(done + 1, done + more + 1, 50):
        until = min(since + 49, done + more)
        await connection.execute(COPY_HOUR.format(rest=rest), hour, since, until)
        await connection.execute(COPY_TOTAL.format(measures=roll.MEASURES), hour, since, until)
    await connection.execute("ANALYZE rollup_hour, rollup_total")
    total: int = await connection.fetchval("SELECT count(*) FROM rollup_hour")
    return total


async def settle(connection: Connection) -> None:
    """Until what was drained at once is rolled up, as it is 15 s later."""
    await connection.execute("UPDATE rollup_delta SET at = 'epoch'")
    while await roll.roll(connection):
        pass
    await connection.execute("VACUUM ANALYZE rollup_hour")


async def ask(url: str, questions: int, now: datetime) -> dict[str, float]:
    """Milliseconds of questions over 24 h by country × network, each over other hours."""
    pool = await asyncpg.create_pool(url, server_settings={"role": "gamepulse_query", "jit": "off"}, min_size=1, max_size=1)
    names, dice, took_ms = gather.Names(), random.Random(3), []
    async with pool:
        for _ in range(questions):
            end = now.replace(minute=0, second=0) - dice.randrange(-1, 23) * HOUR
            started = time.perf_counter()
            answer = await quality.quality(pool, names, GAME, list(GROUP_BY), gather.Span(end - 24 * HOUR, end), 100, "count")
            took_ms.append((time.perf_counter() - started) * 1e3)
    assert len(answer.groups) == 100
    assert answer.remainder is not None
    centiles = statistics.quantiles(took_ms[5:], n=100)  # the first ones read the names of dimensions, once a process
    return {"p50_ms": centiles[49], "p99_ms": centiles[98]}


async def history(url: str, plan: Plan, console: Console) -> list[dict[str, float]]:
    """Drain rate and questions at each size of history."""
    now = datetime.now(UTC).replace(minute=30, second=59, microsecond=0)
    found = []
    async with AsyncExitStack() as stack:
        owner = await asyncpg.connect(url, command_timeout=3600)
        stack.push_async_callback(owner.close)
        await owner.execute("SELECT create_partitions($1, $2)", (now - timedelta(days=3)).date(), now.date() + timedelta(days=1))
        rows = await put_hours(owner, plan.hour_players, now)
        console.print(f"{rows} rows of the last hours")
        for size in plan.history:
            rows = await grow(owner, size, now)
            drained = await drain(url, owner, plan.backlog, plan.hour_players, size)
            await settle(owner)
            asked = await ask(url, plan.questions, now)
            groups = await owner.fetchval("SELECT count(DISTINCT (country, network)) FROM dimension WHERE dimension_set = 4")
            found.append({"rows": rows, "groups": groups} | drained | asked)
            console.print(found[-1])
    return found


@click.command()
@click.option("--quick", is_flag=True, help="Small numbers: shows that it works.")
@click.option("--only", type=click.Choice(["widths", "history"]), help="Only one part.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the JSON.")
def main(quick: bool, only: str | None, results: Path) -> None:
    """Measure the width of the rollups on this machine."""
    console, plan = Console(width=160), QUICK if quick else FULL
    outcome: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan": asdict(plan),
        "load": psutil.getloadavg()[0],
    }
    if only != "history":
        outcome["widths"] = [row for players in plan.players for row in widths(players)]
        console.print(table("one minute", outcome["widths"]))
    if only != "widths":
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            port = free_ports()[0]
            stack.enter_context(database.postgres(folder / "postgres", port))
            asyncio.run(migrate.migrate(database.url(port)))
            asyncio.run(migrate.put_demo(database.url(port), "a" * 43, "b" * 43))
            outcome["history"] = asyncio.run(history(database.url(port), plan, console))
        console.print(table("as history grows", outcome["history"]))
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"width-{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
    path.write_text(json.dumps(outcome, indent=2) + "\n")
    console.print(f"written to {path}")


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Rows as they are printed."""
    shown = Table(title=title)
    for name in rows[0]:
        shown.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        shown.add_row(*(f"{cell:,.0f}" if isinstance(cell, int | float) else str(cell) for cell in row.values()))
    return shown


if __name__ == "__main__":
    main()
