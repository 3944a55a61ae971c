"""What the shape of the stored reports costs: packed, as arrays, as rows; once-only and durable all three (docs/adr/0002).

`python -m bench.shapes` (2 min) stores the same batches in each shape, in groups, and asks each the same question in SQL. What is
read back must be the same of all three.
"""

import asyncio
import os
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import click
import psutil
from rich.console import Console
from rich.table import Table

from bench import database, load
from bench.processor import cpu_s
from bench.servers import Surroundings, free_ports, gamepulse_environment, prepare_gamepulse
from gamepulse import accept, receive, records
from gamepulse.geography import Place
from gamepulse.keys import IngestKey
from gamepulse.receive import Sent
from gamepulse.spans import CommitFacts, RequestFacts

GROUP = 16
"""Batches in a commit."""
GROUPS, QUICK_GROUPS = 500, 5
type Connection = asyncpg.Connection[asyncpg.Record]
TABLES = """
CREATE TABLE arrays (LIKE raw_batch INCLUDING DEFAULTS);
ALTER TABLE arrays DROP COLUMN records, ADD at_ms integer[] NOT NULL, ADD seq integer[] NOT NULL, ADD rtt_us integer[] NOT NULL,
    ADD rtt_min_us integer[] NOT NULL, ADD rtt_max_us integer[] NOT NULL, ADD jitter_us integer[] NOT NULL,
    ADD loss_ppm integer[] NOT NULL, ADD flags smallint[] NOT NULL, ADD place smallint[] NOT NULL;
CREATE TABLE rows (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(), at timestamptz NOT NULL, session_id uuid NOT NULL, studio_id integer NOT NULL,
    game_id integer NOT NULL, seq integer NOT NULL, rtt_us integer, rtt_min_us integer, rtt_max_us integer, jitter_us integer,
    loss_ppm integer, shard smallint NOT NULL, flags smallint NOT NULL, place text NOT NULL, country text, subdivision text,
    network text, connection text, platform text, build text, match text, player bytea
);
CREATE INDEX ON arrays (shard, xid);
CREATE INDEX ON arrays (studio_id, game_id, session_id);
CREATE INDEX ON rows (shard, xid);
CREATE INDEX ON rows (studio_id, game_id, session_id);
"""
BATCH_KEYS = """
INSERT INTO batch_key (studio_id, game_id, batch_id, fingerprint, received_at, accepted, rejected)
SELECT studio_id, game_id, batch_id, fingerprint, now(), accepted, NULL
FROM unnest($1::integer[], $2::integer[], $3::uuid[], $4::bigint[], $5::smallint[])
    AS sent (studio_id, game_id, batch_id, fingerprint, accepted)
ON CONFLICT DO NOTHING RETURNING batch_id
"""
MEASURES = ("at_ms", "seq", "rtt_us", "rtt_min_us", "rtt_max_us", "jitter_us", "loss_ppm", "flags", "place")
ARRAYS = ("studio_id", "game_id", "shard", "rejected", "session_id", "received_at", "player", "labels", "match", *MEASURES)
ROWS = ("studio_id", "game_id", "shard", "session_id", "at", *MEASURES[1:], *records.LABELS, "match", "player")
# (session, seq, at ms, rtt µs, its least and most, jitter µs, loss ppm, network) of each report
PACKED_REPORTS = """
SELECT session_id, seq, (extract(epoch FROM at) * 1000)::bigint, (rtt_ms * 1000)::bigint, (rtt_min_ms * 1000)::bigint,
    (rtt_max_ms * 1000)::bigint, (jitter_ms * 1000)::bigint, (loss * 1000000)::bigint, raw_batch.network
FROM raw_batch, raw_reports(raw_batch)
"""
ARRAY_REPORTS = """
SELECT session_id, one.seq, (extract(epoch FROM received_at) * 1000)::bigint + one.at_ms, one.rtt, one.least, one.most, one.jitter,
    one.loss, split_part(labels, '|', 3)
FROM arrays, unnest(at_ms, seq, rtt_us, rtt_min_us, rtt_max_us, jitter_us, loss_ppm)
    AS one (at_ms, seq, rtt, least, most, jitter, loss)
"""
ROW_REPORTS = """
SELECT session_id, seq, (extract(epoch FROM at) * 1000)::bigint, rtt_us, rtt_min_us, rtt_max_us, jitter_us, loss_ppm, network
FROM rows
"""
DIGEST = "SELECT count(*), sum(hashtextextended(report::text, 0)) FROM ({}) AS report"
P95 = "SELECT {}, percentile_disc(0.95) WITHIN GROUP (ORDER BY {}) FROM {} GROUP BY 1"


