"""Accounts: signing in and out, cookies, second factors, passwords; what is told and what is kept secret."""

import asyncio
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest

from gamepulse import errors
from gamepulse.accounts import HASHES_MAX, SIGN_INS_MAX, Passwords
from tests.conftest import service_environ
from tests.integration.conftest import Studio
from tests.people import PASSWORD, enrol, register, signed_in

COOKIE = "__Host-gamepulse"


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "") if answer.content else ""


async def sign_in(api: httpx.AsyncClient, name: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
    return await api.post("/v1/sign-ins", json={"name": name, "password": password, **more})


async def own(studio: Studio) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(studio.database_url)


async def test_a_sign_in_lasts_until_it_is_ended(api: httpx.AsyncClient) -> None:
    first = await register(api, "lina")
    second, third = await signed_in(api, "lina"), await signed_in(api, "lina")
    assert len({first.token, second.token, third.token}) == 3
    assert (await api.get("/v1/account", headers=first.headers)).headers["cache-control"] == "no-store"
    listed = (await api.get("/v1/sign-ins", headers=first.headers)).json()
    assert [one["is_current"] for one in listed] == [False, False, True]
    assert (await api.delete(f"/v1/sign-ins/{listed[0]['sign_in']}", headers=first.headers)).status_code == 204
    assert (await api.delete("/v1/sign-ins/current", headers=second.headers)).status_code == 204
    assert told(await api.get("/v1/account", headers=second.headers)) == (401, "sign_in_ended")
    assert told(await api.get("/v1/account", headers=third.headers)) == (401, "sign_in_ended")  # it was never asked with before
    assert len((await api.get("/v1/sign-ins", headers=first.headers)).json()) == 1
    stranger = await register(api, "lino")
    other = (await api.get("/v1/sign-ins", headers=stranger.headers)).json()[0]["sign_in"]
    assert told(await api.delete(f"/v1/sign-ins/{other}", headers=first.headers)) == (404, "unknown_sign_in")


async def test_sign_ins_expire_and_are_few(api: httpx.AsyncClient, studio: Studio) -> None:
    connection = await own(studio)
    for change in ("last_used_at = now() - interval '12 hours 1 second'", "created_at = now() - interval '7 days 1 second'"):
        person = await register(api, f"old-{change[:4]}")
        fresh = await signed_in(api, person.name)
        ids = "SELECT sign_in_id FROM sign_in JOIN account USING (account_id) WHERE name = $1 ORDER BY sign_in.created_at LIMIT 1"
        await connection.execute(f"UPDATE sign_in SET {change} WHERE sign_in_id = ({ids})", person.name)
        assert told(await api.get("/v1/account", headers=person.headers)) == (401, "sign_in_ended")
        assert len((await api.get("/v1/sign-ins", headers=fresh.headers)).json()) == 1
        await signed_in(api, person.name)
        assert await connection.fetchval("SELECT count(*) FROM sign_in WHERE account_id = $1", person.account_id) == 2
    used = await register(api, "used")
    await connection.execute(
        "UPDATE sign_in SET last_used_at = now() - interval '6 minutes' WHERE account_id = $1", used.account_id
    )
    assert (await api.get("/v1/account", headers=used.headers)).status_code == 200
    assert await connection.fetchval(
        "SELECT last_used_at > now() - interval '1 minute' FROM sign_in WHERE account_id = $1", used.account_id
    )
    many = [await signed_in(api, "used") for _ in range(SIGN_INS_MAX)]
    assert len((await api.get("/v1/sign-ins", headers=many[0].headers)).json()) == SIGN_INS_MAX
    assert await connection.fetchval("SELECT count(*) FROM sign_in WHERE account_id = $1", used.account_id) == SIGN_INS_MAX
    await connection.close()


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "{own}"}, False),
        ({"origin": "{own}"}, True),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
)
async def test_with_the_cookie_only_our_own_page_changes_anything(
    api: httpx.AsyncClient, studio: Studio, headers: dict[str, str], is_ours: bool
) -> None:
    headers = {name: value.format(own=studio.service.url) for name, value in headers.items()}
    asked = await api.post("/v1/sign-ins", json={"name": "admin", "password": "wrong", "cookie": True}, headers=headers)
    assert told(asked) == ((401, "wrong_credentials") if is_ours else (403, "cross_site"))
    cookie = {"cookie": f"{COOKIE}={studio.admin.token}"}
    changed = await api.delete(f"/v1/studios/{studio.studio_id}/members/999999", headers=headers | cookie)
    assert told(changed) == ((404, "unknown_member") if is_ours else (403, "cross_site"))
    assert (await api.get("/v1/account", headers=headers | cookie)).status_code == 200
    both = headers | cookie | studio.admin.headers  # a program's own header is no browser's doing
    assert told(await api.delete(f"/v1/studios/{studio.studio_id}/members/999999", headers=both)) == (404, "unknown_member")


