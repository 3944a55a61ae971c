"""Too much at a time: one game leaves room for the others, and clients that do as they are asked end an overload by themselves."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from gamepulse import accept, database, errors, receive, settings
from gamepulse.accept import Acceptor
from gamepulse.geography import NOWHERE
from gamepulse.keys import IngestKey
from gamepulse.receive import Sent
from gamepulse.spans import RequestFacts
from gamepulse.telemetry import Telemetry
from tests.awake import awake_s
from tests.batches import batch, now_ms
from tests.conftest import INGEST_KEY, PATIENT, serve, service_environ, smaller, wait_for
from tests.integration.test_tenants import OTHER_KEY, other_studio
from tests.locks import locked, wait_for_locks, wait_until

__all__ = ["other_studio"]
HEADERS = {"authorization": f"Bearer {INGEST_KEY}"}
type Database = asyncpg.Connection[asyncpg.Record]


@pytest.fixture
async def acceptor(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Acceptor]:
    for name in ("COMMIT", "LOOK_UP", "STATEMENT"):  # a lock is held for as long as it takes
        monkeypatch.setattr(database, f"{name}_TIMEOUT_S", 60)
    telemetry = Telemetry(settings.load(service_environ(database_url)), "test")
    pool = await database.open_pool({"dsn": database_url}, "ingest", size=2)
    acceptor = Acceptor(pool, pool, telemetry, 10_000)
    yield acceptor
    await acceptor.close()
    pool.terminate()
    await telemetry.close()


def sent(game_id: int, reports: int) -> Sent:
    facts = RequestFacts(0, "POST", 1, 0, False, 1, 1)
    key = IngestKey(1, game_id, "demo", is_server=False)
    return receive.prepare(receive.decode(json.dumps(batch(reports)).encode()), key, NOWHERE, now_ms(), bytes(32), facts)


async def test_one_game_leaves_room_for_the_others(acceptor: Acceptor, connection: Database) -> None:
    async with locked(connection, "batch_key"):
        waiting = [asyncio.create_task(acceptor.accept(sent(1, 500))) for _ in range(int(accept.GAME_SHARE * 10_000) // 500)]
        await wait_for_locks(connection, "ingest")
        assert acceptor.full_games == {1}
        assert not acceptor.is_full
        with pytest.raises(errors.Problem, match="overloaded"):
            await acceptor.accept(sent(1, 1))
        other = asyncio.create_task(acceptor.accept(sent(2, 500)))
        await asyncio.sleep(0.1)
        assert not other.done()
        assert acceptor.crest() == 1.0  # something was refused
    assert [stored.accepted for stored in await asyncio.gather(*waiting, other)] == [500] * (len(waiting) + 1)
    assert acceptor.full_games == set()
    assert acceptor.pending_reports == 0
    assert (await acceptor.accept(sent(1, 1))).accepted == 1


@pytest.mark.usefixtures("other_studio")
async def test_a_flood_of_one_game_is_turned_away_and_another_is_stored(
    database_url: str, valkey_url: str, connection: Database, tmp_path: Path
) -> None:
    small = smaller(tmp_path, *PATIENT, "accept.GAME_SHARE = 0.5", "keys.FRESH_S = 60", "pace.LOOK_EVERY_S = 3600")
    with serve(database_url, valkey_url, tmp_path / "log", GAMEPULSE_PENDING_REPORTS_MAX="1000", **small) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            await client.post("/v1/reports", json=batch(), headers=HEADERS)
            async with locked(connection, "batch_key"):
                flood = [asyncio.create_task(client.post("/v1/reports", json=batch(100), headers=HEADERS)) for _ in range(9)]
                await wait_until(lambda: sum(one.done() for one in flood) == 4)  # refused: the others wait
                other = asyncio.create_task(
                    client.post("/v1/reports", json=batch(400, game="secret"), headers={"authorization": f"Bearer {OTHER_KEY}"})
                )
                await asyncio.sleep(0.5)
                assert not other.done()
                late = await client.post("/v1/reports", json=batch(), headers=HEADERS)  # by its key, before it is looked into
                assert (late.status_code, late.json()["code"], late.headers["retry-after"]) == (503, "overloaded", "1")
            assert (await other).status_code == 202
            assert Counter(answer.status_code for answer in await asyncio.gather(*flood)) == {202: 5, 503: 4}
        wait_for("it is told", lambda: "requests turned away" in service.log.read_text())


class Clients:
    """Clients in a closed loop: each sends, and comes back when it was asked to."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.answers: list[tuple[float, int, int]] = []
        """When, the status, and for how long it is asked to wait."""

    async def live(self, first_after_s: float) -> None:
        await asyncio.sleep(first_after_s)
        while True:
            answer = await self._client.post("/v1/reports", json=batch(50), headers=HEADERS)
            wait_s = int(answer.headers["retry-after"]) if answer.status_code != 202 else answer.json()["next_report_s"]
            self.answers.append((time.monotonic(), answer.status_code, wait_s))
            await asyncio.sleep(wait_s * random.uniform(0.95, 1.05))

    def between(self, since: float, until: float) -> Counter[int]:
        return Counter(status for at, status, _ in self.answers if since <= at < until)

    def is_calm(self, now: float) -> bool:
        """In the last six seconds some were stored, and hardly any refused."""
        counts = self.between(now - 6, now)
        return counts[202] > 10 and counts[503] <= 0.05 * counts.total()

    def tell(self, began: float, seconds: int) -> None:
        """What was answered in every two seconds, and until when those who were stored were asked to wait (pytest -s)."""
        for at in range(0, seconds, 2):
            counts = self.between(began + at, began + at + 2)
            told = [wait_s for when, status, wait_s in self.answers if status == 202 and 0 <= when - began - at < 2]
            print(
                f"{at:2} s: {counts[202]:3} stored, {counts[503]:3} refused, next_report_s {min(told, default=0)}-{max(told, default=0)}"
            )


async def test_an_overload_ends_without_a_human(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    """Commits of 500 reports each 0.5 s are the most here: 20 batches/s; 60 clients who come each second are three times that."""
    small = smaller(tmp_path, "accept.COMMIT_EVERY_S = 0.5")
    environ = small | {"GAMEPULSE_PENDING_REPORTS_MAX": "500", "GAMEPULSE_NEXT_REPORT_S": "1"}
    with serve(database_url, valkey_url, tmp_path / "log", **environ) as service:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=service.url, timeout=20, limits=limits) as client:
            clients = Clients(client)
            living = [asyncio.create_task(clients.live(n / 60)) for n in range(60)]
            began = time.monotonic()
            await asyncio.sleep(20)
            ends = time.monotonic()
            clients.tell(began, 20)
            for one in living[12:]:
                one.cancel()
            ingest = (await client.get("/health")).json()["entries"]["ingest"]
            await asyncio.sleep(0)
            at_first, at_last = clients.between(began, began + 4), clients.between(ends - 6, ends)
            assert at_first[503] > 0.3 * at_first.total(), at_first  # it was an overload
            assert clients.is_calm(ends), (at_first, at_last)
            told = [wait_s for _, status, wait_s in clients.answers if status == 202]
            assert 3 <= max(told) <= 12
            assert ingest["data"]["next_report_s"] >= 3
            for one in living:
                one.cancel()
            await asyncio.gather(*living, return_exceptions=True)
            deadline = awake_s() + 60
            most = now = ingest["data"]["next_report_s"]
            while now >= most:
                assert awake_s() < deadline, "clients are asked to wait for ever"
                await asyncio.sleep(0.5)
                now = (await client.get("/health")).json()["entries"]["ingest"]["data"]["next_report_s"]
