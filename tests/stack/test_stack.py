"""The stack itself: what it says of itself, what it does when programs die or do not start, and two stacks side by side."""

import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from stack.prepare import free_offset
from tests.awake import awake_s
from tests.batches import batch, report
from tests.conftest import Stack, wait_for

URLS = {"gamepulse", "prometheus", "alertmanager", "loki", "jaeger", "collector", "grafana"}
REGION = "beside"


def processes_of(home: Path) -> list[psutil.Process]:
    """Who has this home in its environment or its command."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.environ().values(), *process.cmdline()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(home) in word for word in words):
            found.append(process)
    return found


@pytest.fixture
def beside(stack: Stack) -> Iterator[Stack]:
    """A second stack's home, ports and environment, beside the first one; nothing of it runs yet."""
    with tempfile.TemporaryDirectory(prefix="gamepulse-tests-", ignore_cleanup_errors=True) as folder:
        offset = str(free_offset())
        settings = {"GAMEPULSE_HOME": folder, "GAMEPULSE_PORT_OFFSET": offset, "DEMO": "0", "DETACH": "1"}
        second = Stack(Path(folder), stack.environ | settings)
        yield second
        second.run("down")


def started(stack: Stack, **environ: str) -> str:
    """What a successful `up` says."""
    done = Stack(stack.home, stack.environ | environ).run("up", timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def without_offset(stack: Stack) -> Stack:
    return Stack(stack.home, {name: value for name, value in stack.environ.items() if name != "GAMEPULSE_PORT_OFFSET"})


def count(stack: Stack) -> int:
    """How many reports of the region are told."""
    answer = httpx.get(f"{stack.url('gamepulse')}/v1/quality", params={"game": "demo", "group_by": "region", "limit": 1000})
    groups: list[dict[str, Any]] = answer.raise_for_status().json()["groups"]
    return sum(group["count"] for group in groups if group["region"] == REGION)


def test_stack_file_says_everything_to_its_owner_only(stack: Stack) -> None:
    assert stat.S_IMODE((stack.home / "stack.json").stat().st_mode) == 0o600
    assert set(stack.file) == {"urls", "database_url", "valkey_url", "demo", "processes"}
    assert set(stack.file["urls"]) == URLS
    assert all(psutil.pid_exists(pid) for pid in stack.file["processes"].values())


@pytest.mark.parametrize(("name", "health"), [("gamepulse", "/health/ready"), ("alertmanager", "/-/ready")])
def test_killed_program_answers_soon_under_the_pid_that_the_file_says(stack: Stack, name: str, health: str) -> None:
    old = stack.file["processes"][name]
    family = psutil.Process(old).children(recursive=True)
    os.kill(old, signal.SIGKILL)
    new = wait_for("a new pid", lambda: stack.file["processes"].get(name, old) != old and stack.file["processes"][name], 3)
    assert psutil.pid_exists(new)
    assert not psutil.wait_procs(family, 5)[1]  # none of them answers now
    wait_for(f"{name} answers", lambda: httpx.get(stack.url(name) + health).status_code == 200)
    assert stack.file["processes"][name] == new


def test_status_needs_no_offset_and_changes_nothing(stack: Stack) -> None:
    before = stack.file
    said = wait_for("all are well", lambda: (done := without_offset(stack).run("status")).returncode == 0 and done.stdout)
    assert "does not answer" not in said
    assert str(stack.url("gamepulse")) in said
    assert stack.file == before
    refused = without_offset(stack).run("up")
    assert refused.returncode != 0
    assert f"runs with other ports ({stack.url('gamepulse')}): `make down` first" in refused.stderr


@pytest.mark.timeout(400)  # three starts and an end
def test_second_stack_keeps_its_data_and_its_hands_off_the_first(stack: Stack, beside: Stack) -> None:
    first = stack.file
    started(beside)
    key = {"authorization": f"Bearer {beside.file['demo']['ingest_key']}"}
    sent = httpx.post(f"{beside.url('gamepulse')}/v1/reports", json=batch([report(region=REGION)]), headers=key)
    assert sent.status_code == 202, sent.text
    wait_for("the report is told", lambda: count(beside) == 1)
    down = without_offset(beside).run("down")
    assert (down.returncode, down.stdout.splitlines()[-1]) == (0, "Stopped.")
    assert not processes_of(beside.home)
    assert not (beside.home / "stack.json").exists()

    started(beside)
    wait_for("the report is told again", lambda: count(beside) == 1)
    started(beside, DEMO="1")
    wait_for("the demo runs", lambda: "demo" in beside.file["processes"])
    assert "Stopping demo" in started(beside, DEMO="0")
    wait_for("the demo has gone", lambda: "demo" not in beside.file["processes"], 3)
    assert stack.file == first


@pytest.mark.timeout(400)
def test_start_that_fails_says_why_soon_and_leaves_nothing(beside: Stack) -> None:
    (beside.home / "prometheus").mkdir()
    (beside.home / "prometheus" / "wal").write_text("not a folder")
    began = awake_s()
    done = beside.run("up", timeout_s=300)
    assert awake_s() - began < 40
    assert done.returncode != 0
    reason, _, log = done.stderr.partition("The last lines of ")
    assert "prometheus is not ready" in reason
    assert "ends again and again" in reason
    assert "wal" in log
    assert log.count("Fatal error") <= 1  # told once, though it came with each try
    assert not processes_of(beside.home)


def test_the_command_line_of_the_service_reaches_the_stacks_database(stack: Stack) -> None:
    done = stack.run("admin", "reset-totp", "nobody-there")
    assert (done.returncode, done.stderr.strip()) == (1, "Error: There is no account of this name.")
