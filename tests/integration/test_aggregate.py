"""Invariants 3 and 4: every stored report counts exactly once, and what is told of it is what numpy says."""

import asyncio
import random
import socket
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import numpy as np
import pytest

from gamepulse import aggregate, database, metrics, resilience, settings, valkey
from gamepulse.keys import hash_key
from gamepulse.rollup import SETS
from gamepulse.telemetry import Telemetry
from tests.awake import awake_s
from tests.batches import Json, batch, event, now_ms, report
from tests.conftest import SERVER_KEY, Cluster, Service, complete, rolled, service_environ

HOUR_MS = 3_600_000
COUNTED = """
SELECT (SELECT coalesce(sum(reports), 0) FROM rollup_minute WHERE dimension_set = $1)
    + (SELECT coalesce(sum(reports), 0) FROM rollup_delta WHERE dimension_set = $1)
"""
type Database = asyncpg.Connection[asyncpg.Record]


async def groups(client: httpx.AsyncClient, group_by: str, **params: Any) -> list[Json]:
    found: list[Json] = (await client.get("/v1/quality", params={"game": "demo", "group_by": group_by} | params)).json()["groups"]
    return found


async def test_what_is_told_is_what_numpy_says(client: httpx.AsyncClient) -> None:
    rng = random.Random(7)
    values: dict[str, list[float]] = {}
    losses: list[float] = []
    batches = []
    for _ in range(120):
        region, spread = rng.choice([("ap-northeast-2", 0.3), ("eu-west-1", 1.2), ("us-east-1", 2.0)])
        reports = []
        for seq in range(25):
            rtt_ms = min(max(round(rng.lognormvariate(4, spread), 3), 0.01), 60_000)
            loss = rng.choice([None, 0, 0.004, 0.3])
            reports.append(report(seq, region=region, server=None, rtt_ms=rtt_ms, loss=loss, jitter_ms=rng.choice([0, 1.5])))
            values.setdefault(region, []).append(rtt_ms)
            losses += [] if loss is None else [loss]
        batches.append(batch(reports, [event(99, kind="disconnected", region=region)]))
    for answer in await asyncio.gather(*(client.post("/v1/reports", json=one) for one in batches)):
        assert answer.json()["accepted"] == 26
    await complete(client)
    for group in await groups(client, "region"):
        sent_ms = np.array(values.pop(group["region"]))
        assert group["count"] == len(sent_ms)
        for name, told in group["rtt_ms"].items():
            exact = np.quantile(sent_ms, int(name[1:]) / 100, method="inverted_cdf")
            assert told == pytest.approx(exact, rel=0.011), (group["region"], name)
        bands = group["bands"]
        assert sum(bands.values()) == len(sent_ms)
        assert group["events"]["disconnected"] == len(sent_ms) / 25
        assert group["sessions"] == pytest.approx(len(sent_ms) / 25, rel=0.03)
        assert group["bad_sessions"] == group["sessions"]
        assert group["jitter_ms"]["p5"] == 0
    assert not values
    [total] = await groups(client, "")
    assert total["loss"] == pytest.approx(np.mean(losses), rel=1e-6)


async def test_every_dimension_set_counts_every_report(client: httpx.AsyncClient) -> None:
    for n in range(40):
        sent = batch(
            [report(0), report(1, region="eu-west-1", server=None)], connection="wifi", platform=f"p{n % 3}", build=f"1.{n}"
        )
        await client.post("/v1/reports", json=sent)
    await complete(client)
    for group_by in ("region", "country", "region,platform,build", "connection", "network,subdivision", "server", "region,server"):
        found = await groups(client, group_by, limit=1000)
        assert (group_by, sum(group["count"] for group in found)) == (group_by, 80)
    first = (await client.get("/v1/quality", params={"game": "demo", "group_by": "build", "limit": 10})).json()
    assert len(first["groups"]) == 10
    assert sum(group["count"] for group in [*first["groups"], first["remainder"]]) == 80
    refused = await client.get("/v1/quality", params={"game": "demo", "group_by": "server,build"})
    assert (refused.status_code, refused.json()["code"]) == (422, "not_rolled_up_together")


