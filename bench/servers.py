"""The servers that are compared: how each is prepared and started, one worker each."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench import database
from bench.load import Target

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
TRUSTED = "127.0.0.0/8"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a server gets: ports, a database, the telemetry's end, a key that it must check."""

    port: int
    database_port: int
    otlp_port: int
    ingest_key: str

    @property
    def target(self) -> Target:
        """Where the load goes."""
        return Target(f"http://127.0.0.1:{self.port}", self.ingest_key)


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test. `stored` counts the reports in its database."""

    what: str
    command: Callable[[Surroundings], list[str]]
    environment: Callable[[Surroundings], dict[str, str]]
    stored: str | None = None
    prepare: Callable[[Surroundings, Mapping[str, str]], None] = lambda surroundings, environment: None


def gamepulse_environment(around: Surroundings) -> dict[str, str]:
    """The service's settings: all defaults, but for where things are."""
    return {
        "GAMEPULSE_DATABASE_URL": database.url(around.database_port),
        "GAMEPULSE_PORT": str(around.port),
        "GAMEPULSE_WORKERS": "1",
        "GAMEPULSE_PLAYER_HASH_KEY": "00" * 32,
        "GAMEPULSE_TRUSTED_PROXIES": TRUSTED,
        "GAMEPULSE_GEO_DATABASE": str(ROOT / "data" / "demo-geography.mmdb"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{around.otlp_port}",
    }


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


def fastapi_environment(around: Surroundings) -> dict[str, str]:
    """The peer's settings without telemetry."""
    return {"DATABASE_URL": database.url(around.database_port), "INGEST_KEY": around.ingest_key}


def fastapi_traced_environment(around: Surroundings) -> dict[str, str]:
    """The peer's settings with OpenTelemetry's defaults."""
    endpoint = f"http://127.0.0.1:{around.otlp_port}"
    otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "peer"}
    return fastapi_environment(around) | otlp


def fastapi_command(around: Surroundings) -> list[str]:
    """uvicorn with its fast parts."""
    return [sys.executable, "-m", "bench.peers.fastapi_peer", str(around.port)]


def nothing_command(around: Surroundings) -> list[str]:
    """The fastest server that Python has."""
    options = ["--interface", "rsgi", "--port", str(around.port), "--no-log", "--loop", "uvloop"]
    return [sys.executable, "-m", "granian", *options, "bench.peers.nothing:application"]


SERVERS = {
    "gamepulse": Server(
        "this service, all it does and exports, its aggregator with it",
        lambda around: [sys.executable, "-m", "gamepulse", "serve"],
        gamepulse_environment,
        "SELECT sum(accepted) FROM batch_key",
        prepare_gamepulse,
    ),
    "fastapi-otel": Server(
        "FastAPI + pydantic + default OpenTelemetry, executemany per request",
        fastapi_command,
        fastapi_traced_environment,
        "SELECT count(*) FROM report",
    ),
    "fastapi": Server("the same without OpenTelemetry", fastapi_command, fastapi_environment, "SELECT count(*) FROM report"),
    "nothing": Server(
        "answers 202 without a look at the body: the ceiling of the load generator", nothing_command, lambda around: {}
    ),
}


@contextmanager
def running(server: Server, around: Surroundings, log: Path) -> Iterator[psutil.Process]:
    """The server's parent process, ready to answer; stopped at the end."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = inherited | {"PYTHONPATH": str(ROOT)} | server.environment(around)
    server.prepare(around, environment)
    with log.open("wb") as output:
        process = psutil.Popen(server.command(around), env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(f"{around.target.url}/health/ready", process, log)
            yield process
        finally:
            process.terminate()
            process.wait(STOP_LIMIT_S)


def wait_until_ready(url: str, process: psutil.Popen, log: Path) -> None:
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
