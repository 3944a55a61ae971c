"""Rate limits: one algorithm in Valkey and in a process, what it means for those who ask, and reports that are limited by leases."""

import asyncio
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import redis.asyncio as redis

from gamepulse import errors, limits, settings, valkey
from gamepulse.limits import Answer, Charge, Limit, Limits, Local, Shared, Store, client_of
from gamepulse.metrics import Metrics
from tests.awake import awake_s
from tests.batches import batch
from tests.conftest import INGEST_KEY, PLAYER_HASH_KEY, free_port, serve, service_environ, smaller
from tests.integration.test_away import listening, relay
from tests.people import PASSWORD, register

SLOW = Limit("slow", 10, 3600, 5)
"""One is free again every 6 minutes: no test lasts as long."""
SECRET = bytes.fromhex(PLAYER_HASH_KEY)
KEY_HEADER = {"authorization": f"Bearer {INGEST_KEY}"}


def connect(url: str) -> redis.Redis:
    """Waits for long: a machine that stands for a moment must not take Valkey to be away."""
    return valkey.connect(settings.load(service_environ("postgresql://x", GAMEPULSE_VALKEY_URL=url)), 20)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So do the tests' own limits. No Valkey hangs here but in a service's."""
    monkeypatch.setattr(valkey, "TIMEOUT_S", 20)


class Spent(Limits):
    """Spends as a service would, and nowhere else than in Valkey: there the service knows of it."""

    async def spend(self, charges: Sequence[Charge], is_asked: bool) -> list[Answer]:
        answers = await super().spend(charges, is_asked)
        assert self.is_shared, "Valkey was away"
        return answers


@pytest.fixture
async def connection_to_valkey(valkey_url: str) -> AsyncIterator[redis.Redis]:
    connection = connect(valkey_url)
    await connection.flushdb()
    yield connection
    await connection.aclose()


@pytest.fixture(params=["valkey", "process"])
def store(request: pytest.FixtureRequest, connection_to_valkey: redis.Redis) -> Store:
    return Shared(connection_to_valkey) if request.param == "valkey" else Local()


@pytest.fixture
async def spent(valkey_url: str) -> AsyncIterator[Spent]:
    """Spends as the module's service would."""
    connection = connect(valkey_url)
    yield Spent(connection, valkey.policy(), SECRET, Metrics())
    await connection.aclose()


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


