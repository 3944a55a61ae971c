"""The command line says what is wrong and what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cluster, Service, free_port, gamepulse, service_environ


def _fails(command: str, database_url: str, **environ: str) -> str:
    """What a command that must fail says, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "gamepulse", command],
        env=service_environ(database_url, GAMEPULSE_PORT=str(free_port())) | environ,
        input="{}", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_an_empty_database_is_told_before_anything_is_served(cluster: Cluster) -> None:
    assert "run `gamepulse migrate` first" in _fails("serve", cluster.url("postgres"))


def test_migrating_again_changes_nothing(database_url: str) -> None:
    assert gamepulse("migrate", database_url) == gamepulse("migrate", database_url) == "The database is at version 0003.\n"


@pytest.mark.parametrize(
    ("name", "value"), [("GAMEPULSE_PORT", "http"), ("GAMEPULSE_TYPO", "1"), ("GAMEPULSE_PLAYER_HASH_KEY", "short")]
)
def test_a_wrong_setting_is_named(database_url: str, name: str, value: str) -> None:
    said = _fails("serve", database_url, **{name: value})
    assert name.removeprefix("GAMEPULSE_").lower() in said
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
