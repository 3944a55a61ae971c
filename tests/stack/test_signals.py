"""The signal matrix: who emits what, one line each, driven by real requests and asked of the real stores."""

import json
import math
import secrets
import shutil
import time
from functools import partial
from typing import Any

import httpx
import pytest

from tests.batches import batch, event, report
from tests.conftest import Stack, wait_for
from tests.dashboards import SOURCES, Link, links_of_exemplar, links_of_line, links_of_span
from tests.stack.conftest import Json, Stores

REGION = "signals"
ARRIVES_WITHIN_S = 30

# who (the instance begins with) · metric in Prometheus · a label that it has
METRICS = [
    ("web", "http_server_request_duration_seconds", 'http_route="/v1/reports",http_response_status_code="202"'),
    ("web", "http_server_request_duration_seconds", 'http_route="/v1/quality",http_request_method="GET"'),
    ("web", "ingest_reports_total", 'outcome="accepted"'),
    ("web", "ingest_reports_total", 'outcome="duplicate"'),
    ("web", "ingest_reports_total", 'outcome="rejected"'),
    ("web", "ingest_batches_total", 'outcome="accepted"'),
    ("web", "ingest_batches_total", 'outcome="batch_id_reused"'),
    ("web", "ingest_batches_total", 'outcome="unknown_key"'),
    ("web", "ingest_clocks_corrected_total", ""),
    ("web", "ingest_fields_unknown_total", ""),
    ("web", "ingest_pending_reports", ""),
    ("web", "ingest_commit_size", ""),
    ("web", "ingest_commit_duration_seconds", 'outcome="ok"'),
    ("web", "db_client_connection_count", 'db_client_connection_pool_name="ingest",db_client_connection_state="idle"'),
    ("web", "db_client_connection_max", 'db_client_connection_pool_name="look_up"'),
    ("web", "db_client_connection_pending_requests", 'db_client_connection_pool_name="query"'),
    ("web", "ingest_load", ""),
    ("web", "ingest_next_report_seconds", ""),
    ("web", "rate_limit_shared", ""),
    ("web", "rate_limit_checks_total", 'limit="address",outcome="allowed"'),
    ("web", "account_sign_ins_total", 'outcome="wrong_credentials"'),
    ("web", "circuit_breaker_state", 'circuit_breaker_name="valkey",circuit_breaker_state="closed"'),
    ("web", "circuit_breaker_state", 'circuit_breaker_name="postgresql-query",circuit_breaker_state="closed"'),
    ("web", "live_viewers", ""),
    ("web", "process_cpu_time_seconds_total", 'cpu_mode="user"'),
    ("web", "process_memory_usage_bytes", ""),
    ("web", "traces_span_metrics_calls_total", 'span_name="POST /v1/reports",span_kind="SPAN_KIND_SERVER"'),
    ("web", "traces_span_metrics_calls_total", 'span_name="receive",span_kind="SPAN_KIND_INTERNAL"'),
    ("web", "traces_span_metrics_calls_total", 'span_name="accept",span_kind="SPAN_KIND_INTERNAL"'),
    ("web", "traces_span_metrics_calls_total", 'span_name="commit",span_kind="SPAN_KIND_CLIENT"'),
    ("web", "traces_span_metrics_duration_seconds_bucket", 'span_name="POST /v1/reports",le="+Inf"'),
    ("aggregate", "traces_span_metrics_calls_total", 'span_name="aggregate",span_kind="SPAN_KIND_INTERNAL"'),
    ("aggregate", "aggregate_lag_seconds", 'shard="0"'),
    ("aggregate", "aggregate_delta_age_seconds", ""),
    ("aggregate", "aggregate_erasure_age_seconds", ""),
    ("aggregate", "aggregate_duration_seconds", ""),
    ("aggregate", "circuit_breaker_state", 'circuit_breaker_name="valkey",circuit_breaker_state="closed"'),
    ("aggregate", "aggregate_reports_total", ""),
    ("aggregate", "process_cpu_time_seconds_total", 'cpu_mode="system"'),
    ("aggregate", "process_memory_usage_bytes", ""),
    ("shard", "player_rtt_seconds", f'game="demo",region="{REGION}",country="ZZ"'),
    ("shard", "player_jitter_seconds", f'game="demo",region="{REGION}"'),
    ("shard", "player_loss", f'game="demo",region="{REGION}"'),
    ("shard", "player_reports_total", f'game="demo",region="{REGION}"'),
    ("shard", "player_quality_total", f'region="{REGION}",quality="good"'),
    ("shard", "player_events_total", f'region="{REGION}",kind="disconnected"'),
]
# Only when something goes wrong (tests/stack/test_faults.py), or made by the Collector and by Prometheus.
MAY_BE_THERE = {"telemetry_dropped_total", "target_info"}

