"""The servers that are compared: how each is prepared and started, one worker each, beside its own PostgreSQL and sink."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from bench import database, load
from bench.programs import PEERS, ensure_built
from gamepulse.records import RECORD

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
TRUSTED = "127.0.0.0/8"
GO_RECORD_BYTES = 26  # peers/go/grouped/records.go
COUNTED_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a server gets: ports, a database, the telemetry's end, a key that it must check."""

    port: int
    database_port: int
    otlp_port: int
    ingest_key: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test. Each statement of `stored` counts the reports in its database; `reports`: in each of its batches."""

    what: str
    command: Callable[[Surroundings], list[str]]
    environment: Callable[[Surroundings], dict[str, str]]
    stored: tuple[str, ...] = ()
    prepare: Callable[[Surroundings, Mapping[str, str]], None] = lambda surroundings, environment: None
    reports: int = load.REPORTS
    is_logging: bool = False  # every request, by OTLP
    is_aggregating: bool = False  # and tells the sum


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs, and what runs for it."""

    server: Server
    around: Surroundings
    process: psutil.Process
    postgres: psutil.Process
    sink: psutil.Process
    folder: Path
    exported: dict[str, int] = field(default_factory=dict)
    """What the sink has counted: only there when everything has ended."""

    @property
    def target(self) -> load.Target:
        """Where the load goes."""
        return load.Target(self.around.port, self.around.ingest_key, self.server.reports)

    @property
    def trees(self) -> tuple[psutil.Process, ...]:
        """All that works for the load: the server, PostgreSQL, the sink."""
        return self.process, self.postgres, self.sink

    def check_stored(self, answered: int, unknown: int) -> None:
        """Answered means stored, or the figures are worth nothing; of `unknown` batches the load has not seen the answer.

        Raises RuntimeError.
        """
        least, most = answered * self.server.reports, (answered + unknown) * self.server.reports
        counts = {statement: int(database.query(self.around.database_port, statement, "bench")) for statement in self.server.stored}
        if self.server.is_aggregating:
            counts["GET /v1/quality"] = self._counted(max(counts.values()))
        if any(not least <= stored <= most for stored in counts.values()) or len(set(counts.values())) > 1:
            raise RuntimeError(f"{answered} batches were answered, {unknown} may have been, but there are reports: {counts}")

    def _counted(self, expected: int) -> int:
        """How many reports the service has counted, as soon as it is what is expected, or at last."""
        url = f"http://127.0.0.1:{self.around.port}/v1/quality"
        limit, counted = time.monotonic() + COUNTED_LIMIT_S, -1
        while counted != expected and time.monotonic() < limit:
            time.sleep(0.2)
            groups = httpx.get(url, params={"game": "demo", "group_by": ""}, trust_env=False).raise_for_status().json()["groups"]
            counted = sum(group["count"] for group in groups)
        return counted


def gamepulse_environment(around: Surroundings) -> dict[str, str]:
    """The service's settings: all defaults, but for where things are."""
    return {
        "GAMEPULSE_DATABASE_URL": database.url(around.database_port),
        "GAMEPULSE_PORT": str(around.port),
        "GAMEPULSE_WORKERS": "1",
        "GAMEPULSE_PLAYER_HASH_KEY": "00" * 32,
        "GAMEPULSE_TRUSTED_PROXIES": TRUSTED,
        "GAMEPULSE_GEO_DATABASE": str(ROOT / "data" / "demo-geography.mmdb"),
    } | otlp(around)


def gamepulse_silent_environment(around: Surroundings) -> dict[str, str]:
    """The same without telemetry: OpenTelemetry's own switch, and nowhere to send it."""
    environment = gamepulse_environment(around) | {"OTEL_SDK_DISABLED": "true"}
    return {name: value for name, value in environment.items() if name != "OTEL_EXPORTER_OTLP_ENDPOINT"}


def otlp(around: Surroundings) -> dict[str, str]:
    """Where telemetry goes."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{around.otlp_port}"}


def prepare_gamepulse(around: Surroundings, environment: Mapping[str, str]) -> None:
    """Migrate, and make the demo game with our key."""
    keys = json.dumps({"ingest_key": around.ingest_key, "server_key": secrets.token_urlsafe(32)})
    for command, stdin in (("migrate", ""), ("demo", keys)):
        subprocess.run(
            [sys.executable, "-m", "gamepulse", command],
            env=environment,
            input=stdin,
            check=True,
            text=True,
            stdout=subprocess.DEVNULL,
        )


def peer_environment(around: Surroundings) -> dict[str, str]:
    """A peer's settings without telemetry; one core for Go, as a Python process has one."""
    return {"DATABASE_URL": database.url(around.database_port), "INGEST_KEY": around.ingest_key, "GOMAXPROCS": "1"}


def traced_peer_environment(around: Surroundings) -> dict[str, str]:
    """A peer's settings with telemetry."""
    return peer_environment(around) | otlp(around) | {"OTEL_SERVICE_NAME": "peer"}


