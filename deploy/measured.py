"""What `make bench` and `python -m bench.width` have measured, as far as it decides what a deployment costs."""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from stack.settings import CHECKOUT, Problem

RESULTS = CHECKOUT / "bench" / "results"
type Json = dict[str, Any]
type Widths = tuple[tuple[int, float], ...]
"""(players at a time, bytes), ascending."""


@dataclass(frozen=True, slots=True)
class PerBatch:
    """What a batch takes: something for itself, and something for each report."""

    itself: float
    report: float

    def of(self, reports: float) -> float:
        return self.itself + self.report * reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """`files`: from which results. CPU in µs; the task's with its Collector."""

    files: tuple[str, ...]
    batch_reports: int
    """Reports in the benchmark's batches, and how long their bodies are."""
    batch_bytes: float
    task_cpu_us: float
    service_cpu_us: PerBatch
    database_cpu_us: PerBatch
    raw_bytes: PerBatch
    key_bytes: PerBatch
    wal_bytes: PerBatch
    loki_bytes: float
    """Of a request, as sent, compressed."""
    prometheus_bytes: float
    jaeger_bytes: float
    minute_bytes: Widths
    """Of a minute's rollups of all dimension sets, and of an hour's."""
    hour_bytes: Widths


def read_measured(folder: Path = RESULTS) -> Measured:
    """From the newest results that have what is asked for. Raises Problem when none has."""
    full = _newest(folder, "*.json", lambda one: {"gamepulse", "gamepulse-one"} <= one.get("rows", {}).keys())
    task = _newest(folder, "*.json", lambda one: "wire-task" in one.get("rows", {}))
    width = _newest(folder, "*.json", lambda one: "widths" in one)
    many, one = full[1]["rows"]["gamepulse"], full[1]["rows"]["gamepulse-one"]
    wire, reports = task[1]["rows"]["wire-task"], full[1]["load"]["reports"]

    def fit(name: str, is_per_report: bool = True) -> PerBatch:
        """A line through what was measured of batches with many reports, and with one."""
        most = many[name]["median"] * (reports if is_per_report else 1)
        least = one[name]["median"]
        report = (most - least) / (reports - 1)
        return PerBatch(least - report, report)

    return Measured(
        files=(full[0], task[0], width[0]),
        batch_reports=task[1]["load"]["reports"],
        batch_bytes=task[1]["load"]["body_bytes"],
        task_cpu_us=sum(wire[f"{role}_cpu_us"]["median"] for role in ("web", "aggregator", "collector")),
        service_cpu_us=fit("server_cpu_us", is_per_report=False),
        database_cpu_us=fit("database_cpu_us", is_per_report=False),
        raw_bytes=fit("raw_batch_bytes_per_report"),
        key_bytes=fit("batch_key_bytes_per_report"),
        wal_bytes=fit("wal_bytes_per_report"),
        loki_bytes=wire["loki_bytes_per_request"]["median"],
        prometheus_bytes=wire["prometheus_bytes_per_request"]["median"],
        jaeger_bytes=wire["jaeger_bytes_per_request"]["median"],
        minute_bytes=_widths(width[1], "minute_bytes"),
        hour_bytes=_widths(width[1], "hour_row_bytes"),
    )


def bytes_at(widths: Widths, players: float) -> float:
    """Between what was measured, a straight line on logarithmic scales; beyond, the nearest one goes on."""
    if players <= 0:
        return 0.0
    pairs = list(pairwise(widths))
    (least, low), (most, high) = next((pair for pair in pairs if players <= pair[1][0]), pairs[-1])
    slope = math.log(high / low) / math.log(most / least)
    return low * math.pow(players / least, slope)


def _newest(folder: Path, pattern: str, has: Any) -> tuple[str, Json]:
    found = [(path.name, result) for path in folder.glob(pattern) if has(result := json.loads(path.read_text()))]
    if not found:
        raise Problem(f"No result in {folder} has what the costs are reckoned from: run make bench")
    return max(found, key=lambda one: str(one[1]["at"]))


def _widths(result: Json, name: str) -> Widths:
    sums: dict[int, float] = {}
    for one in result["widths"]:
        sums[one["players"]] = sums.get(one["players"], 0.0) + one[name]
    return tuple(sorted(sums.items()))
