"""What goes over the wire is what OTLP's own classes read; what waits to be told is bounded, and what is dropped is counted."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import msgspec
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from gamepulse import export, metrics, telemetry
from gamepulse.export import Exporter
from gamepulse.settings import Settings
from gamepulse.spans import LINKS_MAX, CommitFacts, RequestFacts, commit_span
from gamepulse.telemetry import Telemetry, _Access, log_record, logs_request, resource

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
    exporter = Exporter(silent, lambda _, items: dropped.append(items))
    exporter.send("logs", bytes(40), 0)
    _until(lambda: not exporter._waiting)  # this one is being sent
    for n in range(1, 3):
        exporter.send("logs", bytes(50), n)
    assert dropped == []
    for n in range(3, 6):
        exporter.send("logs", bytes(50), n)
    assert dropped == [1, 2, 3]
    exporter.close(0)


def test_a_send_and_the_last_flush_take_so_long(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SEND_TIMEOUT_S", 0.3)
    exporter = Exporter(silent, lambda *_: None)
    exporter.send("logs", b"", 1)
    _until(lambda: not exporter._waiting)
    _until(lambda: exporter._waiting)  # put back, to be tried again
    monkeypatch.setattr(export, "SEND_TIMEOUT_S", 60)
    _until(lambda: not exporter._waiting)
    started = time.monotonic()
    exporter.close(0.3)
    assert 0.2 < time.monotonic() - started < 3


async def test_the_end_waits_so_long_for_the_collector(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "CLOSE_TIMEOUT_S", 0.3)
    of = Telemetry(msgspec.structs.replace(SETTINGS, otel_exporter_otlp_endpoint=silent), "test")
    started = time.monotonic()
    await of.close()
    assert 0.2 < time.monotonic() - started < 3


def test_what_waits_for_stdout_is_bounded_and_the_newest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    is_read, written, dropped = threading.Event(), list[bytes](), list[int]()

    def write(_: int, lines: memoryview) -> int:
        is_read.wait()
        written.append(bytes(lines))
        return len(lines)

    monkeypatch.setattr(export, "os", SimpleNamespace(write=write))  # a pipe that nobody reads yet
    monkeypatch.setattr(export._Lines, "BYTES_MAX", 100)
    exporter = Exporter("", lambda _, items: dropped.append(items))
    exporter.write(b"0", 0)
    _until(lambda: not exporter._lines._waiting)
    for n in range(1, 5):
        exporter.write(b"%d" % n * 50, n)
    assert dropped == [3, 4]
    is_read.set()
    exporter.close(1)
    assert [lines[:1] for lines in written] == [b"0", b"1", b"2"]


@pytest.mark.parametrize(("limit", "signal"), [("REQUESTS_NOTED_MAX", "logs"), ("TRACES_PER_SEND_MAX", "traces")])
def test_requests_beyond_a_limit_are_counted(limit: str, signal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, limit, 3)
    of, sent = Telemetry(SETTINGS, "test"), dict[str, int]()
    monkeypatch.setattr(of._exporter, "send", lambda signal, _, items: sent.update({signal: items}))
    for _ in range(5):
        of.end(RequestFacts(STARTED_NS, "GET", 1, 0, True, 1, 1))
    of._points_at = 0
    of.flush()
    assert sent[signal] == 3
    [dropped] = [metric for metric in of.metrics.points(1) if metric.name == "telemetry.dropped"]
    assert [(one.attributes[0].value.string_value, one.as_double) for one in dropped.sum.data_points] == [(signal, 2)]


def test_a_span_has_so_many_links() -> None:
    of = Telemetry(SETTINGS, "test")
    of.span("aggregate", 1, 2, [bytes(24)] * (LINKS_MAX + 1))
    assert len(of._spans[0].links) == LINKS_MAX
    commit = CommitFacts.begin(LINKS_MAX + 1, None)
    together = [RequestFacts(STARTED_NS, "POST", 1, 0, True, 1, 1, commit=commit) for _ in range(LINKS_MAX + 1)]
    assert len(commit_span(together).links) == LINKS_MAX


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
