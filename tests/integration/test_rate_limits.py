"""Rate limits: one algorithm in Valkey and in a process, what it means for those who ask, and reports that are limited by leases."""

import asyncio
import json
import math
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import redis.asyncio as redis

from gamepulse import errors, leases, limits, settings, valkey
from gamepulse.leases import Budget, Leases
from gamepulse.limits import Charge, Limit, Limits, Local, Shared, Store, client_of
from gamepulse.metrics import Metrics
from gamepulse.telemetry import Telemetry
from tests.batches import batch, now_ms
from tests.conftest import INGEST_KEY, PLAYER_HASH_KEY, SERVER_KEY, free_port, serve, service_environ
from tests.integration.test_limits import smaller
from tests.people import PASSWORD, register

SLOW = Limit("slow", 10, 3600, 5)
"""One is free again every 6 minutes: no test lasts as long."""
QUICK = Limit("quick", 50, 1, 1)
SECRET = bytes.fromhex(PLAYER_HASH_KEY)
KEY_HEADER = {"authorization": f"Bearer {INGEST_KEY}"}


def connect(url: str) -> redis.Redis:
    return valkey.connect(settings.load(service_environ("postgresql://x", GAMEPULSE_VALKEY_URL=url)))


@pytest.fixture
async def connection_to_valkey(valkey_url: str) -> AsyncIterator[redis.Redis]:
    connection = connect(valkey_url)
    await connection.flushdb()
    yield connection
    await connection.aclose()


@pytest.fixture(params=["valkey", "process"])
def store(request: pytest.FixtureRequest, connection_to_valkey: redis.Redis) -> Store:
    return Shared(connection_to_valkey) if request.param == "valkey" else Local()


def behind(address: str) -> dict[str, str]:
    """As a client of that address, behind the trusted proxy that the test is."""
    return {"x-forwarded-for": address}


# -- the algorithm, in both places -------------------------------------------------------------------------------------------------


async def test_so_many_at_once_then_one_in_so_long(store: Store) -> None:
    for left in (4, 3, 2, 1, 0):
        [answer] = await store.spend([Charge(SLOW, "one")], is_asked=True)
        assert (answer.wait_us, answer.left) == (0, left)
    [answer] = await store.spend([Charge(SLOW, "one")], is_asked=True)
    assert 355e6 < answer.wait_us <= 360e6
    assert 1795e6 < answer.reset_us <= 1800e6
    [other] = await store.spend([Charge(SLOW, "other", 5)], is_asked=True)
    assert (other.wait_us, other.left) == (0, 0)


async def test_it_is_free_again_in_time(store: Store) -> None:
    started, allowed = time.monotonic(), 0
    while time.monotonic() < started + 0.6:
        [answer] = await store.spend([Charge(QUICK, "one")], is_asked=True)
        allowed += not answer.wait_us
        await asyncio.sleep(min(answer.wait_us / 1e6, 0.02))
    took_s = time.monotonic() - started
    assert 0.5 * 50 * took_s < allowed <= 50 * took_s + 1.01


async def test_all_or_none_when_asked(store: Store) -> None:
    await store.spend([Charge(SLOW, "full", 5)], is_asked=True)
    for _ in range(3):
        first, second = await store.spend([Charge(SLOW, "free"), Charge(SLOW, "full")], is_asked=True)
        assert first.wait_us == 0 < second.wait_us
        assert (first.left, second.left) == (5, 0)


async def test_what_is_told_was_spent_already_and_may_be_too_much(store: Store) -> None:
    [answer] = await store.spend([Charge(SLOW, "one", 4)], is_asked=False)
    assert answer.wait_us == 0  # there is one left
    [answer] = await store.spend([Charge(SLOW, "one", 3)], is_asked=False)
    assert 3 * 355e6 < answer.wait_us <= 3 * 360e6  # two too many, and the next one
    [answer] = await store.spend([Charge(SLOW, "one", 0)], is_asked=True)
    assert answer.wait_us > 0
    await store.forget(SLOW, "one")
    [answer] = await store.spend([Charge(SLOW, "one", 5)], is_asked=True)
    assert answer.wait_us == 0


