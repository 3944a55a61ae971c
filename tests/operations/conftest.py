"""What the tests of operations share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from moto.server import ThreadedMotoServer

from bench import database
from stack.settings import CHECKOUT
from tests.conftest import free_port


def operate(*command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the real command."""
    return subprocess.run(
        [sys.executable, "-m", "operations", *command],
        env=os.environ | environ, cwd=CHECKOUT, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


PASSWORDS = {
    "DATABASE_ADMIN_PASSWORD": "word-of-master",
    "MONITOR_PASSWORD": "word-of-monitor",
    "GRAFANA_READER_PASSWORD": "word-of-reader",
    "GRAFANA_PASSWORD": "word-of-grafana",
}
# As RDS makes its master: no superuser, but of its own roles it may give away. rds_iam is who may sign in with tokens.
RDS = """
CREATE ROLE rds_iam;
CREATE ROLE rds_superuser;
GRANT pg_monitor TO rds_superuser WITH ADMIN OPTION;
GRANT rds_iam TO rds_superuser WITH ADMIN OPTION;
CREATE ROLE master LOGIN CREATEROLE CREATEDB PASSWORD 'word-of-master' IN ROLE rds_superuser;
"""


class Server:
    """A PostgreSQL without anything, which asks for passwords."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"postgresql://master@127.0.0.1:{port}/postgres"

    def operate(self, *command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return operate(*command, **({"DATABASE_ADMIN_URL": self.url} | environ))

    def migrate(self, **environ: str) -> None:
        done = self.operate("migrate", **(PASSWORDS | environ))
        assert done.returncode == 0, done.stderr

    async def ask(self, user: str, password: str, query: str, name: str = "gamepulse") -> object:
        connection = await asyncpg.connect(host="127.0.0.1", port=self.port, user=user, password=password, database=name)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def server(own_folder: Path) -> Iterator[Server]:
    port = free_port()
    folder = own_folder / f"managed-{port}"  # the emulated deployment's tests have one of their own
    with database.postgres(folder, port):
        for statement in filter(str.strip, RDS.split(";\n")):
            database.query(port, statement)
        hba = "host all postgres 127.0.0.1/32 trust\nhost all gamepulse_service 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (folder / "pg_hba.conf").write_text(hba)
        database.query(port, "SELECT pg_reload_conf()")
        database.query(port, "DROP DATABASE bench")
        database.query(port, "DROP ROLE bench")
        yield Server(port)


@pytest.fixture(scope="session")
def migrated(server: Server) -> Server:
    for _ in range(2):  # twice: it changes nothing that is there
        server.migrate()
    return server


@pytest.fixture
def aws_is_there(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """moto stands for S3, Secrets Manager and ECS, which cannot run here; for us, and for commands that are started."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()  # what it knows belongs to the process
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_REGION", "ap-northeast-2"), ("AWS_DEFAULT_REGION", "ap-northeast-2"), ("AWS_EC2_METADATA_DISABLED", "true"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    yield
    server.stop()
