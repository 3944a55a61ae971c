"""How the stack's tests speak to its programs. They import nothing of GamePulse's."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from stack.settings import CHECKOUT
from tests.conftest import Stack

type Json = dict[str, Any]


@dataclass
class Stores:
    """Prometheus, Loki and Jaeger, asked over HTTP."""

    stack: Stack

    def prometheus(self, query: str) -> list[Json]:
        """The series of an instant query."""
        answer = httpx.get(f"{self.stack.url('prometheus')}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", answer
        result: list[Json] = answer["data"]["result"]
        return result

    def number(self, query: str) -> float:
        """The one value of a query; −1 when there is none."""
        found = self.prometheus(query)
        return float(found[0]["value"][1]) if found else -1.0

    def loki(self, query: str, limit: int = 100) -> list[Json]:
        """The streams of the last hour."""
        params: dict[str, str | int] = {"query": query, "since": "1h", "limit": limit}
        answer = httpx.get(f"{self.stack.url('loki')}/loki/api/v1/query_range", params=params)
        assert answer.status_code == 200, answer.text
        result: list[Json] = answer.json()["data"]["result"]
        return result

    def trace(self, trace_id: str) -> list[Json]:
        """The spans of a trace, each with its process; empty when Jaeger does not have it."""
        answer = httpx.get(f"{self.stack.url('jaeger')}/api/traces/{trace_id}")
        if answer.status_code == 404:
            return []
        [trace] = answer.json()["data"]
        return [span | {"process": trace["processes"][span["processID"]]} for span in trace["spans"]]

    def traces(self, operation: str) -> list[Json]:
        """Spans of recent traces of an operation."""
        params: dict[str, str | int] = {"service": "gamepulse", "operation": operation, "limit": 50}
        answer = httpx.get(f"{self.stack.url('jaeger')}/api/traces", params=params)
        return [span for trace in answer.json()["data"] for span in trace["spans"]]


@pytest.fixture(scope="session")
def stores(stack: Stack) -> Stores:
    return Stores(stack)


@pytest.fixture(scope="module")
def environment() -> str:
    """What the stack's telemetry says of where it is."""
    return "local"


@pytest.fixture(scope="session")
def smoked(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """What k6 said at the end of a short load, as `make load SCENARIO=smoke` sends it."""
    summary = tmp_path_factory.mktemp("load") / "summary.json"
    command = [sys.executable, "-m", "tests.load", "smoke"]
    environ = stack.environ | {"SUMMARY": str(summary)}
    done = subprocess.run(command, env=environ, cwd=CHECKOUT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told: Json = json.loads(summary.read_text())
    return told


@pytest.fixture(scope="session")
def replayed(stack: Stack) -> dict[str, Json]:
    """What the exact replays of both files said, by file."""
    said = {}
    for file in ("mobile", "country"):
        command = [sys.executable, "-m", "stack.replay", "--home", str(stack.home), "--file", file, "--once"]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        said[file] = json.loads(done.stdout.splitlines()[-1])
    return said