# Metrics of rules that there need not be here, and why.
NOT_HERE = {
    "httpcheck_tls_cert_remaining_seconds": "nothing here speaks TLS: test_alerts.py looks at what does",
    "telemetry_dropped_total": "begins with the first drop",
    "otelcol_exporter_enqueue_failed_spans_total": "begins with the first failure",
    "otelcol_exporter_enqueue_failed_log_records_total": "begins with the first failure",
    "otelcol_exporter_enqueue_failed_metric_points_total": "begins with the first failure",
}

RULES = ["http_requests_total", "http_request_duration_seconds"]
RECORDED = {*RULES, "http_requests_fast_total", "freshness:lag:seconds", "ALERTS", "ALERTS_FOR_STATE"}
TARGETS = ["collector", "prometheus", "loki", "jaeger", "alertmanager"]

# who · a line that is in Loki · its level
LOGS = [
    ("web", '"request" | http_route="/v1/reports" | http_response_status_code="202"', "info"),
    ("web", '"request" | http_route="/v1/reports" | error_code="unknown_key"', "info"),
    ("web", '"request" | http_route="/v1/quality"', "info"),
    ("aggregate", '"shard taken"', "info"),
]

# a span in Jaeger of a batch's trace · its parent
SPANS = [
    ("POST /v1/reports", None),
    ("receive", "POST /v1/reports"),
    ("accept", "POST /v1/reports"),
    ("commit", "accept"),
]


@pytest.fixture(scope="module")
def trace_id(stack: Stack) -> str:
    """Sends what the matrix needs; the trace id of a sampled batch."""
    trace, url = secrets.token_hex(16), stack.url("gamepulse")
    key = {"authorization": f"Bearer {stack.file['demo']['ingest_key']}"}
    reports = [report(n, region=REGION, jitter_ms=2, loss=0.01, quality="good") for n in range(5)] + [
        report(9, region=REGION, rtt_ms=0)
    ]
    sent = batch(reports, [event(10, region=REGION, kind="disconnected")])
    traced = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    with httpx.Client(base_url=url, timeout=20) as client:
        assert client.post("/v1/reports", json=sent, headers=key | traced).json()["accepted"] == 6
        assert client.post("/v1/reports", json=sent, headers=key).json()["duplicate"] == 6
        assert client.post("/v1/reports", json=sent | {"build": "x"}, headers=key).status_code == 409
        assert client.post("/v1/reports", json=sent, headers={"authorization": "Bearer nobody"}).status_code == 401
        assert client.post("/v1/reports", json=batch([report(region=REGION)], later=1), headers=key).json()["accepted"] == 1
        old = int(time.time() * 1000) - 86_400_000
        assert client.post("/v1/reports", json=batch([report(at=old, region=REGION)], sent_at=old), headers=key).status_code == 202
        assert client.get("/v1/quality?game=demo", headers=traced).status_code == 200
        assert client.get("/v1/meta", headers={"x-forwarded-for": "203.0.113.9"}).status_code == 200
        assert client.post("/v1/sign-ins", json={"name": "nobody", "password": "wrong"}).status_code == 401
    return trace


@pytest.mark.parametrize(("who", "metric", "labels"), METRICS)
def test_metric_is_in_prometheus(stores: Stores, environment: str, trace_id: str, who: str, metric: str, labels: str) -> None:
    query = f'{metric}{{service_name="gamepulse",environment="{environment}",instance=~"{who}-.+"{"," if labels else ""}{labels}}}'
    wait_for(query, lambda: stores.prometheus(query), ARRIVES_WITHIN_S)


def test_nothing_else_is_emitted(stores: Stores, trace_id: str) -> None:
    emitted = {series["metric"]["__name__"] for series in stores.prometheus('count by (__name__) ({service_name="gamepulse"})')}
    known = {metric for _, metric, _ in METRICS}
    emitted = {name for name in emitted if not name.startswith("traces_service_graph_")}  # the Collector makes these of the spans
    known |= {metric.removesuffix("_bucket") + end for metric in known if metric.endswith("_bucket") for end in ("_count", "_sum")}
    assert emitted - known - MAY_BE_THERE - RECORDED == set()


