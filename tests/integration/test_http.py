"""What HTTP itself asks of every route: HEAD, Host, bodies and parameters of the types that they say."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.batches import batch
from tests.conftest import wait_for
from tests.integration.conftest import Studio
from tests.people import PASSWORD

CHANGES = {"date", "ratelimit", "x-trace"}
"""Headers that two answers to the same question may have differently."""


@pytest.fixture
async def games(studio: Studio, api: httpx.AsyncClient) -> None:
    for name, is_public in (("open", True), ("ours", False)):
        wanted = {"studio_id": studio.studio_id, "game": name, "is_public": is_public}
        made = await api.post("/v1/games", json=wanted, headers=studio.admin.headers)
        assert made.status_code == 201 or made.json()["code"] == "game_taken"


def _shown(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in CHANGES}


@pytest.mark.usefixtures("games")
async def test_head_is_get_without_content(api: httpx.AsyncClient, studio: Studio) -> None:
    for path in (
        "/", "/docs", "/docs/errors", "/docs/schema/openapi.json", "/health/live", "/health/ready", "/v1/meta", "/v1/account",
        "/v1/quality?game=open&from=2026-01-01T00:00:00Z&to=2026-01-01T01:00:00Z", "/v1/games/ours/keys", "/v1/quality?game=none", "/nothing",
        "/v1/quality?game=open&limit=0",
    ):  # fmt: skip
        got, head = [await api.request(method, path, headers=studio.admin.headers) for method in ("GET", "HEAD")]
        assert (head.status_code, _shown(head), head.content) == (got.status_code, _shown(got), b""), path
        assert int(head.headers["content-length"]) == len(got.content) > 0
    tag = (await api.head("/v1/quality?game=open")).headers["etag"]
    for _ in range(3):  # the answer may be another by now
        told = await api.head("/v1/quality?game=open", headers={"if-none-match": tag})
        if told.status_code == 304:
            break
        tag = told.headers["etag"]
    assert (told.status_code, told.headers["etag"]) == (304, tag)
    assert (await api.head("/v1/account")).headers["www-authenticate"] == "Bearer"


@pytest.mark.usefixtures("games")
async def test_head_of_a_stream_ends_at_once(api: httpx.AsyncClient, studio: Studio) -> None:
    one_connection = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=api.base_url, limits=one_connection, timeout=5) as client:
        for _ in range(3):
            head = await client.head("/v1/live?game=open")
            assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            assert head.headers["cache-control"] == "no-store"
        assert (await client.head("/v1/live?game=none")).status_code == 404
        log = studio.service.log  # the service notes a request that has ended for it too
        noted = lambda: sum("/v1/live" in line and "HEAD" in line for line in log.read_text().splitlines()) == 4  # noqa: E731
        await asyncio.to_thread(wait_for, "four requests are noted", noted)


@pytest.mark.usefixtures("games")
async def test_a_stream_has_taken_as_long_as_until_it_began(api: httpx.AsyncClient, studio: Studio) -> None:
    began = time.monotonic()
    async with api.stream("GET", "/v1/live?game=open"):
        answered_s = time.monotonic() - began
        await asyncio.sleep(answered_s + 0.3)
    log = studio.service.log
    noted = lambda: [line for line in log.read_text().splitlines() if "/v1/live" in line and '"GET"' in line]  # noqa: E731
    [line] = await asyncio.to_thread(wait_for, "it is noted", noted)
    assert json.loads(line)["duration_ms"] <= answered_s * 1e3


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/meta", "GET, HEAD, OPTIONS"),
        ("/v1/games/open", "GET, HEAD, OPTIONS, PATCH"),
        ("/v1/accounts", "OPTIONS, POST"),
        ("/v1/games/open/exports", "OPTIONS, POST"),
    ],
)
async def test_a_path_says_whether_it_takes_head(api: httpx.AsyncClient, path: str, allowed: str) -> None:
    assert (await api.options(path)).headers["allow"] == allowed
    head = await api.head(path)
    assert ("HEAD" in allowed) == (head.status_code != 405)
    assert head.status_code != 405 or head.headers["allow"] == allowed


async def test_head_of_reports_is_refused(api: httpx.AsyncClient) -> None:
    head = await api.head("/v1/reports")
    assert (head.status_code, head.headers["allow"]) == (405, "POST, OPTIONS")


# -- Host ------------------------------------------------------------------------------------------------------------------------


async def _raw(url: str, method: str, path: str, *hosts: str) -> tuple[int, bytes]:
    """Status and the rest of an answer."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = "".join(f"Host: {host}\r\n" for host in hosts)
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize(
    "hosts",
    [("a/b",), ("a b",), ("[::1",), ("[1]",), ("a:b",), ("a:99999",), ("h\xe9",), ("a@b",), ("a" * 301,), ("a", "b")],
    ids=str,
)
async def test_a_host_that_is_none_is_refused_everywhere(studio: Studio, hosts: tuple[str, ...]) -> None:
    for method, path in (
        ("GET", "/health"), ("GET", "/"), ("GET", "/nothing"), ("GET", "/v1/quality?game=open&limit=x"), ("HEAD", "/v1/meta"),
        ("POST", "/v1/reports"), ("DELETE", "/v1/sign-ins/current"),
    ):  # fmt: skip
        status, answer = await _raw(studio.service.url, method, path, *hosts)
        assert (path, status) == (path, 400)
        assert b"content-type: application/problem+json" in answer
        assert method == "HEAD" or b'"code":"bad_host"' in answer
    await asyncio.to_thread(wait_for, "it is noted", lambda: "bad_host" in studio.service.log.read_text())


