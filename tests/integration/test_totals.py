"""Invariant 3 for the players' metrics: totals that are older than the watermark are never written."""

import asyncio
from contextlib import suppress

import asyncpg
import httpx

from gamepulse import aggregate, settings
from gamepulse.telemetry import Telemetry
from tests.batches import batch
from tests.conftest import Cluster, service_environ
from tests.integration.test_aggregate import take_all_locks


async def test_a_leader_with_old_totals_writes_nothing(
    cluster: Cluster, client: httpx.AsyncClient, connection: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await take_all_locks(cluster, connection)
    configured = settings.load(service_environ(database_url))
    telemetry = Telemetry(configured, "test")
    role = {"role": "gamepulse_aggregate"}
    fenced = 0
    async with (
        asyncpg.create_pool(database_url, server_settings=role, min_size=2, max_size=2) as pool,
        pool.acquire() as first,
        pool.acquire() as second,
    ):
        leaders = [(aggregate.Aggregator(configured, telemetry), own) for own in (first, second)]
        led = [[await leader._load(own, number) for number in range(4)] for leader, own in leaders]
        for turn in (0, 1, 0):
            await asyncio.gather(*(client.post("/v1/reports", json=batch(10)) for _ in range(10)))
            leader, own = leaders[turn]
            for shard in led[turn]:
                fenced += 1
                with suppress(aggregate.Fenced):
                    await leader._step(own, shard)
                    fenced -= 1
        for leader, _ in leaders:
            await leader.close()
    await telemetry.close()
    assert fenced, "no leader was behind the other: this test has shown nothing"
    counted = await connection.fetchval("SELECT sum(reports) FROM player_total")
    stored = await connection.fetchval(
        "SELECT count(*) FROM raw_batch JOIN watermark USING (shard), raw_reports(raw_batch) WHERE xid < upto"
    )
    assert counted == stored > 0
