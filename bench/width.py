"""How wide the rollups become, how fast the aggregator drains, and how both and questions stay as history grows.

`python -m bench.width` (15 min, 15 GB of disk for a while; `--quick` shows in 20 s that it works) makes players with the data's
distributions (population.py), counts and encodes them with the service's own code, and prints tables and targets; JSON of a whole
run in results/. The peak that draining is compared with is measured first, as the benchmark's row `gamepulse`.
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
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched, chain, islice, repeat
from pathlib import Path
from typing import Any

import asyncpg
import click
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from bench import closed_loop, database, figures, load
from bench.figures import Figures, Round
from bench.machine import surroundings
from bench.population import Part, parts
from bench.servers import ROOT, free_ports
from bench.tables import targets_table
from bench.targets import SERVICE, Target, at_least, at_most, figure, judge
from gamepulse import aggregate, gather, migrate, quality, receive, records, roll
from gamepulse.asker import Game
from gamepulse.database import open_pool
from gamepulse.geography import Place
from gamepulse.keys import IngestKey
from gamepulse.labels import COMBINATIONS_MAX, Labels
from gamepulse.origins import Combination, Origins
from gamepulse.rollup import CARRIER, REPORTS, SETS, Block, encode, merge
from gamepulse.rows import Read
from gamepulse.spans import RequestFacts
from gamepulse.tally import Columns, Thresholds

RESULTS = ROOT / "bench" / "results"
REPORT_EVERY_S = 5
REPORTS_A_MINUTE = 60 // REPORT_EVERY_S
BATCH = load.REPORTS
BATCH_EVERY_S = BATCH * REPORT_EVERY_S
COMMIT = 24
"""Batches, as the service has at its peak."""
SESSIONS = 1_000
"""Of the benchmark's load (load.lua)."""
WARM_UP = 5
"""Questions that are not counted: they read the names of dimensions, which a process does once."""
GROUP_BY = ("country", "network")
THRESHOLDS = {1: Thresholds(200, 30, 0.05)}
GAME = Game(1, 1, "demo")
HOUR = timedelta(hours=1)
HOURS = 20
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
    peak_runs: int
    peak: figures.Plan


FULL = Plan((1_000, 100_000, 1_000_000), 2_000_000, (100_000, 1_000_000, 10_000_000), 50_000, 300, 3, figures.FULL)
QUICK = Plan((500, 1_000), 20_000, (5_000, 15_000), 300, 20, 1, figures.QUICK)


def drained(kind: str) -> Callable[[Round], float]:
    """Against the peak, at the size of history at which it is least."""
    return lambda one: min(one[at][f"{kind}_per_s"] for at in one if at != "peak") / one["peak"]["reports_per_s"]


def stays(kind: str) -> Callable[[Round], float]:
    """The last against the first."""
    return lambda one: one["last"][f"{kind}_per_s"] / one["first"][f"{kind}_per_s"]


ENDS = ("first", "last")
TARGETS: tuple[Target, ...] = (
    at_least("reports/s drained ÷ at the peak, the benchmark's batches", 3, ("peak", *ENDS), drained("load")),
    at_least("drained with most history ÷ with least, the benchmark's batches", 0.8, ENDS, stays("load")),
    at_least("drained with most history ÷ with least, players' batches", 0.8, ENDS, stays("players")),
    at_least("most history, rollup rows", 10_000_000, ENDS, figure("last", "rows")),
    at_least("groups of a question over 24 h", 4_900, ENDS, figure("last", "groups")),
    at_most("p99 of these questions, ms", 50, ENDS, figure("last", "p99_ms")),
)
"""Flat: what is left of the rate is 0.8 of it at least, about what runs of one kind differ by."""


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
    origins = Origins(ids.labels.bounded, ids.labels.today)
    columns = Columns(some, THRESHOLDS, origins)  # type: ignore[arg-type]  # parts are read as records are
    unnamed = columns.unnamed()
    origins.name(unnamed, ids.of(list(unnamed.values())))
    return {(number, delta.start_min): delta.block for number in range(len(SETS)) for delta in columns.deltas(number)}


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