async def test_a_host_is_taken_in_any_form(studio: Studio) -> None:
    for host in ("gamepulse.example", "gamepulse.example:443", "[::1]:8080", "127.0.0.1", "", "xn--bcher-kva.example", "a_b"):
        assert (host, (await _raw(studio.service.url, "GET", "/v1/quality?game=none&limit=x", host))[0]) == (host, 422)
        assert (await _raw(studio.service.url, "GET", "/health/live", host))[0] == 200


# -- bodies and parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("games")
async def test_a_body_has_the_types_that_it_says(api: httpx.AsyncClient, studio: Studio) -> None:
    new = {"studio_id": studio.studio_id, "game": "strict"}
    sign_in = {"name": "admin", "password": PASSWORD}
    custom = {"profile": "custom", "bad_rtt_ms": 80, "bad_jitter_ms": 10, "bad_loss": 0.1}
    wrong: list[tuple[str, str, Any, str]] = [
        ("POST", "/v1/games", new | {"studio_id": str(studio.studio_id)}, "/studio_id"),
        ("POST", "/v1/games", new | {"is_public": "true"}, "/is_public"),
        ("POST", "/v1/games", new | {"is_public": 1}, "/is_public"),
        ("POST", "/v1/games", new | {"title": 5}, "/title"),
        ("POST", "/v1/games", {"studio_id": studio.studio_id}, "/game"),
        ("PATCH", "/v1/games/ours", {"raw_retention_days": "3"}, "/raw_retention_days"),
        ("PATCH", "/v1/games/ours", {"thresholds": custom | {"bad_rtt_ms": "80"}}, "/thresholds/bad_rtt_ms"),
        ("PATCH", "/v1/games/ours", {"title": None}, "/title"),
        ("PATCH", "/v1/games/ours", {"is_public": None}, "/is_public"),
        ("PATCH", "/v1/games/ours", {"thresholds": None}, "/thresholds"),
        ("PATCH", "/v1/games/ours", {"a - at `$.sent": 1}, ""),
        ("PUT", "/v1/games/ours/regions", [{"region": "a"}, {"region": 5}], "/1/region"),
        ("POST", "/v1/sign-ins", sign_in | {"cookie": "true"}, "/cookie"),
    ]
    for method, path, body, pointer in wrong:
        answer = await api.request(method, path, json=body, headers=studio.admin.headers)
        told = (answer.status_code, answer.json()["code"], answer.json().get("pointers"))
        assert (path, body, *told) == (path, body, 422, "invalid_parameter", [pointer])
    too_many = [{"region": f"r{n}"} for n in range(65)]
    answer = await api.put("/v1/games/ours/regions", json=too_many, headers=studio.admin.headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    for content, status, code in ((b"{", 400, "not_json"), (b"\xff", 400, "not_json"), (b"", 422, "invalid_parameter")):
        answer = await api.post("/v1/sign-ins", content=content, headers={"content-type": "application/json"})
        assert (content, answer.status_code, answer.json()["code"]) == (content, status, code)


@pytest.mark.usefixtures("games")
async def test_raw_data_may_be_kept_as_long_as_the_service_keeps_it_again(api: httpx.AsyncClient, studio: Studio) -> None:
    for body, days in (({"raw_retention_days": 3}, 3), ({"title": "Ours"}, 3), ({"raw_retention_days": None}, None), ({}, None)):
        changed = await api.patch("/v1/games/ours", json=body, headers=studio.admin.headers)
        assert (changed.status_code, changed.json()["raw_retention_days"], changed.json()["title"] != "") == (
            200,
            days,
            body != {"raw_retention_days": 3},
        )
    entries = (await api.get(f"/v1/studios/{studio.studio_id}/audit?limit=3", headers=studio.admin.headers)).json()["entries"]
    assert [entry["about"] for entry in entries] == ["raw_retention_days: null", 'title: "Ours"', "raw_retention_days: 3"]


@pytest.mark.usefixtures("games")
async def test_a_time_is_rfc_3339_with_an_offset(api: httpx.AsyncClient) -> None:
    now = datetime.now(UTC)
    others = ("/v1/games/open/servers/a/sessions?", "/v1/games/open/networks/a/sessions?", "/v1/games/open/builds/a/sessions?")
    questions = ("/v1/quality?game=open&", "/v1/quality/series?game=open&", "/v1/quality/compare?game=open&a.build=1&", *others)
    for path in questions:
        for name in ("from", "to"):
            for value, code in (
                ("1767225600", "invalid_parameter"), ("1767225600.5", "invalid_parameter"), ("2026-01-01", "invalid_parameter"),
                ("2026-13-01T00:00:00Z", "invalid_parameter"), ("", "invalid_parameter"), ("null", "invalid_parameter"),
                ("2026-01-01T00:00:00", "no_offset"),
            ):  # fmt: skip
                answer = await api.get(f"{path}{name}={value}")
                assert (path, name, value, answer.status_code, answer.json()["code"]) == (path, name, value, 422, code)
                assert code == "no_offset" or answer.json()["detail"].endswith(f": {name}.")
        good = await api.get(f"{path}from={now - timedelta(hours=1):%Y-%m-%dT%H:%M:%S}Z&to={now:%Y-%m-%dt%H:%M:%S}.25%2B00:00")
        assert good.status_code == 200, good.text
    answer = await api.get("/v1/quality/compare?game=open&versus_from=1767225600&versus_to=1767229200")
    assert (answer.status_code, answer.json()["detail"].endswith(": versus_from.")) == (422, True)


async def test_a_key_is_asked_for_as_http_says(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/reports", json=batch())
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
