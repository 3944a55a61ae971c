"""Compares the service with its peers: in turn, each time on a fresh database; prints a table, writes JSON."""

import importlib.metadata
import json
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

from bench import database, load
from bench.processor import cpu_s, wait_until_quiet
from bench.servers import ROOT, SERVERS, Surroundings, running
from stack.postgres import BINARIES

RESULTS = ROOT / "bench" / "results"
BUSY = 0.5  # load average before the first run
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


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    runs: int
    warm_up_s: float
    timed_s: float


FULL, QUICK = Plan(5, 3.0, 10.0), Plan(1, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. CPU is counted until the server is quiet again, so that nothing is cheap by being put off."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    database_cpu_us: float
    sink_cpu_us: float
    load_cpu_us: float
    load_cpu_share: float
    database_bytes_per_report: float
    telemetry_bytes_per_request: float


def measure(name: str, plan: Plan, run: int) -> Figures:
    """One server once, from an empty database to its end."""
    server = SERVERS[name]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        around = Surroundings(*free_ports(), secrets.token_urlsafe(32))
        sink, counts = stack.enter_context(otlp_sink(around.otlp_port))
        postgres = stack.enter_context(database.postgres(folder / "postgres", around.database_port))
        process = stack.enter_context(running(server, around, folder / "log"))
        trees = (process, postgres, sink)
        answered = load.apply(around.target, plan.warm_up_s, folder, 2 * run).requests
        wait_until_quiet(trees)
        before = [cpu_s(tree) for tree in trees]
        seen = load.apply(around.target, plan.timed_s, folder, 2 * run + 1)
        wait_until_quiet(trees)
        used_us = [(cpu_s(tree) - start) * 1e6 / seen.requests for tree, start in zip(trees, before, strict=True)]
        answered += seen.requests
        check_stored(server.stored, around.database_port, answered)
        size = int(database.query(around.database_port, "SELECT pg_database_size('bench')"))
        empty = int(database.query(around.database_port, "SELECT pg_database_size('template1')"))
    telemetry_bytes = sum(count for kind, count in counts.items() if kind.endswith("_bytes"))
    return Figures(
        requests_per_s=seen.requests / seen.duration_s,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        server_cpu_us=used_us[0],
        database_cpu_us=used_us[1],
        sink_cpu_us=used_us[2],
        load_cpu_us=seen.cpu_s * 1e6 / seen.requests,
        load_cpu_share=seen.cpu_s / seen.duration_s,
        database_bytes_per_report=(size - empty) / answered / load.REPORTS,
        telemetry_bytes_per_request=telemetry_bytes / answered,
    )


def check_stored(statement: str | None, port: int, answered: int) -> None:
    """Answered means stored, or the figure is worth nothing. A few more may be: wrk leaves without its last answers."""
    if statement is None:
        return
    stored = int(database.query(port, statement, "bench"))
    if not 0 <= stored - answered * load.REPORTS <= 2 * load.CONNECTIONS * load.REPORTS:
        raise RuntimeError(f"{answered} batches were answered, but {stored} reports are stored")


@contextmanager
def otlp_sink(port: int) -> Iterator[tuple[psutil.Process, dict[str, int]]]:
    """The sink's process, and its counts: filled in when it has ended."""
    counts: dict[str, int] = {}
    sink = psutil.Popen([sys.executable, "-m", "bench.sink", str(port)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield sink, counts
    finally:
        counts |= json.loads(sink.communicate(timeout=10)[0])


def free_ports() -> tuple[int, int, int]:
    """Three ports that nobody listens on, held all at once so that they differ."""
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        for one in (first, second, third):
            one.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1], third.getsockname()[1]


def summarise(runs: list[Figures]) -> dict[str, dict[str, float]]:
    """Median, least and most of each figure."""
    columns = {name: [asdict(run)[name] for run in runs] for name in asdict(runs[0])}
    return {
        name: {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }
        for name, values in columns.items()
    }


def surroundings() -> dict[str, object]:
    """The machine and the versions: a figure without them says nothing."""
    about_cpu = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in about_cpu if line.startswith("model name")), "")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": {
            "cpu": cpu,
            "cores": psutil.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": platform.platform(),
            "load_average_before": psutil.getloadavg()[0],
        },
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {
            "python": platform.python_version(),
            "postgresql": version(str(BINARIES / "postgres"), "--version"),
            "wrk": version(load.wrk(), "--version"),
        },
        "load": {"connections": load.CONNECTIONS, "reports": load.REPORTS, "body_bytes": len(load.body())},
    }


def version(program: str, option: str) -> str:
    """The first line that the program says of itself (wrk does so with exit code 1)."""
    said = subprocess.run([program, option], capture_output=True, text=True, check=False)
    return said.stdout.splitlines()[0].split("Copyright")[0].strip()


def table(summaries: dict[str, dict[str, dict[str, float]]]) -> Table:
    """Medians, with the least and the most."""
    shown = Table(title="medians (min to max)", caption=f"{load.REPORTS} reports a request; CPU in µs a request")
    columns = {
        "requests/s": "requests_per_s",
        "p99 ms": "p99_ms",
        "server CPU": "server_cpu_us",
        "PostgreSQL CPU": "database_cpu_us",
        "wrk CPU": "load_cpu_us",
        "wrk, of a core": "load_cpu_share",
        "B on disk/report": "database_bytes_per_report",
        "B telemetry": "telemetry_bytes_per_request",
    }
    for column in ("server", *columns):
        shown.add_column(column, justify="left" if column == "server" else "right")
    for name, summary in summaries.items():
        cells = [summary[column] for column in columns.values()]
        shown.add_row(name, *(f"{short(one['median'])}\n{short(one['min'])} - {short(one['max'])}" for one in cells))
    return shown


def short(figure: float) -> str:
    """Three digits, or whole ones."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


@click.command()
@click.option("--quick", is_flag=True, help="One short run of each: shows that it works, not how fast.")
@click.option("--server", "names", multiple=True, type=click.Choice(tuple(SERVERS)), help="Only this one (repeatable).")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the JSON.")
def main(quick: bool, names: tuple[str, ...], results: Path) -> None:
    """Compare the service with its peers on this machine."""
    console = Console(width=160)
    plan, chosen = QUICK if quick else FULL, names or tuple(SERVERS)
    outcome = surroundings() | {"plan": asdict(plan)}
    if psutil.getloadavg()[0] > BUSY:
        console.print("this machine is busy with something else: requests/s will be low, CPU a request less wrong")
    runs: dict[str, list[Figures]] = {name: [] for name in chosen}
    for run in range(plan.runs):
        for name in chosen:
            runs[name].append(measure(name, plan, run))
            console.print(f"run {run + 1}/{plan.runs} {name}: {runs[name][-1].requests_per_s:.0f} requests/s")
    summaries = {name: summarise(figures) for name, figures in runs.items()}
    outcome["servers"] = {name: {"what": SERVERS[name].what, **summaries[name]} for name in chosen}
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
    path.write_text(json.dumps(outcome, indent=2) + "\n")
    console.print(table(summaries))
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
