"""Loki keeps its logs in S3 as AWS's tasks tell it to; moto stands for S3."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer

from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import read_settings
from tests.conftest import free_port, wait_for

BUCKET = "gamepulse-logs"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def s3() -> Iterator[str]:
    """The URL of a bucket."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}/{BUCKET}"
    httpx.put(url).raise_for_status()
    yield url
    server.stop()


@contextmanager
def loki(folder: Path, s3: str) -> Iterator[str]:
    """A Loki with nothing on its disk; ended as a task is. Yields its URL."""
    port = free_port()
    environ = {
        "LOKI_LISTEN": "127.0.0.1",
        "LOKI_HTTP_PORT": str(port),
        "LOKI_GRPC_PORT": str(free_port()),
        "LOKI_DATA": str(folder),
        "LOKI_STORE": "s3",
        "LOKI_BUCKET": BUCKET,
        # Of the task's role in AWS; the endpoint is the test's own.
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_ENDPOINT_URL_S3": s3.removesuffix(f"/{BUCKET}"),
    }
    folder.mkdir()
    command: list[str | Path] = [
        ensure_program(read_settings(), "loki") / "loki",
        "-config.expand-env=true",
        "-config.file=loki/loki.yaml",
    ]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, cwd=OBSERVABILITY, env=os.environ | environ, stdout=log, stderr=log) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for("Loki", lambda: httpx.get(f"{url}/ready").status_code == 200)
            yield url
        finally:
            process.terminate()


def line() -> dict[str, object]:
    """A log record, as the Collector sends it."""

    def named(**values: str) -> list[dict[str, object]]:
        return [{"key": key.replace("_", "."), "value": {"stringValue": value}} for key, value in values.items()]

    record = {
        "timeUnixNano": str(time.time_ns()),
        "body": {"stringValue": "kept"},
        "traceId": TRACE,
        "attributes": named(level="info"),
    }
    logs = {"resource": {"attributes": named(service_name="gamepulse")}, "scopeLogs": [{"logRecords": [record]}]}
    return {"resourceLogs": [logs]}


@pytest.mark.timeout(3600)  # the first time it may have to build Loki
def test_another_loki_finds_in_s3_what_the_first_was_sent(s3: str, tmp_path: Path) -> None:
    with loki(tmp_path / "first", s3) as url:
        httpx.post(f"{url}/otlp/v1/logs", json=line()).raise_for_status()
    assert not (tmp_path / "first" / "chunks").exists()
    with loki(tmp_path / "second", s3) as url:
        params = {"query": f'{{service_name="gamepulse",level="info"}} | trace_id="{TRACE}"', "since": "1h"}
        [stream] = httpx.get(f"{url}/loki/api/v1/query_range", params=params).raise_for_status().json()["data"]["result"]
        assert [text for _, text in stream["values"]] == ["kept"]