def all_cores_environment(around: Surroundings) -> dict[str, str]:
    """The same with as many cores as Go finds."""
    return {name: value for name, value in traced_peer_environment(around).items() if name != "GOMAXPROCS"}


def gamepulse_command(around: Surroundings) -> list[str]:
    """As it is run anywhere."""
    return [sys.executable, "-m", "gamepulse", "serve"]


def fastapi_command(around: Surroundings) -> list[str]:
    """uvicorn with its fast parts."""
    return [sys.executable, "-m", "bench.peers.fastapi_peer", str(around.port)]


def go_command(name: str) -> Callable[[Surroundings], list[str]]:
    """One of peers/go."""
    return lambda around: [str(ensure_built(PEERS) / name), str(around.port)]


def nothing_command(around: Surroundings) -> list[str]:
    """The fastest server that Python has."""
    options = ["--interface", "rsgi", "--port", str(around.port), "--no-log", "--loop", "uvloop"]
    return [sys.executable, "-m", "granian", *options, "bench.peers.nothing:application"]


ROWS = ("SELECT count(*) FROM report",)
PACKED = (f"SELECT sum(length(records)) / {GO_RECORD_BYTES} FROM batch",)
GAMEPULSE = ("SELECT sum(accepted) FROM batch_key", f"SELECT sum(length(records)) / {RECORD.itemsize} FROM raw_batch")
SERVERS = {
    "gamepulse": Server(
        "this service, all it does and exports, its aggregator with it",
        gamepulse_command, gamepulse_environment, GAMEPULSE, prepare_gamepulse, is_logging=True, is_aggregating=True,
    ),
    "gamepulse-silent": Server(
        "the same with its telemetry off",
        gamepulse_command, gamepulse_silent_environment, GAMEPULSE, prepare_gamepulse, is_aggregating=True,
    ),
    "gamepulse-one": Server(
        "this service, batches of one report",
        gamepulse_command, gamepulse_environment, GAMEPULSE, prepare_gamepulse, reports=1, is_logging=True, is_aggregating=True,
    ),
    "fastapi-otel": Server(
        "FastAPI + pydantic + default OpenTelemetry, executemany per request", fastapi_command, traced_peer_environment, ROWS,
    ),
    "fastapi-otel-one": Server("the same, batches of one report", fastapi_command, traced_peer_environment, ROWS, reports=1),
    "go-copy": Server(
        "Go net/http + encoding/json + pgx CopyFrom per request, no telemetry, no dedupe, GOMAXPROCS=1",
        go_command("copyeach"), peer_environment, ROWS,
    ),
    "go-group": Server(
        "Go with group commit, dedupe and telemetry in bulk, GOMAXPROCS=1",
        go_command("grouped"), traced_peer_environment, PACKED, is_logging=True,
    ),
    "go-group-all": Server(
        "the same on all cores", go_command("grouped"), all_cores_environment, PACKED, is_logging=True,
    ),
    "nothing": Server(
        "answers 202 without a look at the body: the ceiling of the load generator", nothing_command, lambda around: {},
    ),
}  # fmt: skip


@contextmanager
def running(server: Server, commit_delay_ms: int = 0) -> Iterator[Running]:
    """The server, ready to answer, on an empty database; all of it stopped at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        around = Surroundings(*free_ports(), secrets.token_urlsafe(32))
        exported: dict[str, int] = {}
        sink = stack.enter_context(_otlp_sink(around.otlp_port, exported))
        postgres = stack.enter_context(database.postgres(folder / "postgres", around.database_port, commit_delay_ms))
        process = stack.enter_context(_process(server, around, folder / "log"))
        yield Running(server, around, process, postgres, sink, folder, exported)


@contextmanager
def _process(server: Server, around: Surroundings, log: Path) -> Iterator[psutil.Process]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = inherited | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"} | server.environment(around)
    server.prepare(around, environment)
    with log.open("wb") as output:
        process = psutil.Popen(server.command(around), env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(f"http://127.0.0.1:{around.port}/health/ready", process, log)
            yield process
        finally:
            process.terminate()
            process.wait(STOP_LIMIT_S)


def _wait_until_ready(url: str, process: psutil.Popen, log: Path) -> None:
    """Wait for a good answer; raises RuntimeError with the log's end when there is none."""
    limit = time.monotonic() + START_LIMIT_S
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < limit:
        try:
            if httpx.get(url, timeout=1, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")


@contextmanager
def _otlp_sink(port: int, counts: dict[str, int]) -> Iterator[psutil.Process]:
    """The sink's process; `counts` is filled in when it has ended."""
    sink = psutil.Popen([sys.executable, "-m", "bench.sink", str(port)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield sink
    finally:
        counts |= json.loads(sink.communicate(timeout=60)[0])


def free_ports() -> tuple[int, int, int]:
    """Three ports that nobody listens on, held all at once so that they differ."""
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        for one in (first, second, third):
            one.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1], third.getsockname()[1]
