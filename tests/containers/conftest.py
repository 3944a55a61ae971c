"""The stack of compose.yaml, started once for all tests here: on images made here, or with UPSTREAM=1 on the makers' own."""

import os
from collections.abc import Iterator

import pytest

from tests.conftest import free_port
from tests.containers.engine import TAG, ComposeStack, engine_answers, registry_answers
from tests.containers.images import make_images
from tests.stack.conftest import Stores, environment, stores  # noqa: F401 — fixtures

IS_UPSTREAM = os.environ.get("UPSTREAM") == "1"
collect_ignore = ["test_task.py"] if IS_UPSTREAM else ["upstream"]  # the one is run as root here; the other is Grafana's
STEPS = ("keys", "migrate")
SERVICES = ("gamepulse", "collector", "prometheus", "alertmanager", "loki", "jaeger", "postgres", "valkey")
"""What is started: all but the demo's players, who would be in the way, and without a registry all but Grafana."""
STARTED = (*SERVICES, *(["grafana"] if IS_UPSTREAM else []))


def pytest_sessionstart() -> None:
    if not engine_answers():
        pytest.exit("No container engine answers: start one (on Debian: apt-get install docker.io, then dockerd).", returncode=2)
    if IS_UPSTREAM and not registry_answers():
        pytest.exit("No registry answers: the makers' images cannot be had here, so nothing was tested.", returncode=2)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not IS_UPSTREAM:
        terminalreporter.write_line(
            "Not among them: Grafana, whose image cannot be made without a registry. What it reads is checked by"
            " tests/observability and tests/stack; the real one runs with `make test-upstream`."
        )


@pytest.fixture(scope="session")
def images() -> str:
    """The tag of all images, which are there now."""
    tag = "upstream" if IS_UPSTREAM else TAG
    make_images(tag, is_upstream=IS_UPSTREAM)
    return tag


@pytest.fixture(scope="session")
def stack(images: str) -> Iterator[ComposeStack]:
    ports = {name: str(free_port()) for name in ("LIVE_PAGE_PORT", "GRAFANA_PORT")}
    running = ComposeStack({"GAMEPULSE_TAG": images, "GAMEPULSE_TRACE_SAMPLE_RATIO": "0.05"} | ports)
    try:
        running.up(*STARTED)
        yield running
    finally:
        running.down(volumes=True)
