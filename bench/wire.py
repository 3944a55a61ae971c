"""Bytes on the wire a request, of each hop of telemetry: from the service to the Collector, from that to Prometheus, Loki, Jaeger.

Service and Collector are real, with the stack's own configuration; behind relays that count stand those that take and forget.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from bench import load
from bench.figures import Figures, Plan
from bench.processor import cpu_by_role, cpu_s
from bench.relay import Relay, relaying
from bench.servers import SERVERS, Running, gamepulse_environment, running
from stack.components import stack_components
from stack.keys import load_keys
from stack.prepare import free_offset, make_folders
from stack.programs import ensure_program
from stack.settings import Settings, read_settings

RATE_PER_S = 500.0
LEAST_S = 6.0  # so that points, which come every 5 s, are in it
DELIVERED_S = 2.0
"""What waits at the end of the load has been sent on by then: batches are made in a second."""
READY_LIMIT_S = 30.0
HOPS = ("service", "prometheus", "loki", "jaeger")


def measure(plan: Plan, compression: str) -> Figures:
    """Bytes that each hop sends, and CPU, a request; `compression`: gzip or none. Raises RuntimeError when an answer is lost."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        settings = read_settings(os.environ | {"GAMEPULSE_HOME": str(folder), "GAMEPULSE_PORT_OFFSET": str(free_offset())})
        store = stack.enter_context(_store())
        targets = {"service": settings.port("collector-grpc"), "prometheus": store, "loki": store, "jaeger": 0}
        relays = {hop: stack.enter_context(relaying(targets[hop])) for hop in HOPS}
        collector = stack.enter_context(_collector(settings, relays, compression))
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{relays['service'].port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        }
        server = replace(SERVERS["gamepulse"], environment=lambda around: gamepulse_environment(around) | environment)
        one = stack.enter_context(running(server))
        relays["jaeger"].target = one.around.otlp_port
        return _under_load(one, collector, relays, max(2 * plan.timed_s, LEAST_S), folder)


def _under_load(one: Running, collector: psutil.Process, relays: dict[str, Relay], seconds: float, folder: Path) -> Figures:
    load.paced(one.target, RATE_PER_S, 1.0, folder, 0)
    time.sleep(DELIVERED_S)
    bytes_before = {hop: relay.sent_bytes for hop, relay in relays.items()}
    web_before, collector_before = cpu_by_role(one.process)["web"], cpu_s(collector)
    seen = load.paced(one.target, RATE_PER_S, seconds, folder, 1)
    time.sleep(DELIVERED_S)
    requests = seen.of("202").count
    if not requests or set(seen.answers) != {"202"}:
        raise RuntimeError(f"not every request was answered with 202: {seen}")
    return {
        **{f"{hop}_bytes_per_request": (relay.sent_bytes - bytes_before[hop]) / requests for hop, relay in relays.items()},
        "web_cpu_us": (cpu_by_role(one.process)["web"] - web_before) * 1e6 / requests,
        "collector_cpu_us": (cpu_s(collector) - collector_before) * 1e6 / requests,
        "offered_per_s": RATE_PER_S,
    }


@contextmanager
def _collector(settings: Settings, relays: dict[str, Relay], compression: str) -> Iterator[psutil.Process]:
    """The stack's Collector, but for where it sends to, and without what it asks of PostgreSQL and Valkey."""
    make_folders(settings)
    ensure_program(settings, "collector")
    component = next(one for one in stack_components(settings, load_keys(settings.home)) if one.name == "collector")
    environment = {
        **component.environment,
        "PROMETHEUS_URL": f"http://127.0.0.1:{relays['prometheus'].port}",
        "LOKI_URL": f"http://127.0.0.1:{relays['loki'].port}",
        "JAEGER_OTLP": f"127.0.0.1:{relays['jaeger'].port}",
        "COLLECTOR_COMPRESSION": compression,
    }
    program, flag, first, *_ = component.command
    with (settings.logs / "collector.log").open("wb") as log:
        process = psutil.Popen([program, flag, first], env=os.environ | environment, stdout=log, stderr=log)
    try:
        limit = time.monotonic() + READY_LIMIT_S
        while why := component.ready():
            if time.monotonic() > limit:
                raise RuntimeError(f"the Collector did not start: {why}")
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _store() -> Iterator[int]:
    """The port of an HTTP server that takes whatever is posted to it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, _format: str, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
