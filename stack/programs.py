"""Builds the Go programs from their pinned modules, once, into a cache outside the checkout."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stack.lock import only_one
from stack.settings import Problem, Settings
from stack.toolchain import choose_toolchain, find_go

FOLDER = Path(__file__).with_name("programs")
FLAGS = ("-trimpath", "-ldflags", "-s -w")
BUILD_LIMIT_S = 3600
# CGO_ENABLED=0: no C compiler needed, and the binaries run in an empty image as well.
_ENVIRON = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}


@dataclass(frozen=True)
class Program:
    """A Go module in stack/programs and what to build from it."""

    name: str
    packages: Mapping[str, str]  # binary: package
    seconds: int  # cold, on a machine of 2 cores
    tags: str = ""


PROGRAMS = {
    program.name: program
    for program in (
        Program("collector", {"otelcol": "."}, 270),
        Program(
            "prometheus",
            {
                "prometheus": "github.com/prometheus/prometheus/cmd/prometheus",
                "promtool": "github.com/prometheus/prometheus/cmd/promtool",
            },
            200,
            tags="remove_all_sd,enable_dns_sd",  # no cloud's service discovery: targets come from files, and in AWS from names
        ),
        Program(
            "alertmanager",
            {
                "alertmanager": "github.com/prometheus/alertmanager/cmd/alertmanager",
                "amtool": "github.com/prometheus/alertmanager/cmd/amtool",
            },
            100,
        ),
        Program("loki", {"loki": "github.com/grafana/loki/v3/cmd/loki"}, 280),
        Program("jaeger", {"jaeger": "github.com/jaegertracing/jaeger/cmd/jaeger"}, 165),
        Program("sloth", {"sloth": "github.com/slok/sloth/cmd/sloth"}, 100),
        Program("compose", {"docker-compose": "github.com/docker/compose/v2/cmd"}, 95),
        Program("k6", {"k6": "go.k6.io/k6"}, 120),
        Program("actionlint", {"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"}, 20),
    )
}


def cache_key(program: Program, folder: Path, toolchain: str) -> str:
    """Name what a build depends on: sources and pins, flags, toolchain."""
    digest = hashlib.sha256(repr((program.packages, program.tags, FLAGS, toolchain)).encode())
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{program.name}-{digest.hexdigest()[:16]}"


def program_folder(settings: Settings, name: str) -> Path:
    """Return where the program's binaries are, or will be once it is built."""
    toolchain = ".".join(map(str, choose_toolchain().version))
    return settings.cache / "programs" / cache_key(PROGRAMS[name], FOLDER / name, toolchain)


def ensure_program(settings: Settings, name: str) -> Path:
    """Return the folder that holds the program's binaries, building them when they are not there yet.

    Raises Problem with the build's last lines when it fails.
    """
    target = program_folder(settings, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        message = f"Another `make up` is building {name}: waiting for it"
        with only_one(target.parent / f"{name}.lock", message, BUILD_LIMIT_S):
            if not target.exists():
                _build(PROGRAMS[name], FOLDER / name, find_go(settings), target)
    return target


def _build(program: Program, source: Path, go: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    log = target.with_name(f"{program.name}.log")
    started = time.monotonic()
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output, tempfile.TemporaryDirectory(prefix="gamepulse-patched-") as changed:
            folder = patched(source, go, Path(changed))
            for binary, package in program.packages.items():
                command = [str(go), "build", *FLAGS, "-tags", program.tags, "-o", str(temporary / binary), package]
                _run(program, command, folder, started, output.fileno(), target.parent)
        temporary.rename(target)
    except BuildFailed:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Problem(f"{program.name} could not be built. Its last lines, from {log}:\n{last}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remember(target.parent, program, time.monotonic() - started)


def patched(source: Path, go: Path, folder: Path) -> Path:
    """Where to build: `source`, or a copy of it in `folder` with the modules that patches change. A patch names its module first.

    Raises Problem when a patch does not fit any more: the pins have changed, and it may have become needless.
    """
    patches = sorted(source.glob("*.patch"))
    if not patches:
        return source
    copy = shutil.copytree(source, folder / "source")
    for patch in patches:
        name = patch.read_text().partition("\n")[0].removeprefix("Module: ")
        module = json.loads(_output(patch, [str(go), "mod", "download", "-json", name], copy))
        changed = copy / "patched" / name
        shutil.copytree(module["Dir"], changed, copy_function=shutil.copyfile)  # Go keeps its own read-only
        for path in [changed, *changed.rglob("*/")]:
            path.chmod(0o755)
        _output(patch, ["git", "apply", str(patch)], changed)
        _output(patch, [str(go), "mod", "edit", f"-replace={name}=./patched/{name}"], copy)
    return copy


def _output(patch: Path, command: list[str], folder: Path) -> str:
    # Ceiling: a repository around the folder would have git apply the patch to its own files.
    environ = os.environ | _ENVIRON | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Problem(f"{patch.name} cannot be applied: {' '.join(command[:3])} said: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class BuildFailed(Exception):
    """The compiler said no, or took longer than BUILD_LIMIT_S."""


def _run(program: Program, command: list[str], source: Path, started: float, output: int, cache: Path) -> None:
    """Run one build in a process group of its own, so that giving up stops the compilers too."""
    process = subprocess.Popen(command, cwd=source, env=os.environ | _ENVIRON, stdout=output, stderr=output, start_new_session=True)
    try:
        while process.poll() is None:
            _report(program, time.monotonic() - started, _expected(cache, program))
            if time.monotonic() - started > BUILD_LIMIT_S:
                raise BuildFailed
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1 if sys.stdout.isatty() else 15)
        if process.returncode:
            raise BuildFailed
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=10)


def _report(program: Program, elapsed_s: float, expected_s: int) -> None:
    line = f"Building {program.name} (once): {elapsed_s:.0f} s of about {expected_s} s"
    print(f"\r{line} " if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


def _expected(cache: Path, program: Program) -> int:
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads((cache / "seconds.json").read_text())[program.name])
    return program.seconds


def _remember(cache: Path, program: Program, elapsed_s: float) -> None:
    """Keep how long it took here: the estimate for the next time its pins change."""
    path = cache / "seconds.json"
    seconds = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(seconds | {program.name: max(round(elapsed_s), seconds.get(program.name, 0))}))
    print(f"{'\r' if sys.stdout.isatty() else ''}Built {program.name} in {elapsed_s:.0f} s" + " " * 30, flush=True)
