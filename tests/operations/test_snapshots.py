"""Prometheus' data outlives its task, its disk, and a kill at any moment. Prometheus is the real one; moto stands for S3."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from boto3.s3.transfer import TransferConfig

from operations import aws, backup, snapshots
from stack.programs import ensure_program
from stack.settings import CHECKOUT, read_settings
from tests.awake import awake_s
from tests.conftest import free_port, wait_for
from tests.operations.conftest import operate

pytestmark = pytest.mark.timeout(3600)  # the first time it may have to build the program
METRIC = "prometheus_http_requests_total"


class Prometheus:
    """Asks itself, twice a second."""

    def __init__(self, folder: Path) -> None:
        self.tsdb, self.port = folder / "tsdb", free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._file = folder / "prometheus.yml"
        folder.mkdir(exist_ok=True)
        self.tsdb.mkdir(exist_ok=True)
        self._file.write_text(
            f"scrape_configs: [{{job_name: self, scrape_interval: 500ms, scrape_timeout: 500ms, static_configs: [{{targets: ['{self.address}']}}]}}]"
        )

    def start(self) -> "Prometheus":
        program = ensure_program(read_settings(), "prometheus") / "prometheus"
        flags = [f"--config.file={self._file}", f"--storage.tsdb.path={self.tsdb}", f"--web.listen-address={self.address}"]
        self.process = subprocess.Popen([program, *flags, "--web.enable-admin-api", "--log.level=error"])
        wait_for("Prometheus is ready", lambda: httpx.get(f"http://{self.address}/-/ready").status_code == 200, 60)
        return self

    def samples(self, since: float, until: float) -> list[dict[str, Any]]:
        """All that were taken in between, as they are."""
        query = f"{METRIC}[{int((until - since) * 1000)}ms]"
        answer = httpx.get(
            f"http://{self.address}/api/v1/query", params={"query": query, "time": f"{until:.3f}"}
        ).raise_for_status()
        return sorted(answer.json()["data"]["result"], key=str)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    one = Prometheus(tmp_path / "one").start()
    yield one
    one.stop(signal.SIGKILL)


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    folder = tmp_path / "copies"
    folder.mkdir()
    return folder


@contextmanager
def restored(tmp_path: Path, copies: Path) -> Iterator[Prometheus]:
    """Another task: an empty disk, the copy put into it, and Prometheus on that."""
    other = Prometheus(tmp_path / f"other-{time.monotonic_ns()}")
    done = operate("restore", f"--tsdb={other.tsdb}", f"--copies={copies}")
    assert done.returncode == 0, done.stderr
    assert "restored" in done.stdout
    other.start()
    try:
        yield other
    finally:
        other.stop()


@contextmanager
def sidecar(prometheus: Prometheus, copies: Path, every: float = 3600) -> Iterator["subprocess.Popen[str]"]:
    options = [f"--tsdb={prometheus.tsdb}", f"--copies={copies}", f"--prometheus={prometheus.address}", f"--every={every}"]
    command = [sys.executable, "-m", "operations", "snapshots", *options]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    assert "every" in process.stdout.readline()  # it is there
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def filled(prometheus: Prometheus, at_least: int = 12) -> tuple[float, float]:
    """Since when and until when there are so many samples."""
    since = time.time()

    def count() -> int:
        return sum(len(one["values"]) for one in prometheus.samples(since, time.time()))

    wait_for("it asks itself", lambda: count() >= at_least, 60)
    return since, time.time()


def test_what_was_in_a_snapshot_is_there_after_the_disk_is_gone(prometheus: Prometheus, copies: Path, tmp_path: Path) -> None:
    span = filled(prometheus)
    before = prometheus.samples(*span)
    snapshots.take(prometheus.tsdb, copies, prometheus.address, print)
    assert not list((prometheus.tsdb / "snapshots").iterdir())
    prometheus.stop(signal.SIGKILL)
    shutil.rmtree(prometheus.tsdb)
    with restored(tmp_path, copies) as other:
        assert other.samples(*span) == before


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_lost_when_prometheus_ends_before_its_last_copy(
    end: signal.Signals, prometheus: Prometheus, copies: Path, tmp_path: Path
) -> None:
    """As a task stops: Prometheus first. Killed: as one that has crashed."""
    with sidecar(prometheus, copies) as process:
        span = filled(prometheus)
        time.sleep(0.5)
        before = prometheus.samples(*span)
        prometheus.stop(end)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
    with restored(tmp_path, copies) as other:
        assert other.samples(*span) == before
        assert len(before) > 0


def test_copies_are_taken_again_and_again_and_two_are_kept(prometheus: Prometheus, copies: Path) -> None:
    with sidecar(prometheus, copies, every=1) as process:
        assert process.stdout
        began = awake_s()
        for number in range(3):
            assert "copied " in process.stdout.readline()
            assert number > 1 or awake_s() - began < 5
        names = {path.name for path in copies.iterdir()}  # the next is begun a second later
        process.send_signal(signal.SIGTERM)  # Prometheus goes on: the last is a snapshot too
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Prometheus answers" in said
    assert len(names) <= snapshots.KEPT
    assert len(list(copies.iterdir())) == snapshots.KEPT


def test_a_block_is_copied_once(prometheus: Prometheus, copies: Path) -> None:
    filled(prometheus)
    snapshots.take(prometheus.tsdb, copies, prometheus.address, print)
    block = next(path for path in next(copies.iterdir()).iterdir())
    shutil.copytree(block, prometheus.tsdb / block.name)  # as after it was made on the disk
    prometheus.stop()
    snapshots.take_last(prometheus.tsdb, copies, prometheus.address, print)
    inodes = [{path.stat().st_ino for path in (copy / block.name / "chunks").iterdir()} for copy in copies.iterdir()]
    assert inodes[0] == inodes[1]
    assert (snapshots.newest(copies) / "wal").is_dir()  # type: ignore[operator]


def test_a_prometheus_that_hangs_is_not_copied_under_its_hands(
    prometheus: Prometheus, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "CLOSED_WITHIN_S", 0.5)
    assert prometheus.process
    prometheus.process.send_signal(signal.SIGSTOP)
    with pytest.raises(snapshots.Failed, match="has closed its data"):
        snapshots.take_last(prometheus.tsdb, copies, prometheus.address, print)
    assert snapshots.newest(copies) is None


def test_prometheus_that_does_not_let_is_told(tmp_path: Path, copies: Path) -> None:
    with pytest.raises(snapshots.Failed, match="does not answer"):
        snapshots.take(tmp_path, copies, f"127.0.0.1:{free_port()}", print)


# -- killed in the midst -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Like a Prometheus' folder: 200 files in blocks."""
    folder = tmp_path / "data"
    for n in range(200):
        path = folder / f"block-{n // 20}" / "chunks" / f"{n:06}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(20_000))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"
    }


