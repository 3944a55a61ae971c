"""The programs that look through the templates, as test_compliance.py asks them. Each takes long: they run beside other tests (conftest.py)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from deploy.synth import NODE_OLDEST
from stack.settings import CHECKOUT, read_settings
from stack.web import node_command

LOCK = Path(__file__).with_name("checkov.lock")
LIMIT_S = 300

type Done = subprocess.CompletedProcess[str]
type FolderOf = Callable[[str], Path]
"""Of an environment's templates; it waits for them."""
type Checker = Callable[[FolderOf, Path], Any]
"""Gets a folder of its own besides."""
ENVIRONMENTS = ("staging", "production")


def run(command: list[str], environment: Mapping[str, str] | None = None) -> Done:
    return subprocess.run(
        command, cwd=CHECKOUT, env=environment or os.environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def cfn_lint(folder_of: FolderOf, _scratch: Path, *, region: str) -> Done:
    """On the templates that are deployed to a region."""
    files = [
        str(path)
        for folder in map(folder_of, ENVIRONMENTS)
        for path in folder.glob("*.template.json")
        if ("-edge." in path.name) == (region == "us-east-1")
    ]
    return run([str(Path(sys.executable).with_name("cfn-lint")), "--regions", region, "--format", "json", "--", *files])


def checkov(folder_of: FolderOf, scratch: Path) -> Done:
    for path in (path for folder in map(folder_of, ENVIRONMENTS) for path in folder.glob("*.template.json")):
        shutil.copy(path, scratch)
    options = ["--framework", "cloudformation", "--skip-download", "--compact", "--quiet", "--output", "json"]
    # Offline, and as it comes: without our variables and our home.
    return run(
        [str(_checkov()), "--directory", str(scratch), *options],
        {"PATH": os.defpath, "HOME": str(scratch), "LOG_LEVEL": "ERROR"},
    )


def _checkov() -> Path:
    """The program, installed aside: it wants an older boto3 than ours."""
    folder = read_settings().cache / "checkov"
    program, installed = folder / "bin" / "checkov", folder / "installed.lock"
    if not installed.exists() or installed.read_text() != LOCK.read_text():
        print("Installing checkov aside (190 MB)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        uv = [sys.executable, "-m", "uv"]
        for command in (
            [*uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
            [*uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(folder / "bin" / "python"), str(LOCK)],
        ):
            done = run(command)
            assert done.returncode == 0, done.stderr
        shutil.copy(LOCK, installed)
    return program


OPEN = """
from aws_cdk import App, Stack
from aws_cdk.aws_s3 import Bucket
from deploy.acknowledged import Left
from deploy.app import CONTEXT, check
app = App(context=CONTEXT, outdir=r"{folder}")
Bucket(Stack(app, "stack"), "Bucket")
check(app, [Left("stack", "Bucket", "S1", "made up, for this test")])
app.synth()
"""


def unacknowledged(_folder_of: FolderOf, scratch: Path) -> tuple[Done, Path]:
    """Synthesises a bucket without access logs, and says where the report is."""
    environment = os.environ | {"JSII_NODE": str(node_command(read_settings().cache, NODE_OLDEST))}
    return run([sys.executable, "-c", OPEN.format(folder=scratch)], environment), scratch


CHECKERS: dict[str, Checker] = {
    "unacknowledged": unacknowledged,
    "linted_home": partial(cfn_lint, region="ap-northeast-2"),
    "linted_edge": partial(cfn_lint, region="us-east-1"),
    "checked": checkov,
}