async def test_nothing_is_kept_for_longer_than_it_is_needed_nor_whom_it_is_of(connection_to_valkey: redis.Redis) -> None:
    of = Limits(connection_to_valkey, valkey.policy(), SECRET, Metrics())
    await of.ask(Charge(SLOW, of.hashed("198.51.100.7"), 5), Charge(QUICK, of.hashed("mina")))
    keys = sorted(key.decode() for key in await connection_to_valkey.keys())
    assert all(re.fullmatch(r"gamepulse:limit:(slow|quick):[0-9a-f]{32}", key) for key in keys)
    lives_ms = [await connection_to_valkey.pttl(key) for key in keys]
    assert 0 < lives_ms[0] <= 20
    assert 1_790_000 < lives_ms[1] <= 1_800_000


def test_a_subject_is_another_tomorrow_and_under_another_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashed(secret: bytes) -> str:
        return Limits(redis.Redis(), valkey.policy(), secret, Metrics()).hashed("198.51.100.7")

    today = hashed(SECRET)
    assert hashed(SECRET) == today != hashed(bytes(32))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    assert hashed(SECRET) != today


async def test_a_process_remembers_so_many_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUBJECTS_MAX", 3)
    local = Local()
    for subject in "abcd":
        await local.spend([Charge(SLOW, subject, 5)], is_asked=True)
    assert [key[-1] for key in local._free_at] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002"),
        ("2001:db8:1:2::9", "20010db800010002"),
        ("127.0.0.8", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("rubbish:\0", "rubbish:\0"),
    ],
)
def test_what_counts_as_one_client(address: str, client: str) -> None:
    assert client_of(address) == client


# -- who asks too often -----------------------------------------------------------------------------------------------------------


async def _answers(client: httpx.AsyncClient, count: int, **headers: str) -> tuple[Counter[int], list[httpx.Response], float]:
    started = time.monotonic()
    answers = await asyncio.gather(*(client.get("/v1/meta", headers=headers) for _ in range(count)))
    return Counter(answer.status_code for answer in answers), answers, time.monotonic() - started


async def test_an_address_may_ask_so_often_and_an_account_more_often(client: httpx.AsyncClient) -> None:
    counts, answers, took_s = await _answers(client, 100, **behind("203.0.113.1"))
    refill = took_s * limits.ADDRESS.quota / limits.ADDRESS.window_s
    assert limits.ADDRESS.burst <= counts[200] <= limits.ADDRESS.burst + refill + 1
    assert counts[200] + counts[429] == 100
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.json()["code"], refused.headers["retry-after"]) == ("rate_limited", "1")
    assert refused.headers["ratelimit-policy"] == '"address";q=300;w=60'
    assert re.fullmatch(r'"address";r=0;t=1[012]', refused.headers["ratelimit"])
    assert "203.0.113.1" not in refused.text
    assert (await client.get("/v1/meta", headers=behind("203.0.113.1, 10.0.0.9"))).status_code == 200  # the rightmost is another
    counts, answers, _ = await _answers(client, 5, **behind("203.0.113.2"))
    assert counts == {200: 5}
    assert answers[0].headers["ratelimit-policy"] == '"address";q=300;w=60'
    assert (await _answers(client, 300))[0] == {200: 300}  # from the machine itself
    person = await register(client, "often")
    counts, answers, took_s = await _answers(client, 100, **behind("203.0.113.1"), **person.headers)
    refill = took_s * limits.ACCOUNT.quota / limits.ACCOUNT.window_s
    assert limits.ACCOUNT.burst <= counts[200] <= limits.ACCOUNT.burst + refill + 1
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"account";q=600;w=60'}