class Shape(NamedTuple):
    """How a group is stored, where, how 95th percentiles by network are asked for, and each report."""

    what: str
    store: Callable[[Connection, Sequence[Sent]], Awaitable[None]]
    question: str
    reports: str


class Cost(NamedTuple):
    """CPU a batch, of the client and of PostgreSQL; bytes a report, on disk and of WAL; how long the question took.

    `stored`: how many reports are read back, and a digest of them.
    """

    client_us: float
    database_us: float
    disk_bytes: float
    wal_bytes: float
    question_ms: float
    stored: str


async def store_packed(connection: Connection, group: Sequence[Sent]) -> None:
    """As the service does."""
    await connection.fetch(accept._SQL["commit"], *accept._arguments(group, CommitFacts.begin(len(group), None)))


async def fresh(connection: Connection, group: Sequence[Sent]) -> list[Sent]:
    """Those of a group that were not stored before; their keys are now."""
    columns = [*accept._keys(group), [sent.fingerprint for sent in group], [sent.accepted for sent in group]]
    new = {row["batch_id"] for row in await connection.fetch(BATCH_KEYS, *columns)}
    return [sent for sent in group if sent.batch_id in new]


async def store_arrays(connection: Connection, group: Sequence[Sent]) -> None:
    """A row for each part, a PostgreSQL array for each field."""
    now_ms = time.time_ns() // 1_000_000
    now = datetime.fromtimestamp(now_ms / 1e3, UTC)
    async with connection.transaction():
        rows = [
            (sent.key.studio_id, sent.key.game_id, part.shard, part.rejected, part.session_id, now, part.player, part.labels,
             part.match, *measures(part, now_ms))
            for sent in await fresh(connection, group)
            for part in sent.parts
        ]  # fmt: skip
        await connection.copy_records_to_table("arrays", records=rows, columns=ARRAYS)


async def store_rows(connection: Connection, group: Sequence[Sent]) -> None:
    """A row for each report."""
    rows: list[tuple[object, ...]] = []
    async with connection.transaction():
        for sent in await fresh(connection, group):
            for part in sent.parts:
                about = (sent.key.studio_id, sent.key.game_id, part.shard, part.session_id)
                labels, places = records.split_labels(part.labels)
                _, *columns, codes = measures(part, 0)
                named = [f"{places[code][0]} {places[code][1] or ''}" for code in codes]
                times = [datetime.fromtimestamp(at / 1e3, UTC) for at in part.columns.at]
                reports = zip(times, *columns, named, strict=True)
                rows.extend((*about, *report, *labels, part.match, part.player) for report in reports)
        await connection.copy_records_to_table("rows", records=rows, columns=ROWS)


def measures(part: receive.Part, arrived_ms: int) -> list[list[Any]]:
    """A part's reports, a list for each of MEASURES."""
    sent = part.columns
    flags = [records._QUALITY_SIDES[pair] for pair in zip(sent.quality, sent.side, strict=True)]
    return [
        [at - arrived_ms for at in sent.at], list(sent.seq), scaled(sent.rtt_ms, 1e3), scaled(sent.rtt_min_ms, 1e3),
        scaled(sent.rtt_max_ms, 1e3), scaled(sent.jitter_ms, 1e3), scaled(sent.loss, 1e6), flags, part.place_codes,
    ]  # fmt: skip


def scaled(values: Sequence[float | None], scale: float) -> list[int | None]:
    """Measures as whole numbers."""
    return [None if value is None else round(value * scale) for value in values]


SHAPES = {
    "raw_batch": Shape(
        "packed, one statement", store_packed, P95.format("raw_batch.network", "rtt_ms", "raw_batch, raw_reports(raw_batch)"),
        PACKED_REPORTS,
    ),
    "arrays": Shape(
        "arrays, COPY", store_arrays, P95.format("split_part(labels, '|', 3)", "rtt", "arrays, unnest(rtt_us) AS rtt"),
        ARRAY_REPORTS,
    ),
    "rows": Shape("a row a report, COPY", store_rows, P95.format("network", "rtt_us", "rows"), ROW_REPORTS),
}  # fmt: skip


