"""The Collector starts so that nothing that is sent to it meanwhile is lost."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from stack.components import OBSERVABILITY
from stack.programs import FOLDER, ensure_program, patched
from stack.settings import Problem, read_settings
from stack.toolchain import find_go
from tests.conftest import free_port, wait_for

STARTS = 6
"""In which order it starts what does not depend on each other is chance, each time anew."""


def begun(folder: Path) -> list[str]:
    """In their order: "receiver", the servers of OTLP, and "queue", of an exporter."""
    health = f"127.0.0.1:{free_port()}"
    environ = {
        "COLLECTOR_OTLP_GRPC": f"127.0.0.1:{free_port()}",
        "COLLECTOR_OTLP_HTTP": f"127.0.0.1:{free_port()}",
        "COLLECTOR_METRICS_PORT": str(free_port()),
        "COLLECTOR_HEALTH": health,
        "COLLECTOR_QUEUE_DIRECTORY": str(folder / "queue"),
        "POSTGRES_MONITOR_PASSWORD": "nobody asks for it",
    }
    files = ("--config=collector/otel-collector-config.yaml", "--config=collector/infrastructure.yaml")
    command: list[str | Path] = [ensure_program(read_settings(), "collector") / "otelcol", *files]
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=OBSERVABILITY, env=os.environ | environ, stdout=output, stderr=output) as process,
    ):
        try:
            wait_for("the Collector is ready", lambda: httpx.get(f"http://{health}").status_code == 200)
        finally:
            process.terminate()
    told = (json.loads(line)["msg"] for line in log.read_text().splitlines() if line.startswith("{"))
    names = {"Starting GRPC server": "receiver", "Starting HTTP server": "receiver", "New queue metadata key not found": "queue"}
    return [names[begin] for message in told if (begin := message.partition(",")[0]) in names]


def test_receivers_start_after_every_queue(tmp_path: Path) -> None:
    """A receiver of all signals that starts before another signal's queue ends the Collector, and what is in that queue is lost."""
    assert [begun(tmp_path) for _ in range(STARTS)] == [["queue"] * 3 + ["receiver"] * 2] * STARTS


def test_patch_that_does_not_fit_is_told(tmp_path: Path) -> None:
    source = shutil.copytree(FOLDER / "collector", tmp_path / "collector")
    patch = source / "receivers-last.patch"
    go = find_go(read_settings())
    built_from = patched(source, go, tmp_path / "fits")
    assert "=> ./patched/go.opentelemetry.io/collector/service" in (built_from / "go.mod").read_text()
    patch.write_text(patch.read_text().replace("Start in reverse topological order", "Start in any order"))
    with pytest.raises(Problem, match=r"(?s)receivers-last\.patch cannot be applied: git apply .* patch does not apply"):
        patched(source, go, tmp_path / "does not")
