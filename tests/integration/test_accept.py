"""Invariants 1, 2 and 8: an answer means safe, a batch counts once, and what is too much is refused at once."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gamepulse import database
from tests.awake import awake_s, sleep_awake
from tests.batches import Json, batch
from tests.conftest import INGEST_KEY, PATIENT, Service, complete, serve, smaller, wait_for
from tests.locks import locked, wait_for_locks

HEADERS = {"authorization": f"Bearer {INGEST_KEY}"}
type Database = asyncpg.Connection[asyncpg.Record]


@pytest.fixture
def service(database_url: str, valkey_url: str, tmp_path: Path) -> Iterator[Service]:
    """It waits for a commit for as long as a test holds it up."""
    with serve(database_url, valkey_url, tmp_path / "service.log", **smaller(tmp_path, *PATIENT)) as running:
        yield running


def commits_held(connection: Database) -> AbstractAsyncContextManager[None]:
    """While this lasts no commit of batches can end."""
    return locked(connection, "batch_key")


async def test_no_answer_before_the_commit(client: httpx.AsyncClient, connection: Database) -> None:
    await client.post("/v1/reports", json=batch())
    async with commits_held(connection):
        waiting = [asyncio.create_task(client.post("/v1/reports", json=batch(20))) for _ in range(10)]
        await wait_for_locks(connection, "ingest")
        done, _ = await asyncio.wait(waiting, timeout=1)
        assert not done
    answers = await asyncio.gather(*waiting)
    assert [answer.status_code for answer in answers] == [202] * 10
    assert await connection.fetchval("SELECT sum(length(records) / 26) FROM raw_batch") == 201


async def test_requests_that_wait_share_the_next_commit(client: httpx.AsyncClient, connection: Database) -> None:
    await client.post("/v1/reports", json=batch())
    async with commits_held(connection):
        waiting = [asyncio.create_task(client.post("/v1/reports", json=batch())) for _ in range(30)]
        await sleep_awake(1)
    await asyncio.gather(*waiting)
    commits = await connection.fetchval("SELECT count(DISTINCT xid) FROM raw_batch")
    assert commits <= 4  # the first, the one in flight, and those that waited (which may have arrived around it)


async def test_too_much_is_refused_at_once_and_nothing_else_is_lost(
    database_url: str, valkey_url: str, connection: Database, tmp_path: Path
) -> None:
    limits = smaller(tmp_path, *PATIENT, "reports.TELL_EVERY_S = 5", "pace.LOOK_EVERY_S = 3600")  # all is told together
    with serve(database_url, valkey_url, tmp_path / "log", GAMEPULSE_PENDING_REPORTS_MAX="500", **limits) as service:
        async with httpx.AsyncClient(base_url=service.url, headers=HEADERS, timeout=60) as client:
            await client.post("/v1/reports", json=batch())
            async with commits_held(connection):
                waiting = [asyncio.create_task(client.post("/v1/reports", json=batch(100))) for _ in range(5)]
                is_full = False
                while not is_full:  # until all of them wait
                    await asyncio.sleep(0.05)
                    is_full = (await client.post("/v1/reports", headers={"authorization": "none"})).status_code == 503
                assert not any(one.done() for one in waiting)
                started = awake_s()
                refused = await client.post("/v1/reports", json=batch(1))
                took_s = awake_s() - started
                assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
                assert took_s < 1  # at once, not after the commit that it would wait for
                assert await _answers_on_one_connection(service.url, batch(500), batch(1)) == [503, 503]
            assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [202] * 5
            assert (await client.post("/v1/reports", json=batch(500))).status_code == 202
        told = await asyncio.to_thread(_line, service.log, "requests turned away")
    assert (told["count"], told["error.code"], told["trace_id"]) == (4, "overloaded", refused.json()["trace_id"])


async def _answers_on_one_connection(url: str, *batches: Json) -> list[int]:
    """The status of each, its body sent in pieces: who is turned away in the midst of it must see that, and go on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    found = []
    for one in batches:
        body = json.dumps(one).encode()
        head = f"POST /v1/reports HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {INGEST_KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode())
        for at in range(0, len(body), 50_000):
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(body[at : at + 50_000])
        answer = await reader.readuntil(b"\r\n\r\n")
        found.append(int(answer.split()[1]))
        await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].split()[0]))
    writer.close()
    return found


def _line(log: Path, event: str) -> dict[str, Any]:
    """The first line of the log about an event."""
    found = wait_for(event, lambda: [line for line in log.read_text().splitlines() if event in line])
    line: dict[str, Any] = json.loads(found[0])
    return line


