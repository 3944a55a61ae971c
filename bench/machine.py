"""The machine and the versions: a figure without them says nothing."""

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench import load
from bench.programs import PACED, PEERS
from bench.servers import ROOT
from stack.postgres import BINARIES
from stack.toolchain import choose_toolchain

PACKAGES = (
    "asyncpg",
    "fastapi",
    "granian",
    "httptools",
    "litestar",
    "msgspec",
    "opentelemetry-sdk",
    "pydantic",
    "uvicorn",
    "uvloop",
)
MODULES = ("github.com/jackc/pgx/v5", "go.opentelemetry.io/otel", "github.com/valyala/fasthttp")


def surroundings() -> dict[str, object]:
    """When, of what, on what."""
    about_cpu = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in about_cpu if line.startswith("model name")), "")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": {
            "cpu": cpu,
            "cores": psutil.cpu_count(),
            "core_of_the_load": load.CORE,
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": platform.platform(),
            "load_average_before": psutil.getloadavg()[0],
        },
        "versions": _versions(),
        "load": {"connections": load.CONNECTIONS, "reports": load.REPORTS, "body_bytes": len(load.body())},
    }


def _versions() -> dict[str, str]:
    pins = dict(line.split()[:2] for module in (PEERS, PACED) for line in (module / "go.sum").read_text().splitlines())
    return (
        {name: importlib.metadata.version(name) for name in PACKAGES}
        | {name: pins[name].removesuffix("/go.mod") for name in MODULES}
        | {
            "python": platform.python_version(),
            "go": ".".join(map(str, choose_toolchain().version)),
            "postgresql": _said(str(BINARIES / "postgres"), "--version"),
            "wrk": _said(load.wrk(), "--version"),
        }
    )


def _said(program: str, option: str) -> str:
    """The first line that the program says of itself (wrk does so with exit code 1)."""
    said = subprocess.run([program, option], capture_output=True, text=True, check=False)
    return said.stdout.splitlines()[0].split("Copyright")[0].strip()


class Stolen:
    """How much of this machine's processors its host has given to others since then: what that makes slower says nothing of us."""

    def __init__(self) -> None:
        self._since = psutil.cpu_times()

    @property
    def percent(self) -> float:
        """Of all time of all processors; 0 where the system does not tell."""
        now, since = psutil.cpu_times()._asdict(), self._since._asdict()
        taken: float = now.get("steal", 0.0) - since.get("steal", 0.0)
        return 100 * taken / max(sum(now.values()) - sum(since.values()), 0.01)
