"""Floods over HTTP: made-up tokens and keys, guessed passwords, questions that are made anew. Who else asks goes on."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import httpx
import pytest

from gamepulse import database, errors, keys, limits, valkey
from gamepulse.keys import Keys
from gamepulse.limits import Charge
from gamepulse.metrics import Metrics
from tests.awake import awake_s
from tests.batches import batch
from tests.conftest import INGEST_KEY, SERVER_KEY, serve
from tests.integration.conftest import Studio
from tests.integration.test_rate_limits import SECRET, Spent, behind, connect
from tests.locks import locked
from tests.people import PASSWORD, enrol, register, signed_in

FLOOD = "203.0.113.70"
ELSEWHERE = "203.0.113.71"
POLICY = '"unknown-secrets";q=300;w=60'


@pytest.fixture
async def spent(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Spent]:
    """Spends as the service would."""
    monkeypatch.setattr(valkey, "TIMEOUT_S", 20)
    connection = connect(valkey_url)
    yield Spent(connection, valkey.policy(), SECRET, Metrics())
    await connection.aclose()


def bearer(secret: str, address: str) -> dict[str, str]:
    return behind(address) | {"authorization": f"Bearer {secret}"}


async def _flood(send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Far more made-up secrets than are free again meanwhile; an answer that refuses to look one up."""
    for _ in range(30):
        for answer in await asyncio.gather(*(send() for _ in range(20))):
            if answer.headers.get("ratelimit-policy") == POLICY:
                return answer
    pytest.fail("all were looked up")


async def test_made_up_tokens_are_no_longer_looked_up_and_who_is_signed_in_goes_on(api: httpx.AsyncClient) -> None:
    person = await register(api, "known")
    assert (await api.get("/v1/account", headers=person.headers)).status_code == 200
    refused = await _flood(lambda: api.get("/v1/meta", headers=bearer(f"gpt_{secrets.token_urlsafe(32)}", FLOOD)))
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) >= 1
    for token, address in ((person.token, FLOOD), ((await signed_in(api, "known")).token, ELSEWHERE)):
        assert (await api.get("/v1/account", headers=bearer(token, address))).status_code == 200


async def test_a_token_that_comes_along_means_nothing_when_one_signs_in(api: httpx.AsyncClient, spent: Spent) -> None:
    """Also from where so many were made up that none is looked up: the address itself has requests left."""
    await register(api, "stale")
    await spent.tell(Charge(limits.UNKNOWN_SECRETS, spent.hashed("203.0.113.75"), 1_000))
    there = bearer(f"gpt_{secrets.token_urlsafe(32)}", "203.0.113.75")
    refused = await api.get("/v1/account", headers=there)
    assert (refused.status_code, refused.headers["ratelimit-policy"]) == (429, POLICY)
    begun = await api.post("/v1/sign-ins", json={"name": "stale", "password": PASSWORD}, headers=there)
    assert begun.status_code == 201, begun.text
    made = await api.post("/v1/accounts", json={"name": "stale-too", "password": PASSWORD}, headers=there)
    assert made.status_code == 201, made.text


async def test_made_up_keys_are_no_longer_looked_up_and_a_new_right_one_is(api: httpx.AsyncClient, studio: Studio) -> None:
    made = await api.post("/v1/games", json={"studio_id": studio.studio_id, "game": "flooded"}, headers=studio.admin.headers)
    assert made.status_code == 201, made.text
    key = (await api.post("/v1/games/flooded/keys", json={"kind": "client"}, headers=studio.admin.headers)).json()["key"]

    async def send(secret: str, address: str) -> httpx.Response:
        return await api.post("/v1/reports", json=batch(game="flooded"), headers=bearer(secret, address))

    refused = await _flood(lambda: send(secrets.token_urlsafe(32), "203.0.113.72"))
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await send(key, ELSEWHERE)).status_code == 202
    assert (await send(key, "203.0.113.72")).status_code == 202  # it is known by now
    assert (await send(secrets.token_urlsafe(32), ELSEWHERE)).json()["code"] == "unknown_key"


