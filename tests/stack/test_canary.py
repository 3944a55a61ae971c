"""Invariant 6, as a whole: what is planted wherever a request can hold something is told nowhere, though no Collector redacts it.

A service of its own sends to a Collector of its own, whose redaction is off and which hands on to the stack's stores. Every route
is asked with values that stand nowhere else. Then stdout, Loki, Jaeger, Prometheus and the errors that were answered are searched
for them, and for values that must be found: else the search itself finds nothing.
"""

import base64
import json
import os
import re
import secrets
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest

from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import read_settings
from tests.batches import batch, event, now_ms, report
from tests.conftest import INGEST_KEY, SERVER_KEY, Cluster, Service, Stack, free_port, gamepulse, running_stack, serve, wait_for
from tests.people import PASSWORD, Person, enrol, signed_in
from tests.stack.conftest import Stores

ENVIRONMENT = f"canary-{secrets.token_hex(4)}"
"""Told on purpose with all telemetry."""
REGION = f"control-{secrets.token_hex(4)}"
"""Told on purpose: a label of the players' metrics."""
PROCESSORS = {"metrics": "resource", "logs": "resource, transform/level", "traces": "resource"}
"""Of the configuration, without the redaction."""


@dataclass
class Plants:
    """Values that stand nowhere else, each with where it was planted."""

    planted: dict[str, str] = field(default_factory=dict)
    together: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By where: values so short that one may stand anywhere by chance. Told is what all of them are found in."""

    def new(self, where: str, form: str = "{}") -> str:
        """A new value; `form`: what it looks like."""
        token = form.format(f"cnry{secrets.token_hex(5)}")
        self.planted[token] = where
        return token

    def uuid(self, where: str) -> str:
        token = str(uuid.uuid4())
        self.planted[token] = where
        return token

    def found_in(self, text: str) -> set[str]:
        """Where those were planted that the text holds, as they are or as bytes and URLs write them."""
        low = text.lower()
        return {where for where, tokens in self.together.items() if all(token in low for token in tokens)} | {
            where
            for token, where in self.planted.items()
            if any(form.lower() in low for form in {token, quote(token, safe=""), token.replace("-", ""), _base64(token)})
        }


def _base64(token: str) -> str:
    return base64.b64encode(token.encode()).decode().rstrip("=")[:-1]


@contextmanager
def unredacted(stack: Stack, folder: Path) -> Iterator[str]:
    """The OTLP address of a Collector that hands on all that it is given to the stack's stores."""
    settings = read_settings(stack.environ)
    names = ("COLLECTOR_OTLP_GRPC", "COLLECTOR_OTLP_HTTP", "COLLECTOR_HEALTH")
    environ = {name: f"127.0.0.1:{free_port()}" for name in names} | {
        "COLLECTOR_METRICS_HOST": "127.0.0.1", "COLLECTOR_METRICS_PORT": str(free_port()), "COLLECTOR_QUEUE_DIRECTORY": str(folder),
        "PROMETHEUS_URL": stack.url("prometheus"), "LOKI_URL": stack.url("loki"), "JAEGER_OTLP": settings.address("jaeger-otlp"),
    }  # fmt: skip
    off = [f"yaml:service::pipelines::{signal}::processors: [memory_limiter, {kept}]" for signal, kept in PROCESSORS.items()]
    configs = [str(OBSERVABILITY / "collector" / "otel-collector-config.yaml"), *off]
    command = [str(ensure_program(settings, "collector") / "otelcol"), *(f"--config={one}" for one in configs)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=os.environ | environ, stderr=log) as process:
        try:
            wait_for("the Collector", lambda: httpx.get(f"http://{environ['COLLECTOR_HEALTH']}").status_code == 200)
            yield f"http://{environ['COLLECTOR_OTLP_GRPC']}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def stack(own_folder: Path) -> Iterator[Stack]:
    """Of its own: what is told here belongs into no other test's stores."""
    with running_stack(own_folder / "canary") as running:
        yield running


