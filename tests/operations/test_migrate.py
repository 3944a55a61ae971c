"""`operations migrate`: all of the database from nothing, as a login that is no superuser, as RDS' master; again and again."""

from pathlib import Path

import asyncpg
import pytest

from bench import database
from gamepulse.tokens import VALID_S
from operations.logins import verifier
from tests.conftest import serve
from tests.operations.conftest import PASSWORDS, Server


async def test_each_login_may_do_its_own(migrated: Server) -> None:
    assert await migrated.ask("gamepulse_monitor", "word-of-monitor", "SELECT pg_database_size('gamepulse') > 0")
    assert await migrated.ask("gamepulse_grafana", "word-of-reader", "SELECT count(*) FROM rollup_hour") == 0
    assert await migrated.ask("grafana", "word-of-grafana", "CREATE TABLE dashboard ()", "grafana") is None
    for user, password, statement in (
        ("gamepulse_monitor", "word-of-monitor", "SELECT count(*) FROM game"),
        ("gamepulse_grafana", "word-of-reader", "SELECT count(*) FROM raw_batch"),
        ("gamepulse_grafana", "word-of-reader", "SET ROLE gamepulse_query"),
        ("grafana", "word-of-grafana", "SELECT count(*) FROM game"),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await migrated.ask(user, password, statement)


def test_nobody_signs_in_as_the_owner(migrated: Server) -> None:
    assert database.query(migrated.port, "SELECT rolcanlogin, rolsuper FROM pg_roles WHERE rolname = 'gamepulse'") == "f|f"
    assert (
        database.query(migrated.port, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'", "gamepulse")
        == "gamepulse"
    )


def test_the_service_signs_in_with_tokens_and_serves(migrated: Server, valkey_url: str, tmp_path: Path) -> None:
    grants = "SELECT string_agg(r.rolname, ' ' ORDER BY r.rolname) FROM pg_auth_members JOIN pg_roles r ON r.oid = roleid JOIN pg_roles m ON m.oid = member WHERE m.rolname = 'gamepulse_service'"
    assert (
        database.query(migrated.port, grants)
        == "gamepulse_account gamepulse_aggregate gamepulse_ingest gamepulse_manage gamepulse_query rds_iam"
    )
    assert database.query(migrated.port, "SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'gamepulse_service'") == "t"
    with serve(f"postgresql://gamepulse_service@127.0.0.1:{migrated.port}/gamepulse", valkey_url, tmp_path / "log") as service:
        assert service.stop() < 10
    assert VALID_S == 900


async def test_migrating_again_sets_the_passwords_that_it_is_given(migrated: Server) -> None:
    migrated.migrate(MONITOR_PASSWORD="another word")
    assert await migrated.ask("gamepulse_monitor", "another word", "SELECT 1") == 1
    with pytest.raises(asyncpg.InvalidPasswordError):
        await migrated.ask("gamepulse_monitor", "word-of-monitor", "SELECT 1")


async def test_another_studio_has_a_login_of_its_own(migrated: Server) -> None:
    done = migrated.operate(
        "grafana-login", "--login=gamepulse_grafana_2", "--studio=2", **(PASSWORDS | {"GRAFANA_READER_PASSWORD": "two"})
    )
    assert done.returncode == 0, done.stderr
    policy = await migrated.ask(
        "gamepulse_grafana_2", "two", "SELECT qual FROM pg_policies WHERE policyname = 'gamepulse_grafana_2' LIMIT 1"
    )
    assert policy == "(studio_id = 2)"


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"DATABASE_ADMIN_PASSWORD": "wrong"}, "password authentication failed"),
        ({"DATABASE_ADMIN_URL": "postgresql://master@127.0.0.1:1/postgres"}, "PostgreSQL: "),
        ({"MONITOR_PASSWORD": ""}, "MONITOR_PASSWORD"),
        ({"MONITOR_PASSWORD_FILE": "/nowhere"}, "MONITOR_PASSWORD_FILE cannot be read"),
    ],
)
def test_what_is_wrong_is_told(environ: dict[str, str], told: str, server: Server) -> None:
    done = server.operate("migrate", **(PASSWORDS | environ))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_no_password_stands_in_a_statement(server: Server) -> None:
    database.query(server.port, "ALTER SYSTEM SET log_statement = 'all'")
    database.query(server.port, "SELECT pg_reload_conf()")
    log = Path(database.query(server.port, "SHOW data_directory"), "log")
    before = log.stat().st_size
    server.migrate()
    said = log.read_bytes()[before:].decode()
    database.query(server.port, "ALTER SYSTEM RESET log_statement")
    database.query(server.port, "SELECT pg_reload_conf()")
    assert "ALTER ROLE gamepulse_monitor LOGIN PASSWORD" in said
    for password in PASSWORDS.values():
        assert password not in said


def test_verifiers_differ_and_are_of_the_form_that_postgresql_knows() -> None:
    one, other = verifier("word"), verifier("word")
    assert one != other
    assert one.startswith("SCRAM-SHA-256$4096:")
