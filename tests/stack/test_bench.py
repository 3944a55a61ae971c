"""The benchmark measures everything that it should, and what it writes can be believed. How fast things are is not asked here."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Of each kind one; the others are the same with another setting.
ROWS = (
    "gamepulse",
    "gamepulse-silent",
    "fastapi-otel-one",
    "go-copy",
    "go-group",
    "nothing",
    "commit+10",
    "limit",
    "half",
    "overload",
    "rollup-network",
)
CORES = psutil.cpu_count()
STORING = {"requests_per_s", "server_cpu_us", "database_cpu_us", "wal_bytes_per_report", "load_cpu_share"}


def run(folder: Path, *rows: str) -> dict[str, dict[str, float]]:
    """The medians that a quick run writes, by row."""
    subprocess.run([sys.executable, "-m", "bench", "--quick", "--results", str(folder), *rows], cwd=ROOT, check=True)
    written = json.loads(next(folder.glob("*.json")).read_text())
    return {
        row: {name: figure["median"] for name, figure in figures.items() if name != "what"}
        for row, figures in written["rows"].items()
    }


@pytest.mark.timeout(400)
def test_everything_is_measured_and_nothing_answered_is_lost(tmp_path: Path) -> None:
    rows = run(tmp_path, *ROWS)
    assert set(rows) == set(ROWS)
    for name, figures in rows.items():
        assert all(value >= 0 for value in figures.values()), name
        assert figures.get("load_cpu_share", 0.0) < 0.8, f"{name}: the load was the ceiling"
        if name.startswith(("gamepulse", "fastapi", "go", "commit")):
            assert all(figures[figure] > 0 for figure in STORING), name
            assert figures["requests_per_s"] > 100, name
            assert 10 < figures["server_cpu_us"] < 20_000, name
            assert 0.1 < figures["server_cores"] <= CORES, name
            assert 20 < figures["disk_bytes_per_report"] < 1_000, name
    assert rows["gamepulse"]["aggregator_cpu_us"] > 0
    assert rows["gamepulse"]["telemetry_bytes"] > 10 * rows["gamepulse-silent"]["telemetry_bytes"]
    assert rows["commit+10"]["lone_commit_ms"] >= 10
    assert rows["overload"]["goodput_per_s"] > 0
    assert all(0.1 < rows[name]["server_cores"] <= CORES for name in ("half", "overload"))
    assert rows["rollup-network"]["minute_bytes_per_row"] > rows["rollup-network"]["rollup_bytes_per_row"] > 100
    assert rows["limit"]["decode_and_copy_cpu_us"] < rows["gamepulse"]["server_cpu_us"]


@pytest.mark.timeout(300)
def test_freshness_is_measured_in_the_whole_stack(tmp_path: Path) -> None:
    figures = run(tmp_path, "freshness")["freshness"]
    for place in ("quality", "stream", "page", "prometheus", "loki", "jaeger"):
        assert 0 < figures[f"{place}_p50_s"] <= figures[f"{place}_max_s"], place
    assert abs(figures["page_p50_s"] - figures["stream_p50_s"]) < 1, "the page shows what its stream has told"
    assert 0 < figures["browser_cores"] < 2