@pytest.fixture(scope="module")
def stores(stack: Stack) -> Stores:
    return Stores(stack)


@pytest.fixture
def service(stack: Stack, cluster: Cluster, database_url: str, valkey_url: str, tmp_path: Path) -> Iterator[Service]:
    told = {
        "GAMEPULSE_ENVIRONMENT": ENVIRONMENT, "GAMEPULSE_ANCESTOR_GAME": "demo", "no_grpc_proxy": "127.0.0.1",
        "GAMEPULSE_TRACE_SAMPLE_RATIO": "1",
    }  # fmt: skip
    (tmp_path / "collector").mkdir()
    with (
        unredacted(stack, tmp_path / "collector") as collector,
        serve(database_url, valkey_url, tmp_path / "log", OTEL_EXPORTER_OTLP_ENDPOINT=collector, **told) as running,
    ):
        yield running


class Asking:
    """Asks with something planted in each header and parameter; keeps what was answered otherwise than with success."""

    def __init__(self, client: httpx.AsyncClient, plants: Plants) -> None:
        self.client, self.plants = client, plants
        self.problems: list[tuple[str, str]] = []
        self.statuses: set[int] = set()

    def headers(self, route: str) -> dict[str, str]:
        new = self.plants.new
        self.plants.planted[address := f"198.18.{secrets.randbelow(250)}.{secrets.randbelow(250)}"] = f"{route} X-Forwarded-For"
        return {
            "x-forwarded-for": address, "user-agent": new(f"{route} User-Agent"), "referer": new(f"{route} Referer", "https://{}/"),
            "cookie": f"a={new(f'{route} Cookie')}; __Host-gamepulse={new(f'{route} session cookie')}",
            "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
            "tracestate": new(f"{route} tracestate", "vendor={}"), "baggage": new(f"{route} baggage", "who={}"),
            "x-anything": new(f"{route} X-Anything"), "if-none-match": new(f"{route} If-None-Match", '"{}"'),
            "sec-fetch-site": "same-origin",
        }  # fmt: skip

    async def ask(
        self, method: str, path: str, body: Any = None, token: str = "", unknown: str = "yes", **more: str
    ) -> httpx.Response:
        """`path` may hold {} for a value; `token`: for Authorization, else one that is planted; `unknown`: so is a parameter."""
        route = f"{method} {path}"
        url = path.replace("{}", self.plants.new(f"{route} path")) if "{}" in path else path
        if unknown == "yes":
            url += ("&" if "?" in url else "?") + f"{self.plants.new(f'{route} name')}={self.plants.new(f'{route} value')}"
        headers = self.headers(route) | {"authorization": f"Bearer {token or self.plants.new(f'{route} Authorization')}"} | more
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers |= {"content-type": "application/json"} if body is not None else {}
        async with self.client.stream(method, url, content=content, headers=headers) as answer:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                await answer.aread()
        self.statuses.add(answer.status_code)
        if not answer.is_success:
            self.problems.append((route, answer.text + str(answer.headers)))
        return answer


