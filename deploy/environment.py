"""The variables that describe an environment: deploy/environments/<ENV>.env, and the version of this checkout."""

import subprocess
from pathlib import Path

from gamepulse import __version__
from stack.settings import CHECKOUT, Problem

FOLDER = Path(__file__).with_name("environments")
OPTIONAL = {"DATABASE_SNAPSHOT": "", "SECRETS": "1"}
"""Lines that may be missing: never taken from the environment of whoever deploys."""
NAMES = tuple(path.stem for path in sorted(FOLDER.glob("*.env")))


def read_environment(name: str, version: str | None = None) -> dict[str, str]:
    """What deploy/app.py is told. `version`: else the checkout's, which must have been committed. Raises Problem."""
    path = FOLDER / f"{name}.env"
    if not path.exists():
        raise Problem(f"ENV is {name!r}, and must be one of {', '.join(NAMES)}: the files in {FOLDER.relative_to(CHECKOUT)}")
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return OPTIONAL | {key: value for key, _, value in pairs} | {"ENV": name, "VERSION": version or version_of_checkout()}


def version_of_checkout() -> str:
    """0.1.0-<commit>, with .changed behind it when something is not committed."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return f"{__version__}-{commit or 'unknown'}{'.changed' if _git('status', '--porcelain') else ''}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip()