def killed_after(code: str, seconds: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.mark.parametrize("after_files", [0, 1, 77, 199])
def test_a_copy_that_was_killed_is_none(after_files: int, data: Path, copies: Path) -> None:
    """It is killed after so many files, by itself: no other moment matters more than between two of them."""
    code = f"""
import os, signal
from pathlib import Path
from typing import Any
from operations import snapshots
real, count = snapshots.copy_file, [0]
def copy_file(*paths):
    if count[0] == {after_files}: os.kill(os.getpid(), signal.SIGKILL)
    count[0] += 1
    real(*paths)
snapshots.copy_file = copy_file
snapshots.take_last(Path({str(data)!r}), Path({str(copies)!r}), "127.0.0.1:1", print)
"""
    killed_after(code, 30)
    assert list(copies.iterdir())  # something was begun
    assert snapshots.newest(copies) is None
    snapshots.take_last(data, copies, "127.0.0.1:1", print)
    assert [content(path) for path in copies.iterdir()] == [content(data)]  # and what was left is gone


@pytest.mark.parametrize("after_files", [0, 77, 199])
def test_a_restore_that_was_killed_begins_again(after_files: int, data: Path, copies: Path, tmp_path: Path) -> None:
    snapshots.take_last(data, copies, "127.0.0.1:1", print)
    tsdb = tmp_path / "tsdb"
    tsdb.mkdir()
    code = f"""
import os, signal
from pathlib import Path
from typing import Any
from operations import snapshots
real, count = snapshots.copy_file, [0]
def copy_file(*paths):
    if count[0] == {after_files}: os.kill(os.getpid(), signal.SIGKILL)
    count[0] += 1
    real(*paths)
snapshots.copy_file = copy_file
snapshots.restore(Path({str(tsdb)!r}), Path({str(copies)!r}), print)
"""
    killed_after(code, 30)
    assert content(tsdb) != content(data)
    snapshots.restore(tsdb, copies, print)
    assert content(tsdb) == content(data)


def test_data_that_is_there_stays(data: Path, copies: Path, tmp_path: Path) -> None:
    snapshots.take_last(data, copies, "127.0.0.1:1", print)
    (data / "block-0" / "chunks" / "000000").write_bytes(b"newer")
    before = content(data)
    done = operate("restore", f"--tsdb={data}", f"--copies={copies}")
    assert (done.returncode, "nothing is restored" in done.stdout) == (0, True)
    assert content(data) == before


def test_without_a_copy_prometheus_begins_anew(tmp_path: Path) -> None:
    done = operate("restore", f"--tsdb={tmp_path}", f"--copies={tmp_path / 'none'}")
    assert (done.returncode, "begins anew" in done.stdout) == (0, True)


# -- S3 ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(aws_is_there: None) -> str:
    boto3.client("s3").create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": "ap-northeast-2"})
    return "backups"


def test_a_backup_comes_back_as_it_was(bucket: str, data: Path, copies: Path, tmp_path: Path) -> None:
    snapshots.take_last(data, copies, "127.0.0.1:1", print)
    done = operate("backup", f"--copies={copies}", BACKUP_BUCKET=bucket)
    assert done.returncode == 0, done.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = operate("fetch", f"--copies={elsewhere}", BACKUP_BUCKET=bucket)
    assert done.returncode == 0, done.stderr
    [copy] = elsewhere.iterdir()
    assert content(copy) == content(data)
    tsdb = tmp_path / "tsdb"
    tsdb.mkdir()
    snapshots.restore(tsdb, elsewhere, print)
    assert content(tsdb) == content(data)


def test_an_old_copy_is_no_backup(bucket: str, copies: Path) -> None:
    for name in (None, "20260101T000000Z-00"):
        if name:
            (copies / name).mkdir()
        with pytest.raises(snapshots.Failed, match="no copy of the last 26 hours"):
            backup.back_up(copies, bucket, print)
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_checksum_is_that_of_s3(parts: int, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "PART_BYTES", 6_000_000)
    transfer = TransferConfig(multipart_threshold=6_000_000, multipart_chunksize=6_000_000)
    packed = tmp_path / "packed"
    packed.write_bytes(random.randbytes(6_000_000 * parts - 5))
    client = aws.client("s3")
    client.upload_file(str(packed), bucket, "x", ExtraArgs={"ChecksumAlgorithm": "SHA256"}, Config=transfer)
    head = client.head_object(Bucket=bucket, Key="x", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"].partition("-")[0] == backup.checksum_of(packed)


def test_a_bucket_that_refuses_is_told(bucket: str, data: Path, copies: Path) -> None:
    snapshots.take_last(data, copies, "127.0.0.1:1", print)
    done = operate("backup", f"--copies={copies}", BACKUP_BUCKET="another")
    assert done.returncode == 1
    assert "NoSuchBucket" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(snapshots.Failed, match="no backup"):
        backup.fetch(copies, bucket, None, print)


def test_a_broken_backup_is_no_copy(bucket: str, data: Path, copies: Path, tmp_path: Path) -> None:
    snapshots.take_last(data, copies, "127.0.0.1:1", print)
    key = backup.back_up(copies, bucket, print)
    client = boto3.client("s3")
    whole = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    client.put_object(Bucket=bucket, Key=key, Body=whole[: len(whole) // 2])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(snapshots.Failed, match="not a whole backup"):
        backup.fetch(elsewhere, bucket, None, print)
    assert snapshots.newest(elsewhere) is None
