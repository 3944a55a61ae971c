"""What this process says of itself. The path of a request only notes facts; logs, spans and points are made from them in bulk."""

import asyncio
import os
import platform
import random
import struct
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from uuid import uuid4

import msgspec
import psutil
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from gamepulse import __version__, histogram, metrics
from gamepulse.export import Exporter
from gamepulse.metrics import Exemplar, HistogramState, Metrics, key_values
from gamepulse.settings import Settings
from gamepulse.spans import (
    LINKS_MAX,
    CommitFacts,
    RequestFacts,
    commit_span,
    is_kept,
    make_span,
    parse_traceparent,
    request_spans,
    rfc3339,
)

NOTE_EVERY_S = 0.02
"""How often what was noted becomes records: seldom would be cheaper, but no request should wait long behind it."""
SEND_EVERY_S = 0.25
POINTS_EVERY_S = 5.0
TRACES_PER_SEND_MAX = 200
STACK_FRAMES_MAX = 8
FAILURE_EVERY_S = 1.0
REQUESTS_NOTED_MAX = 100_000
CLOSE_TIMEOUT_S = 2.0
_SEVERITIES = {
    "DEBUG": logs_pb2.SEVERITY_NUMBER_DEBUG,
    "INFO": logs_pb2.SEVERITY_NUMBER_INFO,
    "WARNING": logs_pb2.SEVERITY_NUMBER_WARN,
    "ERROR": logs_pb2.SEVERITY_NUMBER_ERROR,
    "CRITICAL": logs_pb2.SEVERITY_NUMBER_FATAL,
}
_SCOPE = InstrumentationScope(name="gamepulse", version=__version__)


