"""Limits that need the real programs, at their edges. Where a limit is large or long, the test makes it small."""

import asyncio
import gzip
import hashlib
import json
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import psutil
import pytest

from gamepulse import accept, aggregate, app, asker, database, errors, keys, metrics, receive, run, sessions, settings
from gamepulse.accept import Acceptor, Stored
from gamepulse.geography import NOWHERE
from gamepulse.keys import IngestKey, Keys
from gamepulse.receive import Sent
from gamepulse.spans import RequestFacts
from gamepulse.tally import EPOCH
from gamepulse.telemetry import Telemetry
from tests.awake import awake_s, in_time
from tests.batches import batch, now_ms
from tests.conftest import INGEST_KEY, PATIENT, SERVER_KEY, complete, free_port, serve, service_environ, smaller
from tests.locks import locked, wait_for_locks, wait_until

HEADERS = {"authorization": f"Bearer {INGEST_KEY}"}
KEY = IngestKey(1, 1, "demo", is_server=False)
type Database = asyncpg.Connection[asyncpg.Record]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are held here for as long as it takes; where a limit of this is what is tested, the test sets it."""
    for name in ("COMMIT", "LOOK_UP", "QUESTION", "STATEMENT"):
        monkeypatch.setattr(database, f"{name}_TIMEOUT_S", 60)


@pytest.fixture
async def ingest(database_url: str) -> AsyncIterator[database.Pool]:
    pool = await database.open_pool({"dsn": database_url}, "ingest", size=2)
    yield pool
    pool.terminate()


@pytest.fixture
async def telemetry(database_url: str) -> AsyncIterator[Telemetry]:
    telemetry = Telemetry(settings.load(service_environ(database_url)), "test")
    yield telemetry
    await telemetry.close()


@pytest.fixture
async def acceptor(ingest: database.Pool, telemetry: Telemetry) -> AsyncIterator[Acceptor]:
    acceptor = Acceptor(ingest, ingest, telemetry, 10_000)
    yield acceptor
    await acceptor.close()


def sent(reports: int = 1) -> Sent:
    """A batch that awaits its commit."""
    facts = RequestFacts(0, "POST", 1, 0, False, 1, 1)
    return receive.prepare(receive.decode(json.dumps(batch(reports)).encode()), KEY, NOWHERE, now_ms(), bytes(32), facts)


async def refused(waiting: Awaitable[object]) -> tuple[str, float]:
    """The code of the problem that it ends with, and after how many seconds."""
    started = awake_s()
    with pytest.raises(errors.Problem) as caught:
        await waiting
    return caught.value.kind.code, awake_s() - started


# -- commits ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "most", "expected"), [("COMMIT_BATCHES_MAX", 3, [1, 3, 3, 1]), ("COMMIT_REPORTS_MAX", 8, [1, 2, 2, 2, 1])]
)
async def test_a_commit_holds_so_much(
    acceptor: Acceptor, connection: Database, monkeypatch: pytest.MonkeyPatch, name: str, most: int, expected: list[int]
) -> None:
    monkeypatch.setattr(accept, name, most)
    async with locked(connection, "batch_key"):
        waiting = [asyncio.create_task(acceptor.accept(sent(4)))]
        await wait_for_locks(connection, "ingest")  # it is under way
        waiting += [asyncio.create_task(acceptor.accept(sent(4))) for _ in range(7)]
        await wait_until(lambda: acceptor.pending_reports == 8 * 4)
    await asyncio.gather(*waiting)
    rows = await connection.fetch("SELECT count(*) FROM raw_batch GROUP BY xid ORDER BY xid")
    assert [row[0] for row in rows] == expected


async def test_commits_begin_so_often(acceptor: Acceptor, monkeypatch: pytest.MonkeyPatch) -> None:
    await acceptor.accept(sent())
    monkeypatch.setattr(accept, "COMMIT_EVERY_S", 0.3)
    started = time.monotonic()
    for _ in range(3):
        await acceptor.accept(sent())
    assert time.monotonic() - started > 0.6


async def test_a_batch_that_cannot_be_sent_to_postgresql_is_our_fault_and_sinks_no_neighbour(
    acceptor: Acceptor, telemetry: Telemetry, connection: Database
) -> None:
    batches = [sent() for _ in range(5)]
    batches[2].fingerprint = 2**63  # no bigint: asyncpg refuses it, with an error of the kind that it has for lost connections
    async with locked(connection, "batch_key"):
        waiting = [asyncio.create_task(acceptor.accept(sent()))]
        await wait_for_locks(connection, "ingest")
        waiting += [asyncio.create_task(acceptor.accept(one)) for one in batches]
        await wait_until(lambda: acceptor.pending_reports == 6)
    first, *others = await asyncio.gather(*waiting, return_exceptions=True)
    bad = others.pop(2)
    assert isinstance(bad, errors.Problem) and (bad.kind.code, bad.kind.status) == ("internal", 500)
    assert all(isinstance(one, Stored) and one.accepted == 1 for one in (first, *others))
    assert await connection.fetchval("SELECT count(*) FROM raw_batch") == 5
    assert ("internal",) in dict(telemetry.metrics.states(metrics.COMMIT_DURATION))


async def test_a_commit_that_fails_is_counted(acceptor: Acceptor, telemetry: Telemetry, connection: Database) -> None:
    await connection.execute("ALTER TABLE raw_batch RENAME TO away")
    assert (await refused(acceptor.accept(sent())))[0] == "commit_failed"
    await connection.execute("ALTER TABLE away RENAME TO raw_batch")
    await acceptor.accept(sent())
    counted = telemetry.metrics.states(metrics.COMMIT_DURATION)
    assert {outcome: sum(state.buckets.values()) for (outcome,), state in counted} == {"commit_failed": 1, "ok": 1}


async def test_what_asyncpg_refuses_is_no_outage(ingest: database.Pool) -> None:
    for question, arguments in (("SELECT $1::smallint", (70_000,)), ("SELECT $1::uuid", ("x",)), ("SELECT 1", (1,))):
        with pytest.raises(database.Misused):
            async with database.use(ingest, 1) as connection:
                await connection.fetchval(question, *arguments)
    assert not issubclass(database.Misused, database.UNREACHABLE)
    with pytest.raises(asyncpg.InterfaceError) as closed:
        async with database.use(ingest, 1) as connection:
            await connection.close()
            await connection.fetchval("SELECT 1")
    assert isinstance(closed.value, database.UNREACHABLE)


# -- waits for PostgreSQL ---------------------------------------------------------------------------------------------------------


async def test_nobody_waits_longer_for_postgresql(
    ingest: database.Pool, acceptor: Acceptor, connection: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COMMIT_TIMEOUT_S", "LOOK_UP_TIMEOUT_S", "QUESTION_TIMEOUT_S"):
        monkeypatch.setattr(database, name, 0.5)
    async with locked(connection, "batch_key, ingest_key, game"):
        for waiting in (acceptor.accept(sent()), acceptor.known(sent()), Keys(ingest).find("x")):
            started = time.monotonic()
            code, awake_for_s = await refused(waiting)
            assert code == "database_unavailable"
            assert time.monotonic() - started > 0.4
            assert awake_for_s < 1.5
        with pytest.raises(TimeoutError):
            await asker.find_game(ingest, "demo", asker.ANYONE)
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT_S", 1)
    pool = await database.open_pool({"dsn": database_url}, "query", size=1)
    with pytest.raises(asyncpg.QueryCanceledError):
        async with database.use(pool, 3) as own:
            await own.execute("SELECT pg_sleep(3)")
    pool.terminate()


async def test_nobody_waits_longer_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CONNECT_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pool = await database.open_pool({"dsn": f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x"}, "ingest", size=1)
        started = awake_s()
        with pytest.raises(TimeoutError):
            async with database.use(pool, 5):
                pass
        assert awake_s() - started < 1.5
        pool.terminate()


# -- keys -------------------------------------------------------------------------------------------------------------------------


async def test_a_key_that_is_too_long_is_not_looked_up() -> None:
    pool = await database.open_pool({"dsn": f"postgresql://x@127.0.0.1:{free_port()}/x"}, "ingest", size=1)
    assert (await refused(Keys(pool).find("k" * keys.KEY_LENGTH_MAX)))[0] == "database_unavailable"
    assert (await refused(Keys(pool).find("k" * (keys.KEY_LENGTH_MAX + 1))))[0] == "unknown_key"
    pool.terminate()


async def test_so_many_keys_are_remembered_and_no_flood_of_wrong_ones_drives_a_right_one_out(
    ingest: database.Pool, connection: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "KNOWN_MAX", 3)
    monkeypatch.setattr(keys, "FRESH_S", 60)
    known = Keys(ingest)
    assert (await known.find(INGEST_KEY)).game == "demo"
    await connection.execute("DELETE FROM ingest_key")
    wrong = [f"wrong-{n}" for n in range(4)]
    for secret in wrong:
        assert (await refused(known.find(secret)))[0] == "unknown_key"
    assert (await known.find(INGEST_KEY)).game == "demo"  # still remembered, though it is gone
    hashes = [hashlib.sha256(secret.encode()).digest() for secret in wrong]
    await connection.execute(
        "INSERT INTO ingest_key (studio_id, game_id, key_hash, kind) SELECT 1, 1, unnest($1::bytea[]), 'client'", hashes
    )
    for secret in wrong[1:]:
        assert (await refused(known.find(secret)))[0] == "unknown_key"  # remembered, though they are right by now
    assert (await known.find(wrong[0])).game == "demo"  # the oldest was forgotten


async def test_no_flood_holds_up_who_is_known(
    ingest: database.Pool, acceptor: Acceptor, connection: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two connections to look up, wrong keys take one at most, and so do batches with bad times."""
    monkeypatch.setattr(keys, "FRESH_S", 0)  # each is looked up anew
    known = Keys(ingest)
    await known.find(INGEST_KEY)

    def used() -> int:
        return ingest.counts[1]

    async with locked(connection, "ingest_key, batch_key"):
        flood = [asyncio.create_task(known.find(f"wrong-{n}")) for n in range(20)]
        await wait_for_locks(connection, "ingest")
        await asyncio.sleep(0.2)  # for those that must not
        assert used() == 1
        right = asyncio.create_task(known.find(INGEST_KEY))
        await wait_for_locks(connection, "ingest", 2)
        assert used() == 2
    assert (await right).game == "demo"
    assert {str(problem) for problem in await asyncio.gather(*flood, return_exceptions=True)} == {"unknown_key"}
    async with locked(connection, "batch_key"):
        looks = [asyncio.create_task(acceptor.known(sent())) for _ in range(20)]
        await wait_for_locks(connection, "ingest")
        await asyncio.sleep(0.2)
        assert used() == 1
    assert await asyncio.gather(*looks) == [None] * 20