async def test_guessing_a_password_is_limited_by_name_and_by_address(client: httpx.AsyncClient) -> None:
    await client.post("/v1/accounts", json={"name": "guessed", "password": PASSWORD})

    async def attempt(name: str, password: str, address: str) -> httpx.Response:
        return await client.post("/v1/sign-ins", json={"name": name, "password": password}, headers=behind(address))

    for name in ("guessed", "nobody-of-this-name"):
        wrong = [await attempt(name, "wrong", f"203.0.113.{10 + n}") for n in range(limits.SIGN_INS_NAME.quota)]
        assert {answer.status_code for answer in wrong} == {401}
        for password in ("wrong", PASSWORD):
            refused = await attempt(name, password, "203.0.113.99")
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert 0 < int(refused.headers["retry-after"]) <= limits.SIGN_INS_NAME.each_us / 1e6
            assert '"sign-ins-name";q=10;w=900' in refused.headers["ratelimit-policy"]
    one = [await attempt(f"other-{n}", "wrong", "203.0.113.50") for n in range(limits.SIGN_INS_ADDRESS.quota + 1)]
    counts = Counter(answer.json()["code"] for answer in one)
    assert counts["rate_limited"] >= 1
    assert (await attempt("other-1", "wrong", "203.0.113.51")).status_code == 401


async def test_who_knows_the_password_is_not_locked_out_by_signing_in(client: httpx.AsyncClient) -> None:
    person = await register(client, "regular")
    for _ in range(limits.SIGN_INS_NAME.quota + 2):
        begun = await client.post("/v1/sign-ins", json={"name": "regular", "password": PASSWORD})
        assert begun.status_code == 201
    for _ in range(limits.SIGN_INS_NAME.quota):
        change = {"password": "wrong", "new_password": PASSWORD + "!"}
        assert (await client.post("/v1/account/password", json=change, headers=person.headers)).status_code == 401
    change = {"password": PASSWORD, "new_password": PASSWORD + "!"}
    assert (await client.post("/v1/account/password", json=change, headers=person.headers)).status_code == 429


async def test_an_address_registers_so_many_accounts(client: httpx.AsyncClient) -> None:
    async def create(n: int, address: str) -> int:
        account = {"name": f"account-{n}", "password": PASSWORD}
        return (await client.post("/v1/accounts", json=account, headers=behind(address))).status_code

    made = [await create(n, "203.0.113.3") for n in range(limits.REGISTRATIONS.quota + 1)]
    assert made == [201] * limits.REGISTRATIONS.quota + [429]
    assert await create(99, "203.0.113.4") == 201