class Clock:
    """Both places go by it instead of their own."""

    def __init__(self, connection: redis.Redis, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_us = 0
        self._connection = connection
        monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: self.now_us / 1e6))
        script = files("gamepulse").joinpath("limits.lua").read_text()
        clock = "redis.call('TIME')"
        assert script.count(clock) == 1
        shared._script = connection.register_script(script.replace(clock, "cjson.decode(redis.call('GET', 'clock'))"))

    async def go_on(self, us: int) -> None:
        self.now_us += us
        await self._connection.set("clock", json.dumps([self.now_us // 10**6, self.now_us % 10**6]))


async def test_it_is_free_again_in_time(connection_to_valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """One each 20 s; in between none, however often somebody asks, and what was not asked for is no more than one."""
    stores = shared, _ = Shared(connection_to_valkey), Local()
    clock, limit = Clock(connection_to_valkey, shared, monkeypatch), Limit("steady", 50, 1000, 1)
    for since_s in range(0, 600, 5):
        for store in stores:
            await clock.go_on(5_000_000 if store is shared else 0)
            [answer] = await store.spend([Charge(limit, "one")], is_asked=True)
            assert answer.wait_us == (-since_s % 20) * 1_000_000
    await clock.go_on(100_000_000)
    for store in stores:
        told = [await store.spend([Charge(limit, "one")], is_asked=True) for _ in range(2)]
        assert [answer.wait_us for [answer] in told] == [0, 20_000_000]


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


class Bucket:
    """What the algorithm must amount to: a bucket that is filled steadily, of exact numbers."""

    def __init__(self, limit: Limit) -> None:
        self.limit, self.held, self.at_us = limit, Fraction(limit.burst), 0

    def at(self, now_us: int) -> Fraction:
        self.held += Fraction(now_us - self.at_us) / Fraction(self.limit.each_us)
        self.held, self.at_us = min(self.held, Fraction(self.limit.burst)), now_us
        return self.held


@pytest.mark.parametrize("seed", range(3))
async def test_both_places_say_what_a_bucket_would(
    connection_to_valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance, shared, local = random.Random(seed), Shared(connection_to_valkey), Local()
    clock = Clock(connection_to_valkey, shared, monkeypatch)
    of = [Limit("a", 5, 1000, 5), Limit("b", 100, 1000, 20), Limit("c", 1, 500, 1), Limit("d", 8, 1000, 3)]
    buckets = {(limit.name, subject): Bucket(limit) for limit in of for subject in "xy"}
    for _ in range(300):
        await clock.go_on(chance.choice([0, 0, 15_625, 64 * 15_625, 6400 * 15_625]))  # whole 1/64 s: no float is rounded
        is_asked = chance.random() < 0.8
        asked = [
            Charge(limit, chance.choice("xy"), chance.choice([0, 1, 1, 1, 2, 5]))
            for limit in chance.sample(of, chance.randint(1, 3))
        ]
        answers = await shared.spend(asked, is_asked)
        assert answers == await local.spend(asked, is_asked)
        of_each = [buckets[limit.name, subject] for limit, subject, _ in asked]
        wanted = [cost if is_asked else cost + 1 for _, _, cost in asked]
        may = [bucket.at(clock.now_us) >= want for bucket, want in zip(of_each, wanted, strict=True)]
        assert [answer.wait_us == 0 for answer in answers] == may
        for bucket, want, answer in zip(of_each, wanted, answers, strict=True):
            assert answer.wait_us == max(0, math.ceil((want - bucket.held) * Fraction(bucket.limit.each_us)))
        for bucket, charge, answer in zip(of_each, asked, answers, strict=True):
            bucket.held -= charge.cost if not is_asked or all(may) else 0
            assert answer.left == max(0, math.floor(bucket.held))


async def test_nothing_is_kept_for_longer_than_it_is_needed_nor_whom_it_is_of(connection_to_valkey: redis.Redis) -> None:
    of, quick = Limits(connection_to_valkey, valkey.policy(), SECRET, Metrics()), Limit("quick", 1, 60, 1)
    await of.ask(Charge(SLOW, of.hashed("198.51.100.7"), 5), Charge(quick, of.hashed("mina")))
    keys = sorted(key.decode() for key in await connection_to_valkey.keys() if isinstance(key, bytes))
    assert all(re.fullmatch(r"gamepulse:limit:(slow|quick):[0-9a-f]{32}", key) for key in keys)
    lives_ms = [await connection_to_valkey.pttl(key) for key in keys]
    assert 0 < lives_ms[0] <= 60_000
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


async def test_all_that_is_free_may_be_spent_at_once_whatever_time_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of a clock's fractions are rounded: at an uptime of an hour a quarter of them to a µs too few."""
    chance, local = random.Random(4), Local()
    for n in range(2_000):
        now_s = chance.uniform(0, 10_000)
        monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda now_s=now_s: now_s))
        told = [await local.spend([Charge(SLOW, str(n), cost)], is_asked=True) for cost in (5, 1)]
        assert [answer.wait_us for [answer] in told] == [0, SLOW.each_us], now_s


async def test_a_process_forgets_those_for_whom_all_is_free() -> None:
    local = Local()
    for n in range(100):
        await local.spend([Charge(Limit("short", 1000, 1, 1), str(n))], is_asked=True)
        await asyncio.sleep(0.002)
    assert len(local._free_at) <= 3


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
        ("rubbish:\0", "unknown"),
    ],
)
def test_what_counts_as_one_client(address: str, client: str) -> None:
    assert client_of(address) == client


# -- who asks too often -----------------------------------------------------------------------------------------------------------


async def _answers(api: httpx.AsyncClient, count: int, **headers: str) -> tuple[Counter[int], list[httpx.Response], float]:
    """Some at a time: a machine that is busy would take a Valkey that waits for it to be away."""
    started, answers = time.monotonic(), []
    for _ in range(count // 5):
        answers += await asyncio.gather(*(api.get("/v1/meta", headers=headers) for _ in range(5)))
    return Counter(answer.status_code for answer in answers), answers, time.monotonic() - started


async def test_an_address_may_ask_so_often_and_an_account_more_often(api: httpx.AsyncClient) -> None:
    await _answers(api, 5, **behind("203.0.113.200"))  # Valkey is connected to
    counts, answers, took_s = await _answers(api, 100, **behind("203.0.113.1"))
    refill = took_s * limits.ADDRESS.quota / limits.ADDRESS.window_s
    assert limits.ADDRESS.burst <= counts[200] <= limits.ADDRESS.burst + refill + 1
    assert counts[200] + counts[429] == 100
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.json()["code"], refused.headers["retry-after"]) == ("rate_limited", "1")
    assert refused.headers["ratelimit-policy"] == '"address";q=300;w=60'
    assert re.fullmatch(r'"address";r=0;t=1[012]', refused.headers["ratelimit"])
    assert "203.0.113.1" not in refused.text
    others = [behind(f"198.51.100.{n}, 203.0.113.1") for n in range(40)]  # whoever asks can make up all but the rightmost
    assert 429 in {(await api.get("/v1/meta", headers=headers)).status_code for headers in others}
    assert (await api.get("/v1/meta", headers=behind("203.0.113.1, 10.0.0.9"))).status_code == 200
    counts, answers, _ = await _answers(api, 5, **behind("203.0.113.2"))
    assert counts == {200: 5}
    assert answers[0].headers["ratelimit-policy"] == '"address";q=300;w=60'
    assert (await _answers(api, 100))[0] == {200: 100}  # from the machine itself
    person = await register(api, "often")
    counts, answers, took_s = await _answers(api, 100, **behind("203.0.113.1"), **person.headers)
    refill = took_s * limits.ACCOUNT.quota / limits.ACCOUNT.window_s
    assert limits.ACCOUNT.burst <= counts[200] <= limits.ACCOUNT.burst + refill + 1
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"account";q=600;w=60'}
    other = await register(api, "seldom")
    assert (await _answers(api, limits.ACCOUNT.burst, **behind("203.0.113.1"), **other.headers))[0] == {200: limits.ACCOUNT.burst}


async def test_the_description_has_the_headers(api: httpx.AsyncClient) -> None:
    paths = (await api.get("/docs/schema/openapi.json")).json()["paths"]
    of_limits = {"RateLimit", "RateLimit-Policy"}
    for path, operations in paths.items():
        for responses in (operation["responses"] for operation in operations.values()):
            assert set(responses["429"]["headers"]) == {*of_limits, "Retry-After"} if "429" in responses else "health" in path
            others = [response for status, response in responses.items() if status[0] in "234" and status != "429"]
            told = [of_limits <= set(response.get("headers", {})) for response in others]
            assert set(told) == {path != "/v1/reports" and "health" not in path}, path
    assert set(paths["/v1/reports"]["post"]["responses"]["503"]["headers"]) == {"Retry-After"}
    assert not {*of_limits, "Retry-After"} & set(paths["/health"]["get"]["responses"]["503"]["headers"])


async def test_guessing_a_password_is_limited_by_name_and_by_address(api: httpx.AsyncClient) -> None:
    await api.post("/v1/accounts", json={"name": "guessed", "password": PASSWORD})

    async def attempt(name: str, password: str, address: str) -> httpx.Response:
        return await api.post("/v1/sign-ins", json={"name": name, "password": password}, headers=behind(address))

    for name in ("guessed", "nobody-of-this-name"):
        wrong = [await attempt(name, "wrong", f"203.0.113.{10 + n}") for n in range(limits.SIGN_INS_NAME.quota)]
        assert {answer.status_code for answer in wrong} == {401}
        for password in ("wrong", PASSWORD):
            refused = await attempt(name, password, "203.0.113.99")
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert 0 < int(refused.headers["retry-after"]) <= limits.SIGN_INS_NAME.each_us / 1e6
            assert '"sign-ins-name";q=10;w=900' in refused.headers["ratelimit-policy"]


async def test_many_names_are_limited_by_address(api: httpx.AsyncClient, spent: Spent) -> None:
    """All but the last few tries have been spent: each takes the time of a password."""
    few = 3
    await spent.tell(Charge(limits.SIGN_INS_ADDRESS, spent.hashed("203.0.113.50"), limits.SIGN_INS_ADDRESS.quota - few))

    async def attempt(n: int, address: str) -> str:
        answer = await api.post("/v1/sign-ins", json={"name": f"other-{n}", "password": "wrong"}, headers=behind(address))
        return str(answer.json()["code"])

    codes = [await attempt(n, "203.0.113.50") for n in range(few + 2)]
    assert codes[:few] == ["wrong_credentials"] * few
    assert "rate_limited" in codes[few:]  # one is free again each 15 s
    assert await attempt(9, "203.0.113.51") == "wrong_credentials"


async def test_who_knows_the_password_is_not_locked_out_by_signing_in(api: httpx.AsyncClient) -> None:
    person = await register(api, "regular")
    for _ in range(limits.SIGN_INS_NAME.quota + 2):
        begun = await api.post("/v1/sign-ins", json={"name": "regular", "password": PASSWORD})
        assert begun.status_code == 201
    for _ in range(limits.SIGN_INS_NAME.quota):
        change = {"password": "wrong", "new_password": PASSWORD + "!"}
        assert (await api.post("/v1/account/password", json=change, headers=person.headers)).status_code == 401
    change = {"password": PASSWORD, "new_password": PASSWORD + "!"}
    assert (await api.post("/v1/account/password", json=change, headers=person.headers)).status_code == 429


async def test_an_address_registers_so_many_accounts(api: httpx.AsyncClient, spent: Spent) -> None:
    await spent.tell(Charge(limits.REGISTRATIONS, spent.hashed("203.0.113.3"), limits.REGISTRATIONS.quota - 2))

    async def create(n: int, address: str) -> int:
        account = {"name": f"account-{n}", "password": PASSWORD}
        return (await api.post("/v1/accounts", json=account, headers=behind(address))).status_code

    assert [await create(n, "203.0.113.3") for n in range(3)] == [201, 201, 429]
    assert await create(99, "203.0.113.4") == 201


async def test_questions_are_limited_by_what_they_cost(api: httpx.AsyncClient, spent: Spent) -> None:
    of_address = f"address-{spent.hashed('203.0.113.5')}"
    params = {"game": "demo"}

    async def free_at_us() -> int:
        found = await spent._shared._connection.get(limits._key(limits.QUESTIONS, of_address))
        assert found is not None
        return int(found)

    await spent.tell(Charge(limits.QUESTIONS, of_address, 5_000))  # it is not all free again meanwhile
    before_us = await free_at_us()
    answer = await api.get("/v1/quality", params=params, headers=behind("203.0.113.5"))
    assert (answer.status_code, '"questions";q=30000;qu="milliseconds";w=60' in answer.headers["ratelimit-policy"]) == (200, True)
    assert await free_at_us() > before_us  # what it took was told
    await spent.forget(limits.QUESTIONS, of_address)
    await spent.tell(Charge(limits.QUESTIONS, of_address, 100_000))
    refused = await api.get("/v1/quality", params=params, headers=behind("203.0.113.5"))
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 60 < int(refused.headers["retry-after"]) <= 181
    assert (await api.get("/v1/meta", headers=behind("203.0.113.5"))).status_code == 200  # this costs nothing
    assert (await api.get("/v1/quality", params=params, headers=behind("203.0.113.6"))).status_code == 200


async def test_valkey_may_go_hang_and_come_back(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    """Each process limits by itself meanwhile, knowing what it let through before; reports wait for nothing."""
    port, target = free_port(), int(valkey_url.rpartition(":")[2].partition("/")[0])
    few, fewer = (
        'leases.{} = gamepulse.leases.Limit("{}", {}, 1, {})'.format(*of)
        for of in (("KEY", "key", 10, 10), ("ADDRESS", "address-batches", 5, 5))
    )
    small = smaller(tmp_path, few, fewer)
    with serve(database_url, f"redis://127.0.0.1:{port}/0", tmp_path / "log", **small) as service:
        async with httpx.AsyncClient(base_url=service.url, headers=KEY_HEADER, timeout=20) as client:

            async def health() -> tuple[str, str]:
                document = (await client.get("/health")).json()
                return document["entries"]["valkey"]["status"], document["entries"]["valkey"]["data"]["valkey"]

            async def send(is_within: bool, headers: dict[str, str]) -> httpx.Response:
                """With the key as a header, or within the body."""
                sent, none = batch() | ({"key": INGEST_KEY} if is_within else {}), {"authorization": "none"} if is_within else {}
                return await client.post("/v1/reports", json=sent, headers=headers | none)

            async def flood() -> None:
                """By key from the machine itself, which has no limit by address; then from one address."""
                for headers, policy in (({}, '"key";q=10;w=1'), (behind("203.0.113.60"), '"address-batches";q=5;w=1')):
                    answers = await asyncio.gather(*(send(n % 2 == 1, headers) for n in range(100)))
                    assert 429 in {answer.status_code for answer in answers[::2]} & {answer.status_code for answer in answers[1::2]}
                    refused = [answer for answer in answers if answer.status_code == 429]
                    assert {answer.status_code for answer in answers} == {202, 429}
                    assert policy in {answer.headers["ratelimit-policy"] for answer in refused}
                    assert {answer.headers["retry-after"] for answer in refused} <= {str(n) for n in range(1, 12)}
                    await asyncio.sleep(1.1)  # so that the key has something again

            async def limited(address: str) -> None:
                counts, _, took_s = await _answers(client, 100, **behind(address))
                assert limits.ADDRESS.burst <= counts[200] <= limits.ADDRESS.burst + took_s * 5 + 1

            await limited("203.0.113.61")  # refused: nobody listens there
            await flood()
            assert (await health())[0] == "Degraded"
            async with listening(port, silent):
                await flood()
                await limited("203.0.113.62")
                assert (await health())[0] == "Degraded"
            async with relay(port, target):
                await _until(health, ("Healthy", "closed"), lambda: client.get("/v1/meta", headers=behind("203.0.113.63")))
                await _answers(client, 60, **behind("203.0.113.64"))
            counts, _, took_s = await _answers(client, 60, **behind("203.0.113.64"))
            assert counts[200] <= 1 + took_s * 5 + 15  # what Valkey let through, it has counted along
            await flood()
        service.stop()


async def _until(ask: Callable[[], Awaitable[Any]], wanted: Any, meanwhile: Callable[[], Awaitable[Any]]) -> None:
    deadline = awake_s() + 60
    while (found := await ask()) != wanted:
        assert awake_s() < deadline, found
        await meanwhile()
        await asyncio.sleep(0.1)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Takes what comes and says nothing."""
    await reader.read()


async def test_it_goes_back_to_valkey_and_says_where_it_counts(valkey_url: str) -> None:
    away = connect(f"redis://127.0.0.1:{free_port()}/0")
    of = Limits(away, valkey.policy(), SECRET, Metrics())
    await of.ask(Charge(SLOW, "one"))
    assert not of.is_shared
    there = connect(valkey_url)
    shared, of._shared = of._shared, Shared(there)
    [answer] = await of.ask(Charge(SLOW, "one", 3))
    assert (of.is_shared, answer.left) == (True, 2)
    of._shared = shared
    [answer] = await of.ask(Charge(SLOW, "one"))
    assert (of.is_shared, answer.left) == (False, 0)  # it knows of all five
    with pytest.raises(errors.Problem, match="rate_limited"):
        await of.ask(Charge(SLOW, "one"))
    await there.aclose()
    await away.aclose()
