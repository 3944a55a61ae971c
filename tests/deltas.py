"""What steps would have added, made up: for tests of what is rolled up of it."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg
import numpy as np

from gamepulse import histogram, roll, sketch
from gamepulse.rollup import COUNTS, REPORTS, Block, encode, entries
from gamepulse.rollup import counted as counted_cells

type Database = asyncpg.Connection[asyncpg.Record]

WHERE = roll.Where(1, 1, 0)
MARK = "INSERT INTO stale_rollup VALUES (1, 1, 0, 'quarter', $1, 0, '6 hours') ON CONFLICT DO NOTHING"


def block(ids: Sequence[int], reports: int = 1) -> Block:
    """Groups with so many reports each, all of 50 ms and of sessions of their own."""
    owner = np.repeat(np.arange(len(ids)), reports)
    counts = np.zeros((len(ids), len(COUNTS)), dtype=np.int64)
    counts[:, REPORTS] = reports
    cells = counted_cells(owner, histogram.bucket_indexes(np.full(len(owner), 0.05)), len(ids))
    sessions = entries(owner, sketch.coupons(np.random.default_rng().bytes(16 * len(owner))), len(ids))
    return Block(np.array(ids, dtype=np.int64), counts, [cells, cells, sessions, sessions])


async def put_delta(connection: Database, start: datetime, block: Block, upto: int) -> int:
    """A delta that has waited long enough; its bytes."""
    encoded = encode(block)
    await connection.execute(
        "INSERT INTO rollup_delta (studio_id, game_id, dimension_set, shard, start, upto, at, since, groups, reports, block)"
        " VALUES (1, 1, 0, 0, $1, $2, 'epoch', now(), $3, $4, $5)",
        start, upto, len(block), int(block.counts[:, REPORTS].sum()), encoded,
    )  # fmt: skip
    return len(encoded)


async def put_names(connection: Database, count: int) -> list[int]:
    """Ids of so many regions of one country each."""
    rows = await connection.fetch(
        "INSERT INTO dimension (studio_id, game_id, dimension_set, region, country, seen)"
        " SELECT 1, 1, 0, 'r' || n, 'KR', current_date FROM generate_series(1, $1) AS n RETURNING dimension_id",
        count,
    )
    return sorted(row["dimension_id"] for row in rows)