async def test_a_commit_that_takes_too_long_is_answered_503_and_the_batch_may_come_again(
    database_url: str, valkey_url: str, connection: Database, tmp_path: Path
) -> None:
    with serve(database_url, valkey_url, tmp_path / "log") as service:
        async with httpx.AsyncClient(base_url=service.url, headers=HEADERS, timeout=20) as client:
            await client.post("/v1/reports", json=batch())
            sent = batch(20)
            async with commits_held(connection):
                answer = await client.post("/v1/reports", json=sent)
                assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
                assert int(answer.headers["retry-after"]) > 0
            again = (await client.post("/v1/reports", json=sent)).json()
    assert again["accepted"] + again["duplicate"] == 20
    assert await connection.fetchval("SELECT count(*) FROM raw_batch") == 2


async def test_one_poisonous_batch_does_not_sink_its_neighbours(client: httpx.AsyncClient, connection: Database) -> None:
    await client.post("/v1/reports", json=batch())
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poison' USING ERRCODE = '22000'; END $$;"
        "CREATE TRIGGER poison BEFORE INSERT ON raw_batch FOR EACH ROW WHEN (new.platform = 'poison') EXECUTE FUNCTION refuse()"
    )
    async with commits_held(connection):
        good = [asyncio.create_task(client.post("/v1/reports", json=batch())) for _ in range(5)]
        bad = asyncio.create_task(client.post("/v1/reports", json=batch(platform="poison")))
        await sleep_awake(1)
    assert [answer.status_code for answer in await asyncio.gather(*good)] == [202] * 5
    refused = await bad
    assert (refused.status_code, refused.json()["code"]) == (422, "not_storable")
    assert await connection.fetchval("SELECT count(*) FROM raw_batch") == 6
    assert await connection.fetchval("SELECT count(*) FROM batch_key") == 6


async def test_a_missing_partition_is_no_fault_of_the_batch(client: httpx.AsyncClient, connection: Database) -> None:
    await complete(client)  # the aggregator has looked after the partitions
    await connection.execute("SELECT drop_partitions('raw_batch', '2100-01-01')")
    sent = batch(20)
    refused = await client.post("/v1/reports", json=sent)
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")  # so the client keeps it
    await connection.execute("SELECT create_partitions(current_date - 1, current_date + 1)")
    assert (await client.post("/v1/reports", json=sent)).json()["accepted"] == 20


async def test_a_commit_that_fails_for_another_reason_is_told_and_may_come_again(
    client: httpx.AsyncClient, connection: Database, service: Service
) -> None:
    await client.post("/v1/reports", json=batch())
    await connection.execute("REVOKE INSERT ON raw_batch FROM gamepulse_ingest")
    sent = batch(20)
    async with commits_held(connection):  # so that they share a commit
        waiting = [asyncio.create_task(client.post("/v1/reports", json=one)) for one in (batch(), batch(), sent)]
        await sleep_awake(0.5)
    for answer in await asyncio.gather(*waiting):
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "commit_failed", "5")
    assert await connection.fetchval("SELECT count(*) FROM batch_key") == 1
    told = await asyncio.to_thread(_line, service.log, "commit failed")
    assert (told["level"], told["error.type"]) == ("error", "InsufficientPrivilegeError")
    await connection.execute("GRANT INSERT ON raw_batch TO gamepulse_ingest")
    assert (await client.post("/v1/reports", json=sent)).json()["accepted"] == 20


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_a_server_that_could_lose_answers_is_refused(setting: str, database_url: str) -> None:
    async with asyncpg.create_pool(database_url, min_size=0, max_size=1) as pool, pool.acquire() as connection:
        await database.verify(connection)
        if setting != "synchronous_commit":  # the others belong to the server: say of this one what it would say of them
            await connection.execute(f"CREATE TEMPORARY VIEW pg_settings AS SELECT '{setting}' AS name, 'off' AS setting")
            await connection.execute("SET search_path = pg_temp, pg_catalog, public")
        else:
            await connection.execute("SET synchronous_commit = off")
        with pytest.raises(database.Unsafe, match=setting):
            await database.verify(connection)


async def test_sigterm_answers_what_was_accepted_and_ends_in_time(
    database_url: str, valkey_url: str, connection: Database, tmp_path: Path
) -> None:
    answered: list[int] = []
    with serve(database_url, valkey_url, tmp_path / "log") as service:
        async with httpx.AsyncClient(base_url=service.url, headers=HEADERS, timeout=20) as client:

            async def load() -> None:
                while True:
                    answer = await client.post("/v1/reports", json=batch(20))
                    assert answer.status_code == 202
                    answered.append(answer.json()["accepted"])

            loads = [asyncio.create_task(load()) for _ in range(16)]
            await asyncio.sleep(1)
            took_s = await asyncio.to_thread(service.stop)
            ends = await asyncio.gather(*loads, return_exceptions=True)
    assert took_s < 10
    # Who finds the door closed (also when it closes while they wait before it, in the kernel's queue) goes elsewhere …
    assert {type(end) for end in ends} <= {httpx.ConnectError, httpx.ReadError}, ends
    assert len(answered) > 16
    # … but what was let in has its answer: nothing is stored that was not answered.
    assert await connection.fetchval("SELECT sum(length(records) / 26) FROM raw_batch") == sum(answered)
    assert service.process.returncode == 0