class Telemetry:
    """A process's logs, traces and metrics. `component`: web or aggregate."""

    def __init__(self, settings: Settings, component: str) -> None:
        self.metrics = Metrics()
        self._is_on = not settings.otel_sdk_disabled
        self._sample_ratio = settings.trace_sample_ratio
        self._stdout_severity = _SEVERITIES[settings.stdout_level.upper()]
        self._resource = resource(settings, f"{component}-{uuid4()}")
        endpoint = settings.otel_exporter_otlp_endpoint if self._is_on else ""
        self._exporter = Exporter(endpoint, settings.otel_exporter_otlp_compression, self._dropped)
        self._requests: list[RequestFacts] = []
        self._spans: list[trace_pb2.Span] = []
        self._records: list[bytes] = []
        self._lines: list[bytes] = []
        self._drops: deque[tuple[str, int]] = deque(maxlen=REQUESTS_NOTED_MAX)
        self._failures: dict[tuple[str, type], tuple[int, int]] = {}
        self._access: dict[tuple[str, str, int, str], _Access] = {}
        self._process = psutil.Process()
        self._traces_left = TRACES_PER_SEND_MAX
        self._send_at = 0.0
        self._points_at = time.monotonic() + POINTS_EVERY_S
        self._flusher: asyncio.Task[None] | None = None
        self.observe: list[Callable[[], None]] = []
        """Called before points are made, to set gauges."""

    # -- what the paths note -------------------------------------------------------------------------------------------------

    def begin(self, method: str, traceparent: str | None = None) -> RequestFacts:
        """Facts of a request that has just arrived. A caller's trace is continued (W3C Trace Context, level 1)."""
        trace_id, parent, sampled = parse_traceparent(traceparent) if traceparent else (0, 0, False)
        return RequestFacts(
            started_ns=time.time_ns(),
            method=method,
            trace_id=trace_id or random.getrandbits(128) or 1,
            parent_span_id=parent,
            sampled=sampled or random.random() < self._sample_ratio,
            span_id=random.getrandbits(64) or 1,
            accept_span_id=random.getrandbits(64) or 1,
        )

    def end(self, facts: RequestFacts) -> None:
        """The request has been answered."""
        facts.ended_ns = facts.ended_ns or time.time_ns()
        if not self._is_on:
            return
        if len(self._requests) < REQUESTS_NOTED_MAX:
            self._requests.append(facts)
        else:
            self._dropped("logs", 1)

    def committed(self, facts: CommitFacts) -> None:
        """A commit has succeeded."""
        self.metrics.record(metrics.COMMIT_SIZE, facts.reports)
        self.metrics.record(metrics.COMMIT_DURATION, (facts.ended_ns - facts.started_ns) / 1e9, "ok")

    def failed(self, event: str, error: BaseException) -> None:
        """Something went wrong that a person should know of; told once a second at most, with how often it was not told.

        Kind and place are told, not the text: it may hold what was sent.
        """
        key, now_ns = (event, type(error)), time.time_ns()
        last_ns, suppressed = self._failures.get(key, (0, 0))
        if now_ns - last_ns < FAILURE_EVERY_S * 1e9:
            self._failures[key] = last_ns, suppressed + 1
            return
        self._failures[key] = now_ns, 0
        frames = traceback.extract_tb(error.__traceback__)[-STACK_FRAMES_MAX:]
        stack = " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        self.log("ERROR", event, {"error.type": type(error).__qualname__, "error.stack": stack, "suppressed": suppressed})

    def log(self, level: str, event: str, fields: dict[str, str | int | float] | None = None, trace_id: int = 0) -> None:
        """One event for people. `fields` must hold no personal data."""
        now_ns, fields = time.time_ns(), fields or {}
        line = {"time": rfc3339(now_ns), "level": level.lower(), "event": event, **fields}
        record = log_record(now_ns, level, event, fields)
        if trace_id:
            line["trace_id"], record.trace_id = f"{trace_id:032x}", trace_id.to_bytes(16)
        if record.severity_number >= self._stdout_severity:
            self._lines.append(msgspec.json.encode(line) + b"\n")
        self._records.append(record.SerializeToString())

    def span(self, name: str, started_ns: int, ended_ns: int, links: Iterable[bytes], **attributes: str | int | float) -> None:
        """A span that stands alone and links to others (each: 16 bytes of trace id, 8 of span id)."""
        span = make_span(name, random.getrandbits(128), random.getrandbits(64), 0, started_ns, ended_ns, attributes)
        for link in list(links)[:LINKS_MAX]:
            span.links.add(trace_id=link[:16], span_id=link[16:])
        self._spans.append(span)

    # -- what becomes of it --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to flush, on the running loop."""
        self._flusher = asyncio.create_task(self._flush_forever())

    async def close(self) -> None:
        """Flush for the last time, within CLOSE_TIMEOUT_S."""
        if self._flusher:
            self._flusher.cancel()
        self._send_at = self._points_at = 0.0
        self.flush()
        await asyncio.to_thread(self._exporter.close, CLOSE_TIMEOUT_S)

    def flush(self) -> None:
        """Make logs and spans of what was noted; send them every SEND_EVERY_S, and points every POINTS_EVERY_S."""
        requests, self._requests = self._requests, []
        if requests:
            self._count(requests)
            self._log_requests(requests)
            self._trace(requests)
        now = time.monotonic()
        if now >= self._send_at:
            self._send_at = now + SEND_EVERY_S
            self._send_logs()
            self._send_spans()
            self._traces_left = TRACES_PER_SEND_MAX
        if now >= self._points_at and self._is_on:
            self._points_at = now + POINTS_EVERY_S
            self._count_drops()
            self._observe_process()
            self._observe_operations()
            for observe in self.observe:
                observe()
            self.send_points(self.metrics, self._resource)

    def send_points(self, counted: Metrics, of: Resource) -> None:
        """Queue the points of some metrics under a resource."""
        request = ExportMetricsServiceRequest()
        scope = request.resource_metrics.add(resource=of).scope_metrics.add(scope=_SCOPE)
        scope.metrics.extend(counted.points(time.time_ns()))
        self._exporter.send("metrics", request.SerializeToString(), 0)

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(NOTE_EVERY_S)
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001 — one flush is lost, not all that come after
                self.failed("telemetry not flushed", error)

    def _count(self, requests: Sequence[RequestFacts]) -> None:
        durations_s: dict[tuple[str, str, int], list[float]] = {}
        for facts in requests:
            kind = (facts.method, facts.route, facts.status)
            durations_s.setdefault(kind, []).append((facts.ended_ns - facts.started_ns) / 1e9)
        for kind, values in durations_s.items():
            self.metrics.record_all(metrics.REQUEST_DURATION, values, *kind)
        received = [facts for facts in requests if facts.received_ns]
        if received:
            receive_s = [(facts.received_ns - facts.started_ns) / 1e9 for facts in received]
            accept_s = [(facts.ended_ns - facts.received_ns) / 1e9 for facts in received]
            self.metrics.record_all(metrics.SPAN_DURATION, receive_s, "receive", "SPAN_KIND_INTERNAL", "STATUS_CODE_UNSET")
            self.metrics.record_all(metrics.SPAN_DURATION, accept_s, "accept", "SPAN_KIND_INTERNAL", "STATUS_CODE_UNSET")

    def _log_requests(self, requests: Sequence[RequestFacts]) -> None:
        for facts in requests:
            kind = (facts.method, facts.route, facts.status, facts.code)
            access = self._access.get(kind)
            if access is None:
                access = self._access[kind] = _Access(*kind)
            self._records.append(access.record(facts))
            if access.severity >= self._stdout_severity:
                self._lines.append(access.line(facts))

    def _trace(self, requests: Sequence[RequestFacts]) -> None:
        kept = [facts for facts in requests if is_kept(facts)]
        kept, beyond = kept[: self._traces_left], kept[self._traces_left :]
        if beyond:
            self._dropped("traces", sum(facts.spans for facts in beyond))
        self._traces_left -= len(kept)
        commits: dict[int, list[RequestFacts]] = {}
        for facts in kept:
            self._spans.extend(request_spans(facts))
            exemplar = Exemplar((facts.ended_ns - facts.started_ns) / 1e9, facts.ended_ns, facts.trace_id, facts.span_id)
            self.metrics.exemplify(metrics.REQUEST_DURATION, exemplar, facts.method, facts.route, facts.status)
            if facts.commit is not None and not facts.commit.is_told:
                commits.setdefault(id(facts.commit), []).append(facts)
        for together in commits.values():
            self._spans.append(commit_span(together))

    def _send_logs(self) -> None:
        if self._lines:
            self._exporter.write(b"".join(self._lines), len(self._lines))
            self._lines = []
        if self._records:
            self._exporter.send("logs", logs_request(self._resource, self._records), len(self._records))
            self._records = []

    def _send_spans(self) -> None:
        if self._spans:
            request = ExportTraceServiceRequest()
            request.resource_spans.add(resource=self._resource).scope_spans.add(scope=_SCOPE, spans=self._spans)
            self._exporter.send("traces", request.SerializeToString(), len(self._spans))
            self._spans = []

    def _observe_process(self) -> None:
        times = self._process.cpu_times()
        self.metrics.set(metrics.PROCESS_CPU, times.user, "user")
        self.metrics.set(metrics.PROCESS_CPU, times.system, "system")
        self.metrics.set(metrics.PROCESS_MEMORY, self._process.memory_info().rss)

    def _observe_operations(self) -> None:
        """Rate, errors and duration of all spans by operation, also of those that are not kept (`_count` has two of them).

        Requests are also what Jaeger's Monitor reads.
        """
        operations: dict[tuple[str, str, str], HistogramState] = {}

        def add(name: str, kind: str, has_failed: bool, state: HistogramState) -> None:
            status = "STATUS_CODE_ERROR" if has_failed else "STATUS_CODE_UNSET"
            operation = operations.setdefault((name, kind, status), HistogramState())
            histogram.add(operation.buckets, state.buckets)
            operation.sum += state.sum

        for (method, route, status), state in self.metrics.states(metrics.REQUEST_DURATION):
            add(f"{method} {route}", "SPAN_KIND_SERVER", int(status) >= 500, state)
        for (outcome,), state in self.metrics.states(metrics.COMMIT_DURATION):
            add("commit", "SPAN_KIND_CLIENT", outcome != "ok", state)
        for _, state in self.metrics.states(metrics.AGGREGATE_DURATION):
            add("aggregate", "SPAN_KIND_INTERNAL", False, state)
        for attributes, operation in operations.items():
            self.metrics.put(metrics.SPAN_DURATION, operation, *attributes)
        for key, operation in self.metrics.states(metrics.SPAN_DURATION):
            self.metrics.set(metrics.SPAN_CALLS, sum(operation.buckets.values()), *key)

    def _dropped(self, signal: str, items: int) -> None:
        """Called by the exporter's threads too, so it is only noted here."""
        self._drops.append((signal, items))

    def _count_drops(self) -> None:
        while self._drops:
            signal, items = self._drops.popleft()
            self.metrics.add(metrics.TELEMETRY_DROPPED, items, signal)


