"""Builds the Go programs of the benchmark (the peers and the paced load), once, into the cache of the stack's programs.

`python -m bench.programs` checks their format (gofmt) and what go vet finds.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from stack.lock import only_one
from stack.programs import FLAGS
from stack.settings import read_settings
from stack.toolchain import choose_toolchain, find_go

HERE = Path(__file__).parent
PEERS, PACED = HERE / "peers" / "go", HERE / "paced"
BUILD_LIMIT_S = 600
ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def ensure_built(module: Path) -> Path:
    """The folder with the binaries of all main packages of a Go module, building them when they are not there yet.

    Raises CalledProcessError or TimeoutExpired when they cannot be built; the compiler says why.
    """
    settings = read_settings()
    target = settings.cache / "programs" / f"bench-{_digest(module)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with only_one(target.parent / "bench.lock", "Another benchmark is building its programs: waiting for it", BUILD_LIMIT_S):
        if not target.exists():
            print(f"Building {module.relative_to(HERE.parent)} (once, half a minute)", flush=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            temporary.mkdir()
            command = [str(find_go(settings)), "build", *FLAGS, "-o", f"{temporary}/", "./..."]
            try:
                subprocess.run(command, cwd=module, env=os.environ | ENVIRONMENT, check=True, timeout=BUILD_LIMIT_S)
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return target


def _digest(module: Path) -> str:
    """What a build depends on: sources and pins, flags, toolchain."""
    digest = hashlib.sha256(repr((FLAGS, choose_toolchain().version)).encode())
    for path in sorted(path for path in module.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(module)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def complaints(module: Path) -> str:
    """What gofmt and go vet say against a Go module; empty when nothing. Downloads only modules that this machine lacks."""
    go = find_go(read_settings())
    said = ""
    for command in ([str(go.resolve().with_name("gofmt")), "-l", "."], [str(go), "vet", "./..."]):
        done = subprocess.run(
            command, cwd=module, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False
        )
        said += done.stdout + (done.stderr if done.returncode else "")
    return said and f"{module.relative_to(HERE.parent)}:\n{said}"


if __name__ == "__main__":
    sys.exit("".join(map(complaints, (PEERS, PACED))) or None)
