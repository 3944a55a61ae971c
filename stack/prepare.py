"""What has to be in place before the first program starts: folders, free ports, Prometheus's and Alertmanager's files."""

import json
import shlex
import socket
from collections.abc import Iterable
from string import Template

import psutil

from stack.components import OBSERVABILITY, Component
from stack.settings import HOME, LISTEN, PORTS, Problem, Settings

FOLDERS = ("logs", "valkey", "prometheus", "alertmanager", "loki", "jaeger", "collector", "grafana")
SCRAPED = {
    "collector": "collector-metrics",
    "prometheus": "prometheus",
    "alertmanager": "alertmanager",
    "loki": "loki",
    "jaeger": "jaeger-metrics",
}


def make_folders(settings: Settings) -> None:
    for folder in FOLDERS:
        path = settings.home / folder
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Problem(f"the folder {path} cannot be made: {error.strerror}") from None


def check_ports(settings: Settings, components: Iterable[Component]) -> None:
    """Raise Problem when somebody else listens on a port that we need."""
    ports = {port: component.name for component in components for port in component.ports}
    taken = [name for name in ports if not _is_free(settings.port(name))]
    if taken:
        lines = [f"port {settings.port(name)}, for {ports[name]}, is in use{_by(settings.port(name))}" for name in taken]
        home = "" if settings.home == HOME else f" GAMEPULSE_HOME={shlex.quote(str(settings.home))}"
        advice = f"Stop that, or move all ports: make up{home} GAMEPULSE_PORT_OFFSET={settings.port_offset + 1000}"
        raise Problem("\n".join([*lines, advice]))


def free_offset() -> int:
    """A port offset with which no port of the stack is taken, nor one from which the kernel serves outgoing connections.

    For tests and benchmarks, which run beside another stack.
    """
    for offset in range(7_000, 13_500, 250):
        if all(_is_free(port + offset) for port in PORTS.values()):
            return offset
    raise RuntimeError("no free range of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else connections just closed would count
        try:
            listener.bind((LISTEN, port))
        except OSError:
            return False
    return True


def _by(port: int) -> str:
    """Say who listens, when the system lets us see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""


def render_prometheus(settings: Settings) -> None:
    """Lay out Prometheus's folder: its files as they are in observability/, and beside them what they point to."""
    folder = settings.home / "config" / "prometheus"
    for name in ("prometheus.yml", "rules"):
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(OBSERVABILITY / "prometheus" / name)
    targets = [{"targets": [settings.address(port)], "labels": {"job": name}} for name, port in SCRAPED.items()]
    for name, content in (
        ("targets/stack.json", targets),
        ("alertmanagers/local.json", [{"targets": [settings.address("alertmanager")]}]),
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2))


def render_alertmanager(settings: Settings) -> None:
    """Lay out Alertmanager's file: it notifies the webhook of the settings, else nobody."""
    path = settings.home / "config" / "alertmanager" / "alertmanager.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    target = settings.alert_webhook
    path.write_text(alertmanager_configuration("webhook", ALERT_TARGET=target) if target else _ALERTMANAGER.read_text())


_ALERTMANAGER = OBSERVABILITY / "alertmanager" / "alertmanager.yml"


def alertmanager_configuration(receiver: str, **values: str) -> str:
    """Alertmanager's file with a receiver: a file of observability/alertmanager/receivers, with its `${…}` filled in."""
    piece = _ALERTMANAGER.parent / "receivers" / f"{receiver}.yml"
    return _ALERTMANAGER.read_text() + Template(piece.read_text()).substitute(values)