async def test_questions_are_limited_by_what_they_cost(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    small = smaller(tmp_path, 'limits.QUESTIONS = gamepulse.limits.Limit("questions", 3600, 3600, 100, "milliseconds")')
    with serve(database_url, valkey_url, tmp_path / "log", **small) as service:
        async with httpx.AsyncClient(base_url=service.url, params={"game": "demo"}, timeout=20) as client:
            answers: list[httpx.Response] = []
            while not answers or (answers[-1].status_code == 200 and len(answers) < 60):
                answers.append(await client.get("/v1/quality", headers=behind("203.0.113.5")))
            assert 1 < len(answers) < 60
            refused = answers[-1]
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert '"questions";q=3600;qu="milliseconds";w=3600' in refused.headers["ratelimit-policy"]
            assert (await client.get("/v1/meta", headers=behind("203.0.113.5"))).status_code == 200  # this costs nothing
            assert (await client.get("/v1/quality", headers=behind("203.0.113.6"))).status_code == 200


async def test_without_valkey_each_process_limits_by_itself(database_url: str, tmp_path: Path) -> None:
    with serve(database_url, f"redis://127.0.0.1:{free_port()}/0", tmp_path / "log") as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
            counts, _, took_s = await _answers(client, 100, **behind("203.0.113.1"))
            assert limits.ADDRESS.burst <= counts[200] <= limits.ADDRESS.burst + took_s * 5 + 1
            assert counts[200] + counts[429] == 100
            assert (await client.post("/v1/reports", json=batch(), headers=KEY_HEADER)).status_code == 202
            health = (await client.get("/health")).json()
    assert (health["status"], health["entries"]["valkey"]["status"]) == ("Degraded", "Degraded")
    assert health["entries"]["valkey"]["data"] == {"valkey": "open"}
    assert re.fullmatch(r"00:00:\d\d\.\d{6}", health["entries"]["valkey"]["duration"])


async def test_it_goes_back_to_valkey_and_says_where_it_counts(valkey_url: str) -> None:
    away = connect(f"redis://127.0.0.1:{free_port()}/0")
    of = Limits(away, valkey.policy(), SECRET, Metrics())
    await of.ask(Charge(SLOW, "one"))
    assert not of.is_shared
    there = connect(valkey_url)
    of._shared = Shared(there)
    await of.ask(Charge(SLOW, "one"))
    assert of.is_shared
    await there.aclose()
    await away.aclose()


# -- reports ----------------------------------------------------------------------------------------------------------------------


async def test_many_players_behind_one_address_are_no_attack_and_a_session_that_floods_is(client: httpx.AsyncClient) -> None:
    address = KEY_HEADER | behind("203.0.113.7")
    many = await asyncio.gather(*(client.post("/v1/reports", json=batch(), headers=address) for _ in range(300)))
    assert Counter(answer.status_code for answer in many) == {202: 300}
    one = batch()["session"]
    flood = [await client.post("/v1/reports", json=batch(session=one), headers=address) for _ in range(leases.SESSION.quota + 20)]
    counts = Counter(answer.status_code for answer in flood)
    assert counts[202] + counts[429] == leases.SESSION.quota + 20
    assert counts[429] > 0
    refused = next(answer for answer in flood if answer.status_code == 429)
    assert (refused.json()["code"], refused.headers["ratelimit-policy"]) == ("rate_limited", '"session";q=60;w=10')
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert refused.headers["access-control-allow-origin"] == "*"
    assert (await client.post("/v1/reports", json=batch(), headers=address)).status_code == 202
    of_server = batch(
        session=None, reports=None, sessions=[{"session": one, "reports": [{"seq": 1, "at": now_ms(), "region": "r"}]}]
    )
    assert (await client.post("/v1/reports", json=of_server, headers={"authorization": f"Bearer {SERVER_KEY}"})).status_code == 202


@pytest.fixture
async def telemetry() -> AsyncIterator[Telemetry]:
    telemetry = Telemetry(settings.load(service_environ("postgresql://x")), "test")
    yield telemetry
    await telemetry.close()


async def test_a_session_sends_so_many_batches_in_a_window(
    connection_to_valkey: redis.Redis, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Leases(Limits(connection_to_valkey, valkey.policy(), SECRET, telemetry.metrics), telemetry)
    await of.settle()  # the window begins
    session, other = (uuid4(), uuid4())
    for _ in range(leases.SESSION.quota):
        of.spend_session(session)
    with pytest.raises(errors.Problem, match="rate_limited"):
        of.spend_session(session)
    of.spend_session(other)
    of._session_window_ends = time.monotonic()
    await of.settle()
    of.spend_session(session)
    monkeypatch.setattr(leases, "SUBJECTS_MAX", 1)
    for _ in range(100):
        of.spend_session(other)  # nothing is known of those who come when all places are taken
    await of.close()


def test_until_valkey_has_answered_a_process_lends_one_lease() -> None:
    due = asyncio.Event()
    budget = Budget(Limit("few", 100, 1, 100), lambda subject: f"hash of {subject}", due)
    assert sum(not budget.spend("one") for _ in range(4)) == 4
    assert budget.untold() == []  # who sends little is not told of
    assert sum(not budget.spend("one") for _ in range(50)) == budget.lease - 4 == 6
    assert due.is_set()
    [(number, charge)] = budget.untold()
    assert charge == Charge(budget.limit, "hash of one", budget.lease)
    assert sum(not budget.spend("other") for _ in range(50)) == budget.lease
    budget.settle(number, charge, 0)
    assert sum(not budget.spend("one") for _ in range(50)) == budget.lease
    [(number, charge), _] = budget.untold()
    budget.settle(number, charge, 300_000)
    assert 0.2 < budget.spend("one") <= 0.3
    budget.begin_window()
    assert 0.2 < budget.spend("one") <= 0.3  # for as long as Valkey has said
    [(_, charge)] = budget.untold()
    assert charge.subject == "hash of other"  # it is told of, though the window has ended


SPENDER = """
import asyncio, json, sys, time
from gamepulse import leases, settings, valkey
from gamepulse.limits import Limit, Limits
from gamepulse.telemetry import Telemetry
from gamepulse import errors

leases.KEY = Limit("key", int(sys.argv[1]), 1, int(sys.argv[1]))

async def main():
    configured = settings.load()
    telemetry = Telemetry(configured, "test")
    of = leases.Leases(Limits(valkey.connect(configured), valkey.policy(), bytes(32), telemetry.metrics), telemetry)
    await asyncio.sleep(float(sys.argv[2]) - time.time())
    ends, rate, allowed, asked = time.time() + float(sys.argv[3]), float(sys.argv[4]), 0, 0
    began = time.time()
    while time.time() < ends:
        while asked < (time.time() - began) * rate:
            asked += 1
            try:
                of.spend_key("one key")
                allowed += 1
            except errors.Problem:
                pass
        await asyncio.sleep(0.002)
    print(json.dumps({"allowed": allowed, "asked": asked}))

asyncio.run(main())
"""


async def _spend(valkey_url: str, quota: int, seconds: float, rates: list[float]) -> tuple[int, int]:
    """So many processes spend from one limit, each at its rate; what they were allowed and what they asked for, together."""
    environ = service_environ("postgresql://x", GAMEPULSE_VALKEY_URL=valkey_url)
    begin = time.time() + 3 + len(rates)
    programs = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", SPENDER, str(quota), str(begin), str(seconds), str(rate), env=environ, stdout=subprocess.PIPE
        )
        for rate in rates
    ]
    said = [json.loads((await program.communicate())[0].splitlines()[-1]) for program in programs]
    return sum(one["allowed"] for one in said), sum(one["asked"] for one in said)