async def test_so_many_wrong_keys_wait(ingest: database.Pool, connection: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "FRESH_S", 0)
    monkeypatch.setattr(keys, "STRANGERS_MAX", 3)
    known = Keys(ingest)
    await known.find(INGEST_KEY)
    async with locked(connection, "ingest_key"):
        waiting = [asyncio.create_task(known.find(f"wrong-{n % 3}")) for n in range(9)]
        await wait_for_locks(connection, "ingest")
        assert (await refused(known.find("wrong-3")))[0] == "overloaded"
        right = asyncio.create_task(known.find(INGEST_KEY))
        await wait_for_locks(connection, "ingest", 2)
    assert [str(one) for one in await asyncio.gather(*waiting, return_exceptions=True)] == ["unknown_key"] * 9
    assert (await right).game == "demo"
    assert (await refused(known.find("wrong-3")))[0] == "unknown_key"


# -- aggregation ------------------------------------------------------------------------------------------------------------------


async def test_a_step_reads_so_many_rows_and_forgets_so_many_ids(
    acceptor: Acceptor, telemetry: Telemetry, connection: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        await acceptor.accept(sent())
    await connection.execute("UPDATE raw_batch SET shard = 0")
    await connection.execute("UPDATE batch_key SET received_at = now() - interval '49 hours'")
    horizon = await connection.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    aggregator = aggregate.Aggregator(settings.load(service_environ(database_url)), telemetry)
    for most, expected in ((3, 2), (5, 4), (6, 5)):  # the last transaction that was read may have more rows
        monkeypatch.setattr(aggregate, "STEP_BATCHES_MAX", most)
        rows, _ = await aggregator._read(connection, 0, 0, horizon)
        assert len(rows) == expected
    monkeypatch.setattr(aggregate, "FORGET_SLICE", 3)
    aggregator._forgetting = {"forget_batch_keys"}
    assert [await aggregator._forget(connection) for _ in range(3)] == [True, False, False]
    assert await connection.fetchval("SELECT count(*) FROM batch_key") == 0
    await aggregator.close()


async def test_hours_go_by_the_month_when_all_of_it_is_past_its_retention(connection: Database) -> None:
    today = datetime.now(UTC).date()
    edge = await connection.fetchval("SELECT ($1::date - interval '3 months')::date", today)
    before = edge.replace(day=1) - timedelta(days=1)
    await connection.execute("SELECT create_partitions($1, $1), create_partitions($2, $2)", edge, before)
    await connection.execute("UPDATE watermark SET as_of = now()")
    dropped = {row[0] for row in await connection.fetch(database.queries("aggregate")["expired"], 90, 90, 3)}
    for table in ("rollup_hour", "rollup_quarter", "rollup_day", "rollup_total"):
        assert f"{table}_{before:%Y%m}" in dropped
        assert f"{table}_{edge:%Y%m}" not in dropped


# -- questions --------------------------------------------------------------------------------------------------------------------


async def test_a_timeline_and_what_is_found_are_cut(
    client: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = uuid4()
    for _ in range(3):
        await client.post("/v1/reports", json=batch(2, session=str(session), player="p"))
        await client.post("/v1/reports", json=batch(1, player="p"))
    await complete(client)
    pool = await database.open_pool({"dsn": database_url}, "query", size=1)
    game = asker.Game(1, 1, "demo")
    for name, most, expected in (
        ("BATCHES_MAX", 2, (4, True)), ("BATCHES_MAX", 3, (6, False)), ("REPORTS_MAX", 5, (4, True)), ("REPORTS_MAX", 6, (6, False)),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(sessions, name, most)
            told = await sessions.timeline(pool, game, session, EPOCH)
            assert (name, most, (len(told.reports), told.is_cut)) == (name, most, expected)
    for most, expected in ((3, (3, True)), (4, (4, False))):
        monkeypatch.setattr(sessions, "SESSIONS_MAX", most)
        found = await sessions.of_player(pool, game, "p", bytes.fromhex("5a" * 32), asker.ANYONE, EPOCH)
        assert (most, (len(found.sessions), found.is_cut)) == (most, expected)
    pool.terminate()


async def test_so_many_questions_and_viewers(database_url: str, valkey_url: str, connection: Database, tmp_path: Path) -> None:
    few = ("live.VIEWERS_MAX = 2", "live.CLIENT_VIEWERS_MAX = 1", "serve.reader.QUESTION_WAIT_S = 0.3")
    limits = smaller(tmp_path, *PATIENT, *few)
    with serve(database_url, valkey_url, tmp_path / "log", **limits) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
            async with _watched(client, "192.0.2.1"):
                refused = await client.get("/v1/live", params={"game": "demo"}, headers={"x-forwarded-for": "192.0.2.1"})
                assert (refused.status_code, refused.json()["code"]) == (503, "too_many_viewers")
                async with _watched(client, "192.0.2.2"):  # another has a place
                    pass
            async with _watched(client, "192.0.2.1"):  # given back
                pass
            async with _watched(client), _watched(client):  # the machine itself
                refused = await client.get("/v1/live", params={"game": "demo"})
                assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (
                    503,
                    "too_many_viewers",
                    "5",
                )
            async with locked(connection, "rollup_total"):  # which the live stream does not read
                questions = [{"game": "demo", "limit": n} for n in (1, 2, 3)]  # who asks the same waits for the same answer
                asking = [asyncio.create_task(client.get("/v1/quality", params=one)) for one in questions[:2]]
                await wait_for_locks(connection, "query", 2)
                started, awake_since = time.monotonic(), awake_s()
                refused = await client.get("/v1/quality", params=questions[2])
                assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "busy", "2")
                assert time.monotonic() - started > 0.2
                assert awake_s() - awake_since < 2
            assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200, 200]


@asynccontextmanager
async def _watched(client: httpx.AsyncClient, address: str = "") -> AsyncIterator[None]:
    """A stream, as soon as there is a place for it: that one has gone is noticed at its next event."""
    headers = {"x-forwarded-for": address} if address else {}
    deadline = awake_s() + 30
    while awake_s() < deadline:
        async with client.stream("GET", "/v1/live", params={"game": "demo"}, headers=headers) as stream:
            if stream.status_code == 200:
                lines = stream.aiter_lines()
                await anext(lines)
                yield
                return
        await asyncio.sleep(0.1)
    pytest.fail("there was no place for a stream")


CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()"


async def test_a_process_has_so_many_connections_to_postgresql(
    database_url: str, valkey_url: str, connection: Database, tmp_path: Path
) -> None:
    small = smaller(tmp_path, *PATIENT, "keys.FRESH_S = 0", "serve.reader.QUESTIONS_MAX = 20")
    most = {
        "gamepulse-query": app.QUERY_CONNECTIONS_MAX,
        "gamepulse-account": app.ACCOUNT_CONNECTIONS_MAX,
        "gamepulse-ingest": 1 + app.LOOK_UP_CONNECTIONS_MAX,
    }

    other = await asyncpg.connect(database_url)

    async def connections() -> dict[str, int]:
        await connection.execute("SELECT pg_stat_clear_snapshot()")  # within a transaction it would say the same again
        return {name: await connection.fetchval(CONNECTIONS, name) for name in most}

    with serve(database_url, valkey_url, tmp_path / "log", **small) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:

            async def send(key: str) -> int:
                answer = await client.post("/v1/reports", json=batch(), headers={"authorization": f"Bearer {key}"})
                return answer.status_code

            assert [await send(INGEST_KEY), await send(SERVER_KEY)] == [202, 202]
            async with locked(connection, "ingest_key, raw_batch, session_seen"):
                async with locked(other, "game"):  # first of all 20 the game is looked up
                    asking = [asyncio.create_task(client.get("/v1/games/demo/servers/seoul-1/sessions")) for _ in range(20)]
                    await wait_for_locks(other, "account", app.ACCOUNT_CONNECTIONS_MAX)
                sending = [asyncio.create_task(send(key)) for key in (INGEST_KEY, SERVER_KEY, "wrong")]
                await wait_for_locks(connection, "query", app.QUERY_CONNECTIONS_MAX)
                await wait_for_locks(connection, "ingest", app.LOOK_UP_CONNECTIONS_MAX)  # the one of commits stays idle
                await asyncio.sleep(1)  # for those that must not
                assert await connections() == most
            assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 20
            assert await asyncio.gather(*sending) == [202, 202, 401]
    await other.close()


# -- clients' connections and bodies ----------------------------------------------------------------------------------------------


async def test_connections_are_bounded_and_idle_ones_end(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    limits = smaller(tmp_path, "run.CONNECTIONS_MAX = 5", "run.KEEP_ALIVE_S = 2")
    with serve(database_url, valkey_url, tmp_path / "log", **limits) as service:
        port = int(service.url.rpartition(":")[2])
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        async with httpx.AsyncClient(base_url=service.url) as client:
            assert (await client.get("/health/live", headers={"connection": "close"})).status_code == 200
            idle.append(await asyncio.open_connection("127.0.0.1", port))
            started, awake_since = time.monotonic(), awake_s()
            assert (await client.get("/health/live", timeout=30)).status_code == 200  # once the first of the idle ones has ended
            assert time.monotonic() - started > 0.5
            assert awake_s() - awake_since < 4
        for reader, writer in idle:
            assert await in_time(reader.read(), 4) == b""
            writer.close()


async def test_bodies_that_are_being_received_are_bounded(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    limits = smaller(tmp_path, *PATIENT, "reports.BODIES_BYTES_MAX = 1_100_000", "reports.BODY_TIMEOUT_S = 60")
    with serve(database_url, valkey_url, tmp_path / "log", **limits) as service:
        head = f"POST /v1/reports HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {INGEST_KEY}\r\ncontent-length: 262144\r\n\r\n"
        async with httpx.AsyncClient(base_url=service.url, headers=HEADERS) as client:
            for _ in range(5):  # what has been received counts no more
                assert (await client.post("/v1/reports", content=b" " * 262_144)).status_code == 400
        slow = [await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2])) for _ in range(6)]
        for _, writer in slow:
            writer.write(head.encode() + b" " * 262_143)
            await writer.drain()
            await asyncio.sleep(0.2)
        for reader, _ in slow[:2]:
            assert b" 408 " in await in_time(reader.readline(), 2)  # the oldest, so that there is room for four
        async with httpx.AsyncClient(base_url=service.url, headers=HEADERS, timeout=30) as client:
            assert (await in_time(client.post("/v1/reports", json=batch()), 2)).status_code == 202
        for reader, writer in slow[2:]:
            writer.write(b" ")
            assert b" 400 " in await in_time(reader.readline(), 2)  # whole at last, and no JSON
        for _, writer in slow:
            writer.close()


