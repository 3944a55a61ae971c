"""cdk-nag, cfn-lint and checkov find nothing in the templates but what is left so for a reason; a reason that nothing needs is an error, too."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.acknowledged import left
from deploy.config import read_config
from deploy.synth import NODE_OLDEST
from stack.settings import CHECKOUT, read_settings
from stack.web import node_command
from tests.deploy.conftest import PRODUCTION, STAGING
from tests.deploy.templates import Json, Templates

LOCK = Path(__file__).with_name("checkov.lock")
LIMIT_S = 300

# What cfn-lint finds and is left so.
LINTED = {"W3010": "the zones are the requirements'"}
# What checkov finds and is left so: of which rule, at what.
CHECKED = {
    ("CKV_AWS_107", "AWS::IAM::ManagedPolicy"): "sts:GetSessionToken gives back who already asks, but with the second factor",
    (
        "CKV_AWS_158",
        "AWS::Logs::LogGroup",
    ): "AWS encrypts logs with its own key, and ours hold no personal data (ARCHITECTURE.md, invariant 6)",
    ("CKV_AWS_18", "AWS::S3::Bucket"): "of the two buckets of access logs there are no access logs",
    ("CKV_AWS_260", "AWS::EC2::SecurityGroup"): "port 80 of the load balancer is answered with the way to 443 and nothing else",
}


@pytest.fixture(scope="module")
def folders(assembly: Path, staging: Templates, production: Templates, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each environment, with its templates."""
    assert staging  # so that the folder is filled
    folder = tmp_path_factory.mktemp("production-templates")
    for part, template in production.items():
        (folder / f"gamepulse-production-{part}.template.json").write_text(json.dumps(template))
    return {"staging": assembly, "production": folder}


def run(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=CHECKOUT, env=environment or os.environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def report(folder: Path) -> Json:
    """Of cdk-nag, about what was synthesised into a folder."""
    plugins: list[Json] = json.loads((folder / "validation-report.json").read_text())["pluginReports"]
    return next(one for one in plugins if one["pluginName"] == "AwsSolutions")


def test_cdk_nag_finds_what_is_acknowledged_and_all_of_that(assembly: Path, staging: Templates) -> None:
    """That nothing else is found, synthesising itself sees to."""
    assert staging
    nag = report(assembly)
    assert (nag["conclusion"], nag["violations"]) == ("success", [])
    found = {(one["acknowledgedAt"], one["ruleName"]) for one in nag["suppressedViolations"]}
    assert found == {(f"{one.stack}/{one.path}", f"AwsSolutions-{one.rule}") for one in left(read_config(STAGING))}


def test_every_acknowledgement_has_a_reason() -> None:
    for one in left(read_config(STAGING)) + left(read_config(PRODUCTION)):
        assert len(one.why) > 15, one


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


@pytest.mark.timeout(LIMIT_S)
def test_what_is_not_acknowledged_ends_synthesising(tmp_path: Path) -> None:
    environment = os.environ | {"JSII_NODE": str(node_command(read_settings().cache, NODE_OLDEST))}
    done = run([sys.executable, "-c", OPEN.format(folder=tmp_path)], environment)
    assert done.returncode and "ValidationFailed" in done.stderr
    assert {one["ruleName"] for one in report(tmp_path)["violations"]} == {"AwsSolutions-S10"}


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("region", ["ap-northeast-2", "us-east-1"])
def test_cfn_lint_finds_nothing_else(folders: dict[str, Path], region: str) -> None:
    files = [
        str(path)
        for folder in folders.values()
        for path in folder.glob("*.template.json")
        if ("-edge." in path.name) == (region == "us-east-1")
    ]
    done = run([str(Path(sys.executable).with_name("cfn-lint")), "--regions", region, "--format", "json", "--", *files])
    assert done.returncode in {0, 4}, done.stdout + done.stderr  # 4: warnings
    found = {one["Rule"]["Id"] for one in json.loads(done.stdout)}
    assert found == (set(LINTED) if region == "ap-northeast-2" else set()), done.stdout


def checkov() -> Path:
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


@pytest.mark.timeout(2 * LIMIT_S)
def test_checkov_finds_nothing_else(folders: dict[str, Path], tmp_path: Path) -> None:
    for environment, folder in folders.items():
        for path in folder.glob("*.template.json"):
            shutil.copy(path, tmp_path / f"{environment}-{path.name}")
    command = [
        str(checkov()),
        "--directory",
        str(tmp_path),
        "--framework",
        "cloudformation",
        "--skip-download",
        "--compact",
        "--quiet",
        "--output",
        "json",
    ]
    # Offline, and as it comes: without our variables and our home.
    done = run(command, {"PATH": os.defpath, "HOME": str(tmp_path), "LOG_LEVEL": "ERROR"})
    said = json.loads(done.stdout)
    assert said["summary"]["parsing_errors"] == 0 and said["summary"]["passed"] > 1_000
    assert {(one["check_id"], one["resource"].split(".")[0]) for one in said["results"]["failed_checks"]} == set(CHECKED)
