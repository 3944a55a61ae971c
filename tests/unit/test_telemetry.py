"""What goes over the wire is what OTLP's own classes read; what waits to be told is bounded, and what is dropped is counted."""

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import grpc
import msgspec
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from bench.relay import relaying
from gamepulse import export, metrics, telemetry
from gamepulse.export import Exporter
from gamepulse.settings import Settings
from gamepulse.spans import LINKS_MAX, SLOW_S, CommitFacts, RequestFacts, commit_span
from gamepulse.telemetry import Telemetry, _Access, log_record, logs_request, resource
from tests.awake import awake_s

SETTINGS = Settings(database_url="postgresql://x", player_hash_key="00" * 32)
STARTED_NS = 1_795_512_000_000_000_000


@pytest.mark.parametrize(("status", "code", "level"), [(202, "", "INFO"), (503, "overloaded", "ERROR")])
@pytest.mark.parametrize("records", [1, 300])
def test_access_records_are_read_as_they_were_meant(status: int, code: str, level: str, records: int) -> None:
    trace, span = 0xABC << 100 | 7, 0xF << 60 | 3
    facts = RequestFacts(STARTED_NS, "POST", trace, 1, False, span, 5, ended_ns=STARTED_NS + 1_500_000_000)
    access = _Access("POST", "/v1/reports", status, code)
    other = log_record(5, "INFO", "hello", {"count": 1}).SerializeToString()
    sent = logs_request(resource(SETTINGS, "web-1"), [*[access.record(facts)] * records, other])

    [of] = ExportLogsServiceRequest.FromString(sent).resource_logs
    assert of.resource == resource(SETTINGS, "web-1")
    [scope] = of.scope_logs
    assert (scope.scope.name, len(scope.log_records), scope.log_records[-1].body.string_value) == (
        "gamepulse",
        records + 1,
        "hello",
    )
    fields: dict[str, str | int | float] = {
        "http.request.method": "POST", "http.route": "/v1/reports", "http.response.status_code": status,
    }  # fmt: skip
    expected = log_record(facts.ended_ns, level, "request", fields | ({"error.code": code} if code else {}) | {"duration": 1.5})
    expected.trace_id, expected.span_id = trace.to_bytes(16), span.to_bytes(8)
    assert all(record == expected for record in scope.log_records[:-1])


def test_a_gauge_whose_series_have_all_ended_is_not_sent() -> None:
    counted = metrics.Metrics()
    counted.replace(metrics.AGGREGATE_LAG, {(0,): 0.5})
    assert [metric.name for metric in counted.points(1)] == ["aggregate.lag"]
    counted.replace(metrics.AGGREGATE_LAG, {})
    assert counted.points(1) == []


