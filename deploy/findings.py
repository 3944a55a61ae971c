"""What ECR's scan finds, and which of it is accepted: deploy/accepted_findings.toml."""

import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from deploy.config import IMAGES, NAME
from stack.settings import CHECKOUT, Problem

ACCEPTED = Path(__file__).with_name("accepted_findings.toml")
SCAN_LIMIT_S = 600
STOPS = ("CRITICAL", "HIGH")


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A severe finding of one image that stops no deployment, up to and including `until`."""

    cve: str
    image: str
    reason: str
    until: date


@dataclass(frozen=True)
class Found:
    """What the scan of one image has found: how many of each severity, and of each severe one its CVE and severity."""

    counts: dict[str, int]
    findings: list[tuple[str, str]]
    """A CVE is there as often as there are packages that have it."""

    @property
    def severe(self) -> dict[str, str]:
        return dict(self.findings)

    @property
    def unnamed(self) -> int:
        """Severe ones that are counted and not named: they cannot be accepted."""
        return max(0, sum(self.counts.get(level, 0) for level in STOPS) - len(self.findings))


def read_accepted(path: Path = ACCEPTED) -> list[Accepted]:
    """Raises Problem, naming the entry that is wrong."""
    wanted = {"cve": str, "image": str, "reason": str, "until": date}
    try:
        entries = tomllib.loads(path.read_text()).get("finding", [])
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"{path.name}: {error}") from None
    for entry in entries:
        if {name: type(value) for name, value in entry.items()} != wanted or not all(entry.values()):
            raise Problem(f"{path.name}: {entry} must have cve, image and reason as text, until as a date, and nothing else")
        if entry["image"] not in IMAGES:
            raise Problem(f"{path.name}: {entry['cve']}: there is no image {entry['image']!r}")
    return [Accepted(**entry) for entry in entries]


def scan_of(ecr: Any, name: str, version: str, limit_s: float = SCAN_LIMIT_S) -> Found:
    """As soon as ECR has scanned the image. Raises Problem when it does not."""
    deadline = time.monotonic() + limit_s
    which = {"repositoryName": f"{NAME}/{name}", "imageId": {"imageTag": version}}
    while True:
        try:
            said = ecr.describe_image_scan_findings(**which)
            status = said["imageScanStatus"]["status"]
        except ecr.exceptions.ScanNotFoundException:
            said, status = {}, "PENDING"
        if status in {"COMPLETE", "ACTIVE"}:
            break
        if status not in {"PENDING", "IN_PROGRESS"}:
            raise Problem(f"ECR's scan of {name} says {status}: Inspector must be on in the account (docs/deploy.md).")
        if time.monotonic() > deadline:
            raise Problem(f"ECR has not scanned {name} within {limit_s} s.")
        time.sleep(min(5, limit_s / 10))
    counts, findings = said.get("imageScanFindings", {}).get("findingSeverityCounts", {}), _severe(said)
    while following := said.get("nextToken"):
        said = ecr.describe_image_scan_findings(**which, nextToken=following)
        findings += _severe(said)
    return Found(counts, findings)


def _severe(said: Any) -> list[tuple[str, str]]:
    found = said.get("imageScanFindings", {})
    named = [(one["name"], one["severity"]) for one in found.get("findings", [])]
    named += [  # Inspector's
        (one["packageVulnerabilityDetails"]["vulnerabilityId"], one["severity"])
        for one in found.get("enhancedFindings", [])
        if "packageVulnerabilityDetails" in one
    ]
    return [(cve, level) for cve, level in named if level in STOPS]


def stopping(name: str, found: Found, accepted: Iterable[Accepted], today: date | None = None) -> tuple[list[str], list[str]]:
    """What stops a deployment of the image, and what people are to be told besides, each as a line."""
    today = today or datetime.now(UTC).date()
    own = {one.cve: one for one in accepted if one.image == name}
    stops, tells = [], []
    for cve, level in sorted(found.severe.items()):
        if cve not in own:
            stops.append(f"{level} {cve}")
        elif own[cve].until < today:
            stops.append(f"{level} {cve}, which was accepted until {own[cve].until}")
        else:
            tells.append(f"{name}: {level} {cve} is accepted until {own[cve].until}: {own[cve].reason}")
    if found.unnamed:
        stops.append(f"{found.unnamed} that it does not name")
    where = ACCEPTED.relative_to(CHECKOUT)
    tells += [f"{name}: {cve} is not found any more: take it out of {where}" for cve in sorted(own.keys() - found.severe.keys())]
    return stops, tells
