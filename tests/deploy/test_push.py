"""Which images may be deployed: what ECR's scan finds, and what of it is accepted. moto's ECR keeps images; its scans are always the same."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from deploy import findings, push
from deploy.account import Account
from deploy.config import IMAGES, REGION, read_config
from deploy.findings import ACCEPTED, Accepted, read_accepted, scan_of, stopping
from deploy.push import check_scan, is_pushed, push_images
from stack.settings import Problem
from tests.deploy.conftest import STAGING

TODAY = datetime.now(UTC).date()
VERSION = "0.1.0-abc"


class Frozen:
    """In the place of datetime: it stays TODAY, though midnight may pass meanwhile."""

    @staticmethod
    def now(_: object) -> datetime:
        return datetime.combine(TODAY, time(), UTC)


class Scans:
    """ECR that answers about scans what it is told to, one answer after the other, and about the rest what moto does."""

    def __init__(self, ecr: Any, *answers: Any) -> None:
        self.ecr, self.answers = ecr, list(answers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ecr, name)

    def describe_image_scan_findings(self, **_: Any) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def scan(status: str = "ACTIVE", more: str = "", *findings: tuple[str, str], **counts: int) -> Any:
    """As Inspector's. `findings`: CVE and severity."""
    for _, level in findings:
        counts[level] = counts.get(level, 0) + 1
    enhanced = [{"packageVulnerabilityDetails": {"vulnerabilityId": cve}, "severity": level} for cve, level in findings]
    found = {"findingSeverityCounts": counts, "enhancedFindings": enhanced}
    return {"imageScanStatus": {"status": status}, "imageScanFindings": found} | ({"nextToken": more} if more else {})


def accepted(cve: str, image: str = "loki", days: int = 1) -> Accepted:
    return Accepted(cve=cve, image=image, reason="it is not called", until=TODAY + timedelta(days=days))


@pytest.fixture
def ecr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """With all images of VERSION."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        ecr = boto3.client("ecr", region_name=REGION)
        for name in IMAGES:
            ecr.create_repository(repositoryName=f"gamepulse/{name}", imageTagMutability="IMMUTABLE")
            manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [{"digest": name}]}
            ecr.put_image(repositoryName=f"gamepulse/{name}", imageManifest=json.dumps(manifest), imageTag=VERSION)
        yield ecr


def test_image_that_is_there_is_not_pushed_again(ecr: Any) -> None:
    assert is_pushed(ecr, "gamepulse", VERSION)
    assert not is_pushed(ecr, "gamepulse", "0.1.0-def")


def test_scan_is_waited_for(ecr: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.findings.time.sleep", lambda _: None)
    missing = ecr.exceptions.ScanNotFoundException({"Error": {"Code": "ScanNotFoundException"}}, "DescribeImageScanFindings")
    check_scan(Scans(ecr, missing, scan("PENDING"), scan(LOW=2)), "loki", VERSION, [])
    assert "loki: scanned, {'LOW': 2}" in capsys.readouterr().out


def test_scan_that_is_not_done_stops_a_deployment(ecr: Any) -> None:
    with pytest.raises(Problem, match="UNSUPPORTED_IMAGE: Inspector must be on"):
        check_scan(Scans(ecr, scan("UNSUPPORTED_IMAGE")), "loki", VERSION, [])
    with pytest.raises(Problem, match="has not scanned loki"):
        check_scan(Scans(ecr, scan("PENDING")), "loki", VERSION, [], limit_s=0)


def test_all_pages_of_findings_are_read(ecr: Any) -> None:
    found = scan_of(
        Scans(ecr, scan("ACTIVE", "next", ("CVE-1", "HIGH"), HIGH=1), scan("ACTIVE", "", ("CVE-2", "HIGH"))), "loki", "1"
    )
    assert (found.severe, found.unnamed) == ({"CVE-1": "HIGH", "CVE-2": "HIGH"}, 0)
    basic = {"findings": [{"name": "CVE-3", "severity": "CRITICAL"}], "findingSeverityCounts": {"CRITICAL": 1}}
    found = scan_of(Scans(ecr, {"imageScanStatus": {"status": "COMPLETE"}, "imageScanFindings": basic}), "loki", "1")
    assert (found.severe, found.unnamed) == ({"CVE-3": "CRITICAL"}, 0)


@pytest.mark.parametrize("level", ["CRITICAL", "HIGH"])
def test_severe_findings_stop_a_deployment(ecr: Any, level: str) -> None:
    with pytest.raises(Problem, match=rf"of loki:{VERSION} finds {level} CVE-1\. .*accept it in deploy/accepted_findings\.toml"):
        check_scan(Scans(ecr, scan("ACTIVE", "", ("CVE-1", level), ("CVE-9", "MEDIUM"))), "loki", VERSION, [])
    assert not is_pushed(ecr, "loki", f"checked-{VERSION}")


def test_severe_findings_stop_the_next_try_too(ecr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images are there by then: nothing is pushed."""
    monkeypatch.setattr(push, "_push", lambda *_: pytest.fail("pushed"))
    monkeypatch.setattr(Account, "client", lambda *_: Scans(ecr, scan("ACTIVE", "", ("CVE-1", "CRITICAL"))))
    account = Account(read_config(STAGING | {"VERSION": VERSION}), session=None)
    for _ in range(2):
        with pytest.raises(Problem, match="finds CRITICAL CVE-1"):
            push_images(account)


