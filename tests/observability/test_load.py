"""k6 reads the load's scenarios: each ends by itself, judges what came of it, and is sent to nobody who was not named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stack.programs import ensure_program
from stack.settings import CHECKOUT, read_settings

MAIN = CHECKOUT / "tests" / "load" / "main.js"
EXACT = {"checks", "batches_lost", "batches_stored", "reports_rejected"}
OF_TIME = "http_req_duration{expected_response:true}"
# Seconds with all that is still under way, and thresholds besides the exact ones.
SCENARIOS: dict[str, tuple[int, set[str]]] = {
    "smoke": (60, set()),
    "load": (255, {OF_TIME, "http_req_failed", "dropped_iterations"}),
    "stress": (270, set()),
    "spike": (
        175,
        {
            "http_req_duration{scenario:before,expected_response:true}",
            "http_req_duration{scenario:after,expected_response:true}",
            "http_req_failed{scenario:before}",
            "http_req_failed{scenario:after}",
        },
    ),
    "soak": (7 * 60 + 45, {OF_TIME, "http_req_failed", "dropped_iterations"}),
}


@pytest.mark.timeout(3600)  # the first time it has to build k6
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_ends_and_is_judged(name: str) -> None:
    k6 = ensure_program(read_settings(), "k6") / "k6"
    command = [str(k6), "inspect", "--include-system-env-vars", "--execution-requirements", str(MAIN)]
    environ = os.environ | {"SCENARIO": name, "INGEST_KEY": "x", "MINUTES": "7", "TARGET": ""}
    told = json.loads(subprocess.run(command, env=environ, check=True, capture_output=True, timeout=60).stdout)
    seconds, thresholds = SCENARIOS[name]
    minutes, _, rest = told["totalDuration"].removesuffix("s").rpartition("m")
    assert 60 * int(minutes or 0) + int(rest) == seconds
    assert set(told["thresholds"]) == EXACT | thresholds
    assert told["maxRedirects"] == 0


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"TARGET": "http://192.0.2.1:8080", "INGEST_KEY": "x"}, "ALLOW_HOST=192.0.2.1"),
        ({"TARGET": "http://192.0.2.1", "INGEST_KEY": "x", "ALLOW_HOST": "192.0.2.2"}, "TARGET is not this machine"),
        ({"TARGET": "http://127.0.0.1.example", "INGEST_KEY": "x"}, "ALLOW_HOST=127.0.0.1.example"),
        ({"TARGET": "http://127.0.0.1@192.0.2.1", "INGEST_KEY": "x"}, "TARGET must be"),
        ({"TARGET": "http://127.0.0.1:1"}, "INGEST_KEY is missing"),
        ({}, "Nothing runs here: `make up` first"),
    ],
)
def test_nobody_is_loaded_who_was_not_named(environ: dict[str, str], why: str, tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GAMEPULSE_")}
    command = [sys.executable, "-m", "tests.load", "smoke"]
    environ = inherited | {"GAMEPULSE_HOME": str(tmp_path)} | environ
    done = subprocess.run(command, env=environ, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert why in done.stdout + done.stderr