def batches(groups: int) -> list[list[Sent]]:
    """Groups of the benchmark's batch, each under ids of its own, from some networks and a thousand sessions."""
    key, body = IngestKey(1, 1, "demo", False), load.body()
    sessions = [str(uuid.uuid4()) for _ in range(1000)]

    def one(number: int) -> Sent:
        text = body.replace("@BATCH@", str(uuid.uuid4())).replace("@SESSION@", sessions[number % len(sessions)])
        place, facts = Place("KR", "KR-11", f"AS{4000 + number % GROUP}"), RequestFacts(0, "POST", 1, 0, False, 1, 1)
        return receive.prepare(receive.decode(text.encode()), key, place, time.time_ns() // 1_000_000, bytes(32), facts)

    return [[one(number * GROUP + n) for n in range(GROUP)] for number in range(groups)]


async def cost(around: Surroundings, postgres: psutil.Process, table: str, shape: Shape, groups: Sequence[Sequence[Sent]]) -> Cost:
    """What it costs to store these groups in a shape, whose table is empty."""
    sent, reports = len(groups) * GROUP, len(groups) * GROUP * load.REPORTS

    def number(statement: str) -> float:
        return float(database.query(around.database_port, statement, "bench"))

    database.query(around.database_port, "TRUNCATE batch_key", "bench")  # the same batches are new to each shape
    connection = await asyncpg.connect(database.url(around.database_port))
    database.query(around.database_port, "CHECKPOINT", "bench")
    wal, server_s, client_s = number("SELECT pg_current_wal_insert_lsn() - '0/0'"), cpu_s(postgres), time.process_time()
    for group in groups:
        await shape.store(connection, group)
    client_s = time.process_time() - client_s
    await connection.close()  # a backend that has ended is counted with its parent
    server_s, wal = cpu_s(postgres) - server_s, number("SELECT pg_current_wal_insert_lsn() - '0/0'") - wal
    size = number(
        f"SELECT pg_total_relation_size('{table}') + coalesce(sum(pg_total_relation_size(relid)), 0)"
        f" FROM pg_partition_tree('{table}')"
    )
    database.query(around.database_port, f"VACUUM ANALYZE {table}", "bench")
    asked = time.monotonic()
    database.query(around.database_port, shape.question, "bench")
    asked = time.monotonic() - asked
    stored = database.query(around.database_port, DIGEST.format(shape.reports), "bench")
    return Cost(client_s * 1e6 / sent, server_s * 1e6 / sent, size / reports, wal / reports, asked * 1e3, stored)


def compare(groups: int) -> dict[str, Cost]:
    """Each shape, by its table, on one throw-away PostgreSQL. Raises RuntimeError when not all give back the same reports."""
    sent = batches(groups)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        around = Surroundings(*free_ports(), "k" * 43)
        postgres = stack.enter_context(database.postgres(folder / "postgres", around.database_port))
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | gamepulse_environment(around)
        prepare_gamepulse(around, environment)
        database.query(around.database_port, f"SET ROLE bench; {TABLES}", "bench")
        costs = {table: asyncio.run(cost(around, postgres, table, shape, sent)) for table, shape in SHAPES.items()}
    stored = {table: one.stored for table, one in costs.items()}
    if len(set(stored.values())) > 1:
        raise RuntimeError(f"the shapes do not give back the same reports: {stored}")
    return costs


@click.command()
@click.option("--quick", is_flag=True, help="Few batches: shows that it works.")
def main(quick: bool) -> None:
    """Measure each shape and print a table."""
    groups = QUICK_GROUPS if quick else GROUPS
    table = Table(title=f"{groups * GROUP:,} batches of {load.REPORTS} reports, {GROUP} in a commit")
    for column in ("shape", "client µs", "PostgreSQL µs", "B/report", "WAL B/report", "p95 by network, ms"):
        table.add_column(column, justify="left" if column == "shape" else "right")
    for name, one in compare(groups).items():
        table.add_row(SHAPES[name].what, *(f"{figure:,.0f}" for figure in one[:-1]))
    Console().print(table)


if __name__ == "__main__":
    main()