async def test_who_guesses_waits_and_takes_no_place(
    database_url: str, connection: "asyncpg.Connection[asyncpg.Record]", spent: Spent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FRESH_S", 0)  # each is looked up anew
    pool = await database.open_pool({"dsn": database_url}, "ingest", size=2)
    of = Keys(pool, spent)

    async def left(client: str) -> int:
        [answer] = await spent.spend([Charge(limits.UNKNOWN_SECRETS, spent.hashed(client), 0)], is_asked=True)
        return answer.left

    assert (await of.find(INGEST_KEY, "one")).game == "demo"
    asked = await asyncio.gather(*(of.find("wrong", "one") for _ in range(10)), return_exceptions=True)
    assert {str(problem) for problem in asked} == {"unknown_key"}
    assert limits.UNKNOWN_SECRETS.burst - 5 <= await left("one") < limits.UNKNOWN_SECRETS.burst  # who asks the same waits for one
    await spent.tell(Charge(limits.UNKNOWN_SECRETS, spent.hashed("one"), 1_000))
    async with locked(connection, "ingest_key"):
        for secret in ("wrong", SERVER_KEY):
            with pytest.raises(errors.Problem, match="rate_limited"):
                await of.find(secret, "one")
        assert pool.counts[1] == 0
    assert (await of.find(INGEST_KEY, "one")).game == "demo"  # it was right before
    assert (await of.find(SERVER_KEY, "other")).is_server
    assert await left("other") == limits.UNKNOWN_SECRETS.burst
    await spent.tell(Charge(limits.UNKNOWN_SECRETS, spent.hashed(""), 1_000))
    for client in ("other", ""):  # who asks from the machine itself is not limited
        with pytest.raises(errors.Problem, match="unknown_key"):
            await of.find("wrong", client)
    pool.terminate()


async def test_the_description_is_limited_and_what_a_load_balancer_asks_is_not(api: httpx.AsyncClient, spent: Spent) -> None:
    path, here = "/docs/schema/openapi.json", behind("203.0.113.73")
    answer = await api.get(path, headers=here)
    assert (answer.status_code, answer.headers["ratelimit-policy"]) == (200, '"address";q=300;w=60')
    await spent.tell(Charge(limits.ADDRESS, spent.hashed("203.0.113.73"), 1_000))
    assert (await api.get(path, headers=here)).status_code == 429
    for path in ("/health", "/health/live", "/health/ready"):
        assert (await api.get(path, headers=here)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/account/password", "/v1/account/totp"])
async def test_passwords_are_guessed_nowhere(api: httpx.AsyncClient, spent: Spent, path: str) -> None:
    """A right one gives all tries back, and the answer says so; amid too many it is refused as well."""
    person = await register(api, f"guessed-{path[-4:]}")
    tries, right = Charge(limits.SIGN_INS_NAME, spent.hashed(person.name), 9), {"password": PASSWORD}
    await spent.tell(tries)
    change = right | ({"new_password": PASSWORD} if path.endswith("password") else {})
    done = await api.post(path, json=change, headers=person.headers)
    assert done.is_success, done.text
    assert '"sign-ins-name";r=10;t=0' in done.headers["ratelimit"]
    [answer] = await spent.spend([tries._replace(cost=0)], is_asked=True)
    assert answer.left == limits.SIGN_INS_NAME.burst
    await spent.tell(tries)
    wrong = await api.post(path, json=change | {"password": "not the right one"}, headers=person.headers)
    assert (wrong.status_code, wrong.json()["code"]) == (401, "wrong_credentials")
    refused = await api.post(path, json=change, headers=person.headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 0 < int(refused.headers["retry-after"]) <= limits.SIGN_INS_NAME.each_us / 1e6
    other = await register(api, f"other-{path[-4:]}")
    assert (await api.post(path, json=change, headers=other.headers)).is_success


async def test_codes_are_guessed_nowhere(api: httpx.AsyncClient, spent: Spent) -> None:
    person = await enrol(api, await register(api, "coded"))
    await spent.tell(Charge(limits.SIGN_INS_NAME, spent.hashed("coded"), 9))
    for status, code in ((401, "wrong_code"), (429, "rate_limited")):
        guess = {"name": "coded", "password": PASSWORD, "totp": person.code(20)}
        answer = await api.post("/v1/sign-ins", json=guess)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_who_signs_in_is_told_what_is_left(api: httpx.AsyncClient) -> None:
    await register(api, "told")
    wrong = await api.post("/v1/sign-ins", json={"name": "told", "password": "wrong"}, headers=behind("203.0.113.74"))
    assert '"sign-ins-name";r=9;t=90' in wrong.headers["ratelimit"]
    right = await api.post("/v1/sign-ins", json={"name": "told", "password": PASSWORD}, headers=behind("203.0.113.74"))
    assert right.status_code == 201
    assert '"sign-ins-name";r=10;t=0, "sign-ins-address";r=5' in right.headers["ratelimit"]


async def test_a_proxy_on_the_machine_that_nobody_named_is_told_of_once(studio: Studio, valkey_url: str, tmp_path: Path) -> None:
    with serve(studio.database_url, valkey_url, tmp_path / "log", GAMEPULSE_TRUSTED_PROXIES="10.0.0.0/8") as service:
        async with httpx.AsyncClient(base_url=service.url) as client:
            for headers in ({}, behind(ELSEWHERE), behind(FLOOD)):
                assert (await client.get("/v1/meta", headers=headers)).status_code == 200
        deadline = awake_s() + 30
        while "GAMEPULSE_TRUSTED_PROXIES=127.0.0.0/8,::1/128" not in (log := service.log.read_text()):
            assert awake_s() < deadline, log
            await asyncio.sleep(0.1)
        service.stop()
    told = [line for line in service.log.read_text().splitlines() if "GAMEPULSE_TRUSTED_PROXIES" in line]
    assert len(told) == 1 and '"level":"warning"' in told[0]
    assert ELSEWHERE not in told[0] and FLOOD not in told[0]
