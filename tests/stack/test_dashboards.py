"""Every query of every dashboard, run against the real stores as Grafana would run it; each must find something."""

import asyncio
import json
import math
import re
import secrets
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from tests.batches import batch, event, report
from tests.conftest import Stack, wait_for
from tests.dashboards import DASHBOARDS, ONLY_SOMETIMES, Json, Query, Values, expand, links_of_exemplar, metrics_in, queries
from tests.stack.conftest import Stores

REGION = "dashboards"
ARRIVES_WITHIN_S = 90
QUALITIES = ["estimating", "poor", "fair", "good", "excellent"]
SESSIONS = [str(uuid.uuid4()) for _ in range(10)]  # the same in both waves: a session decides the shard, and so the series
KINDS = ["connect_failed", "connected", "disconnected", "reconnected", "complaint"]

NOTHING_HERE = {
    r".* · annotation Alert · ": "an alert fires minutes after a fault: another test waits for it",
    r"application · Alerts · A": "the same",
    r"application · Telemetry dropped · A": "only when the Collector was away for long",
    r"traces · Dependencies · A": "Jaeger draws edges between services that have spans: here is one",
    r"infrastructure · Alertmanager: messages · A": "no receiver here sends messages",
}
"""Queries that may find nothing here, and why. They are run all the same."""

RUNNABLE = [query for query in queries() if query.source != "cloudwatch"]  # there is no AWS here: test_cloudwatch_is_asked_…


