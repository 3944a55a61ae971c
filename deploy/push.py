"""Builds the images and pushes them to ECR; what its scan finds stops a deployment."""

import base64
import os
import shutil
import subprocess
from typing import Any

from deploy.account import Account, tell
from deploy.config import IMAGES, NAME
from deploy.findings import ACCEPTED, SCAN_LIMIT_S, Accepted, read_accepted, scan_of, stopping
from stack.settings import CHECKOUT, Problem

DOCKERFILES = dict.fromkeys(IMAGES, "docker/Dockerfile") | dict.fromkeys(("gamepulse", "operations"), "Dockerfile")
SBOM_IN_IMAGE, SBOM = "/usr/share/gamepulse/sbom.cdx.json", CHECKOUT / "sbom.cdx.json"
BUILD_LIMIT_S = 1800
CHECKED = "checked-"
"""Before the version: the tag of what the scan has let through."""


def push_images(account: Account) -> None:
    """All that this version does not have there yet: tags cannot be moved, so what is there is right. Raises Problem.

    Also when a scan has found something severe that is not accepted, in a version that has not been let through before.
    """
    ecr, version = account.client("ecr"), account.config.version
    accepted = read_accepted()
    missing = [name for name in IMAGES if not is_pushed(ecr, name, version)]
    if missing:
        _push(ecr, missing, version)
    # Also of those that were there: the try that pushed them may have ended here.
    for name in IMAGES:
        check_scan(ecr, name, version, accepted)


def _push(ecr: Any, missing: list[str], version: str) -> None:
    registry = _sign_in(ecr)
    for number, name in enumerate(missing, 1):
        image = f"{registry}/{NAME}/{name}:{version}"
        tell(f"Image {number} of {len(missing)}: {name}")
        arguments = ["--file", DOCKERFILES[name], "--target", name, "--platform", "linux/amd64", "--tag", image]
        arguments += ["--build-arg", f"VERSION={version}", "--build-arg", f"REVISION={version.rpartition('-')[2]}"]
        _engine("build", *arguments, ".")
        _engine("push", "--quiet", image)
    _keep_sbom(f"{registry}/{NAME}/gamepulse:{version}")


def is_pushed(ecr: Any, name: str, version: str) -> bool:
    try:
        return bool(ecr.describe_images(repositoryName=f"{NAME}/{name}", imageIds=[{"imageTag": version}])["imageDetails"])
    except ecr.exceptions.ImageNotFoundException:
        return False


def check_scan(ecr: Any, name: str, version: str, accepted: list[Accepted], limit_s: float = SCAN_LIMIT_S) -> None:
    """Wait for ECR's scan. Raises Problem when it finds something severe that is not accepted, or does not end.

    An image that was let through once always is, or there would be no way back to it: what is found since then is told.
    """
    found = scan_of(ecr, name, version, limit_s)
    stops, tells = stopping(name, found, accepted)
    for line in tells:
        tell(line)
    if stops and is_pushed(ecr, name, CHECKED + version):
        tell(f"{name}: {', '.join(stops)}: found since it was first deployed")
    elif stops:
        raise Problem(
            f"ECR's scan of {name}:{version} finds {', '.join(stops)}. Take newer bases (docker/Dockerfile), "
            f"or accept it in {ACCEPTED.relative_to(CHECKOUT)}, which says how."
        )
    else:
        _note_checked(ecr, name, version)
        tell(f"{name}: scanned, {found.counts or 'nothing found'}")


def _note_checked(ecr: Any, name: str, version: str) -> None:
    """By a second tag of the same image, which cannot be moved either."""
    if is_pushed(ecr, name, CHECKED + version):
        return
    [image] = ecr.batch_get_image(repositoryName=f"{NAME}/{name}", imageIds=[{"imageTag": version}])["images"]
    kind = {"imageManifestMediaType": image["imageManifestMediaType"]} if image.get("imageManifestMediaType") else {}
    ecr.put_image(repositoryName=f"{NAME}/{name}", imageManifest=image["imageManifest"], imageTag=CHECKED + version, **kind)


def _keep_sbom(image: str) -> None:
    """What is in the service's image, out of it."""
    made = _engine("create", image).strip()
    try:
        _engine("cp", f"{made}:{SBOM_IN_IMAGE}", str(SBOM))
    finally:
        _engine("rm", made)


def _sign_in(ecr: Any) -> str:
    """The registry's address."""
    [answer] = ecr.get_authorization_token()["authorizationData"]
    user, _, password = base64.b64decode(answer["authorizationToken"]).decode().partition(":")
    registry = str(answer["proxyEndpoint"]).removeprefix("https://")
    _engine("login", "--username", user, "--password-stdin", registry, given=password)
    return registry


def _engine(*arguments: str, given: str | None = None) -> str:
    engine = os.environ.get("DOCKER") or shutil.which("docker")
    if engine is None:
        raise Problem("Docker is needed to build the images, and is not on the PATH.")
    done = subprocess.run(
        [engine, *arguments], cwd=CHECKOUT, input=given, stdout=subprocess.PIPE, text=True, timeout=BUILD_LIMIT_S, check=False
    )
    if done.returncode:
        raise Problem(f"`docker {arguments[0]}` failed.")
    return done.stdout