JOINED = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gamepulse-aggregate' AND query ~ 'try_advisory'"
"""Aggregators that try for shards already."""
COUNTED = "SELECT coalesce(sum(reports), 0)::bigint FROM player_total"


def sent_by_load(seed: int) -> Iterator[Part]:
    """Batches as the benchmark's load sends them: the first 5 s of a phone session, from a thousand sessions of one network."""
    now_ms, someone = time.time_ns() // 1_000_000, str(uuid.UUID(int=0))
    body = load.body().replace("@BATCH@", someone).replace("@SESSION@", someone).encode()
    key, place = IngestKey(1, 1, "demo", False), Place("KR", "KR-11", "AS64500")
    sent = receive.prepare(receive.decode(body), key, place, now_ms, bytes(32), RequestFacts(0, "POST", 1, 0, False, 1, 1))
    [part] = sent.parts
    [packed] = records.pack([part.columns], [part.place_codes], [now_ms])
    sessions = [uuid.UUID(int=seed << 64 | n) for n in range(SESSIONS)]
    for session in chain.from_iterable(repeat(sessions)):
        yield Part((0, None, 1, 1, 0, session, part.labels, part.match, part.player, bytes(packed), None, None))


def sent_by_players(players: int, seed: int) -> Iterator[Part]:
    """Batches as game clients send them: each player in turn the last 100 s of its session, a report each 5 s."""
    for _ in repeat(None):
        yield from parts(players, BATCH, seed, datetime.now(UTC), REPORT_EVERY_S * 1_000)


async def put_backlog(connection: Connection, batches: Iterable[Part], seconds: float) -> None:
    """Batches as ingest stores them when no aggregator runs: over the last `seconds`, COMMIT in a transaction."""
    names = ("received_at", "studio_id", "game_id", "rejected", "session_id", "labels", "match", "player", "records", "shard")
    some = list(batches)
    began, every = datetime.now(UTC) - timedelta(seconds=seconds), timedelta(seconds=seconds / len(some))
    for group in batched(enumerate(some), COMMIT, strict=False):
        rows = [(began + n * every, *one[2:10], receive.shard_of(one[5])) for n, one in group]
        await connection.copy_records_to_table("raw_batch", records=rows, columns=names)


