"""What a dimension set's rollups take on disk: five minutes of many players, rolled up by the service's own code."""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path

import asyncpg

from bench import database
from bench.figures import Figures, Plan
from bench.population import parts
from bench.servers import free_ports
from gamepulse import migrate, roll
from gamepulse.labels import Labels
from gamepulse.origins import Origins
from gamepulse.rollup import REPORTS, Block, encode, merge
from gamepulse.tally import Columns, Thresholds

MINUTES = 5
EVERY_MS = 5_000
"""A player's report comes so often."""
AT_ONCE = 10_000
"""Players."""
THRESHOLDS = {1: Thresholds(200, 30, 0.05)}
PUT_DELTA = """
INSERT INTO rollup_delta (studio_id, game_id, dimension_set, shard, start, upto, at, since, groups, reports, block)
VALUES (1, 1, $1, 0, $2, 1, 'epoch', now(), $3, $4, $5)
"""


def measure(plan: Plan, dimension_set: int) -> Figures:
    """Bytes on disk, indexes included: of a minute's row (which holds all groups), and of an hour's row (of one group)."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_ports()[0]
        with database.postgres(Path(folder) / "postgres", port):
            return asyncio.run(_rolled(port, dimension_set, plan.players))


async def _rolled(port: int, dimension_set: int, players: int) -> Figures:
    await migrate.migrate({"dsn": database.url(port)})
    await migrate.put_demo({"dsn": database.url(port)}, "a" * 43, "b" * 43)
    before = database.sizes(port)
    connection = await asyncpg.connect(database.url(port))
    for start, block in (await _minutes(connection, dimension_set, players)).items():
        reports = int(block.counts[:, REPORTS].sum())
        await connection.execute(PUT_DELTA, dimension_set, start, len(block), reports, encode(block))
    while await roll.roll(connection):
        pass
    [(minutes, groups, reports)] = await connection.fetch("SELECT count(*), sum(groups), sum(reports) FROM rollup_minute")
    [(rows, counted)] = await connection.fetch("SELECT count(*), sum(reports) FROM rollup_hour")
    await connection.close()
    if {reports, counted} != {players * MINUTES * 60_000 // EVERY_MS}:
        raise RuntimeError(f"minutes hold {reports} reports and hours {counted}, which is not what was put in")
    grown = {table: size - before[table] for table, size in database.sizes(port).items()}
    return {
        "rollup_bytes_per_row": grown["rollup_hour"] / rows,
        "minute_bytes_per_row": grown["rollup_minute"] / minutes,
        "rollup_rows": rows,
        "groups_per_minute": float(groups / minutes),
        "players": players,
    }


async def _minutes(connection: "asyncpg.Connection[asyncpg.Record]", dimension_set: int, players: int) -> dict[datetime, Block]:
    """The block of each minute, all within the hour before this one."""
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(seconds=1)
    blocks: dict[int, list[Block]] = {}
    labels = Labels()
    await labels.load(connection, [(1, 1)])
    for some in batched(parts(players, MINUTES * 60_000 // EVERY_MS, 1, end, EVERY_MS), AT_ONCE, strict=False):
        columns = Columns(some, THRESHOLDS, Origins(labels.bounded, labels.today))  # type: ignore[arg-type]  # parts are read as records are
        await labels.name_columns(connection, columns)
        for delta in columns.deltas(dimension_set):
            blocks.setdefault(delta.start_min, []).append(delta.block)
    return {datetime.fromtimestamp(minute * 60, UTC): merge(some) for minute, some in blocks.items()}