@pytest.mark.parametrize("metric", RULES)
def test_the_requirements_names_are_alive(stores: Stores, trace_id: str, metric: str) -> None:
    wait_for(metric, lambda: stores.prometheus(metric), 60)


@pytest.mark.parametrize("job", TARGETS)
def test_target_is_scraped(stores: Stores, job: str) -> None:
    wait_for(job, lambda: stores.number(f'min(up{{job="{job}"}})') == 1, 60)


def test_the_disk_is_as_full_as_the_system_says(stack: Stack, stores: Stores) -> None:
    [told] = wait_for("the disk", lambda: stores.prometheus("system_filesystem_utilization_ratio"), 60)
    assert told["metric"]["service_name"] == "infrastructure"
    disk = shutil.disk_usage(stack.home)
    assert float(told["value"][1]) == pytest.approx(disk.used / (disk.used + disk.free), abs=0.02)


def test_alert_rules_are_loaded(stores: Stores) -> None:
    groups = httpx.get(f"{stores.stack.url('prometheus')}/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {"HighErrorRate", "HighResponseTime", "IngestAvailabilityBurn"} <= {rule["name"] for rule in rules}
    assert [rule for rule in rules if rule["health"] == "err"] == []
    managers = httpx.get(f"{stores.stack.url('prometheus')}/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]
    assert len(managers) == 1


def test_every_metric_of_a_rule_is_there(stores: Stores, trace_id: str) -> None:
    url = stores.stack.url("prometheus")
    groups = httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    asked = {
        name
        for rule in rules
        for name in _metrics(httpx.get(f"{url}/api/v1/parse_query", params={"query": rule["query"]}).json()["data"])
    }
    assert len(asked) > 40
    wanted = asked - recorded - set(NOT_HERE)

    def missing() -> set[str]:
        return wanted - set(httpx.get(f"{url}/api/v1/label/__name__/values").json()["data"])

    wait_for("every metric of a rule", lambda: not missing(), 60)
    assert set(NOT_HERE) <= asked


def _metrics(node: Any) -> set[str]:
    """The names of metrics in a parsed query."""
    if isinstance(node, list):
        return {name for one in node for name in _metrics(one)}
    if not isinstance(node, dict):
        return set()
    own = {node["name"]} if node.get("type") in ("vectorSelector", "matrixSelector") and node["name"] else set()
    return own | {name for one in node.values() for name in _metrics(one)}


@pytest.mark.parametrize(("who", "line", "level"), LOGS)
def test_line_is_in_loki(stores: Stores, trace_id: str, who: str, line: str, level: str) -> None:
    text, *filters = line.split(" | ")
    query = f'{{service_name="gamepulse",level="{level}"}} |= `{json.loads(text)}` | service_instance_id=~"{who}-.+"'
    query += "".join(f" | {one}" for one in filters)
    wait_for(query, lambda: stores.loki(query), ARRIVES_WITHIN_S)


def test_loki_has_few_index_labels(stores: Stores, trace_id: str) -> None:
    wait_for("logs", lambda: stores.loki('{service_name="gamepulse"}'))
    labels = httpx.get(f"{stores.stack.url('loki')}/loki/api/v1/labels").json()["data"]
    assert set(labels) == {"service_name", "service_version", "environment", "level"}


def test_batch_is_traced_from_receive_to_commit_and_aggregation(stores: Stores, trace_id: str) -> None:
    spans: list[Json] = wait_for(
        "the trace", lambda: len(stores.trace(trace_id)) >= len(SPANS) and stores.trace(trace_id), ARRIVES_WITHIN_S
    )
    by_name = {span["operationName"]: span for span in spans}
    for name, parent in SPANS:
        parents = [one["spanID"] for one in by_name[name]["references"] if one["refType"] == "CHILD_OF"]
        assert parent is None or by_name[parent]["spanID"] in parents, name
    links = _links(by_name["commit"])
    assert (trace_id, by_name["POST /v1/reports"]["spanID"]) in links  # the commit to its batch

    def aggregated() -> list[Json]:
        return [span for span in stores.traces("aggregate") if (trace_id, by_name["commit"]["spanID"]) in _links(span)]

    wait_for("an aggregation that links to the commit", aggregated, ARRIVES_WITHIN_S)


def _links(span: Json) -> set[tuple[Any, Any]]:
    return {(one["traceID"], one["spanID"]) for one in span["references"]}


def test_every_link_of_a_data_source_is_followed() -> None:
    leading = {(uid, name) for uid, source in SOURCES.items() for name, value in source["jsonData"].items() if _leads(value)}
    assert leading == {
        ("prometheus", "exemplarTraceIdDestinations"),
        ("loki", "derivedFields"),
        ("jaeger", "tracesToLogsV2"),
        ("jaeger", "tracesToMetrics"),
    }


def _leads(setting: Any) -> bool:
    return any("datasourceUid" in one for one in (setting if isinstance(setting, list) else [setting]) if isinstance(one, dict))


def test_an_exemplar_leads_to_its_trace(stores: Stores, stack: Stack) -> None:
    trace_id = secrets.token_hex(16)  # of a batch after which none comes: the newest is told
    headers = {
        "authorization": f"Bearer {stack.file['demo']['ingest_key']}",
        "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
    }
    sent = batch([report(region=REGION)])
    assert httpx.post(f"{stack.url('gamepulse')}/v1/reports", json=sent, headers=headers).status_code == 202
    query = 'http_server_request_duration_seconds{http_route="/v1/reports",http_response_status_code="202"}'

    def followed() -> list[Json]:
        params: dict[str, str | float] = {"query": query, "start": time.time() - 300, "end": time.time()}
        answer = httpx.get(f"{stores.stack.url('prometheus')}/api/v1/query_exemplars", params=params).json()["data"]
        links = [link for series in answer for one in series["exemplars"] for link in links_of_exemplar(one["labels"])]
        assert {link.source for link in links} <= {"jaeger"}
        return next((stores.trace(link.query) for link in links if link.query == trace_id), [])

    spans = wait_for("an exemplar's trace", followed, ARRIVES_WITHIN_S)
    assert "POST /v1/reports" in {span["operationName"] for span in spans}


def test_a_line_leads_to_its_trace(stores: Stores, trace_id: str) -> None:
    query = f'{{service_name="gamepulse"}} |= `request` | http_route="/v1/reports" | trace_id="{trace_id}"'
    [stream] = wait_for(query, lambda: stores.loki(query), ARRIVES_WITHIN_S)
    [link] = links_of_line(stream["stream"])
    assert link.source == "jaeger"
    spans = wait_for("the line's trace", lambda: stores.trace(link.query), ARRIVES_WITHIN_S)
    assert stream["stream"]["span_id"] in {span["spanID"] for span in spans}


def test_a_span_leads_to_its_lines(stores: Stores, trace_id: str) -> None:
    spans = wait_for("the trace", lambda: stores.trace(trace_id), ARRIVES_WITHIN_S)
    [span] = [one for one in spans if one["operationName"] == "POST /v1/reports"]
    [to_lines] = links_of_span(span)["tracesToLogsV2"]
    assert to_lines.source == "loki"
    found = wait_for(to_lines.query, lambda: _asked(stores, to_lines), ARRIVES_WITHIN_S)
    assert {stream["stream"]["trace_id"] for stream in found} == {trace_id}


def test_a_span_of_every_name_leads_to_metrics(stores: Stores, trace_id: str) -> None:
    """Also of a route that was called once: a first call makes no rate."""
    sent = {name for name, _ in SPANS} | {"aggregate", "GET /v1/quality"}

    def names() -> set[str]:
        answer = httpx.get(f"{stores.stack.url('jaeger')}/api/services/gamepulse/operations")
        found = set(answer.json()["data"] or [])  # null before the first span
        return found if sent <= found else set()

    for name in wait_for("the names", names, ARRIVES_WITHIN_S):
        span_id, trace = next((one["spanID"], one["traceID"]) for one in stores.traces(name) if one["operationName"] == name)
        [span] = [one for one in stores.trace(trace) if one["spanID"] == span_id]
        links = links_of_span(span)["tracesToMetrics"]
        assert [link.source for link in links] == ["prometheus"] * 2
        for link in links:
            wait_for(link.query, partial(_has_numbers, stores, link), ARRIVES_WITHIN_S)


def _has_numbers(stores: Stores, link: Link) -> bool:
    return any(not math.isnan(float(value)) for series in _asked(stores, link) for _, value in series["values"])


def _asked(stores: Stores, link: Link) -> list[Json]:
    """What a link's query finds within its time."""
    path = {"loki": "/loki/api/v1/query_range", "prometheus": "/api/v1/query_range"}[link.source]
    params: dict[str, str | float] = {"query": link.query, "start": link.start, "end": link.end, "step": 15}
    answer = httpx.get(f"{stores.stack.url(link.source)}{path}", params=params)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()["data"]["result"]
    return found