async def test_a_cookie_is_no_scripts_and_no_strangers(api: httpx.AsyncClient) -> None:
    await register(api, "cleo")
    own_page = {"sec-fetch-site": "same-origin"}
    planted = {"cookie": f"{COOKIE}=gpt_{'p' * 43}"}
    begun = await api.post("/v1/sign-ins", json={"name": "cleo", "password": PASSWORD, "cookie": True}, headers=own_page | planted)
    assert begun.status_code == 201
    assert "token" not in begun.json()
    value, *flags = begun.headers["set-cookie"].split("; ")
    assert {flag.lower() for flag in flags} == {"httponly", "secure", "samesite=strict", "path=/", "max-age=604800"}
    name, _, token = value.partition("=")
    assert name == COOKIE and token.startswith("gpt_") and "ppp" not in token
    assert (await api.get("/v1/account", headers={"cookie": f"{name}={token}"})).json()["name"] == "cleo"
    gone = await api.delete("/v1/sign-ins/current", headers=own_page | {"cookie": f"{name}={token}"})
    assert gone.status_code == 204 and "max-age=0" in gone.headers["set-cookie"].lower()
    assert told(await api.get("/v1/account", headers={"cookie": f"{name}={token}"})) == (401, "sign_in_ended")


async def test_a_cookie_whose_sign_in_has_ended_is_taken_away(api: httpx.AsyncClient) -> None:
    ended = f"gpt_{'e' * 43}"
    for headers, is_gone in (
        ({"cookie": f"{COOKIE}={ended}"}, True),
        ({"cookie": f"{COOKIE}=no-token"}, True),
        ({"authorization": f"Bearer {ended}"}, False),
        ({"authorization": f"Bearer {ended}", "cookie": f"{COOKIE}={ended}"}, False),  # it was not asked with
    ):
        answer = await api.get("/v1/account", headers=headers)
        assert told(answer) == (401, "sign_in_ended")
        taken = answer.headers.get("set-cookie", "").lower()
        assert ("max-age=0" in taken and taken.startswith(COOKIE.lower())) == is_gone == bool(taken)
    assert "set-cookie" not in (await api.get("/v1/account")).headers


async def test_a_second_factor_is_asked_for_and_its_codes_are_taken_once(api: httpx.AsyncClient, studio: Studio) -> None:
    person = await register(api, "toto")
    other = await signed_in(api, "toto")
    into_step_s = time.time() % 30
    if into_step_s > 15:  # from here on all is of one step: `used` is the code that was enrolled with
        await asyncio.sleep(30.1 - into_step_s)
    await enrol(api, person)
    assert told(await api.get("/v1/account", headers=other.headers)) == (401, "sign_in_ended")  # it has not shown the code
    assert (await api.get("/v1/account", headers=person.headers)).json()["has_totp"] is True
    assert told(await sign_in(api, "toto")) == (401, "totp_required")
    assert told(await sign_in(api, "toto", "not the right one")) == (401, "wrong_credentials")
    used, early, late = person.code(-1), person.code(2), person.code(-2)
    for code in (used, early, late):
        assert told(await sign_in(api, "toto", totp=code)) == (401, "wrong_code")
    together = await asyncio.gather(*(sign_in(api, "toto", totp=person.code()) for _ in range(4)))
    assert sorted(told(one) for one in together) == [(201, ""), *[(401, "wrong_code")] * 3]
    assert told(await sign_in(api, "toto", totp=person.code())) == (401, "wrong_code")
    again = await api.post("/v1/account/totp", json={"password": PASSWORD}, headers=person.headers)
    assert told(again) == (401, "totp_required")  # who has token and password, but not the device
    renewed = await api.post("/v1/account/totp", json={"password": PASSWORD, "totp": person.code(1)}, headers=person.headers)
    assert renewed.status_code == 200 and renewed.json()["secret"] != person.secret
    connection = await own(studio)
    row = await connection.fetchrow("SELECT * FROM account WHERE name = 'toto'")
    assert row is not None and person.secret.encode() not in str(row).encode() and len(row["totp_nonce"]) == 16
    await connection.close()


