"""Each program's own checker reads its configuration."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import CHECKOUT, read_settings

CHECKS = {
    "collector": [
        "otelcol",
        "validate",
        "--config=collector/otel-collector-config.yaml",
        "--config=collector/infrastructure.yaml",
        "--config=collector/certificates.yaml",
    ],
    "prometheus": ["promtool", "check", "config", "prometheus/prometheus.yml"],
    "prometheus in AWS": ["promtool", "check", "config", "prometheus.yml"],
    "alertmanager": ["amtool", "check-config", "alertmanager/alertmanager.yml"],
    "loki": ["loki", "-verify-config", "-config.expand-env=true", "-config.file=loki/loki.yaml"],
    "jaeger": ["jaeger", "validate", "--config=jaeger/jaeger.yaml"],
}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.timeout(3600)  # the first time it may have to build the program
def test_configuration_is_valid(name: str, tmp_path: Path) -> None:
    program, *arguments = CHECKS[name]
    folder = ensure_program(read_settings(), name.partition(" ")[0])
    if name == "prometheus in AWS":  # as docker/Dockerfile lays it out
        shutil.copytree(CHECKOUT / "docker/prometheus/aws", tmp_path, dirs_exist_ok=True)
        shutil.copytree(OBSERVABILITY / "prometheus", tmp_path, dirs_exist_ok=True)
    environ = os.environ | {
        "COLLECTOR_QUEUE_DIRECTORY": str(tmp_path),
        "LOKI_DATA": str(tmp_path),
        "POSTGRES_MONITOR_PASSWORD": "not a secret",
        "PUBLIC_URLS": "https://play.example/health/live,https://grafana.example",
    }
    done = subprocess.run(
        [folder / program, *arguments],
        cwd=tmp_path if name == "prometheus in AWS" else OBSERVABILITY,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
