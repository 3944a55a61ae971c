"""GitHub's workflows, which do not run here: their checkers read them, and they call what the Makefile has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stack.programs import ensure_program
from stack.settings import CHECKOUT, read_settings

WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))


def test_actionlint_has_nothing_to_say() -> None:
    actionlint = ensure_program(read_settings(), "actionlint") / "actionlint"
    # Shell is one line each: no shellcheck is asked for, which may or may not be there.
    done = subprocess.run(
        [actionlint, "-shellcheck=", "-pyflakes=", *WORKFLOWS], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_zizmor_has_nothing_to_say() -> None:
    zizmor = Path(sys.executable).with_name("zizmor")
    done = subprocess.run(
        [zizmor, "--offline", "--no-progress", "--min-severity=low", *WORKFLOWS],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_step_is_a_target_of_the_makefile(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"^\s+- run: make ([a-z-]+)", path.read_text(), re.MULTILINE))
    assert called
    assert called <= targets
