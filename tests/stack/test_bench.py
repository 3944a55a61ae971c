"""The benchmark runs, and what it writes can be believed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(120)
def test_quick_benchmark_measures_service_and_peer(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--results", str(tmp_path)]
    command += ["--server", "gamepulse", "--server", "fastapi-otel"]
    subprocess.run(command, cwd=ROOT, check=True)
    outcome = json.loads(next(tmp_path.glob("*.json")).read_text())
    for name in ("gamepulse", "fastapi-otel"):
        figures = {key: value["median"] for key, value in outcome["servers"][name].items() if key != "what"}
        assert figures["requests_per_s"] > 100
        assert 10 < figures["server_cpu_us"] < 20_000
        assert figures["load_cpu_share"] < 0.8, "wrk was the ceiling"
        assert figures["telemetry_bytes_per_request"] > 0
