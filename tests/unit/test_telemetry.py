"""What goes over the wire: the access log is what OTLP's own classes read; no metric is without points."""

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from gamepulse import metrics
from gamepulse.settings import Settings
from gamepulse.spans import RequestFacts
from gamepulse.telemetry import _Access, log_record, logs_request, resource

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
