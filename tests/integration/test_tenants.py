"""Invariant 7: one studio never sees another's rows, whatever is asked; and each role can do its own work only."""

import asyncpg
import httpx
import pytest

from gamepulse.keys import hash_key
from tests.batches import batch, event, report
from tests.conftest import complete, rolled

ROLES = ("ingest", "aggregate", "query", "account", "manage")
OTHER_KEY = "key-of-another-studio-0123456789abcdef"
type Database = asyncpg.Connection[asyncpg.Record]


@pytest.fixture
async def other_studio(connection: Database) -> int:
    """A second studio with a private game and a key."""
    studio_id: int = await connection.fetchval("INSERT INTO studio (name) VALUES ('Other') RETURNING studio_id")
    game_id = await connection.fetchval("INSERT INTO game (studio_id, slug) VALUES ($1, 'secret') RETURNING game_id", studio_id)
    await connection.execute(
        "INSERT INTO ingest_key (studio_id, game_id, key_hash, kind) VALUES ($1, $2, $3, 'client')",
        studio_id,
        game_id,
        hash_key(OTHER_KEY),
    )
    return studio_id


async def _tables(connection: Database) -> list[str]:
    rows = await connection.fetch(
        "SELECT attrelid::regclass::text AS name FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid"
        " WHERE attname = 'studio_id' AND relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return [row["name"] for row in rows]


async def test_every_table_with_a_studio_has_row_level_security_and_a_key_that_begins_with_it(connection: Database) -> None:
    names = await _tables(connection)
    assert {"raw_batch", "batch_key", "rollup_delta", "rollup_minute", "rollup_total", "session_seen", "audit_log"} <= set(names)
    for name in names:
        is_secured = await connection.fetchval("SELECT relrowsecurity FROM pg_class WHERE oid = $1::text::regclass", name)
        is_part = await connection.fetchval("SELECT relispartition FROM pg_class WHERE oid = $1::text::regclass", name)
        assert is_secured or is_part, name  # a partition is reached only through its table: no role has rights on it
        first = await connection.fetchval(
            "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]"
            " WHERE indrelid = $1::text::regclass AND indisprimary",
            name,
        )
        assert first in ("studio_id", None), name
        for role in ROLES if is_part else ():
            may = await connection.fetchval(
                "SELECT has_table_privilege($1, $2::text::regclass, 'SELECT,INSERT')", f"gamepulse_{role}", name
            )
            assert not may, (name, role)


async def test_the_query_role_sees_the_studio_that_is_set_and_no_other(
    client: httpx.AsyncClient, connection: Database, other_studio: int
) -> None:
    for key, game in ((None, "demo"), (OTHER_KEY, "secret")):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        sent = batch([report(0)], [event(1)], game=game, player="p")
        assert (await client.post("/v1/reports", json=sent, headers=headers)).status_code == 202
        sent = batch(1, game=game, player="another", session=sent["session"])
        assert (await client.post("/v1/reports", json=sent, headers=headers)).status_code == 202
    await complete(client)
    await rolled(connection)
    await client.post("/v1/reports", json=batch(1))
    await client.post("/v1/reports", json=batch(1, game="secret"), headers={"authorization": f"Bearer {OTHER_KEY}"})
    await complete(client)
    await connection.execute("INSERT INTO rollup_recent SELECT * FROM rollup_hour")
    for name in (
        "raw_batch", "rollup_delta", "rollup_minute", "rollup_hour", "rollup_recent", "rollup_total", "dimension", "session_seen",
        "session_seen_other", "session_seen_all", "stale_rollup", "game",
    ):  # fmt: skip
        assert await connection.fetchval(f"SELECT count(DISTINCT studio_id) FROM {name}") == 2, name
        for studio_id, visible in ((other_studio, {other_studio}), (None, set())):
            async with connection.transaction():
                await connection.execute("SET LOCAL ROLE gamepulse_query")
                await connection.execute("SELECT set_config('gamepulse.studio_id', $1, true)", str(studio_id or ""))
                rows = await connection.fetch(f"SELECT DISTINCT studio_id FROM {name}")
            seen = {row["studio_id"] for row in rows}
            public = {1} if name == "game" else set()  # the demo game says that anyone may read it
            assert seen == visible | public, (name, studio_id)


async def test_a_private_game_cannot_be_told_from_one_that_is_not_there(client: httpx.AsyncClient, other_studio: int) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    for path in (
        "/v1/quality?game={}", "/v1/quality/series?game={}", "/v1/live?game={}", f"/v1/games/{{}}/sessions/{nobody}",
        "/v1/games/{}/servers/seoul-1/sessions", "/v1/games/{}/networks/AS1/sessions", "/v1/games/{}/builds/1.0/sessions",
        "/v1/quality/compare?game={}&a.build=1&b.build=2",
    ):  # fmt: skip
        answers = [await client.get(path.format(game)) for game in ("secret", "nothing")]
        assert [answer.status_code for answer in answers] == [404, 404], path
        assert answers[0].json()["detail"] == answers[1].json()["detail"]
    answer = await client.post("/v1/games/secret/player-sessions", json={"player": "p"})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("ingest", "SELECT 1 FROM raw_batch"),
        ("ingest", "SELECT 1 FROM rollup_minute"),
        ("ingest", "UPDATE batch_key SET accepted = 0"),
        ("ingest", "DELETE FROM raw_batch"),
        ("aggregate", "INSERT INTO raw_batch SELECT * FROM raw_batch"),
        ("aggregate", "SELECT 1 FROM ingest_key"),
        ("aggregate", "DROP TABLE raw_batch"),
        ("query", "SELECT 1 FROM ingest_key"),
        ("query", "SELECT 1 FROM batch_key"),
        ("query", "SELECT 1 FROM audit_log"),
        ("query", "DELETE FROM rollup_minute"),
        ("query", "SELECT drop_partitions('raw_batch', '2100-01-01')"),
        ("query", "SELECT 1 FROM account"),
        ("query", "SELECT find_account('x')"),
        ("ingest", "SELECT find_account('x')"),
        ("aggregate", "SELECT 1 FROM account"),
        ("aggregate", "SELECT actor FROM audit_log"),
        ("account", "SELECT 1 FROM audit_log"),
        ("account", "SELECT 1 FROM raw_batch"),
        ("account", "INSERT INTO member VALUES (1, 1, 'admin')"),
        ("account", "UPDATE account SET name = 'x'"),
        ("account", "SELECT put_studio('x')"),
        ("account", "INSERT INTO account (name, password_hash) VALUES ('abc', 'x')"),
        ("manage", "SELECT password_hash FROM account"),
        ("manage", "SELECT totp_nonce FROM account"),
        ("manage", "SELECT 1 FROM sign_in"),
        ("manage", "SELECT key_hash FROM ingest_key"),
        ("manage", "SELECT find_account('x')"),
        ("manage", "UPDATE audit_log SET actor = 'x'"),
        ("manage", "DELETE FROM game"),
        ("manage", "SELECT 1 FROM session_seen"),
        ("manage", "DELETE FROM erasure"),
        ("manage", "UPDATE erasure SET done_at = now()"),
        ("query", "SELECT 1 FROM erasure"),
        ("query", "DELETE FROM raw_batch"),
        ("query", "DELETE FROM session_seen_other"),
        ("manage", "SELECT 1 FROM session_seen_all"),
        ("account", "SELECT 1 FROM erasure"),
    ],
)
async def test_roles_can_do_their_own_work_only(connection: Database, role: str, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with connection.transaction():
            await connection.execute(f"SET LOCAL ROLE gamepulse_{role}")
            await connection.execute(statement)


async def test_no_role_of_the_api_reaches_another_studio_or_account(connection: Database, other_studio: int) -> None:
    """Each role, with the other studio and an account of it set, tries each table that has a row of each."""
    third = await connection.fetchval("INSERT INTO studio (name) VALUES ('Third') RETURNING studio_id")  # nothing of it is public
    await connection.execute("INSERT INTO game (studio_id, slug) VALUES ($1, 'third')", third)
    for studio_id, account in ((1, "ours"), (third, "thirds"), (other_studio, "theirs")):
        account_id = await connection.fetchval("SELECT create_account($1, 'x')", account)
        await connection.execute("INSERT INTO member VALUES ($1, $2, 'admin')", studio_id, account_id)
        await connection.execute("INSERT INTO sign_in (account_id, token_hash) VALUES ($1, $2)", account_id, account.encode())
        game_id = await connection.fetchval("SELECT game_id FROM game WHERE studio_id = $1", studio_id)
        await connection.execute("INSERT INTO game_region VALUES ($1, $2, 'r', '')", studio_id, game_id)
        await connection.execute("INSERT INTO audit_log (studio_id, actor, action) VALUES ($1, 'a', 'b')", studio_id)
        await connection.execute(
            "INSERT INTO dimension (studio_id, game_id, dimension_set, seen) VALUES ($1, $2, 0, 'epoch')", studio_id, game_id
        )
        await connection.execute("INSERT INTO erasure (studio_id, game_id) VALUES ($1, $2)", studio_id, game_id)
    names = [name for name in await _tables(connection) if not name[-1].isdigit()] + ["account", "sign_in"]
    assert {"studio", "game", "member", "game_region", "ingest_key", "audit_log", "dimension"} <= set(names)
    ours = await connection.fetchval("SELECT game_id FROM game WHERE studio_id = 1")
    reached = set()
    for role in ("query", "account", "manage"):
        for name in names:
            column, mine = ("account_id", account_id) if name in {"account", "sign_in"} else ("studio_id", other_studio)
            for statement in (
                f"SELECT {column} FROM {name}",
                f"DELETE FROM {name} WHERE {column} <> {mine} RETURNING {column}",
                *[
                    f"UPDATE {name} SET {one} = {one} WHERE {column} <> {mine} RETURNING {column}"
                    for one in await _updatable(connection, role, name)
                ],
            ):
                seen = await _tried(connection, role, other_studio, account_id, statement)
                public = {1} if name == "game" and statement.startswith("SELECT") else set()
                assert seen <= {mine} | public, (role, statement)
                reached |= {(role, name)} if seen else set()
    assert reached >= {("account", "account"), ("account", "sign_in"), ("account", "member"), ("account", "studio"),
        ("manage", "studio"), ("manage", "game"), ("manage", "member"), ("manage", "ingest_key"), ("manage", "game_region"),
        ("manage", "audit_log"), ("manage", "account"), ("manage", "dimension"), ("manage", "erasure"),
        ("query", "game")}  # fmt: skip
    audit = "INSERT INTO audit_log (studio_id, account_id, actor, action) VALUES ({}, {}, 'a', 'b')"
    for role in ("query", "account", "manage"):
        for statement in (
            audit.format(1, account_id),
            "INSERT INTO game (studio_id, slug) VALUES (1, 'x')",
            f"INSERT INTO game_region SELECT 1, {ours}, 'x', ''",
            f"INSERT INTO erasure (studio_id, game_id) VALUES (1, {ours})",
            f"INSERT INTO member VALUES (1, {account_id}, 'viewer')",
            "INSERT INTO sign_in (account_id, token_hash) VALUES (1, '\\x00')",
        ):
            assert not await _writes(connection, role, other_studio, account_id, statement), (role, statement)
    for role, statement, may in (
        ("account", audit.format(other_studio, account_id), True),
        ("account", audit.format(other_studio, 1), False),  # in another's name
        ("manage", audit.format(other_studio, 1), True),
    ):
        assert await _writes(connection, role, other_studio, account_id, statement) == may, (role, statement)


async def _updatable(connection: Database, role: str, table: str) -> list[str]:
    """The columns that the role may write, whatever the row."""
    rows = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $2::text::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attidentity = '' AND attgenerated = '' AND has_column_privilege($1, attrelid, attnum, 'UPDATE')",
        f"gamepulse_{role}", table,
    )  # fmt: skip
    return [row["attname"] for row in rows]


async def _writes(connection: Database, role: str, studio_id: int, account_id: int, statement: str) -> bool:
    """Whether the statement writes anything (it is not asked what: RETURNING takes the right to read it, too). Nothing of it stays."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await _act_as(connection, role, studio_id, account_id)
        return await connection.execute(statement) != "INSERT 0 0"
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await transaction.rollback()


async def _act_as(connection: Database, role: str, studio_id: int, account_id: int) -> None:
    await connection.execute(f"SET LOCAL ROLE gamepulse_{role}")
    await connection.execute("SELECT set_config('gamepulse.studio_id', $1, true)", str(studio_id))
    await connection.execute("SELECT set_config('gamepulse.account_id', $1, true)", str(account_id))


async def _tried(connection: Database, role: str, studio_id: int, account_id: int, statement: str) -> set[int]:
    """Whose rows the statement reaches; none where it is refused. Nothing of it stays."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await _act_as(connection, role, studio_id, account_id)
        return {row[0] for row in await connection.fetch(statement)}
    except asyncpg.InsufficientPrivilegeError:
        return set()
    finally:
        await transaction.rollback()