async def test_unknown_by_name_and_unknown_are_one(client: httpx.AsyncClient) -> None:
    """A client may name a server as we name those not known: all of them count, whatever they are called."""
    reports = [report(n, server=None) for n in range(5)] + [report(n, server="unknown") for n in range(5, 8)]
    await client.post("/v1/reports", json=batch(reports, platform="unknown", build="unknown"))
    await client.post("/v1/reports", json=batch(2))
    await complete(client)
    for group_by in ("region", "region,server", "platform,build", "network"):
        assert (group_by, sum(group["count"] for group in await groups(client, group_by))) == (group_by, 10)


async def test_a_step_is_bounded_and_ends_with_a_transaction(
    cluster: Cluster, client: httpx.AsyncClient, connection: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregate, "STEP_REPORTS_MAX", 20_000)  # less than half, so that 50,000 reports are enough
    await take_all_locks(cluster, connection)
    session = str(uuid.uuid4())
    client.headers["authorization"] = f"Bearer {SERVER_KEY}"  # a client's session may not send so much
    for batches in (18, 18, 18, 18, 18, 10):
        sent = [batch([report(n, server=f"s{n % 250}") for n in range(500)], session=session) for _ in range(batches)]
        answers = await asyncio.gather(*(client.post("/v1/reports", json=one) for one in sent))
        assert {answer.status_code for answer in answers} == {202}  # 18: just as many as may wait for their commit, of one game
    shard = await connection.fetchval("SELECT shard FROM raw_batch LIMIT 1")
    configured = settings.load(service_environ(database_url))
    telemetry = Telemetry(configured, "test")
    leader = aggregate.Aggregator(configured, telemetry)
    async with (
        asyncpg.create_pool(database_url, server_settings={"role": "gamepulse_aggregate"}, min_size=1) as pool,
        pool.acquire() as own,
    ):
        led = await leader._load(own, shard)
        steps = 0
        while await leader._step(own, led):
            steps += 1
    await leader.close()
    await telemetry.close()
    assert steps >= 2  # 50,000 reports, at most 20,000 a step
    for dimension_set in range(len(SETS)):
        counted = await connection.fetchval(COUNTED, dimension_set)
        assert (dimension_set, counted) == (dimension_set, 50_000)


async def test_a_step_reads_no_more_of_a_long_backlog_than_it_takes(connection: Database) -> None:
    """In the order of the index: sorted, each step would read all that waits."""
    async with connection.transaction():
        await connection.execute("SET LOCAL enable_sort = off")
        await connection.execute("SET LOCAL enable_seqscan = off")
        await connection.execute("SET LOCAL enable_bitmapscan = off")
        plan = await connection.fetch("EXPLAIN " + database.queries("aggregate")["raw_batches"], 0, 0, 1_000, 2_500)
    assert any("shard_xid_idx" in row[0] for row in plan)
    assert not any("Sort  " in row[0] for row in plan), plan


