"""cdk-nag, cfn-lint and checkov find nothing in the templates but what is left so for a reason; a reason that nothing needs is an error, too."""

import json
from pathlib import Path

import pytest

from deploy.acknowledged import left
from deploy.config import read_config
from tests.deploy.checkers import LIMIT_S, Done
from tests.deploy.conftest import PRODUCTION, STAGING, Beside
from tests.deploy.templates import Json, Templates

pytestmark = pytest.mark.timeout(2 * LIMIT_S)

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


@pytest.fixture
def unacknowledged(beside: Beside) -> tuple[Done, Path]:
    found: tuple[Done, Path] = beside.of("unacknowledged")
    return found


@pytest.fixture
def linted_home(beside: Beside) -> Done:
    found: Done = beside.of("linted_home")
    return found


@pytest.fixture
def linted_edge(beside: Beside) -> Done:
    found: Done = beside.of("linted_edge")
    return found


@pytest.fixture
def checked(beside: Beside) -> Done:
    found: Done = beside.of("checked")
    return found


def test_what_is_not_acknowledged_ends_synthesising(unacknowledged: tuple[Done, Path]) -> None:
    done, folder = unacknowledged
    assert done.returncode and "ValidationFailed" in done.stderr
    assert {one["ruleName"] for one in report(folder)["violations"]} == {"AwsSolutions-S10"}


def lints(done: Done) -> set[str]:
    assert done.returncode in {0, 4}, done.stdout + done.stderr  # 4: warnings
    return {one["Rule"]["Id"] for one in json.loads(done.stdout)}


def test_cfn_lint_finds_nothing_else(linted_home: Done, linted_edge: Done) -> None:
    assert lints(linted_home) == set(LINTED), linted_home.stdout
    assert lints(linted_edge) == set(), linted_edge.stdout


def test_checkov_finds_nothing_else(checked: Done) -> None:
    said = json.loads(checked.stdout)
    assert said["summary"]["parsing_errors"] == 0 and said["summary"]["passed"] > 1_000
    assert {(one["check_id"], one["resource"].split(".")[0]) for one in said["results"]["failed_checks"]} == set(CHECKED)