def logs_request(of: Resource, records: Sequence[bytes]) -> bytes:
    """An OTLP request of encoded log records, encoded."""
    scope_logs = [logs_pb2.ScopeLogs(scope=_SCOPE).SerializeToString()]
    for record in records:
        scope_logs += _nested(_LOG_RECORDS, record)
    resource_logs = [logs_pb2.ResourceLogs(resource=of).SerializeToString(), *_nested(_SCOPE_LOGS, b"".join(scope_logs))]
    return b"".join(_nested(_RESOURCE_LOGS, b"".join(resource_logs)))


_RESOURCE_LOGS, _SCOPE_LOGS, _LOG_RECORDS = b"\x0a", b"\x12", b"\x12"
"""Their keys on the wire: field number and "length-delimited" (Protocol Buffers, "Encoding")."""


def _nested(key: bytes, message: bytes) -> tuple[bytes, bytes, bytes]:
    size, left = bytearray(), len(message)
    while left > 127:
        size.append(left & 127 | 128)
        left >>= 7
    size.append(left)
    return key, bytes(size), message


def resource(settings: Settings, instance: str) -> Resource:
    """Who speaks (OpenTelemetry semantic conventions, "Service" and "Deployment"). OTEL_RESOURCE_ATTRIBUTES go before ours."""
    attributes: dict[str, str | int | float] = {
        "service.name": settings.otel_service_name,
        "service.namespace": "gamepulse",
        "service.version": __version__,
        "service.instance.id": instance,
        "deployment.environment.name": settings.environment,
        "process.runtime.version": platform.python_version(),
        "process.pid": os.getpid(),
    }
    for pair in filter(None, settings.otel_resource_attributes.split(",")):
        key, _, value = pair.partition("=")
        attributes[key.strip()] = value.strip()
    return Resource(attributes=key_values(attributes.items()))


