"""What is noted of a request and of a commit on their way, and the spans that are made of it.

A request is traced when it is sampled at its head, when it failed, or when it was slow. Its commit is a child of the first
traced batch in it, links to all of them, and is linked to by the aggregation that read it.
"""

import random
import time
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from opentelemetry.proto.trace.v1 import trace_pb2

from gamepulse.metrics import key_values

SLOW_S = 0.25
"""A request that took longer is always traced."""
LINKS_MAX = 64


class CommitFacts(msgspec.Struct, eq=False):
    """One commit: when, how much, and under which trace."""

    started_ns: int
    batches: int
    trace_id: int
    """0 when no batch in it was sampled at its head."""
    span_id: int
    parent_span_id: int
    ended_ns: int = 0
    reports: int = 0
    is_told: bool = False
    """Its span has been made (of a commit whose batches are answered over two flushes, there is one span)."""

    @staticmethod
    def begin(batches: int, sampled: "RequestFacts | None") -> "CommitFacts":
        """A commit that starts now; `sampled`: the first traced batch in it."""
        trace_id, parent = (sampled.trace_id, sampled.accept_span_id) if sampled else (0, 0)
        return CommitFacts(time.time_ns(), batches, trace_id, random.getrandbits(64), parent)

    def end(self, reports: int) -> None:
        """The commit has succeeded with so many new reports."""
        self.ended_ns = time.time_ns()
        self.reports = reports

    def span_context(self) -> bytes | None:
        """Trace id and span id (24 bytes), for who reads the rows later; None when not traced."""
        return self.trace_id.to_bytes(16) + self.span_id.to_bytes(8) if self.trace_id else None


class RequestFacts(msgspec.Struct, eq=False):
    """One request, as it passed. Times are Unix nanoseconds; route is the template, never the path."""

    started_ns: int
    method: str
    trace_id: int
    parent_span_id: int
    sampled: bool
    span_id: int
    accept_span_id: int
    route: str = ""
    status: int = 0
    code: str = ""
    """Of the problem answered, if any."""
    received_ns: int = 0
    ended_ns: int = 0
    reports: int = 0
    commit: CommitFacts | None = None

    @property
    def spans(self) -> int:
        """How many spans are made of it, but for its commit's."""
        return 3 if self.received_ns else 1

    @property
    def trace(self) -> str:
        """The trace id in hexadecimal digits."""
        return f"{self.trace_id:032x}"


def parse_traceparent(header: str) -> tuple[int, int, bool]:
    """Trace id, span id and the sampled flag; zeros when the header is not one."""
    parts = header.split("-")
    if len(parts) < 4 or len(parts[1]) != 32 or len(parts[2]) != 16 or parts[0] == "ff":
        return 0, 0, False
    try:
        return int(parts[1], 16), int(parts[2], 16), bool(int(parts[3][:2], 16) & 1)
    except ValueError:
        return 0, 0, False


def is_kept(facts: RequestFacts) -> bool:
    return facts.sampled or facts.status >= 500 or facts.ended_ns - facts.started_ns > SLOW_S * 1e9


def request_spans(facts: RequestFacts) -> list[trace_pb2.Span]:
    name = f"{facts.method} {facts.route}"
    fields: dict[str, str | int | float] = {
        "http.request.method": facts.method,
        "http.route": facts.route,
        "http.response.status_code": facts.status,
    }
    if facts.code:
        fields["error.type"] = facts.code
    span = make_span(name, facts.trace_id, facts.span_id, facts.parent_span_id, facts.started_ns, facts.ended_ns, fields)
    span.kind = trace_pb2.Span.SPAN_KIND_SERVER
    if facts.status >= 500:
        span.status.code = trace_pb2.Status.STATUS_CODE_ERROR
    spans = [span]
    if facts.received_ns:
        child = random.getrandbits(64)
        spans.append(make_span("receive", facts.trace_id, child, facts.span_id, facts.started_ns, facts.received_ns, {}))
        accept = make_span(
            "accept", facts.trace_id, facts.accept_span_id, facts.span_id, facts.received_ns, facts.ended_ns,
            {"gamepulse.reports": facts.reports},
        )  # fmt: skip
        spans.append(accept)
    return spans


def commit_span(together: Sequence[RequestFacts]) -> trace_pb2.Span:
    """The span of one commit, linked to the traced batches that it stored."""
    commit = together[0].commit
    assert commit is not None
    commit.is_told = True
    first = next((facts for facts in together if facts.trace_id == commit.trace_id), together[0])
    span = make_span(
        "commit", first.trace_id, commit.span_id, first.accept_span_id, commit.started_ns, commit.ended_ns,
        {"gamepulse.batches": commit.batches, "gamepulse.reports": commit.reports, "db.system.name": "postgresql"},
    )  # fmt: skip
    span.kind = trace_pb2.Span.SPAN_KIND_CLIENT
    for facts in together[:LINKS_MAX]:  # to the request, not to its accept: Jaeger would take a link to the parent for the parent
        span.links.add(trace_id=facts.trace_id.to_bytes(16), span_id=facts.span_id.to_bytes(8))
    return span


def make_span(
    name: str, trace_id: int, span_id: int, parent: int, started_ns: int, ended_ns: int, fields: dict[str, str | int | float]
) -> trace_pb2.Span:
    return trace_pb2.Span(
        name=name,
        kind=trace_pb2.Span.SPAN_KIND_INTERNAL,
        trace_id=trace_id.to_bytes(16),
        span_id=span_id.to_bytes(8),
        parent_span_id=parent.to_bytes(8) if parent else b"",
        start_time_unix_nano=started_ns,
        end_time_unix_nano=ended_ns,
        attributes=key_values(fields.items()),
    )


def rfc3339(time_ns: int) -> str:
    """Unix nanoseconds as a time of logs, to the millisecond."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_rfc3339_s(seconds)}.{rest // 1_000_000:03d}Z"


@lru_cache(4)
def _rfc3339_s(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