async def _as_anyone(asking: Asking, plants: Plants) -> None:
    """Every route, as nobody and with a wrong token; then what is not quite a request."""
    described = (await asking.client.get("/docs/schema/openapi.json")).json()["paths"]
    for path, methods in described.items():
        for method in methods:
            for form in (path.replace("{game}", "demo"), path):
                filled = re.sub(r"\{[a-z_]+\}", "{}", form, count=1)
                filled = re.sub(r"\{[a-z_]+\}", plants.uuid(f"{method} {path} id"), filled)
                body = {plants.new(f"{method} {path} field"): plants.new(f"{method} {path} content")} if method != "get" else None
                await asking.ask(method.upper(), filled, body)
    for method, path in (
        ("GET", "/{}"),
        ("GET", "/docs/{}"),
        ("GET", "/assets/{}"),
        ("DELETE", "/v1/quality/{}"),
        ("TRACE", "/v1/games"),
    ):
        await asking.ask(method, path)
    await asking.ask(plants.new("method", "{}").upper(), "/v1/games")
    for bad in ("00-{}", "{}", "00-0af7651916cd43dd8448eb211c80319c-{}-01"):
        await asking.ask("GET", "/v1/meta", traceparent=plants.new("traceparent", bad))
    for query in (
        "game={}",
        "game=demo&from={}",
        "game=demo&group_by={}",
        "game=demo&region={}",
        "game=demo&order={}",
        "game=demo&limit={}",
    ):
        await asking.ask("GET", "/v1/quality?" + plants.new("query", query))
    for path in ("/v1/accounts", "/v1/sign-ins", "/v1/reports", "/api/sod/rtt"):
        await asking.ask("POST", path, b'{"a": "' + plants.new(f"{path} broken JSON").encode())
        await asking.ask("POST", path, b'{"a": "\xff' + plants.new(f"{path} bad UTF-8").encode() + b'"}')
        await asking.ask("POST", path, [plants.new(f"{path} list")])
    await asking.ask("POST", "/api/sod/rtt", {"type": "client", "rtt": 5, "quality": 1}, **{"x-quality-scale": plants.new("scale")})


async def _as_sender(asking: Asking, plants: Plants) -> None:
    """Batches, good and bad, in each of their fields."""
    new = plants.new
    labels = {name: new(f"batch {name}") for name in ("player", "platform", "build", "match")}
    reports = [report(1, region=REGION, server=new("report server")), report(2, region=REGION, rtt_ms=new("report rtt"))]
    events = [event(3, kind="complaint", reason=new("event reason"), region=REGION), event(4, kind=new("event kind"))]
    good = batch(reports, events, session=plants.uuid("batch session"), batch_id=plants.uuid("batch id"), **labels)
    good |= {new("unknown field"): new("unknown value")}
    assert (await asking.ask("POST", "/v1/reports", good, INGEST_KEY)).json()["accepted"] == 2
    assert (await asking.ask("POST", "/v1/reports", good | {"build": new("batch reused")}, INGEST_KEY)).status_code == 409
    many = {"batch_id": plants.uuid("many id"), "game": "demo", "sent_at": now_ms(), "sessions": [
        {"session": plants.uuid("many session"), "player": new("many player"), "reports": [report(1, region=REGION)]}]}  # fmt: skip
    assert (await asking.ask("POST", "/v1/reports", many, SERVER_KEY)).status_code == 202
    for name in ("batch_id", "game", "sent_at", "session", "connection", "key", "reports"):
        await asking.ask("POST", "/v1/reports", batch() | {name: new(f"bad {name}")}, INGEST_KEY)
    for name in ("player", "platform", "build", "match"):
        await asking.ask("POST", "/v1/reports", batch() | {name: new(f"bad {name}", "{}\n")}, INGEST_KEY)
    await asking.ask("POST", "/v1/reports", batch() | {"key": new("body key")}, authorization="")
    await asking.ask("POST", "/v1/reports", new("not gzip").encode(), INGEST_KEY, **{"content-encoding": "gzip"})
    await asking.ask("POST", "/v1/reports", batch(), INGEST_KEY, **{"content-encoding": new("content-encoding")})
    await asking.ask("POST", "/v1/reports", batch(), INGEST_KEY, **{"content-type": new("content-type", "text/{}")})