def log_record(time_ns: int, level: str, event: str, fields: dict[str, str | int | float]) -> logs_pb2.LogRecord:
    """A log record; `level` as logging names it."""
    record = logs_pb2.LogRecord(
        time_unix_nano=time_ns,
        observed_time_unix_nano=time_ns,
        severity_text=level,
        severity_number=_SEVERITIES.get(level, logs_pb2.SEVERITY_NUMBER_ERROR),
        attributes=key_values(fields.items()),
    )
    record.body.string_value = event
    return record


class _Access:
    """The access log of requests that are alike: only what differs is made anew for each.

    On the wire a message is its fields one after another, in any order (Protocol Buffers, "Encoding"), and all that differs has
    a fixed width: so it is packed behind the rest.
    """

    _VARYING = struct.Struct("<BQBQ2s16s2s8s15sd")
    _TIME, _OBSERVED_TIME, _TRACE_ID, _SPAN_ID = 1 << 3 | 1, 11 << 3 | 1, bytes([9 << 3 | 2, 16]), bytes([10 << 3 | 2, 8])
    _DURATION = bytes([6 << 3 | 2, 21, 1 << 3 | 2, 8]) + b"duration" + bytes([2 << 3 | 2, 9, 4 << 3 | 1])

    def __init__(self, method: str, route: str, status: int, code: str) -> None:
        level = "ERROR" if status >= 500 else "INFO"
        fields: dict[str, str | int | float] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        shown: dict[str, str | int] = {"event": "request", "method": method, "route": route, "status": status}
        if code:
            fields["error.code"] = shown["code"] = code
        record = log_record(0, level, "request", fields)
        record.ClearField("time_unix_nano")
        record.ClearField("observed_time_unix_nano")
        self._constant = record.SerializeToString()
        self.severity = record.severity_number
        self._level = level.lower()
        self._shown = msgspec.json.encode(shown).decode()[1:-1]

    def record(self, facts: RequestFacts) -> bytes:
        """One request's OTLP record, encoded."""
        return self._constant + self._VARYING.pack(
            self._TIME, facts.ended_ns, self._OBSERVED_TIME, facts.ended_ns, self._TRACE_ID, facts.trace_id.to_bytes(16),
            self._SPAN_ID, facts.span_id.to_bytes(8), self._DURATION, (facts.ended_ns - facts.started_ns) / 1e9,
        )  # fmt: skip

    def line(self, facts: RequestFacts) -> bytes:
        """One request's line of JSON."""
        duration_ms = (facts.ended_ns - facts.started_ns) / 1e6
        return (
            f'{{"time":"{rfc3339(facts.ended_ns)}","level":"{self._level}",{self._shown},'
            f'"duration_ms":{duration_ms:.3f},"trace_id":"{facts.trace_id:032x}"}}\n'
        ).encode()