async def test_another_password_ends_all_other_sign_ins(api: httpx.AsyncClient) -> None:
    here = await register(api, "pia")
    there = await signed_in(api, "pia")
    for given, new, expected in (
        ("not the right one", "another long password", (401, "wrong_credentials")),
        (PASSWORD, "short", (422, "invalid_parameter")),
        (PASSWORD, "another long password", (204, "")),
    ):
        answer = await api.post("/v1/account/password", json={"password": given, "new_password": new}, headers=here.headers)
        assert told(answer) == expected
    assert (await api.get("/v1/account", headers=here.headers)).status_code == 200
    assert told(await api.get("/v1/account", headers=there.headers)) == (401, "sign_in_ended")
    assert told(await sign_in(api, "pia")) == (401, "wrong_credentials")
    assert (await sign_in(api, "pia", "another long password")).status_code == 201


async def test_an_unknown_name_is_answered_like_a_wrong_password_and_as_slowly(api: httpx.AsyncClient) -> None:
    await register(api, "rosa")
    fastest, bodies = {}, set()
    for name in ("rosa", "nobody-of-this-name"):
        took = []
        for _ in range(8):
            started = time.perf_counter()
            answer = await sign_in(api, name, "not the right password")
            took.append(time.perf_counter() - started)
        fastest[name] = min(took)
        bodies.add(str({key: value for key, value in answer.json().items() if key != "trace_id"}))
    assert len(bodies) == 1
    known, unknown = fastest.values()
    assert 1 / 3 < unknown / known < 3  # without the hash it would be a tenth


async def test_one_name_is_one_account_however_many_ask(api: httpx.AsyncClient) -> None:
    asked = [api.post("/v1/accounts", json={"name": "one-only", "password": PASSWORD}) for _ in range(8)]
    assert sorted(told(one) for one in await asyncio.gather(*asked)) == [(201, ""), *[(409, "name_taken")] * 7]


@pytest.mark.parametrize(
    ("name", "password", "code"),
    [
        ("ab", PASSWORD, "invalid_parameter"),
        ("a" * 33, PASSWORD, "invalid_parameter"),
        ("Upper", PASSWORD, "invalid_parameter"),
        ("line\n", PASSWORD, "invalid_parameter"),
        ("nul\x00", PASSWORD, "invalid_parameter"),
        ("short-password", "p" * 11, "invalid_parameter"),
        ("long-password", "p" * 129, "invalid_parameter"),
        ("my-name-is-long", "My-Name-Is-Long", "password_is_name"),
    ],
)
async def test_names_and_passwords_have_their_limits(api: httpx.AsyncClient, name: str, password: str, code: str) -> None:
    answer = await api.post("/v1/accounts", json={"name": name, "password": password})
    assert told(answer) == (422, code)
    assert password not in answer.text and repr(name) not in answer.text