@pytest.mark.usefixtures("connection_to_valkey")
async def test_three_processes_keep_one_limit_but_for_a_lease_each(valkey_url: str) -> None:
    quota, seconds = 400, 3.0
    allowed, asked = await _spend(valkey_url, quota, seconds, [600.0, 600.0, 600.0])
    assert asked > 3 * quota * seconds
    most = quota * (seconds + 1) + 3 * quota // leases.LEASES * math.ceil(seconds)
    assert quota * seconds < allowed <= most


@pytest.mark.usefixtures("connection_to_valkey")
async def test_three_processes_that_stay_below_the_limit_are_refused_nothing(valkey_url: str) -> None:
    allowed, asked = await _spend(valkey_url, 600, 3.0, [150.0, 150.0, 150.0])
    assert allowed == asked > 1000


async def test_one_process_alone_keeps_the_limit_without_valkey() -> None:
    quota, seconds = 400, 3.0
    allowed, _ = await _spend(f"redis://127.0.0.1:{free_port()}/0", quota, seconds, [1500.0])
    assert quota * seconds * 0.8 < allowed <= quota * (seconds + 1) + quota // leases.LEASES * math.ceil(seconds)


async def test_no_request_waits_for_a_valkey_that_hangs(database_url: str, tmp_path: Path) -> None:
    small = smaller(tmp_path, 'leases.KEY = gamepulse.leases.Limit("key", 100, 1, 100)')
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,  # takes connections and says nothing
        serve(database_url, f"redis://127.0.0.1:{silent.getsockname()[1]}/0", tmp_path / "log", **small) as service,
    ):
        async with httpx.AsyncClient(base_url=service.url, headers=KEY_HEADER, timeout=20) as client:
            await client.post("/v1/reports", json=batch())
            took_s = []
            for _ in range(40):
                started = time.monotonic()
                assert (await client.post("/v1/reports", json=batch())).status_code in {202, 429}
                took_s.append(time.monotonic() - started)
    assert sorted(took_s)[len(took_s) // 2] < valkey.TIMEOUT_S / 2
