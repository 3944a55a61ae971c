"""Our own limit: what decoding the same body and storing the same rows costs at least, without HTTP and all else."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import httpx
import msgspec
import psutil
import uvloop

from bench import load
from bench.figures import Figures, Plan
from bench.processor import cpu_s
from bench.servers import SERVERS, Running, running
from gamepulse.batch import Batch

IDS = ("batch_id", "session_id")
SESSIONS = 1_000
AWAKE_S = 1.0  # a signal that comes while a process wakes may go to another thread than the one that waits for it
# What the service stores, without what PostgreSQL fills in itself.
COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = $1 AND column_default IS NULL AND is_generated = 'NEVER' ORDER BY ordinal_position
"""


def measure(plan: Plan, batches_per_commit: float) -> Figures:
    """Store as fast as it goes, in groups as large as the service's; µs of CPU a batch.

    The rows are those that the service stores of one batch, under other ids; ours is msgspec's decoding and asyncpg's binary COPY.
    """
    with running(SERVERS["gamepulse"]) as one:
        body = _store_one(one)
        with _frozen(one.process):
            return uvloop.run(_copy(one, body, round(batches_per_commit), plan))


def _store_one(one: Running) -> bytes:
    """Send a batch; its body."""
    body = load.body().replace("@BATCH@", str(uuid.uuid4())).replace("@SESSION@", str(uuid.uuid4())).encode()
    headers = {"Authorization": f"Bearer {one.target.key}", "Content-Type": "application/json"}
    headers["X-Forwarded-For"] = load.client_address()
    url = f"http://127.0.0.1:{one.target.port}/v1/reports"
    httpx.post(url, content=body, headers=headers, trust_env=False).raise_for_status()
    return body


@contextmanager
def _frozen(root: psutil.Process) -> Iterator[None]:
    """Meanwhile the service does nothing: what is copied must not be aggregated."""
    processes = [root, *root.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()
        time.sleep(AWAKE_S)


async def _copy(one: Running, body: bytes, group: int, plan: Plan) -> Figures:
    port, decode = one.around.database_port, msgspec.json.Decoder(Batch).decode
    connection = await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{port}/bench")
    tables = {}
    for table in ("batch_key", "raw_batch"):
        columns = [name for (name,) in await connection.fetch(COLUMNS, table)]
        [stored] = await connection.fetch(f"SELECT {', '.join(columns)} FROM {table}")
        tables[table] = (columns, list(stored.values()), [columns.index(name) if name in columns else None for name in IDS])
    batches, ours_s, started, database_s = 0, 0.0, time.monotonic(), cpu_s(one.postgres)
    while time.monotonic() - started < plan.timed_s:
        # Under the ids that the load gives; making them is no part of what is measured.
        rows = {table: [_renamed(row, ids, batches + n) for n in range(group)] for table, (_, row, ids) in tables.items()}
        began_s = time.process_time()
        for _ in range(group):
            decode(body)
        async with connection.transaction():
            for table, (columns, _, _) in tables.items():
                await connection.copy_records_to_table(table, records=rows[table], columns=columns)
        ours_s += time.process_time() - began_s
        batches += group
    database_s = cpu_s(one.postgres) - database_s
    rows_now = await connection.fetchval("SELECT count(*) FROM raw_batch")
    await connection.close()
    if rows_now != batches + 1:
        raise RuntimeError(f"{batches} batches were copied, but {rows_now - 1} are stored")
    return {
        "decode_and_copy_cpu_us": ours_s * 1e6 / batches,
        "database_cpu_us": database_s * 1e6 / batches,
        "batches_per_commit": group,
        "batches_per_s": batches / (time.monotonic() - started),
    }


def _renamed(row: list[object], ids: list[int | None], number: int) -> list[object]:
    """The same row under the ids that the load gives."""
    row = row.copy()
    scattered = number * 2654435761 % 2**32
    for column, one in zip(ids, (uuid.UUID(int=scattered << 96 | number), uuid.UUID(int=number % SESSIONS)), strict=True):
        if column is not None:
            row[column] = one
    return row
