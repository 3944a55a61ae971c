"""What it costs to give Prometheus the same metrics by OTLP and by remote write: bytes on the wire, and CPU of who takes them.

`python -m bench.push` (2 minutes); docs/adr/0020 says what follows. A Prometheus that is given them by OTLP writes them on.
"""

import gzip
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
import numpy as np
import psutil
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from rich.console import Console
from rich.table import Table

from bench.servers import free_ports
from gamepulse import metrics
from gamepulse.metrics import Exemplar, Metrics
from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import read_settings

PUSHES, QUICK_PUSHES = 100, 10
EVERY_S = 0.25
GROUPS, VALUES = 200, 50
"""Games' regions and countries; round trips of each between two pushes."""
ROUTES = 10
EXEMPLARS_LIMIT_S = 10.0  # they may come after the samples, or not at all
WAYS = {"OTLP": None, "remote write 1.0": "prometheus.WriteRequest", "remote write 2.0": "io.prometheus.write.v2.Request"}


class Running:
    """A Prometheus."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        self.process, self.url = psutil.Process(process.pid), url

    def cpu_s(self) -> float:
        used = self.process.cpu_times()
        return float(used.user + used.system)

    def number(self, name: str) -> float:
        """The sum of a metric of its own."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def exemplars(self) -> int:
        params: dict[str, str | float] = {"query": "http_server_request_duration_seconds", "start": 0.0, "end": time.time() + 60}
        found = httpx.get(f"{self.url}/api/v1/query_exemplars", params=params).json()["data"]
        return sum(len(series["exemplars"]) for series in found)


@contextmanager
def prometheus(folder: Path, writes_to: str = "", message: str | None = None) -> Iterator[Running]:
    """With the stack's own storage and translation; without rules and targets."""
    folder.mkdir(parents=True)
    real = yaml.safe_load((OBSERVABILITY / "prometheus" / "prometheus.yml").read_text())
    file = {name: real[name] for name in ("storage", "otlp")}
    if message:
        kept = {"send_native_histograms": True, "send_exemplars": True, "protobuf_message": message}
        file["remote_write"] = [{"url": f"{writes_to}/api/v1/write", **kept}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(file))
    address = f"127.0.0.1:{free_ports()[0]}"
    command: list[str | Path] = [
        ensure_program(read_settings(), "prometheus") / "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--web.enable-otlp-receiver",
        "--web.enable-remote-write-receiver",
        "--enable-feature=exemplar-storage",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            if not _comes(lambda: _is_ready(address)):
                raise RuntimeError("Prometheus does not start")
            yield Running(process, f"http://{address}")
        finally:
            process.terminate()


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def _comes(is_so: Callable[[], bool], limit_s: float = 30.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.2)
    return is_so()


def pushes(count: int) -> Iterator[bytes]:
    """What the service would send, each after some more of everything: native histograms, counters, exemplars."""
    random, counted = np.random.default_rng(1), Metrics()
    for _ in range(count):
        now_ns = time.time_ns()
        for group in range(GROUPS):
            place = ("demo", f"region-{group % 20}", f"{group // 20:02}")
            counted.record_all(metrics.PLAYER_RTT, random.lognormal(-3, 0.6, VALUES).tolist(), *place)
            counted.add(metrics.PLAYER_REPORTS, VALUES, *place)
        for route in range(ROUTES):
            taken_s = float(random.lognormal(-4, 1))
            counted.record(metrics.REQUEST_DURATION, taken_s, "POST", f"/{route}", 202)
            exemplar = Exemplar(taken_s, now_ns, int(random.integers(1, 2**62)), 1)
            counted.exemplify(metrics.REQUEST_DURATION, exemplar, "POST", f"/{route}", 202)
        request = ExportMetricsServiceRequest()
        resource = request.resource_metrics.add()
        for key in ("service.name", "service.instance.id", "environment"):
            resource.resource.attributes.add(key=key).value.string_value = "gamepulse"
        resource.scope_metrics.add().metrics.extend(counted.points(now_ns))
        yield request.SerializeToString()


def measure(count: int, message: str | None, folder: Path) -> dict[str, float]:
    """One way. Raises RuntimeError when samples are missing."""
    with prometheus(folder / "taker") as taker, prometheus(folder / "sender", taker.url, message) as sender:
        first = sender if message else taker
        used_s, otlp_bytes = taker.cpu_s(), 0
        for body in pushes(count):
            packed = gzip.compress(body)
            headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
            httpx.post(f"{first.url}/api/v1/otlp/v1/metrics", content=packed, headers=headers).raise_for_status()
            otlp_bytes += len(packed)
            time.sleep(EVERY_S)
        series = 2 * GROUPS + ROUTES
        if not _comes(lambda: taker.number("prometheus_tsdb_head_samples_appended_total") >= count * series):
            raise RuntimeError("samples are missing")
        used_s = taker.cpu_s() - used_s
        _comes(lambda: taker.exemplars() >= count * ROUTES, EXEMPLARS_LIMIT_S)
        return {
            "bytes_per_push": (sender.number("prometheus_remote_storage_bytes_total") if message else otlp_bytes) / count,
            "cpu_ms_per_push": used_s / count * 1e3,
            "histograms": taker.number('prometheus_tsdb_head_samples_appended_total{type="histogram"}'),
            "exemplars": taker.exemplars(),
        }


@click.command()
@click.option("--quick", is_flag=True, help="Few pushes: shows that it works.")
def main(quick: bool) -> None:
    """Measure and print."""
    count = QUICK_PUSHES if quick else PUSHES
    table = Table("way", "bytes a push", "CPU of Prometheus, ms a push", "native histograms", "exemplars")
    for way, message in WAYS.items():
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            found = measure(count, message, Path(folder))
        table.add_row(way, *(f"{value:,.1f}" for value in found.values()))
    Console().print(f"{count} pushes of {GROUPS + ROUTES} native histograms and {GROUPS} counters, one each {EVERY_S} s")
    Console().print(table)


if __name__ == "__main__":
    main()