@contextmanager
def aggregators(port: int, count: int) -> Iterator[list[psutil.Popen]]:
    """So many processes of `gamepulse aggregate`."""
    environment = os.environ | {"GAMEPULSE_DATABASE_URL": database.url(port), "GAMEPULSE_PLAYER_HASH_KEY": "5a" * 32}
    command = [sys.executable, "-m", "gamepulse", "aggregate"]
    processes = [psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


async def drain(port: int, owner: Connection, kind: str, reports: int, processes: int = 1) -> Figures:
    """How fast aggregators count the backlog, of so many reports, rolling up beside it as always; their CPU.

    They are up before: what keeps them from beginning is that their shards' locks are held here. Raises RuntimeError when they
    have counted another number.
    """
    await owner.execute("ANALYZE raw_batch")
    await asyncio.to_thread(database.query, port, "CHECKPOINT")  # what was put there is written by now
    for shard in range(receive.SHARDS):
        await owner.execute("SELECT pg_advisory_lock($1, $2)", aggregate.LOCKS, shard)
    horizon = await owner.fetchval("SELECT max(xid)::text::bigint FROM raw_batch")
    before = await owner.fetchval(COUNTED)
    with aggregators(port, processes) as running:
        async with asyncio.timeout(900):
            while await owner.fetchval(JOINED) < processes:  # noqa: ASYNC110 — PostgreSQL has no event
                await asyncio.sleep(0.1)
            started, used = time.monotonic(), _cpu_s(running)
            await owner.execute("SELECT pg_advisory_unlock_all()")
            while await owner.fetchval("SELECT min(upto)::text::bigint FROM watermark") <= horizon:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        seconds, used = time.monotonic() - started, _cpu_s(running) - used
    counted = await owner.fetchval(COUNTED) - before
    if counted != reports:
        raise RuntimeError(f"{reports} reports were to be drained, but {counted} were counted")
    return {f"{kind}_per_s": reports / seconds, f"{kind}_cpu_s": used}


def _cpu_s(processes: Iterable[psutil.Process]) -> float:
    times = [one.cpu_times() for one in processes]
    return sum(one.user + one.system for one in times)


async def drain_both(port: int, owner: Connection, plan: Plan, peak_per_s: float, seed: int) -> Figures:
    """The benchmark's batches, as many a second as at the peak; players' batches, as many a second as they send, also by two.

    Of the benchmark's three times as many, for they are counted sooner: a drain must take seconds for its rate to say something.
    """
    reports = 3 * plan.backlog
    await put_backlog(owner, islice(sent_by_load(seed), reports // BATCH), reports / peak_per_s)
    found = await drain(port, owner, "load", reports)
    await settle(owner)
    batches = plan.backlog // BATCH
    for kind, processes in (("players", 1), ("players_by_two", 2)):
        some = islice(sent_by_players(plan.hour_players, seed + processes), batches)
        await put_backlog(owner, some, BATCH_EVERY_S * batches / plan.hour_players)
        found |= await drain(port, owner, kind, plan.backlog, processes)
        await settle(owner)
    return found


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


GROUPS = "SELECT count(DISTINCT dimension_id) FROM rollup_hour WHERE dimension_set = 4 AND start >= $1"


async def put_hours(connection: Connection, players: int, now: datetime) -> int:
    """The last hours of country × network, made by roll.py from what these players say; the number of their rows."""
    labels = Labels()
    await labels.load(connection, [(1, 1)])
    for hours in range(HOURS):
        some = list(parts(players, REPORTS_A_MINUTE, hours % 4, now, 1))
        columns = Columns(some, THRESHOLDS, Origins(labels.bounded, labels.today))  # type: ignore[arg-type]  # parts are read as records are
        await labels.name_columns(connection, columns)
        for delta in columns.deltas(CARRIER):
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
    more = max(-(-(rows - have) // an_hour), 0)
    first = (hour - (done + more + 24) * HOUR).date()
    await connection.execute("SELECT create_partitions($1, $2)", first, hour.date())
    rest = ", ".join(["dimension_set", *roll.MEASURES.split(", ")])
    for since in range(done + 1, done + more + 1, 50):
        until = min(since + 49, done + more)
        await connection.execute(COPY_HOUR.format(rest=rest), hour, since, until)
        await connection.execute(COPY_TOTAL.format(measures=roll.MEASURES), hour, since, until)
    await connection.execute("VACUUM ANALYZE rollup_hour, rollup_total")
    total: int = await connection.fetchval("SELECT count(*) FROM rollup_hour")
    return total


async def settle(connection: Connection) -> None:
    """Until what was drained at once is rolled up, as it is 15 s later."""
    await connection.execute("UPDATE rollup_delta SET at = 'epoch'")
    while await roll.roll(connection):
        pass
    await connection.execute("VACUUM ANALYZE rollup_hour")


async def ask(port: int, questions: int, now: datetime) -> Figures:
    """Milliseconds of questions over 24 h by country × network, each over other hours, after WARM_UP that are not counted.

    No answer is kept anywhere: each question reads its rows and puts them together. Names of dimensions stay in the process.
    """
    pool = await open_pool({"dsn": database.url(port)}, "query", size=1)
    names, dice, took_ms = gather.Names(), random.Random(3), []
    for _ in range(WARM_UP + questions):
        end = now.replace(minute=0, second=0) - dice.randrange(-1, HOURS - 4) * HOUR
        started = time.perf_counter()
        answer = await quality.quality(pool, names, GAME, list(GROUP_BY), gather.Span(end - 24 * HOUR, end), 100, "count")
        took_ms.append((time.perf_counter() - started) * 1e3)
    pool.terminate()
    assert len(answer.groups) == 100
    assert answer.remainder is not None
    centiles = statistics.quantiles(took_ms[WARM_UP:], n=100)
    return {"p50_ms": centiles[49], "p99_ms": centiles[98]}


async def history(port: int, plan: Plan, peak_per_s: float, console: Console) -> list[Figures]:
    """Drain rates and questions at each size of history. What the first drain finds new is named before: it is not timed."""
    now = datetime.now(UTC).replace(minute=30, second=59, microsecond=0)
    found = []
    async with AsyncExitStack() as stack:
        owner = await asyncpg.connect(database.url(port), command_timeout=3600)
        stack.push_async_callback(owner.close)
        await owner.execute("SELECT create_partitions($1, $2)", (now - timedelta(days=3)).date(), now.date() + timedelta(days=1))
        await put_hours(owner, plan.hour_players, now)
        await drain_both(port, owner, plan, peak_per_s, 0)
        for size in plan.history:
            rows = await grow(owner, size, now)
            drained = await drain_both(port, owner, plan, peak_per_s, size)
            asked = await ask(port, plan.questions, now)
            found.append({"rows": rows, "groups": await owner.fetchval(GROUPS, now - 24 * HOUR), **drained, **asked})
            console.print(found[-1])
    return found


def peak(plan: Plan) -> Figures:
    """Reports a second that the service takes at its peak: the median of some runs of the benchmark's row."""
    runs = [closed_loop.of_server(SERVICE, plan.peak, run)["requests_per_s"] for run in range(plan.peak_runs)]
    return {"reports_per_s": statistics.median(runs) * BATCH}


def with_history(plan: Plan, console: Console) -> Round:
    """The peak, and the figures at each size of history: `first` the least, `last` the most, others by their rows."""
    at_peak = peak(plan)
    console.print(at_peak)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        port = free_ports()[0]
        stack.enter_context(database.postgres(folder / "postgres", port))
        asyncio.run(migrate.migrate({"dsn": database.url(port)}))
        asyncio.run(migrate.put_demo({"dsn": database.url(port)}, "a" * 43, "b" * 43))
        first, *others, last = asyncio.run(history(port, plan, at_peak["reports_per_s"], console))
    return {"peak": at_peak, "first": first, **{f"{one['rows']:.0f}": one for one in others}, "last": last}


@click.command()
@click.option("--quick", is_flag=True, help="Small numbers: shows that it works.")
@click.option("--only", type=click.Choice(["widths", "history"]), help="Only one part; writes nothing.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the JSON.")
def main(quick: bool, only: str | None, results: Path) -> None:
    """Measure the width of the rollups on this machine."""
    console, plan = Console(width=160), QUICK if quick else FULL
    outcome = surroundings() | {"plan": asdict(plan)}
    if only != "history":
        found = [row for players in plan.players for row in widths(players)]
        outcome["widths"] = found
        console.print(table("one minute", found))
    if only != "widths":
        measured = with_history(plan, console)
        verdicts = judge([measured], TARGETS)
        outcome |= {"history": measured, "targets": [one.told() for one in verdicts]}
        console.print(table("as history grows", [measured[at] for at in measured if at != "peak"]))
        console.print(targets_table(verdicts))
    if only is None:
        results.mkdir(parents=True, exist_ok=True)
        path = results / f"width-{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
        path.write_text(json.dumps(outcome, indent=2) + "\n")
        console.print(f"written to {path}")


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as they are printed."""
    shown = Table(title=title)
    for name in rows[0]:
        shown.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        shown.add_row(*(f"{cell:,.0f}" if isinstance(cell, int | float) else str(cell) for cell in row.values()))
    return shown


if __name__ == "__main__":
    main()