class Grafana:
    """Asks the data sources what Grafana would ask them for the last hour."""

    def __init__(self, stores: Stores, sent_at: float) -> None:
        """`sent_at`: when the last wave of reports was."""
        self._stores, self._stack, self.sent_at = stores, stores.stack, sent_at
        self.end = time.time()
        self.values = self._chosen()

    def _get(self, program: str, path: str, **params: str | int | float) -> Any:
        answer = httpx.get(f"{self._stack.url(program)}{path}", params=params, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json().get("data")

    def _chosen(self) -> dict[str, Values]:
        """By dashboard: the first environment, and all values of what takes several."""
        found: dict[str, Values] = {}
        for name, dashboard in DASHBOARDS.items():
            chosen: dict[str, str | list[str]] = {}
            for variable in dashboard["templating"]["list"]:
                options = self._options(variable, chosen)
                chosen[variable["name"]] = options if variable.get("multi") else options[0]
            found[name] = chosen
        return found

    def _options(self, variable: Json, chosen: Values) -> list[str]:
        asked = variable.get("query", "")
        if variable["type"] == "textbox":
            return [asked]
        if variable["datasource"]["uid"] == "loki":
            found = self._get(
                "loki", f"/loki/api/v1/label/{asked['label']}/values", query=expand(asked["stream"], chosen), since="1h"
            )
        else:
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", asked)
            assert match, asked
            found = self._get("prometheus", f"/api/v1/label/{match[2]}/values", **{"match[]": expand(match[1], chosen)})
        assert found, variable["name"]
        return list(found)

    def run(self, query: Query) -> list[Any]:
        """What a query finds: series, streams, rows, traces."""
        self.end = time.time()
        text = expand(query.text, self.values[query.dashboard]).replace(" or vector(0)", "")  # a 0 is not data
        kind: list[Any] = getattr(self, f"_{query.source}")(query.target, text)
        return kind

    def exemplars(self, query: Query) -> list[dict[str, str]]:
        """The labels of what is marked beside a query's series."""
        self.end = time.time()
        text = expand(query.text, self.values[query.dashboard])
        found = self._get("prometheus", "/api/v1/query_exemplars", query=text, start=self.end - 3600, end=self.end)
        return [one["labels"] for series in found for one in series["exemplars"]]

    def _prometheus(self, target: Json, text: str) -> list[Any]:
        if target.get("instant"):
            found = self._get("prometheus", "/api/v1/query", query=text, time=self.end)["result"]
        else:
            found = self._get("prometheus", "/api/v1/query_range", query=text, start=self.end - 3600, end=self.end, step=15)[
                "result"
            ]
        return [series for series in found if is_told(series)]

    def _loki(self, target: Json, text: str) -> list[Any]:
        if target.get("queryType") == "instant":
            return list(self._get("loki", "/loki/api/v1/query", query=text)["result"])
        start, end = (int(second * 1e9) for second in (self.end - 3600, self.end))
        return list(self._get("loki", "/loki/api/v1/query_range", query=text, start=start, end=end, step=15, limit=50)["result"])

    def _jaeger(self, target: Json, _text: str) -> list[Any]:
        if target["queryType"] == "dependencyGraph":
            return list(self._get("jaeger", "/api/dependencies", endTs=int(self.end * 1000), lookback=3_600_000))
        params: Json = {name: target[name] for name in ("service", "operation", "minDuration", "limit") if name in target}
        if "tags" in target:  # written as key=value, sent as an object
            params["tags"] = json.dumps(dict(pair.split("=") for pair in target["tags"].split()))
        start, end = (int(second * 1e6) for second in (self.end - 3600, self.end))
        return list(self._get("jaeger", "/api/traces", start=start, end=end, lookback="custom", **params))

    def _postgres(self, _target: Json, text: str) -> list[Any]:
        last = min(self.end, self.sent_at + 60)  # who plays now is told of the hour of a minute ago: that of the last wave
        start, end = (datetime.fromtimestamp(second, UTC) for second in (last - 3600, last))
        for macro, moment in (("$__timeFrom()", start), ("$__timeTo()", end)):
            text = text.replace(macro, f"'{moment:%Y-%m-%dT%H:%M:%SZ}'")
        assert "$" not in text, text
        return [row for row in asyncio.run(self.rows(text)) if any(value is not None for value in row.values())]

    async def rows(self, text: str) -> list[Json]:
        """As Grafana's login."""
        password = json.loads((self._stack.home / "keys.json").read_text())["grafana_password"]
        at = self._stack.file["database_url"].partition("@")[2]
        connection = await asyncpg.connect(f"postgresql://gamepulse_grafana:{password}@{at}")
        try:
            return [dict(row) for row in await connection.fetch(text)]
        finally:
            await connection.close()


def is_told(series: Json) -> bool:
    """Is there a histogram, or a value that is a number?"""
    samples = [*series.get("values", []), *([series["value"]] if "value" in series else [])]
    return bool(series.get("histograms") or series.get("histogram")) or any(not math.isnan(float(value)) for _, value in samples)


@pytest.fixture(scope="module")
def grafana(stack: Stack, stores: Stores, smoked: Json) -> Grafana:
    """Real measurements and real faults: a load, players of all kinds, refusals, a PostgreSQL that hangs."""
    key = {"authorization": f"Bearer {stack.file['demo']['ingest_key']}"}
    with httpx.Client(base_url=stack.url("gamepulse"), timeout=30) as client:
        for n in range(8):
            assert client.post("/v1/reports", json=players(n), headers=key | place(n) | traced()).status_code == 202
        assert client.post("/v1/reports", json=players(0), headers={"authorization": "Bearer nobody"}).status_code == 401
        assert client.get("/v1/quality?game=demo", headers=traced()).status_code == 200
        with hung(stack):
            assert client.post("/v1/reports", json=players(9), headers=key).status_code == 503
        wait_for("the region", lambda: stores.prometheus(f'player_rtt_seconds{{region="{REGION}"}}'), ARRIVES_WITHIN_S)
        scraped = 'loki_request_duration_seconds{route="otlp_v1_logs"}'
        wait_for("Loki's own metrics", lambda: stores.prometheus(scraped), ARRIVES_WITHIN_S)
        for n in range(8):  # again, because a series must grow before it has a rate
            assert client.post("/v1/reports", json=players(n), headers=key | place(n) | traced()).status_code == 202
        sent_at = time.time()
    wait_for("lines of errors", lambda: stores.loki('{service_name="gamepulse",level="error"}'), ARRIVES_WITHIN_S)
    return Grafana(stores, sent_at)


def players(n: int) -> Json:
    reports = [
        report(seq, region=REGION, rtt_ms=20 + 40 * seq, jitter_ms=2, loss=0.01, quality=quality)
        for seq, quality in enumerate(QUALITIES)
    ]
    events = [event(seq, region=REGION, kind=kind) for seq, kind in enumerate(KINDS, start=10)]
    odd = {"unheard_of": 1, "sent_at": int(time.time() * 1000) - 3_600_000} if n == 7 else {}
    if odd:
        reports = [one | {"at": one["at"] - 3_600_000} for one in reports]
        events = [one | {"at": one["at"] - 3_600_000} for one in events]
    return batch(reports, events, platform="pc", build="1.0", connection="wifi", session=SESSIONS[n]) | odd


def place(n: int) -> dict[str, str]:
    return {"x-forwarded-for": f"198.51.100.{n * 30 + 1}"}


def traced() -> dict[str, str]:
    return {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}


class hung:  # noqa: N801  reads as a condition: `with hung(stack)`
    """PostgreSQL and all its backends stand still meanwhile."""

    def __init__(self, stack: Stack) -> None:
        postmaster = psutil.Process(stack.file["processes"]["postgres"])
        self._processes = [postmaster, *postmaster.children()]

    def __enter__(self) -> None:
        for process in self._processes:
            process.suspend()

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.resume()


@pytest.fixture(scope="module")
def until(grafana: Grafana) -> float:
    """By when everything must have arrived."""
    return time.monotonic() + ARRIVES_WITHIN_S


def listed(name: str, reasons: dict[str, str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in reasons)


@pytest.mark.timeout(300)  # the first one waits for the stack and for the load
@pytest.mark.parametrize("query", RUNNABLE, ids=lambda query: query.name)
def test_query_finds_something(query: Query, grafana: Grafana, until: float) -> None:
    metrics = metrics_in(query.text, set()) if query.source == "prometheus" else set()
    if listed(query.name, NOTHING_HERE) or any(listed(name, ONLY_SOMETIMES) for name in metrics):
        grafana.run(query)
    else:
        wait_for(query.name, lambda: grafana.run(query), max(until - time.monotonic(), 3))


def test_reasons_are_of_queries_that_exist() -> None:
    for pattern in NOTHING_HERE:
        assert any(re.fullmatch(pattern, query.name) for query in queries()), pattern


def test_players_of_servers_are_as_the_service_tells_them(grafana: Grafana, stack: Stack, until: float) -> None:
    [query] = [query for query in queries() if query.panel == "Servers"]
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    params: dict[str, str | int] = {
        "game": "demo",
        "group_by": "region,server",
        "from": f"{start - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        "limit": 1000,
    }

    def both() -> tuple[Json, Json] | None:
        told = httpx.get(f"{stack.url('gamepulse')}/v1/quality", params=params, timeout=20).json()["groups"]
        of_service = {group["server"]: group for group in told if group["region"] == REGION}
        shown = {row["server"]: row for row in grafana.run(query) if row["region"] == REGION}
        reports = {server: row["reports"] for server, row in shown.items()}
        return (of_service, shown) if reports == {server: group["count"] for server, group in of_service.items()} else None

    of_service, shown = wait_for("both count the same", both, max(until - time.monotonic(), 40))
    assert float(shown["seoul-1"]["p95"]) * 1000 == pytest.approx(of_service["seoul-1"]["rtt_ms"]["p95"], rel=1e-4)
    assert float(shown["seoul-1"]["loss"]) == pytest.approx(of_service["seoul-1"]["loss"])
    assert 0 < shown["seoul-1"]["sessions"] <= of_service["seoul-1"]["sessions"]
    assert shown["seoul-1"]["affected"] <= of_service["seoul-1"]["bad_sessions"]


async def test_grafanas_login_reads_the_rollups_of_one_studio(grafana: Grafana, stack: Stack) -> None:
    owner = await asyncpg.connect(stack.file["database_url"])
    studio = await owner.fetchval("INSERT INTO studio (name) VALUES ('another') RETURNING studio_id")
    await owner.execute("INSERT INTO game (studio_id, slug, is_public) VALUES ($1, 'another', true)", studio)
    try:
        assert await grafana.rows("SELECT slug FROM game") == [{"slug": "demo"}]
        for table in ("raw_batch", "session_seen", "player_total", "ingest_key", "batch_key", "audit_log"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await grafana.rows(f"SELECT FROM {table}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await grafana.rows("SET ROLE gamepulse_query")
        with pytest.raises(asyncpg.PostgresError):
            await grafana.rows("DELETE FROM rollup_hour")
    finally:
        await owner.execute("DELETE FROM game WHERE studio_id = $1", studio)
        await owner.execute("DELETE FROM studio WHERE studio_id = $1", studio)
        await owner.close()


@pytest.mark.parametrize("query", [query for query in RUNNABLE if query.target.get("exemplar")], ids=lambda query: query.name)
def test_exemplars_lead_to_traces(query: Query, grafana: Grafana, stores: Stores, until: float) -> None:
    def followed() -> bool:
        return any(stores.trace(link.query) for labels in grafana.exemplars(query) for link in links_of_exemplar(labels))

    wait_for(query.name, followed, max(until - time.monotonic(), 3))


def test_jaegers_monitor_has_rate_errors_and_duration(grafana: Grafana, stack: Stack) -> None:
    key = {"authorization": f"Bearer {stack.file['demo']['ingest_key']}"}
    with hung(stack):  # once more: a counter must grow before it has a rate
        assert httpx.post(f"{stack.url('gamepulse')}/v1/reports", json=players(9), headers=key, timeout=30).status_code == 503
    params: dict[str, str | int] = {"service": "gamepulse", "quantile": "0.95", "lookback": 600_000, "step": 5_000}
    params |= {"ratePer": 60_000, "groupByOperation": "true", "spanKind": "server"}

    def monitored(what: str) -> bool:
        """Is any point of the operation above 0?"""
        answer = httpx.get(f"{stack.url('jaeger')}/api/metrics/{what}", params=params | {"endTs": int(time.time() * 1000)})
        points = [
            float(point["gaugeValue"]["doubleValue"])
            for metric in answer.json().get("metrics") or []
            if {"name": "operation", "value": "POST /v1/reports"} in metric["labels"]
            for point in metric["metricPoints"]
        ]
        return any(point > 0 for point in points)

    for what in ("calls", "errors", "latencies"):
        wait_for(what, partial(monitored, what), ARRIVES_WITHIN_S)
