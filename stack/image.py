"""Makes the roots of the images, in the Dockerfile's build stage: `python -m stack.image`. Nothing that is not needed gets in."""

import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from py_compile import PycInvalidationMode

from stack.sbom import write_sbom

BUILD = Path("/build")
RUNTIME, SERVICE, OPERATIONS, DEMO = (Path("/root") / name for name in ("runtime", "service", "operations", "demo"))
EMPTY = Path("/root/empty")
PACKAGES = "opt/gamepulse"
UNUSED: tuple[str, ...] = (
    "__pycache__",
    "*.pyi",
    "*.a",
    "site-packages",
    "dist-packages",
    "config-3*",
    "EXTERNALLY-MANAGED",
    "test",
    "tests",
    "venv",
)
UNUSED += ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "tkinter", "_tkinter*", "turtledemo")
SOURCES = ("__pycache__", "*.pyi", "*.c", "*.h", "*.pyx", "*.pxd", "tests", ".lock")
NOT_IMPORTED = ("faker", "faker-*", "f2py", "include", "bin", "testing")
"""Of the packages: made-up data (for Litestar's examples, which are off), parts for compilers, commands, test tools."""
OF_THE_INSTALLER = ("RECORD", "uv_cache.json", "direct_url.json")
"""When it was installed, and a list with the hash of that: other in each build."""
AWS = ("ecs", "s3", "secretsmanager", "*.json")
"""What `operations` asks of botocore's descriptions of services; the service needs none, to sign a token."""
ROOTS = "docker/rds-roots.pem"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# glibc opens it by its name when a thread ends.
BY_NAME = ("libgcc_s.so.1",)
USERS = {"root": 0, "gamepulse": 10100, "demo": 10101}


def copy_python(root: Path) -> Path:
    """The interpreter and its standard library where they are in the base; /usr/bin/python leads there."""
    binary = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    copy_file(binary, root)
    shutil.copytree(library, inside(root, library), ignore=shutil.ignore_patterns(*UNUSED))
    link = root / "usr/bin/python"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(binary)
    return binary


def inside(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def copy_file(path: Path, root: Path) -> None:
    """To the same place below `root`; a link as what it leads to, its folders as they really are."""
    target = inside(root, path.parent.resolve() / path.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def libraries_of(binaries: Iterable[Path]) -> set[Path]:
    """The shared libraries of the base that they load, as the dynamic linker says; those that wheels bring are beside them."""
    found = set()
    for binary in binaries:
        said = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False).stdout
        if "not found" in said:
            raise SystemExit(f"{binary} lacks a library:\n{said}")
        found |= {Path(os.path.normpath(path)) for path in re.findall(r"(/\S+) \(0x", said)}
    return {path for path in found if not path.is_relative_to(BUILD)}


def binaries_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and is_elf(path))


def copy_libraries(root: Path, binaries: Iterable[Path]) -> set[Path]:
    """All libraries of the binaries, and the links by which the dynamic linker is found."""
    libraries = libraries_of(binaries)
    folders = {path.parent for path in libraries}
    libraries |= {folder / name for folder in folders for name in BY_NAME if (folder / name).exists()}
    for path in libraries:
        copy_file(path, root)
    for name in ("lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    return libraries


def copy_settings(root: Path) -> None:
    """What the C library and TLS read, and a folder for what is mounted as a tmpfs."""
    etc = root / "etc"
    etc.mkdir(parents=True)
    (etc / "passwd").write_text("".join(f"{name}:x:{number}:{number}::/:/nonexistent\n" for name, number in USERS.items()))
    (etc / "group").write_text("".join(f"{name}:x:{number}:\n" for name, number in USERS.items()))
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    copy_file(CERTIFICATES, root)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)  # mkdir's mode is without what umask takes


def compile_python(root: Path) -> None:
    """Compile what is there, so that a start does not: with hashes instead of times, so that it is the same each time."""
    mode = PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(
        root, quiet=1, stripdir=str(root), prependdir="/", invalidation_mode=mode, workers=0, maxlevels=30
    ):
        raise SystemExit(f"{root} could not be compiled")


def set_times(root: Path, epoch: int) -> None:
    """The same time, and rights that do not depend on who builds, for everything."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink() and path.name != "tmp":
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def lay_out(root: Path, parts: dict[str, str], ignore: tuple[str, ...] = ()) -> None:
    """Copy folders of the build stage, each to its place."""
    for source, target in parts.items():
        shutil.copytree(BUILD / source, root / target, ignore=shutil.ignore_patterns(*SOURCES, *ignore), dirs_exist_ok=True)


def copy_descriptions() -> None:
    """Of the services of AWS that `operations` speaks to."""
    source, target = (root / "botocore/data" for root in (BUILD / "packages", OPERATIONS / PACKAGES))
    target.mkdir(parents=True)
    for path in (path for name in AWS for path in source.glob(name)):
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target / path.name)


def main() -> None:
    """Make /root/runtime, /root/service, /root/operations and /root/demo."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    binary = copy_python(RUNTIME)
    lay_out(RUNTIME, {"packages": PACKAGES}, NOT_IMPORTED)
    shutil.rmtree(RUNTIME / PACKAGES / "botocore/data")
    libraries = copy_libraries(
        RUNTIME, [binary, *binaries_in(inside(RUNTIME, Path(sysconfig.get_path("stdlib")))), *binaries_in(BUILD / "packages")]
    )
    copy_settings(RUNTIME)
    lay_out(SERVICE, {"service": PACKAGES}, ("bin", *OF_THE_INSTALLER))
    (SERVICE / "etc/ssl").mkdir(parents=True)
    shutil.copyfile(BUILD / ROOTS, SERVICE / "etc/ssl/rds-roots.pem")
    lay_out(OPERATIONS, {"aws": PACKAGES, "operations": f"{PACKAGES}/operations"}, ("bin", "examples", *OF_THE_INSTALLER))
    copy_descriptions()
    EMPTY.mkdir()
    lay_out(DEMO, {"demo": "opt/demo", "stack": "opt/demo/stack", "data": "opt/demo/data"})
    write_sbom(
        SERVICE / "usr/share/gamepulse/sbom.cdx.json",
        [RUNTIME / PACKAGES, SERVICE / PACKAGES],
        {binary, *libraries},
        BUILD / "web/package-lock.json",
        epoch,
    )
    for root in (RUNTIME, SERVICE, OPERATIONS, DEMO):
        compile_python(root)
        set_times(root, epoch)


if __name__ == "__main__":
    main()
