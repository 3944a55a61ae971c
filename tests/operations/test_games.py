"""`operations game` and `operations stored`: a key that opens, kept in Secrets Manager (moto) and nowhere else; what came with it is counted."""

from pathlib import Path

import boto3
import httpx
import pytest

from bench import database
from tests.batches import batch, event
from tests.conftest import serve
from tests.operations.conftest import PASSWORDS, Server

SECRET = "gamepulse/staging/key/prove"


def key() -> str:
    return str(boto3.client("secretsmanager").get_secret_value(SecretId=SECRET)["SecretString"])


def rows(server: Server) -> str:
    query = """SELECT name, slug, is_public, kind, count(*) FROM ingest_key JOIN game USING (studio_id, game_id)
        JOIN studio USING (studio_id) WHERE slug = 'prove' GROUP BY 1, 2, 3, 4"""
    return database.query(server.port, query, "gamepulse")


@pytest.mark.usefixtures("aws_is_there")
def test_what_is_sent_with_the_new_key_is_counted(migrated: Server, valkey_url: str, tmp_path: Path) -> None:
    done = migrated.operate("game", "prove", f"--secret={SECRET}", **PASSWORDS)
    assert done.returncode == 0, done.stderr
    assert rows(migrated) == "Prove|prove|f|client|1"
    first = key()
    assert first not in done.stdout + done.stderr
    assert migrated.operate("stored", "prove", **PASSWORDS).stdout == '{"stored": 0}\n'
    with serve(f"postgresql://gamepulse_service@127.0.0.1:{migrated.port}/gamepulse", valkey_url, tmp_path / "log") as service:
        sent = batch(3, [event()], game="prove")
        for _ in range(2):  # twice the same is once
            answer = httpx.post(f"{service.url}/v1/reports", json=sent, headers={"authorization": f"Bearer {first}"})
            assert answer.status_code == 202, answer.text
        assert migrated.operate("game", "prove", f"--secret={SECRET}", **PASSWORDS).returncode == 0
        assert key() != first
        for one in (first, key()):  # the key of before is still right
            answer = httpx.post(
                f"{service.url}/v1/reports", json=batch(1, game="prove"), headers={"authorization": f"Bearer {one}"}
            )
            assert answer.status_code == 202, answer.text
        assert service.stop() < 10
    assert rows(migrated) == "Prove|prove|f|client|2"
    assert migrated.operate("stored", "prove", **PASSWORDS).stdout == '{"stored": 6}\n'
    assert migrated.operate("stored", "another", **PASSWORDS).stdout == '{"stored": 0}\n'


@pytest.mark.usefixtures("aws_is_there")
def test_game_of_another_studio_gets_no_key(migrated: Server) -> None:
    database.query(migrated.port, "INSERT INTO studio (name) VALUES ('Other') ON CONFLICT DO NOTHING", "gamepulse")
    database.query(
        migrated.port,
        "INSERT INTO game (studio_id, slug) SELECT studio_id, 'theirs' FROM studio WHERE name = 'Other' ON CONFLICT DO NOTHING",
        "gamepulse",
    )
    done = migrated.operate("game", "theirs", f"--secret={SECRET}", **PASSWORDS)
    assert (done.returncode, done.stderr) == (1, "Error: the game theirs is another studio's\n")
    assert boto3.client("secretsmanager").list_secrets()["SecretList"] == []


@pytest.mark.usefixtures("aws_is_there")
def test_key_that_cannot_be_kept_is_not_made(migrated: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows(migrated)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    done = migrated.operate("game", "prove", f"--secret={SECRET}", **PASSWORDS)
    assert done.returncode == 1
    assert "Could not connect to the endpoint" in done.stderr
    assert rows(migrated) == before


def test_what_is_wrong_is_told(server: Server) -> None:
    done = server.operate("game", "Not a slug", f"--secret={SECRET}", **PASSWORDS)
    assert (done.returncode, "at most 64 of a–z 0–9 -" in done.stderr) == (2, True)
    done = server.operate("stored", "prove", **(PASSWORDS | {"DATABASE_ADMIN_PASSWORD": "wrong"}))
    assert (done.returncode, "PostgreSQL: password authentication failed" in done.stderr) == (1, True)