async def test_bodies_that_wait_for_their_key_are_bounded(
    database_url: str, valkey_url: str, connection: Database, tmp_path: Path
) -> None:
    """As large as they are when expanded, where the key is within."""
    limits = smaller(tmp_path, *PATIENT, "reports.HELD_BYTES_MAX = 30_000", "keys.FRESH_S = 0")
    packed = gzip.compress(json.dumps(batch() | {"key": INGEST_KEY}).encode().ljust(10_000))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    with serve(database_url, valkey_url, tmp_path / "log", **limits) as service:
        async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60) as client:
            async with locked(connection, "ingest_key"):
                waiting = [asyncio.create_task(client.post("/v1/reports", content=packed)) for _ in range(4)]
                [turned_away], held = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)  # whichever comes last
                assert turned_away.result().json()["code"] == "overloaded"
                assert len(held) == 3
            assert [answer.status_code for answer in await asyncio.gather(*held)] == [202] * 3
            assert (await client.post("/v1/reports", content=packed)).status_code == 202


async def test_a_worker_may_open_a_file_for_each_connection(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
    try:
        with serve(database_url, valkey_url, tmp_path / "log") as service:
            [worker] = service.children(aggregator=False)
            assert worker.rlimit(resource.RLIMIT_NOFILE)[0] > run.CONNECTIONS_MAX
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- the end ----------------------------------------------------------------------------------------------------------------------


async def test_whoever_does_not_end_is_killed(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    limits = smaller(tmp_path, "run.WORKERS_KILL_TIMEOUT_S = 2", "run.AGGREGATOR_KILL_TIMEOUT_S = 3")
    with serve(database_url, valkey_url, tmp_path / "log", **limits) as service:
        children = [*service.children(aggregator=False), *service.children(aggregator=True)]
        for child in children:
            child.suspend()
        awake_since = awake_s()
        assert await asyncio.to_thread(service.stop, 30) > 2
        assert awake_s() - awake_since < 4.8
        assert psutil.wait_procs(children, 5)[1] == []
