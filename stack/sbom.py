"""The list of what is in the image, as CycloneDX 1.6: Python, its packages, the page's, the libraries of the base."""

import json
import platform
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_licenses = LicenseFactory()


def python_packages(folders: Iterable[Path]) -> Iterator[Component]:
    for found in distributions(path=[str(folder) for folder in folders]):
        said = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
        yield component(
            "pypi", found.name.lower().replace("_", "-"), found.version, said.strip().splitlines()[0] if said.strip() else ""
        )


def page_packages(lock: Path) -> Iterator[Component]:
    """Those that the page carries; the others only build it."""
    for path, found in json.loads(lock.read_text())["packages"].items():
        if path and not found.get("dev"):
            yield component("npm", path.removeprefix("node_modules/"), found["version"], found.get("license", ""))


def base_packages(files: Iterable[Path]) -> Iterator[Component]:
    """Debian's packages that files of the base belong to, and Python where it is not one of these."""
    names = set()
    for path in files:
        for candidate in (path, path.resolve(), Path(str(path).removeprefix("/usr"))):
            done = subprocess.run(["dpkg", "-S", str(candidate)], capture_output=True, text=True, check=False)
            owners = [line.partition(":")[0] for line in done.stdout.splitlines() if not line.startswith("diversion ")]
            if owners:
                names.add(owners[0])
                break
    for name in sorted(names):
        version = subprocess.run(["dpkg-query", "-Wf", "${Version}", name], capture_output=True, text=True, check=True).stdout
        yield component("deb", name, version, "", namespace="debian")
    yield component("generic", "python", platform.python_version(), "Python-2.0.1")


def component(kind: str, name: str, version: str, license_: str, namespace: str | None = None) -> Component:
    purl = PackageURL(type=kind, namespace=namespace, name=name, version=version)
    return Component(
        name=name,
        version=version,
        purl=purl,
        bom_ref=purl.to_string(),
        type=ComponentType.LIBRARY,
        licenses=[_licenses.make_from_string(license_)] if license_ else None,
    )


def write_sbom(target: Path, packages: list[Path], libraries: Iterable[Path], page: Path, epoch: int) -> None:
    """Write the list; the same content gives the same file."""
    components = [*python_packages(packages), *page_packages(page), *base_packages(libraries)]
    [service] = [one for one in components if one.name == "gamepulse"]
    bom = Bom(components=[one for one in components if one is not service])
    bom.metadata.component = service
    bom.register_dependency(service, bom.components)
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    bom.serial_number = uuid5(NAMESPACE_URL, " ".join(sorted(str(one.purl) for one in components)))
    target.parent.mkdir(parents=True)
    target.write_text(JsonV1Dot6(bom).output_as_string(indent=1))
