"""The command line says what is wrong and what to do."""

import asyncio
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import asyncpg
import pytest

from gamepulse.games import PROFILES
from tests.conftest import Cluster, Service, free_port, gamepulse, service_environ


def _fails(command: str, database_url: str, **environ: str) -> str:
    """What a command that must fail says, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "gamepulse", *command.split()],
        env=service_environ(database_url, GAMEPULSE_PORT=str(free_port())) | environ,
        input="{}", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_an_empty_database_is_told_before_anything_is_served(cluster: Cluster) -> None:
    assert "run `gamepulse migrate` first" in _fails("serve", cluster.url("postgres"))


def test_a_database_that_is_away_or_wrong_is_told_in_a_line(cluster: Cluster) -> None:
    assert "PostgreSQL is away" in _fails("migrate", "postgresql://nobody@127.0.0.1:1/none")
    assert 'database "nowhere" does not exist' in _fails("migrate", cluster.url("nowhere"))
    assert "run `gamepulse migrate` first" in _fails("admin reset-totp mina", cluster.url("postgres"))


def test_a_setting_with_which_no_worker_could_start_is_told_at_once(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other.mmdb"
    other.write_text("something else")
    for path in ("/nowhere.mmdb", str(other)):
        told = _fails("serve", cluster.url("bench"), GAMEPULSE_GEO_DATABASE=path)
        assert told.startswith("Error: GAMEPULSE_GEO_DATABASE: ") and Path(path).name in told
    assert "valkey_url" in _fails("serve", cluster.url("bench"), GAMEPULSE_VALKEY_URL="http://127.0.0.1")


def test_migrating_again_changes_nothing(database_url: str) -> None:
    assert gamepulse("migrate", database_url) == gamepulse("migrate", database_url) == "The database is at version 0006.\n"


async def test_an_older_database_keeps_what_is_in_it_and_its_service_works_on(cluster: Cluster) -> None:
    cluster.sql("CREATE DATABASE older OWNER bench")
    connection = await asyncpg.connect(cluster.url("older"))
    await connection.execute(files("gamepulse").joinpath("migrations/versions/0001_reports.sql").read_text())
    await connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    await connection.execute("INSERT INTO alembic_version VALUES ('0001')")
    look_up = (
        "INSERT INTO audit_log (studio_id, game_id, actor, action, subject) VALUES (1, 1, 'anyone', 'player_sessions', '\\x01')"
    )
    await connection.execute("INSERT INTO studio (name) VALUES ('Ours'); INSERT INTO game (studio_id, slug) VALUES (1, 'ours')")
    key = "INSERT INTO ingest_key (studio_id, game_id, key_hash, kind) VALUES (1, 1, $1, 'client')"
    await connection.execute(look_up)
    await connection.execute(key, b"before")
    await asyncio.to_thread(gamepulse, "migrate", cluster.url("older"))
    await connection.execute("SET ROLE gamepulse_query; SET gamepulse.studio_id = '1'")
    await connection.execute(look_up)  # as the version before does
    await connection.execute("RESET ROLE")
    await connection.execute(key, b"after")
    entries = await connection.fetch("SELECT entry_id, subject FROM audit_log ORDER BY 1")
    assert [tuple(entry) for entry in entries] == [(1, b"\x01"), (2, b"\x01")]
    game = await connection.fetchrow("SELECT profile, bad_rtt_ms, bad_jitter_ms, bad_loss FROM game")
    assert game is not None and tuple(game) == ("general", *(pytest.approx(limit) for limit in PROFILES["general"]))
    assert await connection.fetchval("SELECT array_agg(key_id ORDER BY key_id) FROM ingest_key") == [1, 2]
    await connection.close()
    cluster.sql("DROP DATABASE older")


@pytest.mark.parametrize(
    ("name", "value"), [("GAMEPULSE_PORT", "http"), ("GAMEPULSE_TYPO", "1"), ("GAMEPULSE_PLAYER_HASH_KEY", "short")]
)
def test_a_wrong_setting_is_named(database_url: str, name: str, value: str) -> None:
    said = _fails("serve", database_url, **{name: value})
    assert name.removeprefix("GAMEPULSE_").lower() in said and "regex" not in said
    assert "gamepulse settings" in said


def test_demo_says_which_key_is_missing(database_url: str) -> None:
    assert "ingest_key" in _fails("demo", database_url)


def test_demo_reads_its_keys_from_a_file(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"ingest_key": "i" * 32, "server_key": "s" * 32}))
    command = [sys.executable, "-m", "gamepulse", "demo", str(tmp_path / "keys.json")]
    assert subprocess.run(command, env=service_environ(database_url), timeout=30, check=False).returncode == 0


def _probe(port: str) -> int:
    environ = service_environ("postgresql://nobody@127.0.0.1:1/none", GAMEPULSE_PORT=port)
    return subprocess.run([sys.executable, "-m", "gamepulse.probe"], env=environ, timeout=30, check=False).returncode


def test_probe_says_whether_the_service_is_ready(service: Service) -> None:
    assert _probe(service.url.rpartition(":")[2]) == 0
    assert _probe(str(free_port())) == 1