async def _as_people(asking: Asking, plants: Plants, admin: Person, studio_id: int) -> None:
    """What an admin does, rightly and wrongly."""
    new, token = plants.new, admin.token
    credentials = {"name": new("account name"), "password": new("password", "{} long enough")}
    assert (await asking.ask("POST", "/v1/accounts", credentials)).status_code == 201
    assert (await asking.ask("POST", "/v1/accounts", credentials | {"name": new("name", "NO {}")})).status_code == 422
    begun = (await asking.ask("POST", "/v1/sign-ins", credentials)).json()
    plants.planted |= {begun["token"]: "a token that was given", begun["sign_in"]: "a sign-in's id"}
    for wrong in (
        {"password": new("wrong password")},
        {"totp": new("totp")},
        {"name": new("unknown name")},
        {"cookie": new("cookie")},
    ):
        await asking.ask("POST", "/v1/sign-ins", credentials | wrong)
    plants.together["TOTP codes"] = codes = tuple(f"{secrets.randbelow(10**6):06}" for _ in range(3))
    for code in codes:
        wrong = {"name": admin.name, "password": PASSWORD, "totp": code}
        assert (await asking.ask("POST", "/v1/sign-ins", wrong)).status_code == 401
        await asking.ask("PUT", "/v1/account/totp", {"code": code}, token)
    await asking.ask("POST", "/v1/account/totp", {"password": new("totp password")}, token)
    await asking.ask("POST", "/v1/account/password", {"password": new("old"), "new_password": new("new")}, token)
    secret = (await asking.ask("POST", "/v1/account/totp", {"password": credentials["password"]}, begun["token"])).json()["secret"]
    plants.planted[secret] = "TOTP secret"
    assert (await asking.ask("DELETE", "/v1/sign-ins/current", None, begun["token"])).status_code == 204
    game = {"title": new("title"), "thresholds": {"profile": new("profile")}}
    await asking.ask("PATCH", "/v1/games/demo", game, token)
    assert (await asking.ask("PATCH", "/v1/games/demo", {"title": new("title")}, token)).status_code == 200
    regions = [{"region": new("declared region"), "title": new("region title")}]
    assert (await asking.ask("PUT", "/v1/games/demo/regions", regions, token)).status_code == 200
    key = (await asking.ask("POST", "/v1/games/demo/keys", {"kind": "client", "label": new("key label")}, token)).json()["key"]
    plants.planted[key] = "a key that was given"
    made = {"studio_id": studio_id, "game": new("slug")}
    assert (await asking.ask("POST", "/v1/games", made, token)).status_code == 201
    await asking.ask("POST", f"/v1/studios/{studio_id}/members", {"name": credentials["name"], "role": "viewer"}, token)
    await asking.ask("POST", f"/v1/studios/{studio_id}/members", {"name": new("member"), "role": new("role")}, token)
    for path, status in (("player-sessions", 200), ("exports", 200), ("erasures", 202)):
        answer = await asking.ask("POST", f"/v1/games/demo/{path}", {"player": new(f"{path} player")}, token)
        assert answer.status_code == status
        await asking.ask("POST", f"/v1/games/demo/{path}", {"player": [new(f"{path} list")]}, token)
    for path in ("servers", "networks", "builds"):
        for unknown, status in (("yes", 422), ("no", 200)):
            answer = await asking.ask("GET", f"/v1/games/demo/{path}/{{}}/sessions", None, token, unknown)
            assert answer.status_code == status
    assert (await asking.ask("GET", "/v1/live?game=demo", None, token, "no")).status_code == 200