async def test_passwords_are_stored_as_owasp_says(api: httpx.AsyncClient, studio: Studio) -> None:
    """Password Storage Cheat Sheet: Argon2id with 19 MiB, two iterations, one degree of parallelism."""
    await register(api, "hashed")
    connection = await own(studio)
    stored = await connection.fetchval("SELECT password_hash FROM account WHERE name = 'hashed'")
    await connection.close()
    assert re.fullmatch(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", stored)


async def test_passwords_are_hashed_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords, threads = Passwords(), set[int]()
    hasher = passwords._hasher

    def hashed(password: str) -> str:
        threads.add(threading.get_ident())
        return hasher.hash(password)

    def verified(stored: str, password: str) -> bool:
        threads.add(threading.get_ident())
        return hasher.verify(stored, password)

    monkeypatch.setattr(passwords, "_hasher", SimpleNamespace(hash=hashed, verify=verified))
    await passwords.verify(await passwords.hash(PASSWORD), PASSWORD)
    assert threads and threading.get_ident() not in threads
    passwords.close()


async def test_so_many_passwords_are_hashed_at_a_time() -> None:
    passwords = Passwords()
    asked = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(HASHES_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(errors.Problem, match="busy"):
        await passwords.verify(None, PASSWORD)
    asked[-1].cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    for _ in range(2000):
        if not passwords._pending:
            break
        await asyncio.sleep(0.01)
    assert passwords._pending == 0
    passwords.close()


async def test_no_secret_is_logged_stored_or_answered(api: httpx.AsyncClient, studio: Studio) -> None:
    person = await enrol(api, await register(api, "secretive"))
    planted = {"password": "hunter2-hunter2-hunter2", "totp": "975310"}
    answers = [
        await api.post("/v1/accounts", json={"name": "secretive", **planted}),
        await api.post("/v1/sign-ins", json={"name": "secretive", **planted}),
        await api.post("/v1/sign-ins", json={"name": "secretive", "password": ["hunter2-hunter2-hunter2"]}),
        await api.post("/v1/sign-ins", content=b'{"name": "secretive", "password": "hunter2-hunter2-hunter2"'),
        await api.post("/v1/account/totp", json=planted, headers=person.headers),
        await api.get("/v1/account", headers={"authorization": "Bearer gpt_hunter2-hunter2-hunter2"}),
        await api.get("/v1/account?token=hunter2-hunter2-hunter2", headers={"cookie": f"{COOKIE}=hunter2-hunter2-hunter2"}),
    ]
    assert all(answer.is_error for answer in answers)
    await asyncio.sleep(1)
    log = studio.service.log.read_text()
    connection = await own(studio)
    tables = ("account", "sign_in", "audit_log")
    stored = str([await connection.fetch(f"SELECT * FROM {table}") for table in tables])
    as_text = str([row[0] for table in tables for row in await connection.fetch(f"SELECT of_all::text FROM {table} AS of_all")])
    await connection.close()
    assert "/v1/sign-ins" in log and "secretive" in stored and "secretive" in as_text
    for secret in (PASSWORD, "hunter2", person.token, person.secret, studio.admin.token):
        assert secret not in log and secret not in stored, secret
        assert not any(secret in answer.text for answer in answers), secret
    code = re.compile(f"(?<![0-9a-f.])975310(?![0-9a-f])|{b'975310'.hex()}")  # not six digits of a trace id or a time
    assert not any(code.search(text) for text in (log, as_text, *(answer.text for answer in answers)))


def command(studio: Studio, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gamepulse", "admin", *arguments],
        env=service_environ(studio.database_url), input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


async def test_the_command_line_makes_admins_and_resets_second_factors(api: httpx.AsyncClient, studio: Studio) -> None:
    refused = await asyncio.to_thread(command, studio, "create", "boss", "--studio", "Third", stdin="short")
    assert refused.returncode == 1 and "length >= 12" in refused.stderr and "Traceback" not in refused.stderr
    for arguments, said in (
        (("Big Boss", "--studio", "Third"), "a name: 3 to 32 of"),
        (("boss", "--studio="), "a studio's name: 1 to"),
    ):
        refused = await asyncio.to_thread(command, studio, "create", *arguments, stdin=PASSWORD)
        assert (refused.returncode, said in refused.stderr, "regex" in refused.stderr) == (1, True, False), refused.stderr
    done = await asyncio.to_thread(command, studio, "create", "boss", "--studio", "Third", stdin=PASSWORD)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    for arguments, said in (
        (("create", "boss"), "There is an account"),
        (("create", "nobody", "--existing"), "There is no account"),
    ):
        refused = await asyncio.to_thread(command, studio, *arguments, "--studio", "Stolen", stdin=PASSWORD)
        assert (refused.returncode, said in refused.stderr) == (1, True), refused.stderr
    again = await asyncio.to_thread(command, studio, "create", "boss", "--existing", "--studio", "Third")  # changes nothing
    assert again.returncode == 0, again.stderr
    boss = await enrol(api, await signed_in(api, "boss"))
    [studio_of_boss] = (await api.get("/v1/studios", headers=boss.headers)).json()
    assert (studio_of_boss["name"], studio_of_boss["role"]) == ("Third", "admin")
    here = await signed_in(api, "boss", totp=boss.code())
    reset = await asyncio.to_thread(command, studio, "reset-totp", "boss")
    assert reset.returncode == 0, reset.stderr
    assert told(await api.get("/v1/account", headers=here.headers)) == (401, "sign_in_ended")
    assert (await sign_in(api, "boss")).status_code == 201
    here = await signed_in(api, "boss")
    reset = await asyncio.to_thread(command, studio, "reset-password", "boss", stdin="another long password")
    assert reset.returncode == 0, reset.stderr
    assert told(await api.get("/v1/account", headers=here.headers)) == (401, "sign_in_ended")
    assert told(await sign_in(api, "boss")) == (401, "wrong_credentials")
    assert (await sign_in(api, "boss", "another long password")).status_code == 201
    connection = await own(studio)
    entries = await connection.fetch(
        "SELECT actor, action, about FROM audit_log WHERE studio_id = $1 ORDER BY entry_id", studio_of_boss["studio_id"]
    )
    await connection.close()
    assert [tuple(entry) for entry in entries] == [
        ("gamepulse admin", "member_added", "boss: admin"), ("boss", "signed_in", None), ("boss", "totp_confirmed", None), ("boss", "signed_in", None),
        ("gamepulse admin", "totp_reset", "boss"), ("boss", "signed_in", None), ("boss", "signed_in", None),
        ("gamepulse admin", "password_reset", "boss"), ("boss", "signed_in", None),
    ]  # fmt: skip