def test_severe_finding_without_a_name_cannot_be_accepted(ecr: Any) -> None:
    with pytest.raises(Problem, match="finds 2 that it does not name"):
        check_scan(Scans(ecr, scan("ACTIVE", "", ("CVE-1", "HIGH"), HIGH=2)), "loki", VERSION, [accepted("CVE-1")])


def test_accepted_finding_stops_nothing_until_its_day(
    ecr: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "datetime", Frozen)
    found = ("CVE-1", "HIGH"), ("CVE-1", "HIGH")  # in two packages
    with pytest.raises(Problem, match=rf"finds HIGH CVE-1, which was accepted until {TODAY - timedelta(days=1)}\."):
        check_scan(Scans(ecr, scan("ACTIVE", "", *found)), "loki", VERSION, [accepted("CVE-1", days=-1)])
    with pytest.raises(Problem, match=r"finds HIGH CVE-1\."):
        check_scan(Scans(ecr, scan("ACTIVE", "", *found)), "loki", VERSION, [accepted("CVE-1", "jaeger")])
    check_scan(Scans(ecr, scan("ACTIVE", "", *found)), "loki", VERSION, [accepted("CVE-1", days=0)])
    assert f"loki: HIGH CVE-1 is accepted until {TODAY}: it is not called" in capsys.readouterr().out


def test_accepted_finding_that_is_gone_is_told(ecr: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check_scan(Scans(ecr, scan()), "loki", VERSION, [accepted("CVE-1"), accepted("CVE-2", "jaeger")])
    said = capsys.readouterr().out
    assert "loki: CVE-1 is not found any more: take it out of deploy/accepted_findings.toml" in said
    assert "CVE-2" not in said


def test_way_back_to_what_was_let_through_is_open(ecr: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever has been found since then."""
    check_scan(Scans(ecr, scan()), "loki", VERSION, [])
    later = Scans(ecr, scan("ACTIVE", "", ("CVE-1", "CRITICAL")))
    check_scan(later, "loki", VERSION, [])
    assert "loki: CRITICAL CVE-1: found since it was first deployed" in capsys.readouterr().out
    with pytest.raises(Problem, match="of jaeger:"):
        check_scan(later, "jaeger", VERSION, [])
    [image] = ecr.describe_images(repositoryName="gamepulse/loki")["imageDetails"]
    assert set(image["imageTags"]) == {VERSION, f"checked-{VERSION}"}


def test_repository_s_list_is_right() -> None:
    assert {one.image for one in read_accepted(ACCEPTED)} <= set(IMAGES)


ENTRY = '[[finding]]\ncve = "CVE-1"\nimage = "loki"\nreason = "it is not called"\nuntil = 2026-12-31\n'


def test_list_is_read(tmp_path: Path) -> None:
    (tmp_path / "list.toml").write_text(ENTRY)
    [one] = read_accepted(tmp_path / "list.toml")
    assert one == Accepted(cve="CVE-1", image="loki", reason="it is not called", until=date(2026, 12, 31))
    found = scan_of(Scans(None, scan("ACTIVE", "", ("CVE-1", "HIGH"))), "loki", "1")
    assert stopping("loki", found, [one], date(2026, 12, 31))[0] == []
    assert stopping("loki", found, [one], date(2027, 1, 1))[0] == ["HIGH CVE-1, which was accepted until 2026-12-31"]


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ('reason = "it is not called"\n', "", "must have cve, image and reason"),
        ('"it is not called"', '""', "must have cve, image and reason"),
        ("2026-12-31", '"soon"', "until as a date"),
        ('"loki"', '"lokki"', "there is no image 'lokki'"),
        ("until", "note = 1\nuntil", "nothing else"),
        ("[[finding]]", "[[finding]", "list.toml: "),
    ],
)
def test_list_that_is_wrong_says_what(tmp_path: Path, was: str, becomes: str, told: str) -> None:
    (tmp_path / "list.toml").write_text(ENTRY.replace(was, becomes))
    with pytest.raises(Problem, match=told):
        read_accepted(tmp_path / "list.toml")
