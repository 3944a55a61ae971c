"""What telemetry and its Collector cost, and bytes on the wire: with the Collector beside the service, without it, with it gone.

Service and Collector are real, with the stack's own configuration; behind relays that count (from the service to the Collector,
from that to Prometheus, Loki, Jaeger) stand those that take and forget.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from bench import load
from bench.figures import Figures, Plan
from bench.processor import cpu_by_role, cpu_s, wait_until_quiet, watching_memory
from bench.relay import Relay, relaying
from bench.servers import SERVERS, Running, Server, gamepulse_command, gamepulse_environment, running
from bench.task import Task, limited
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

type Collector = Literal["beside", "none", "gone"]
"""`none`: the service has no telemetry. `gone`: it has, but the Collector is dead."""


def measure(plan: Plan, compression: str = "gzip", collector: Collector = "beside", is_task: bool = False) -> Figures:
    """p99, CPU, memory and bytes of each hop at RATE_PER_S, then the most requests/s. `compression`: gzip or none.

    Raises RuntimeError when an answer is lost, NotAllowed when the limits of the task (`is_task`) cannot be had.
    """
    with ExitStack() as stack:
        task = stack.enter_context(limited()) if is_task else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        settings = read_settings(os.environ | {"GAMEPULSE_HOME": str(folder), "GAMEPULSE_PORT_OFFSET": str(free_offset())})
        relays: dict[str, Relay] = {}
        beside = None
        endpoint = settings.url("collector-grpc")  # where nobody is, unless the Collector is beside
        if collector == "beside":
            store = stack.enter_context(_store())
            targets = {"service": settings.port("collector-grpc"), "prometheus": store, "loki": store, "jaeger": 0}
            relays = {hop: stack.enter_context(relaying(targets[hop])) for hop in HOPS}
            beside = stack.enter_context(_collector(settings, relays, compression, task))
            endpoint = f"http://127.0.0.1:{relays['service'].port}"
        one = stack.enter_context(running(_server(collector, endpoint, compression, task)))
        if relays:
            relays["jaeger"].target = one.around.otlp_port
        spans = partial(_sent_spans, settings.url("collector-metrics")) if relays else float
        figures = _under_load(one, beside, relays, spans, plan, folder)
        return figures | ({"throttled_share": task.throttled_share()} if task else {})


def _server(collector: Collector, endpoint: str, compression: str, task: Task | None) -> Server:
    """The service as it is run anywhere, told where the Collector is; within the task's limits if there are any."""
    server = SERVERS["gamepulse-silent" if collector == "none" else "gamepulse"]
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION": compression}
    if collector != "none":
        server = replace(server, environment=lambda around: gamepulse_environment(around) | told)
    return replace(server, command=lambda around: task.command(gamepulse_command(around))) if task else server


def _sent_spans(metrics_url: str) -> float:
    """How many the Collector has sent to Jaeger, by its own count."""
    lines = httpx.get(f"{metrics_url}/metrics").raise_for_status().text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("otelcol_exporter_sent_spans_total{"))


def _under_load(
    one: Running, collector: psutil.Process | None, relays: dict[str, Relay], spans: Callable[[], float], plan: Plan, folder: Path
) -> Figures:
    warmed = load.paced(one.target, RATE_PER_S, 1.0, folder, 0)
    time.sleep(DELIVERED_S)
    bytes_before, spans_before = {hop: relay.sent_bytes for hop, relay in relays.items()}, spans()
    before, collector_before = cpu_by_role(one.process), cpu_s(collector) if collector else 0.0
    with ExitStack() as watched:
        service_mb = watched.enter_context(watching_memory(one.process))
        collector_mb = watched.enter_context(watching_memory(collector)) if collector else {"all": 0.0}
        seen = load.paced(one.target, RATE_PER_S, max(2 * plan.timed_s, LEAST_S), folder, 1)
        time.sleep(DELIVERED_S)
        after, collector_after = cpu_by_role(one.process), cpu_s(collector) if collector else 0.0
        hops = {hop: relay.sent_bytes - bytes_before[hop] for hop, relay in relays.items()}
        sent_spans = spans() - spans_before
        peak = load.closed(one.target, plan.timed_s, folder, 2)
    requests = seen.of("202").count
    if not requests or set(seen.answers) != {"202"}:
        raise RuntimeError(f"not every request was answered with 202: {seen}")
    wait_until_quiet(one.trees)
    one.check_stored(warmed.of("202").count + requests + peak.requests, load.CONNECTIONS)
    return {
        "p99_ms": seen.of("202").p99_ms,
        "requests_per_s": peak.requests / peak.duration_s,
        **{f"{hop}_bytes_per_request": sent / requests for hop, sent in hops.items()},
        **({"jaeger_bytes_per_span": hops["jaeger"] / sent_spans} if sent_spans else {}),
        "web_cpu_us": (after["web"] - before["web"]) * 1e6 / requests,
        "aggregator_cpu_us": (after["aggregator"] - before["aggregator"]) * 1e6 / requests,
        "collector_cpu_us": (collector_after - collector_before) * 1e6 / requests,
        "rss_mb": service_mb["all"],
        "collector_rss_mb": collector_mb["all"],
        "offered_per_s": RATE_PER_S,
    }


@contextmanager
def _collector(settings: Settings, relays: dict[str, Relay], compression: str, task: Task | None) -> Iterator[psutil.Process]:
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
    command = component.command[:3]  # with the first of its files alone
    with (settings.logs / "collector.log").open("wb") as log:
        process = psutil.Popen(task.command(command) if task else command, env=os.environ | environment, stdout=log, stderr=log)
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
