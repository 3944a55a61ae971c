"""Copies of Prometheus' data, which lies on its task's disk and goes with the task, to a disk that stays (EFS)."""

import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path

EVERY_S = 3600
AGAIN_S = 60
"""After one that failed."""
KEPT = 2
API_TIMEOUT_S = 300
CLOSED_WITHIN_S = 30
"""Prometheus closes its data when it ends; longer is not waited for that."""
_LOOK_EVERY_S = 0.2
_WHOLE = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]+")  # as Prometheus names its snapshots: the latest sorts last
_HALF = ".half"
_NOT_DATA = {"lock", "queries.active", "snapshots", "lost+found"}

type Say = Callable[[str], object]


class Failed(Exception):
    """It could not be done, and nothing half-done is left that could be taken for whole."""


def newest(copies: Path) -> Path | None:
    """The latest whole copy."""
    return next(reversed(_whole(copies)), None) if copies.is_dir() else None


def _whole(copies: Path) -> list[Path]:
    """From the oldest to the latest. Their names tell seconds."""
    found = (path for path in copies.iterdir() if _WHOLE.fullmatch(path.name))
    return sorted(found, key=lambda path: (path.name.partition("-")[0], path.stat().st_mtime_ns))


def new_name() -> str:
    """Later than all that there are."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(8)}"


def taken_at(copy: Path) -> datetime:
    return datetime.strptime(copy.name.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def keep_taking(tsdb: Path, copies: Path, address: str, say: Say, every_s: float = EVERY_S) -> None:
    """Take a copy every hour until SIGTERM, and then the last. Raises Failed when that one fails.

    Prometheus is to be stopped before this is: then the last copy has everything.
    """
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    say(f"a copy is taken every {every_s:.0f} s")
    due_s = every_s
    while not stopped.wait(due_s):
        try:
            take(tsdb, copies, address, say)
            due_s = every_s
        except Failed as error:
            say(f"no copy was taken, and will be in {AGAIN_S} s: {error}")
            due_s = min(AGAIN_S, every_s)
    take_last(tsdb, copies, address, say)


def take(tsdb: Path, copies: Path, address: str, say: Say) -> None:
    """Have Prometheus make a snapshot (hard links in its own folder), copy it, and remove it there. Raises Failed."""
    name = _snapshot(address)
    try:
        _copy(tsdb / "snapshots" / name, copies, name, set(), say)
    finally:
        shutil.rmtree(tsdb / "snapshots" / name, ignore_errors=True)


def take_last(tsdb: Path, copies: Path, address: str, say: Say) -> None:
    """Of a Prometheus that has ended: its folder, with the log of what is in no block yet. Of one that answers: as `take`."""
    if _answers(address):
        say("Prometheus answers: what it takes from now on is not in the last copy")
        take(tsdb, copies, address, say)
        return
    with _closed(tsdb):
        if is_empty(tsdb):
            say("there is no data to copy")
            return
        _copy(tsdb, copies, new_name(), _NOT_DATA, say)


def restore(tsdb: Path, copies: Path, say: Say) -> None:
    """Put the latest copy into a folder without data; before Prometheus starts. Raises Failed."""
    half = tsdb / _HALF
    if half.exists():  # killed in the midst of this: Prometheus has not run since
        for path in tsdb.iterdir():
            _remove(path)
    if not is_empty(tsdb):
        say("there is data: nothing is restored")
        return
    copy = newest(copies)
    if copy is None:
        say("there is no copy: Prometheus begins anew")
        return
    _guarded(lambda: _lay_in(copy, tsdb, half), "restored")
    say(f"restored {copy.name}, taken {datetime.now(UTC) - taken_at(copy)} ago")


def is_empty(tsdb: Path) -> bool:
    return not {path.name for path in tsdb.iterdir()} - _NOT_DATA


def lay_down(copies: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """A new copy, whole or not at all: `fill` puts its files into a folder, which then gets its name. Raises Failed.

    What was left of others that were killed goes, and of the whole ones all but the latest.
    """

    def lay() -> None:
        for path in copies.glob(f".*{_HALF}"):
            _remove(path)
        half = copies / f".{name}{_HALF}"
        half.mkdir()
        fill(half)
        for folder in (half, *(path for path in half.rglob("*") if path.is_dir())):
            _sync(folder)
        half.rename(copies / name)
        _sync(copies)
        for path in _whole(copies)[:-KEPT]:
            _remove(path)

    _guarded(lay, "written")
    return copies / name


def _copy(source: Path, copies: Path, name: str, without: set[str], say: Say) -> None:
    before, started = newest(copies), time.monotonic()
    written = [0, 0]

    def fill(half: Path) -> None:
        for path in sorted(path for path in source.rglob("*") if path.relative_to(source).parts[0] not in without):
            target = half / path.relative_to(source)
            if path.is_dir():
                target.mkdir()
            elif before is not None and _is_same(path, before / path.relative_to(source)):
                os.link(before / path.relative_to(source), target)  # a block never changes: it is there once
            else:
                copy_file(path, target)
                written[0] += 1
                written[1] += path.stat().st_size

    lay_down(copies, name, fill)
    say(f"copied {name}: {written[0]} files, {written[1] / 1e6:.1f} MB new, in {time.monotonic() - started:.1f} s")


def _is_same(path: Path, before: Path) -> bool:
    """As rsync sees it: of the same size and time."""
    try:
        one, other = path.stat(), before.stat()
    except OSError:
        return False
    return (one.st_size, int(one.st_mtime)) == (other.st_size, int(other.st_mtime))


def copy_file(source: Path, target: Path) -> None:
    """With its time, and on the disk when this returns."""
    shutil.copy2(source, target)
    _sync(target)


def _lay_in(copy: Path, tsdb: Path, half: Path) -> None:
    shutil.copytree(copy, half, copy_function=lambda one, other: copy_file(Path(one), Path(other)))
    for path in half.iterdir():
        path.rename(tsdb / path.name)
    _sync(tsdb)
    half.rmdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _guarded(do: Callable[[], object], what: str) -> None:
    try:
        do()
    except (OSError, shutil.Error) as error:
        raise Failed(f"it could not be {what}: {error}") from error


class _closed:  # noqa: N801 — a context
    """Holds the lock that Prometheus has on its folder while it runs. Raises Failed when it does not let go."""

    def __init__(self, tsdb: Path) -> None:
        self._path = tsdb / "lock"

    def __enter__(self) -> None:
        self._file = self._path.open("a")
        deadline = time.monotonic() + CLOSED_WITHIN_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._file.close()
                    raise Failed(f"Prometheus neither answers nor has closed its data within {CLOSED_WITHIN_S} s") from None
                time.sleep(_LOOK_EVERY_S)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _answers(address: str) -> bool:
    try:
        with closing(HTTPConnection(address, timeout=3)) as connection:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False


def _snapshot(address: str) -> str:
    """The name of a new snapshot."""
    try:
        with closing(HTTPConnection(address, timeout=API_TIMEOUT_S)) as connection:
            connection.request("POST", "/api/v1/admin/tsdb/snapshot")
            answer = json.loads(connection.getresponse().read(100_000))
    except (OSError, HTTPException, ValueError) as error:
        raise Failed(f"Prometheus does not answer ({type(error).__name__})") from error
    name = answer.get("data", {}).get("name", "")
    if not _WHOLE.fullmatch(name):
        raise Failed(f"Prometheus makes no snapshot: {answer.get('error', name)}")
    return str(name)


def is_older(copy: Path, hours: float) -> bool:
    return datetime.now(UTC) - taken_at(copy) > timedelta(hours=hours)
