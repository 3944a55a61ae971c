"""Each program's own checker reads its configuration."""

import os
import subprocess
from pathlib import Path

import pytest

from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import read_settings

CHECKS = {
    "collector": [
        "otelcol",
        "validate",
        "--config=collector/otel-collector-config.yaml",
        "--config=collector/infrastructure.yaml",
        "--config=collector/certificates.yaml",
    ],
    "prometheus": ["promtool", "check", "config", "prometheus/prometheus.yml"],
    "alertmanager": ["amtool", "check-config", "alertmanager/alertmanager.yml"],
    "loki": ["loki", "-verify-config", "-config.expand-env=true", "-config.file=loki/loki.yaml"],
    "jaeger": ["jaeger", "validate", "--config=jaeger/jaeger.yaml"],
}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.timeout(3600)  # the first time it may have to build the program
def test_configuration_is_valid(name: str, tmp_path: Path) -> None:
    program, *arguments = CHECKS[name]
    folder = ensure_program(read_settings(), name)
    environ = os.environ | {
        "COLLECTOR_QUEUE_DIRECTORY": str(tmp_path),
        "LOKI_DATA": str(tmp_path),
        "POSTGRES_MONITOR_PASSWORD": "not a secret",
        "PUBLIC_URLS": "https://play.example/health/live,https://grafana.example",
    }
    done = subprocess.run(
        [folder / program, *arguments],
        cwd=OBSERVABILITY,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