def rolling_for(seconds: float, leader: aggregate.Aggregator, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Make rolling up take so long. Set when it begins: shards are led by then."""
    is_rolling = asyncio.Event()

    async def roll(_: Database) -> bool:
        is_rolling.set()
        await asyncio.sleep(seconds)
        return False

    monkeypatch.setattr(leader._roller, "roll", roll)
    return is_rolling


async def test_shards_are_kept_however_long_the_work_takes(
    cluster: Cluster, connection: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What holds the locks is not silent while steps or rolling up take longer than a frozen process is given."""
    monkeypatch.setattr(aggregate, "FROZEN_AFTER_S", 4)
    monkeypatch.setattr(aggregate, "ALIVE_EVERY_S", 0.3)
    telemetry = Telemetry(settings.load(service_environ(database_url)), "test")
    leader = aggregate.Aggregator(settings.load(service_environ(database_url)), telemetry)
    is_rolling = rolling_for(9, leader, monkeypatch)
    running = asyncio.create_task(leader.run())
    await is_rolling.wait()
    led = dict(leader._led)
    assert led
    await asyncio.sleep(8.5)
    assert leader._led == led
    holders = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1::bigint::oid AND objid < 4"
    assert await connection.fetchval(holders, aggregate.LOCKS) >= len(led)
    leader.stop()
    await running
    await leader.close()
    await telemetry.close()


async def test_a_leader_that_was_frozen_exports_no_old_totals(
    cluster: Cluster, connection: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry = Telemetry(settings.load(service_environ(database_url)), "test")
    leader = aggregate.Aggregator(settings.load(service_environ(database_url)), telemetry)
    is_rolling = rolling_for(0.1, leader, monkeypatch)
    running = asyncio.create_task(leader.run())
    await is_rolling.wait()
    leader._export()
    assert len(telemetry.metrics._numbers[metrics.AGGREGATE_LAG]) == len(leader._led) > 0
    monkeypatch.setattr(leader, "_alive_at", time.monotonic() - aggregate.FROZEN_AFTER_S - 1)
    leader._export()  # before the loop has run again
    assert telemetry.metrics._numbers[metrics.AGGREGATE_LAG] == {}
    leader.stop()
    await running
    await leader.close()
    await telemetry.close()


async def test_a_valkey_that_hangs_holds_up_few_steps(
    cluster: Cluster, client: httpx.AsyncClient, connection: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await take_all_locks(cluster, connection)
    session = str(uuid.uuid4())
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        valkey_url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        configured = settings.load(service_environ(database_url) | {"GAMEPULSE_VALKEY_URL": valkey_url})
        telemetry = Telemetry(configured, "test")
        leader = aggregate.Aggregator(configured, telemetry)
        async with (
            asyncpg.create_pool(database_url, server_settings={"role": "gamepulse_aggregate"}, min_size=1) as pool,
            pool.acquire() as own,
        ):
            await client.post("/v1/reports", json=batch(1, session=session))
            led = await leader._load(own, await connection.fetchval("SELECT shard FROM raw_batch LIMIT 1"))
            took_s, is_closed = [], []
            for _ in range(resilience.FAILURES_MAX + 2):
                started = time.monotonic()
                await leader._step(own, led)
                took_s.append(time.monotonic() - started)
                is_closed.append(leader._policy.state == "closed")
                await client.post("/v1/reports", json=batch(1, session=session))
            assert min(took_s[: resilience.FAILURES_MAX]) >= valkey.TIMEOUT_S  # each waited for Valkey
            assert min(took_s[resilience.FAILURES_MAX :]) < valkey.TIMEOUT_S
            assert is_closed == [True] * (resilience.FAILURES_MAX - 1) + [False] * 3
            monkeypatch.setattr(leader._policy._breaker, "_opened", time.monotonic() - resilience.OPEN_S - 1)
            started = time.monotonic()
            await leader._step(own, led)
            assert time.monotonic() - started >= valkey.TIMEOUT_S  # it is tried again
    await leader.close()
    await telemetry.close()


async def test_one_games_flood_of_labels_is_not_anothers(client: httpx.AsyncClient, connection: Database) -> None:
    studio_id = await connection.fetchval("INSERT INTO studio (name) VALUES ('Loud') RETURNING studio_id")
    game_id = await connection.fetchval("INSERT INTO game (studio_id, slug) VALUES ($1, 'loud') RETURNING game_id", studio_id)
    secret = "key-of-a-loud-studio-0123456789abcdef"
    await connection.execute(
        "INSERT INTO ingest_key (studio_id, game_id, key_hash, kind) VALUES ($1, $2, $3, 'client')",
        studio_id,
        game_id,
        hash_key(secret),
    )
    loud = [batch([report(n, region=f"r{n % 90}", server=f"s{b}-{n}") for n in range(250)], game="loud") for b in range(90)]
    await asyncio.gather(
        *(client.post("/v1/reports", json=one, headers={"authorization": f"Bearer {secret}"}) for one in loud[:89])
    )
    await client.post("/v1/reports", json=batch([report(n, region="mine", server="my-server") for n in range(40)]))
    await complete(client)
    [group] = await groups(client, "region,server")
    assert (group["region"], group["server"], group["count"]) == ("mine", "my-server", 40)
    limit = await connection.fetchval("SELECT count(*) FROM dimension WHERE game_id = $1 AND dimension_set = 3", game_id)
    assert limit <= 20_001


async def test_a_reader_does_not_hold_up_ingest_when_partitions_are_made(
    service: Service, client: httpx.AsyncClient, connection: Database, database_url: str
) -> None:
    await client.post("/v1/reports", json=batch(2))
    newest = await connection.fetchval(
        "SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'raw_batch'::regclass"
    )
    await connection.execute(f"DROP TABLE {newest}")
    reader = await asyncpg.connect(database_url)
    async with reader.transaction():
        await reader.fetchval("SELECT count(*) FROM raw_batch")
        for child in service.children(aggregator=True):
            child.kill()  # the next one keeps house at once
        for _ in range(20):
            assert (await client.post("/v1/reports", json=batch(2))).status_code == 202
            await asyncio.sleep(0.2)
        await complete(client)
        assert await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", newest)
    await reader.close()
    assert sum(group["count"] for group in await groups(client, "region")) == 42


async def test_what_is_past_its_retention_goes_and_what_is_not_counted_stays(
    service: Service, client: httpx.AsyncClient, connection: Database
) -> None:
    today = datetime.now(UTC).date()
    await connection.execute("SELECT create_partitions($1, $2)", today - timedelta(days=20), today)
    await connection.execute("SELECT create_partitions($1, $1)", today - timedelta(days=450))
    await client.post("/v1/reports", json=batch(2))
    await connection.execute(
        "INSERT INTO batch_key SELECT studio_id, game_id, gen_random_uuid(), 0, now() - age * interval '1 hour', 1, NULL"
        " FROM batch_key, unnest(ARRAY[47, 49, 200]) AS age"
    )
    await connection.execute(
        "INSERT INTO audit_log (studio_id, at, actor, action)"
        " SELECT 1, now() - age * interval '1 day', 'a', age::text FROM unnest(ARRAY[1, 399, 401, 800]) AS age"
    )
    await complete(client)  # nothing is dropped while a shard has not counted yet
    for child in service.children(aggregator=True):
        child.kill()  # the next one keeps house at once
    today = datetime.now(UTC).date()  # it may be another one by now
    await _until(connection, "SELECT count(*) = 2 FROM batch_key")
    assert [row[0] for row in await connection.fetch("SELECT action FROM audit_log ORDER BY at")] == ["399", "1"]
    await complete(client)
    names = {row[0] for row in await connection.fetch("SELECT inhrelid::regclass::text FROM pg_inherits")}
    for table, days in (("raw_batch", 7), ("session_seen", 8), ("rollup_minute", 14)):
        kept = sorted(name for name in names if name.startswith(f"{table}_2"))
        assert kept[0] == f"{table}_{today - timedelta(days=days):%Y%m%d}", table
    assert not any(f"{today - timedelta(days=450):%Y%m}" in name for name in names)
    # Counted up to three days ago only: then what is about the days since then must stay.
    await take_all_locks_from(connection)
    await connection.execute("UPDATE watermark SET as_of = now() - interval '30 days' WHERE shard = 1")
    expired = await connection.fetch(database.queries("aggregate")["expired"], 1, 2, 1)
    assert not expired


async def take_all_locks_from(connection: Database) -> None:
    """Ends the aggregator's session and takes its locks before it comes back."""
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gamepulse-aggregate'"
    )
    await connection.execute(";".join(f"SELECT pg_advisory_lock({aggregate.LOCKS}, {shard})" for shard in range(4)))


async def test_late_reports_land_in_their_minute(client: httpx.AsyncClient) -> None:
    late = now_ms() - 23 * HOUR_MS
    await client.post("/v1/reports", json=batch([report(0, at=late), report(1, at=late + 60_000)]))
    await complete(client)
    start = datetime.fromtimestamp(late / 1000, UTC).replace(second=0, microsecond=0)
    span = {"from": start.isoformat(), "to": (start + timedelta(minutes=2)).isoformat()}
    answer = await client.get("/v1/quality/series", params={"game": "demo", "step": "1m"} | span)
    points = answer.json()["lines"][0]["points"]
    assert [datetime.fromisoformat(point["at"]) for point in points] == [start, start + timedelta(minutes=1)]
    assert [point["quality"]["count"] for point in points] == [1, 1]


async def test_steps_of_a_series_hold_what_happened_in_them(client: httpx.AsyncClient, connection: Database) -> None:
    """Steps are whole hours and days of UTC, however `from` lies: a rolled-up hour could not be cut."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
    at = int((hour + timedelta(minutes=45)).timestamp() * 1000)
    await client.post("/v1/reports", json=batch([report(0, at=at)]))
    await complete(client)
    await rolled(connection)
    since = hour - timedelta(minutes=30)
    for step, expected in (("1m", hour + timedelta(minutes=45)), ("30m", hour + timedelta(minutes=30)), ("1h", hour)):
        params = {"game": "demo", "step": step, "from": since.isoformat(), "to": (hour + timedelta(hours=2)).isoformat()}
        [line] = (await client.get("/v1/quality/series", params=params)).json()["lines"]
        assert [(datetime.fromisoformat(point["at"]), point["quality"]["count"]) for point in line["points"]] == [(expected, 1)], (
            step
        )


HERE = "SELECT oid FROM pg_database WHERE datname = current_database()"
COPY = """
INSERT INTO raw_batch (received_at, studio_id, game_id, shard, rejected, session_id, labels, records)
SELECT received_at - $1::interval, studio_id, game_id, shard, rejected, gen_random_uuid(), labels, records FROM raw_batch
ORDER BY received_at DESC LIMIT 1
"""


async def test_a_transaction_that_commits_late_is_not_passed_over(client: httpx.AsyncClient, connection: Database) -> None:
    await client.post("/v1/reports", json=batch(5))
    await complete(client)
    async with connection.transaction():
        await connection.execute(COPY, timedelta())  # has its transaction id, and commits after others with higher ones
        opened = time.time()
        for _ in range(5):
            await client.post("/v1/reports", json=batch(5))
        await asyncio.sleep(1.5)
        answer = (await client.get("/v1/quality", params={"game": "demo"})).json()
        assert datetime.fromisoformat(answer["as_of"]).timestamp() < opened  # and does not claim to be complete
    await complete(client)
    assert [group["count"] for group in await groups(client, "region")] == [35]


@pytest.mark.timeout(240)
async def test_hours_and_days_are_made_from_minutes_and_made_anew(client: httpx.AsyncClient, connection: Database) -> None:
    await client.post("/v1/reports", json=batch(5))
    await complete(client)
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    span = {"from": day.isoformat(), "to": (day + timedelta(days=1)).isoformat()}
    for expected in (5, 10):  # the second time the day is there already
        await connection.execute(COPY, timedelta(days=1))
        await complete(client)
        assert sum(group["count"] for group in await groups(client, "region", **span)) == expected
        await rolled(connection)
        await _until(  # just after midnight yesterday may be made no sooner
            connection,
            "SELECT count(*) = 0 FROM stale_rollup WHERE start < $1 AND step <> 'recent'",
            day + timedelta(days=1),
            timeout_s=150,
        )
        assert await connection.fetchval("SELECT sum(reports) FROM rollup_day WHERE dimension_set = 0") == expected
        assert sum(group["count"] for group in await groups(client, "region", **span)) == expected
    for table in ("rollup_minute", "rollup_hour", "rollup_quarter"):
        await connection.execute(f"DELETE FROM {table} WHERE start < $1", day + timedelta(days=1))
    assert sum(group["count"] for group in await groups(client, "region", **span)) == 10  # it is the day that answers


async def _until(connection: Database, question: str, *arguments: object, timeout_s: float = 20) -> None:
    deadline = awake_s() + timeout_s
    while awake_s() < deadline:
        if await connection.fetchval(question, *arguments):
            return
        await asyncio.sleep(0.1)
    pytest.fail(question)


async def test_two_leaders_of_one_shard_count_once(
    cluster: Cluster, client: httpx.AsyncClient, connection: Database, database_url: str
) -> None:
    """Without the advisory lock: the watermark, compared and set, must be enough."""
    await take_all_locks(cluster, connection)
    configured = settings.load(service_environ(database_url))
    telemetry = Telemetry(configured, "test")
    role = {"role": "gamepulse_aggregate"}
    fenced = 0
    async with asyncpg.create_pool(database_url, server_settings=role, min_size=2, max_size=2) as pool:
        async with pool.acquire() as first, pool.acquire() as second:
            leaders = [(aggregate.Aggregator(configured, telemetry), own) for own in (first, second)]
            for _ in range(20):
                await asyncio.gather(*(client.post("/v1/reports", json=batch(10)) for _ in range(10)))
                steps = [leader._step(own, await leader._load(own, 0)) for leader, own in leaders]
                results = await asyncio.gather(*steps, return_exceptions=True)
                fenced += sum(isinstance(result, aggregate.Fenced) for result in results)
            for leader, _ in leaders:
                await leader.close()
    await telemetry.close()
    assert fenced, "the two never met: this test has shown nothing"
    counted = await connection.fetchval(COUNTED, 0)
    stored = await connection.fetchval(
        "SELECT sum(length(records) / 26) FROM raw_batch JOIN watermark USING (shard) WHERE xid < upto"
    )
    assert counted == stored > 0


async def take_all_locks(cluster: Cluster, connection: Database) -> None:
    """Keeps the service's own aggregator from leading."""
    # Not before the aggregator has taken its shards.
    await _until(
        connection,
        "SELECT count(*) = 4 FROM pg_locks WHERE classid = $1 AND objid < 4 AND database = (" + HERE + ")",
        aggregate.LOCKS,
    )
    locks = [f"SELECT pg_advisory_lock({aggregate.LOCKS}, {shard})" for shard in range(4)]
    asking = asyncio.create_task(connection.execute(";".join(locks)))
    await asyncio.sleep(0.5)
    assert not asking.done()
    cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gamepulse-aggregate'")
    await asyncio.wait_for(asking, 5)


async def test_a_frozen_aggregator_is_replaced_and_does_no_harm_when_it_comes_back(
    service: Service, client: httpx.AsyncClient, connection: Database, database_url: str, valkey_url: str, tmp_path: Path
) -> None:
    sent = 0
    for _ in range(20):
        sent += (await client.post("/v1/reports", json=batch(10))).json()["accepted"]
    [frozen] = service.children(aggregator=True)
    frozen.suspend()
    environ = service_environ(database_url, GAMEPULSE_VALKEY_URL=valkey_url)
    with (tmp_path / "second.log").open("wb") as log:
        second = subprocess.Popen([sys.executable, "-m", "gamepulse", "aggregate"], env=environ, stdout=log, stderr=log)
    try:
        for _ in range(20):
            sent += (await client.post("/v1/reports", json=batch(10))).json()["accepted"]
        deadline = awake_s() + aggregate.FROZEN_AFTER_S + 10
        while sum(group["count"] for group in await groups(client, "region")) < sent:
            assert awake_s() < deadline, "no other aggregator took the shards over"
            await asyncio.sleep(0.5)
        frozen.resume()
        for _ in range(20):
            sent += (await client.post("/v1/reports", json=batch(10))).json()["accepted"]
        await asyncio.sleep(2)
        await complete(client)
        assert sum(group["count"] for group in await groups(client, "region")) == sent
        await _until(  # each has its fair share again
            connection,
            "SELECT count(DISTINCT pid) = 2 FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid < 4"
            f" AND database = ({HERE})",
            aggregate.LOCKS,
        )
    finally:
        second.terminate()
        second.wait(10)


async def test_labels_are_bounded(client: httpx.AsyncClient) -> None:
    names = [str(uuid.uuid4()) for _ in range(250)]
    reports = [report(seq, region=name, server=None) for seq, name in enumerate(names)]
    assert (await client.post("/v1/reports", json=batch(reports))).json()["accepted"] == 250
    await complete(client)
    found = await groups(client, "region", limit=1000)
    assert sum(group["count"] for group in found) == 250
    assert len(found) <= 101
    assert max(found, key=lambda group: group["count"])["region"] == "(other)"