@pytest.fixture
def silent() -> Iterator[str]:
    """The endpoint of a Collector that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_what_waits_for_the_collector_is_bounded_and_the_oldest_goes(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "QUEUE_BYTES_MAX", 100)
    dropped: list[int] = []
    exporter = Exporter(silent, "none", lambda _, items: dropped.append(items))
    exporter.send("logs", bytes(40), 0)
    _until(lambda: not exporter._queues["logs"]._waiting)  # this one is being sent
    for n in range(1, 3):
        exporter.send("logs", bytes(50), n)
    assert dropped == []
    for n in range(3, 6):
        exporter.send("logs", bytes(50), n)
    assert dropped == [1, 2, 3]
    exporter.close(0)


@contextmanager
def collector(refuses: str = "") -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """The port of a Collector that has no room for one signal; what it has taken of the others."""
    taken: list[tuple[str, bytes]] = []

    def handler(signal: str) -> grpc.GenericRpcHandler:
        def take(body: bytes, context: grpc.ServicerContext) -> bytes:
            if signal == refuses:
                context.abort(grpc.StatusCode.UNAVAILABLE, "sending queue is full")
            taken.append((signal, body))
            return b""

        service = export._METHODS[signal].split("/")[1]
        return grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(take)})

    server = grpc.server(ThreadPoolExecutor(3))
    server.add_generic_rpc_handlers([handler(signal) for signal in export._METHODS])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, taken
    server.stop(None).wait()


def test_a_signal_that_is_refused_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "QUEUE_BYTES_MAX", 100)
    dropped: list[tuple[str, int]] = []
    with collector(refuses="logs") as (port, taken):
        exporter = Exporter(f"http://127.0.0.1:{port}", "none", lambda *what: dropped.append(what))
        exporter.send("logs", bytes(60), 1)
        for n in range(2, 4):
            exporter.send("logs", bytes(60), n)
            exporter.send("metrics", bytes([n]), 1)
            exporter.send("traces", bytes([n]), 1)
        _until(lambda: len(taken) == 4)
        _until(lambda: dropped)
        exporter.close(5)
    assert {signal for signal, _ in dropped} == {"logs"}


@pytest.mark.parametrize(("compression", "share"), [("gzip", (0.0, 0.3)), ("none", (1.0, 1.2))])
def test_what_goes_to_the_collector_is_compressed_unless_it_shall_not_be(compression: str, share: tuple[float, float]) -> None:
    facts = RequestFacts(STARTED_NS, "POST", 7, 1, False, 3, 5, route="/v1/reports", status=202, ended_ns=STARTED_NS + 1)
    request = logs_request(resource(SETTINGS, "web-1"), [_Access("POST", "/v1/reports", 202, "").record(facts)] * 200)
    with collector() as (port, taken), relaying(port) as relay:
        exporter = Exporter(f"http://127.0.0.1:{relay.port}", compression, lambda *_: None)
        exporter.send("logs", request, 200)
        exporter.close(5)
    assert taken == [("logs", request)]
    assert share[0] < relay.sent_bytes / len(request) < share[1]


def test_a_send_and_the_last_flush_take_so_long(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SEND_TIMEOUT_S", 0.3)
    exporter = Exporter(silent, "none", lambda *_: None)
    queue = exporter._queues["logs"]
    exporter.send("logs", b"", 1)
    _until(lambda: not queue._waiting)
    _until(lambda: queue._waiting)  # put back, to be tried again
    monkeypatch.setattr(export, "SEND_TIMEOUT_S", 60)
    _until(lambda: not queue._waiting)
    started, awake_since = time.monotonic(), awake_s()
    exporter.close(0.3)
    assert time.monotonic() - started > 0.2
    assert awake_s() - awake_since < 3


async def test_the_end_waits_so_long_for_the_collector(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "CLOSE_TIMEOUT_S", 0.3)
    of = Telemetry(msgspec.structs.replace(SETTINGS, otel_exporter_otlp_endpoint=silent), "test")
    started, awake_since = time.monotonic(), awake_s()
    await of.close()
    assert time.monotonic() - started > 0.2
    assert awake_s() - awake_since < 3


def test_what_waits_for_stdout_is_bounded_and_the_newest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    is_read, written, dropped = threading.Event(), list[bytes](), list[int]()

    def write(_: int, lines: memoryview) -> int:
        is_read.wait()
        written.append(bytes(lines))
        return len(lines)

    monkeypatch.setattr(export, "os", SimpleNamespace(write=write))  # a pipe that nobody reads yet
    monkeypatch.setattr(export._Lines, "BYTES_MAX", 100)
    exporter = Exporter("", "none", lambda _, items: dropped.append(items))
    exporter.write(b"0", 0)
    _until(lambda: not exporter._lines._waiting)
    for n in range(1, 5):
        exporter.write(b"%d" % n * 50, n)
    assert dropped == [3, 4]
    is_read.set()
    exporter.close(1)
    assert [lines[:1] for lines in written] == [b"0", b"1", b"2"]


@pytest.mark.parametrize(("limit", "signal", "items"), [("REQUESTS_NOTED_MAX", "logs", 1), ("TRACES_PER_SEND_MAX", "traces", 3)])
def test_requests_beyond_a_limit_are_counted(limit: str, signal: str, items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, limit, 3)
    of, sent = Telemetry(SETTINGS, "test"), dict[str, int]()
    monkeypatch.setattr(of._exporter, "send", lambda signal, _, items: sent.update({signal: items}))
    for _ in range(5):
        of.end(RequestFacts(STARTED_NS, "POST", 1, 0, True, 1, 1, received_ns=STARTED_NS))
    of._points_at = 0
    of.flush()
    assert sent[signal] == 3 * items
    [dropped] = [metric for metric in of.metrics.points(1) if metric.name == "telemetry.dropped"]
    assert [(one.attributes[0].value.string_value, one.as_double) for one in dropped.sum.data_points] == [(signal, 2 * items)]


@pytest.mark.parametrize(
    ("ratio", "parent", "status", "took_s", "expected"),
    [
        (0.0, None, 202, 0.0, 0), (0.0, "01", 202, 0.0, 200), (0.0, "00", 202, 0.0, 0), (1.0, None, 202, 0.0, 200),
        (0.25, None, 202, 0.0, 50), (0.0, None, 503, 0.0, 200), (0.0, None, 499, SLOW_S, 0), (0.0, "00", 202, SLOW_S + 0.001, 200),
    ],
)  # fmt: skip
def test_traced_is_what_is_sampled_at_its_head_and_what_failed_or_was_slow(
    ratio: float, parent: str | None, status: int, took_s: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random.seed(4)
    of, sent = Telemetry(msgspec.structs.replace(SETTINGS, trace_sample_ratio=ratio), "test"), dict[str, int]()
    monkeypatch.setattr(of._exporter, "send", lambda signal, _, items: sent.update({signal: items}))
    monkeypatch.setattr(of._exporter, "write", lambda *_: None)
    for n in range(1, 201):
        facts = of.begin("GET", f"00-{n:032x}-{n:016x}-{parent}" if parent else None)
        facts.route, facts.status = "/v1/quality", status
        facts.ended_ns = facts.started_ns + int(took_s * 1e9)
        of.end(facts)
    of.flush()
    assert sent["logs"] == 200
    assert sent.get("traces", 0) == pytest.approx(expected, abs=25 if 0 < ratio < 1 else 0)


@pytest.mark.parametrize(
    ("level", "told"),
    [("info", ["news", "turned away", "request 202", "request 400", "request 503"]), ("warning", ["turned away", "request 503"])],
)
def test_the_collector_is_told_all_and_stdout_from_its_level_on(
    level: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of, sent, written = Telemetry(msgspec.structs.replace(SETTINGS, stdout_level=level), "test"), dict[str, int](), list[bytes]()
    monkeypatch.setattr(of._exporter, "send", lambda signal, _, items: sent.update({signal: items}))
    monkeypatch.setattr(of._exporter, "write", lambda lines, _: written.append(lines))
    of.log("INFO", "news")
    of.log("WARNING", "turned away")
    for status in (202, 400, 503):
        facts = of.begin("GET")
        facts.route, facts.status = "/v1/quality", status
        of.end(facts)
    of.flush()
    assert sent["logs"] == 5
    lines = [json.loads(line) for line in b"".join(written).splitlines()]
    assert [f"{line['event']} {line.get('status', '')}".strip() for line in lines] == told


def test_a_span_has_so_many_links() -> None:
    of = Telemetry(SETTINGS, "test")
    of.span("aggregate", 1, 2, [bytes(24)] * (LINKS_MAX + 1))
    assert len(of._spans[0].links) == LINKS_MAX
    commit = CommitFacts.begin(LINKS_MAX + 1, None)
    together = [RequestFacts(STARTED_NS, "POST", 1, 0, True, 1, 1, commit=commit) for _ in range(LINKS_MAX + 1)]
    assert len(commit_span(together).links) == LINKS_MAX


def test_every_span_is_counted_under_its_name_also_when_it_is_not_kept() -> None:
    of, commit = Telemetry(SETTINGS, "test"), CommitFacts.begin(2, None)
    commit.end(20)
    of.committed(commit)
    for sampled, status in ((True, 202), (False, 202), (True, 503)):
        facts = RequestFacts(
            STARTED_NS, "POST", 1, 0, sampled, 1, 1, "/v1/reports", status,
            received_ns=STARTED_NS + 1_000_000, ended_ns=STARTED_NS + 100_000_000, commit=commit,
        )  # fmt: skip
        of.end(facts)
    of.metrics.record(metrics.COMMIT_DURATION, 8, "database_unavailable")
    of.metrics.record(metrics.AGGREGATE_DURATION, 0.1)
    of.span("aggregate", 1, 2, [])
    of._requests, requests = [], of._requests
    of._count(requests)
    of._trace(requests)
    of._observe_operations()
    of._observe_operations()  # cumulated, not added twice
    kinds, statuses = trace_pb2.Span.SpanKind, trace_pb2.Status.StatusCode
    kept = {(span.name, kinds.Name(span.kind), statuses.Name(span.status.code)) for span in of._spans}
    counted = {key: sum(state.buckets.values()) for key, state in of.metrics.states(metrics.SPAN_DURATION)}
    assert counted == {
        ("POST /v1/reports", "SPAN_KIND_SERVER", "STATUS_CODE_UNSET"): 2,
        ("POST /v1/reports", "SPAN_KIND_SERVER", "STATUS_CODE_ERROR"): 1,
        ("receive", "SPAN_KIND_INTERNAL", "STATUS_CODE_UNSET"): 3,
        ("accept", "SPAN_KIND_INTERNAL", "STATUS_CODE_UNSET"): 3,
        ("commit", "SPAN_KIND_CLIENT", "STATUS_CODE_UNSET"): 1,
        ("commit", "SPAN_KIND_CLIENT", "STATUS_CODE_ERROR"): 1,  # has no span
        ("aggregate", "SPAN_KIND_INTERNAL", "STATUS_CODE_UNSET"): 1,
    }
    assert kept == set(counted) - {("commit", "SPAN_KIND_CLIENT", "STATUS_CODE_ERROR")}
    sums = {key[0]: state.sum for key, state in of.metrics.states(metrics.SPAN_DURATION)}
    assert sums["receive"] == pytest.approx(0.003)
    assert sums["accept"] == pytest.approx(0.297)
    [calls] = [metric for metric in of.metrics.points(1) if metric.name == "traces.span.metrics.calls"]
    assert sorted(one.as_double for one in calls.sum.data_points) == sorted(counted.values())


def test_a_failure_that_repeats_is_told_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Telemetry(SETTINGS, "test")
    for _ in range(3):
        of.failed("it broke", ValueError())
    of.failed("it broke", OSError())
    monkeypatch.setattr(telemetry, "FAILURE_EVERY_S", 0)
    with pytest.raises(ValueError) as deep:  # noqa: PT011 — it says nothing
        _fail(50)
    of.failed("it broke", deep.value)
    told = [json.loads(line) for line in of._lines]
    assert [(one["error.type"], one["suppressed"]) for one in told] == [("ValueError", 0), ("OSError", 0), ("ValueError", 2)]
    assert told[-1]["error.stack"].count(" < ") == telemetry.STACK_FRAMES_MAX - 1


def _fail(calls: int) -> None:
    if calls:
        _fail(calls - 1)
    raise ValueError


def _until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