async def _provoked(asking: Asking, plants: Plants, admin: Person, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """PostgreSQL's own errors, whose texts hold what was sent."""
    await connection.execute("""
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'not %', new USING DETAIL = 'in detail ' || new, HINT = 'or ' || new, ERRCODE = tg_argv[0]; END $$;
        CREATE TRIGGER tell BEFORE INSERT ON game_region FOR EACH ROW EXECUTE FUNCTION tell('22000');
        CREATE TRIGGER tell BEFORE INSERT ON ingest_key FOR EACH ROW EXECUTE FUNCTION tell('XX000');
        CREATE TRIGGER tell BEFORE INSERT ON raw_batch FOR EACH ROW EXECUTE FUNCTION tell('23514')""")
    regions = [{"region": plants.new("SQL error region"), "title": plants.new("SQL error title")}]
    assert (await asking.ask("PUT", "/v1/games/demo/regions", regions, admin.token)).status_code == 500
    wanted = {"kind": "client", "label": plants.new("SQL error label")}
    assert (await asking.ask("POST", "/v1/games/demo/keys", wanted, admin.token)).status_code == 500
    sent = batch(build=plants.new("SQL error build"), player=plants.new("SQL error player"))
    assert (await asking.ask("POST", "/v1/reports", sent, INGEST_KEY)).status_code == 503


def _told(stores: Stores, service: Service) -> dict[str, str]:
    """All that the stores and stdout hold of this service."""
    of = f'{{service_name="gamepulse", environment="{ENVIRONMENT}"}}'
    window: dict[str, str | int] = {"start": int(time.time()) - 900, "end": int(time.time())}
    loki, jaeger, prometheus = (stores.stack.url(name) for name in ("loki", "jaeger", "prometheus"))
    tags = json.dumps({"deployment.environment.name": ENVIRONMENT})
    asked: dict[str, str | int] = {"service": "gamepulse", "tags": tags, "limit": 1500, "lookback": "1h"}
    matching: dict[str, str | int] = {"match[]": of}
    exemplars = httpx.get(f"{prometheus}/api/v1/query_exemplars", params=window | {"query": of}).text
    return {
        "stdout": service.log.read_text(),
        "Loki": json.dumps(stores.loki(of, 5000)) + httpx.get(f"{loki}/loki/api/v1/series", params=matching).text,
        "Jaeger": httpx.get(f"{jaeger}/api/traces", params=asked, timeout=60).text
        + httpx.get(f"{jaeger}/api/operations", params={"service": "gamepulse"}).text,
        "Prometheus": httpx.get(f"{prometheus}/api/v1/series", params=window | matching).text + exemplars,
    }


@pytest.mark.timeout(300)
async def test_what_is_planted_is_told_nowhere(service: Service, stores: Stores, database_url: str) -> None:
    plants = Plants()
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        gamepulse("admin create canary-admin --studio 'Demo studio'", database_url, stdin=PASSWORD)
        admin = await enrol(client, await signed_in(client, "canary-admin"))
        [studio] = (await client.get("/v1/account", headers=admin.headers)).json()["studios"]
        asking = Asking(client, plants)
        await _as_anyone(asking, plants)
        await _as_sender(asking, plants)
        await _as_people(asking, plants, admin, studio["studio_id"])
        connection = await asyncpg.connect(database_url)
        await _provoked(asking, plants, admin, connection)
        await connection.close()
        last = await asking.ask(
            "GET", f"/v1/games/{plants.new('last')}", traceparent=f"00-{(trace := secrets.token_hex(16))}-{'ab' * 8}-01"
        )
    assert last.json()["trace_id"] == trace
    assert {200, 201, 202, 204, 400, 401, 403, 404, 405, 409, 415, 422, 500, 503} <= asking.statuses
    assert len(plants.planted) >= 200

    # What was told last is there: so is all before it. And what is told on purpose is found.
    assert trace in asking.problems[-1][1]
    wait_for(
        "the last request",
        lambda: trace in (told := _told(stores, service))["stdout"] and trace in told["Loki"] and trace in told["Jaeger"],
    )
    wait_for("the players' metrics", lambda: REGION in _told(stores, service)["Prometheus"])
    told = _told(stores, service)
    for name in ("Loki", "Jaeger", "Prometheus"):
        assert ENVIRONMENT in told[name], name
    assert told["Jaeger"].count('"traceID"') > 300 and told["stdout"].count('"event":"request"') > 150
    assert Plants({REGION: "control"}).found_in(told["Prometheus"]) == {"control"}
    assert Plants({}, {"controls": (REGION, "region")}).found_in(told["Prometheus"]) == {"controls"}
    found = {name: sorted(plants.found_in(text)) for name, text in told.items()}
    found["errors"] = [f"{route}: {one}" for route, text in asking.problems for one in plants.found_in(text)]
    if any(found.values()):
        pytest.fail(json.dumps(found, indent=1), pytrace=False)
