"""Jaeger keeps spans in Badger for as long as it is told, also over a restart, and draws services' dependencies of them."""

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import read_settings
from tests.conftest import free_port, wait_for

CONFIGURATION = OBSERVABILITY / "jaeger" / "jaeger.yaml"
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
KEPT = "ttl: {spans: 72h}"


class Jaeger:
    """A running one: what it is sent, and asked."""

    def __init__(self, http: int, otlp: int) -> None:
        self._url, self._otlp = f"http://127.0.0.1:{http}", f"127.0.0.1:{otlp}"

    def ask(self, path: str, **params: int) -> list[dict[str, Any]]:
        """The data; empty when there is none."""
        answer = httpx.get(f"{self._url}{path}", params=params)
        found: list[dict[str, Any]] = answer.json()["data"] if answer.status_code == 200 else []
        return found

    def send(self) -> str:
        """A game that calls GamePulse; the trace's id."""
        trace, caller, now_ns = secrets.token_bytes(16), secrets.token_bytes(8), time.time_ns()
        request = ExportTraceServiceRequest()
        for service, span, parent in (("game", caller, b""), ("gamepulse", secrets.token_bytes(8), caller)):
            resource = request.resource_spans.add()
            resource.resource.attributes.add(key="service.name").value.string_value = service
            resource.scope_spans.add().spans.add(
                trace_id=trace,
                span_id=span,
                parent_span_id=parent,
                name="send",
                start_time_unix_nano=now_ns,
                end_time_unix_nano=now_ns + 1_000_000,
            )
        with grpc.insecure_channel(self._otlp, options=[("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary(EXPORT, request_serializer=ExportTraceServiceRequest.SerializeToString)(request, timeout=10)
        wait_for("the trace", lambda: self.ask(f"/api/traces/{trace.hex()}"))
        return trace.hex()


@contextmanager
def running(folder: Path, configuration: Path) -> Iterator[Jaeger]:
    """A Jaeger with its data in the folder."""
    ports = {name: free_port() for name in ("QUERY_HTTP", "QUERY_GRPC", "OTLP_GRPC", "HEALTH")}
    environ = {f"JAEGER_{name}": f"127.0.0.1:{port}" for name, port in ports.items()}
    environ |= {"JAEGER_METRICS_HOST": "127.0.0.1", "JAEGER_METRICS_PORT": str(free_port()), "JAEGER_DATA": str(folder)}
    command: list[str | Path] = [ensure_program(read_settings(), "jaeger") / "jaeger", "--config", configuration]
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(command, env=os.environ | environ, stdout=log, stderr=log) as process,
    ):
        try:
            health = f"http://127.0.0.1:{ports['HEALTH']}/status"
            wait_for("Jaeger", lambda: httpx.get(health).status_code == 200)
            yield Jaeger(ports["QUERY_HTTP"], ports["OTLP_GRPC"])
        finally:
            process.terminate()


def test_traces_are_there_after_a_restart_and_show_who_calls_whom(tmp_path: Path) -> None:
    with running(tmp_path, CONFIGURATION) as jaeger:
        trace = jaeger.send()
    with running(tmp_path, CONFIGURATION) as jaeger:
        assert len(jaeger.ask(f"/api/traces/{trace}")[0]["spans"]) == 2
        edges = jaeger.ask("/api/dependencies", endTs=int(time.time() * 1000), lookback=3_600_000)
        assert edges == [{"parent": "game", "child": "gamepulse", "callCount": 1}]


def test_traces_go_after_their_time(tmp_path: Path) -> None:
    text = CONFIGURATION.read_text()
    assert KEPT in text
    (tmp_path / "short.yaml").write_text(text.replace(KEPT, "ttl: {spans: 3s}"))
    with running(tmp_path, tmp_path / "short.yaml") as jaeger:
        trace = jaeger.send()
        wait_for("nothing of the trace", lambda: not jaeger.ask(f"/api/traces/{trace}"), 10)
