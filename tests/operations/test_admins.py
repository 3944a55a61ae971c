"""`operations admin`: an account whose password is in Secrets Manager (moto) and nowhere else, which opens; nobody else's becomes an admin."""

from pathlib import Path

import boto3
import httpx
import pyotp
import pytest

from bench import database
from tests.conftest import serve
from tests.operations.conftest import PASSWORDS, Server

SECRET = "gamepulse/staging/admin/mina"


def secrets() -> list[str]:
    return [one["Name"] for one in boto3.client("secretsmanager").list_secrets()["SecretList"]]


def password() -> str:
    return str(boto3.client("secretsmanager").get_secret_value(SecretId=SECRET)["SecretString"])


def rows(server: Server) -> str:
    query = """SELECT studio.name, account.name, role FROM studio LEFT JOIN member USING (studio_id) LEFT JOIN account USING (account_id)
        WHERE studio.name LIKE 'Mina%' ORDER BY 1"""
    return database.query(server.port, query, "gamepulse")


def sign_in(url: str, **more: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/sign-ins", json={"name": "mina", "password": password(), **more})


@pytest.mark.usefixtures("aws_is_there")
def test_the_first_admin_signs_in_with_what_only_the_secret_says(migrated: Server, valkey_url: str, tmp_path: Path) -> None:
    done = migrated.operate("admin", "create", "mina", "--studio=Mina's", f"--secret={SECRET}", **PASSWORDS)
    assert done.returncode == 0, done.stderr
    assert len(password()) == 32
    assert password() not in done.stdout + done.stderr
    assert SECRET in done.stdout
    assert rows(migrated) == "Mina's|mina|admin"
    refused = migrated.operate("admin", "create", "mina", "--studio=Mina's other", f"--secret={SECRET}-other", **PASSWORDS)
    assert (refused.returncode, refused.stderr) == (1, "Error: There is an account of this name.\n")  # whoever took it
    assert secrets() == [SECRET]
    assert migrated.operate("admin", "create", "mina", "--studio=Mina's other", **PASSWORDS).returncode == 0  # said to be known
    assert rows(migrated) == "Mina's|mina|admin\nMina's other|mina|admin"
    with serve(f"postgresql://gamepulse_service@127.0.0.1:{migrated.port}/gamepulse", valkey_url, tmp_path / "log") as service:
        with httpx.Client(base_url=service.url) as client:
            client.headers["authorization"] = f"Bearer {sign_in(service.url).json()['token']}"
            told = client.post("/v1/account/totp", json={"password": password()}).json()
            code = pyotp.TOTP(told["secret"]).now()
            assert client.put("/v1/account/totp", json={"code": code}).status_code == 204
            [first, _] = client.get("/v1/studios").json()
            assert client.post("/v1/games", json={"studio_id": first["studio_id"], "game": "minas"}).status_code == 201
        assert sign_in(service.url).json()["code"] == "totp_required"
        assert migrated.operate("admin", "reset-totp", "mina", **PASSWORDS).returncode == 0
        assert sign_in(service.url).status_code == 201
        before = password()
        assert migrated.operate("admin", "reset-password", "mina", f"--secret={SECRET}", **PASSWORDS).returncode == 0
        assert password() != before
        assert sign_in(service.url).status_code == 201
        assert service.stop() < 10
        assert password() not in service.log.read_text()


@pytest.mark.usefixtures("aws_is_there")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("create", "Not a name", f"--secret={SECRET}"), "Error: Expected a name: 3 to 32 of a–z 0–9 . _ -\n"),
        (("create", "nobody"), "Error: There is no account of this name."),
        (("reset-password", "nobody", f"--secret={SECRET}"), "Error: There is no account of this name."),
        (("reset-totp", "nobody"), "Error: There is no account of this name."),
    ],
)
def test_what_cannot_be_is_told_and_leaves_nothing(migrated: Server, command: tuple[str, ...], said: str) -> None:
    studio = ("--studio=Nobody's",) if command[0] == "create" else ()
    done = migrated.operate("admin", *command, *studio, **PASSWORDS)
    assert (done.returncode, done.stderr[: len(said)]) == (1, said)
    assert secrets() == []
    assert database.query(migrated.port, "SELECT count(*) FROM studio WHERE name = 'Nobody''s'", "gamepulse") == "0"


@pytest.mark.usefixtures("aws_is_there")
def test_an_account_whose_password_cannot_be_kept_is_not_made(migrated: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    done = migrated.operate("admin", "create", "lost", "--studio=Mina's", f"--secret={SECRET}", **PASSWORDS)
    assert (done.returncode, "Could not connect to the endpoint" in done.stderr) == (1, True)
    assert database.query(migrated.port, "SELECT count(*) FROM account WHERE name = 'lost'", "gamepulse") == "0"


def test_a_database_that_is_away_is_told(server: Server) -> None:
    done = server.operate("admin", "reset-totp", "mina", **(PASSWORDS | {"DATABASE_ADMIN_PASSWORD": "wrong"}))
    assert (done.returncode, "PostgreSQL: password authentication failed" in done.stderr) == (1, True)
