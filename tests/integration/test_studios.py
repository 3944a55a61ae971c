"""Studios, games, keys: who is what, what is set, and that it is felt everywhere in time."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gamepulse import studios
from gamepulse.games import KEYS_MAX, REGIONS_MAX
from tests.awake import awake_s
from tests.batches import batch, report
from tests.conftest import complete, serve, smaller
from tests.integration.conftest import Studio
from tests.integration.test_accounts import told
from tests.people import PASSWORD, Person, enrol, first_admin, member, register, signed_in

FELT_S = 5.0
type Database = asyncpg.Connection[asyncpg.Record]


async def game(api: httpx.AsyncClient, studio: Studio, name: str, **more: Any) -> httpx.Response:
    return await api.post("/v1/games", json={"studio_id": studio.studio_id, "game": name, **more}, headers=studio.admin.headers)


async def audit(api: httpx.AsyncClient, studio: Studio, limit: int) -> list[tuple[str, str, str | None, str | None]]:
    found = await api.get(f"/v1/studios/{studio.studio_id}/audit", params={"limit": limit}, headers=studio.admin.headers)
    return [(one["actor"], one["action"], one["game"], one["about"]) for one in reversed(found.json()["entries"])]


# -- members --------------------------------------------------------------------------------------------------------------------


async def test_members_come_change_and_go(api: httpx.AsyncClient, studio: Studio) -> None:
    path, admin = f"/v1/studios/{studio.studio_id}/members", studio.admin.headers
    yuna = await member(api, studio.admin, studio.studio_id, "yuna", "viewer")
    again = await api.post(path, json={"name": "yuna", "role": "admin"}, headers=admin)
    assert told(again) == (409, "already_member")
    changed = await api.patch(f"{path}/{yuna.account_id}", json={"role": "operator"}, headers=admin)
    assert changed.json() == {"account_id": yuna.account_id, "name": "yuna", "role": "operator", "has_totp": False}
    assert [one["name"] for one in (await api.get(path, headers=admin)).json()] == ["admin", "yuna"]
    assert (await api.delete(f"{path}/{yuna.account_id}", headers=yuna.headers)).status_code == 204  # anyone may leave
    for method, body in (("PATCH", {"role": "viewer"}), ("DELETE", None)):
        last = await api.request(method, f"{path}/{studio.admin.account_id}", json=body, headers=admin)
        assert told(last) == (409, "last_admin")
    assert (await audit(api, studio, 5))[-3:] == [
        ("yuna", "signed_in", None, None),
        ("admin", "member_changed", None, "yuna: viewer → operator"),
        ("yuna", "member_removed", None, "yuna"),
    ]


async def test_two_admins_who_remove_each_other(api: httpx.AsyncClient, studio: Studio) -> None:
    """One is removed; what that one asks for next is refused, though every process remembers the role for some seconds."""
    two, studio_id = await first_admin(api, studio.database_url, "left", "Two")
    await register(api, "right")
    path = f"/v1/studios/{studio_id}/members"
    added = await api.post(path, json={"name": "right", "role": "admin"}, headers=two.headers)
    right = await enrol(api, await signed_in(api, "right"))
    right.account_id = added.json()["account_id"]
    assert (await api.get(path, headers=right.headers)).status_code == 200
    answers = await asyncio.gather(
        api.delete(f"{path}/{right.account_id}", headers=two.headers), api.delete(f"{path}/{two.account_id}", headers=right.headers)
    )
    assert sorted(told(one) for one in answers) in ([(204, ""), (403, "role_required")], [(204, ""), (409, "last_admin")])
    removed = right if answers[0].status_code == 204 else two
    again = await api.post(path, json={"name": "admin", "role": "admin"}, headers=removed.headers)
    assert told(again) in {(403, "role_required"), (404, "unknown_studio")}


async def test_limits_of_a_studio_hold_for_those_who_ask_at_once(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    limits = smaller(tmp_path, "studios.MEMBERS_MAX = 2", "games.GAMES_MAX = 2")
    with serve(database_url, valkey_url, tmp_path / "log", **limits) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as api:
            admin, studio_id = await first_admin(api, database_url, "admin", "Ours")
            for name in ("one", "two"):
                await api.post("/v1/accounts", json={"name": name, "password": PASSWORD})

            async def at_once(path: str, bodies: list[dict[str, Any]]) -> list[tuple[int, str]]:
                """The answers to requests that all wait for the studio's lock, which we hold until they do."""
                connection = await asyncpg.connect(database_url)
                await connection.execute("SELECT pg_advisory_lock($1, $2)", studios._LOCK, studio_id)
                asked = [asyncio.create_task(api.post(path, json=body, headers=admin.headers)) for body in bodies]
                await asyncio.sleep(0.5)
                assert not any(one.done() for one in asked)
                await connection.close()
                return sorted(told(one) for one in await asyncio.gather(*asked))

            members = [{"name": name, "role": "viewer"} for name in ("one", "two")]
            assert await at_once(f"/v1/studios/{studio_id}/members", members) == [(201, ""), (409, "too_many_members")]
            games = [{"studio_id": studio_id, "game": f"g{n}"} for n in range(4)]
            assert await at_once("/v1/games", games) == [(201, "")] * 2 + [(409, "too_many_games")] * 2


# -- games ----------------------------------------------------------------------------------------------------------------------


async def test_a_game_is_made_and_changed(api: httpx.AsyncClient, studio: Studio) -> None:
    admin = studio.admin.headers
    made = (await game(api, studio, "arena", title="아레나", thresholds={"profile": "shooter"})).json()
    shooter = {"profile": "shooter", "bad_rtt_ms": 100.0, "bad_jitter_ms": 20.0, "bad_loss": 0.03}
    assert (made["game"], made["title"], made["is_public"], made["thresholds"]) == ("arena", "아레나", False, shooter)
    for change, expected in (
        ({"title": "Arena"}, {"title": "Arena", "is_public": False, "thresholds": shooter}),
        ({"is_public": True}, {"title": "Arena", "is_public": True}),
        ({"thresholds": {"profile": "custom", "bad_rtt_ms": 16.7, "bad_jitter_ms": 0.5, "bad_loss": 0.005}},
         {"title": "Arena", "thresholds": {"profile": "custom", "bad_rtt_ms": 16.7, "bad_jitter_ms": 0.5, "bad_loss": 0.005}}),
    ):  # fmt: skip
        told_now = (await api.patch("/v1/games/arena", json=change, headers=admin)).json()
        assert {name: told_now[name] for name in expected} == expected
    assert (await api.get("/v1/quality", params={"game": "arena"})).status_code == 200
    assert (await api.get("/v1/games/arena", headers=admin)).json() == told_now
    assert told_now in (await api.get("/v1/games", headers=admin)).json()
    assert (await api.patch("/v1/games/arena", json={}, headers=admin)).json() == told_now
    custom = '{"profile":"custom","bad_rtt_ms":16.7,"bad_jitter_ms":0.5,"bad_loss":0.005}'
    assert (await audit(api, studio, 4)) == [
        ("admin", "game_created", "arena", None), ("admin", "game_changed", "arena", 'title: "Arena"'),
        ("admin", "game_changed", "arena", "is_public: true"), ("admin", "game_changed", "arena", f"thresholds: {custom}"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"thresholds": {"profile": "custom", "bad_rtt_ms": 100}}, "invalid_thresholds"),
        ({"thresholds": {"profile": "shooter", "bad_loss": 0.5}}, "invalid_thresholds"),
        ({"thresholds": {"profile": "chess"}}, "invalid_parameter"),
        ({"thresholds": {"profile": "custom", "bad_rtt_ms": 0, "bad_jitter_ms": 1, "bad_loss": 0}}, "invalid_parameter"),
        ({"thresholds": {"profile": "custom", "bad_rtt_ms": 1, "bad_jitter_ms": 1, "bad_loss": 1.1}}, "invalid_parameter"),
        ({"title": "x" * 65}, "invalid_parameter"),
        ({"title": "two\nlines"}, "invalid_parameter"),
        ({"titel": "misspelled"}, "invalid_parameter"),
    ],
)
async def test_a_game_is_not_changed_so(api: httpx.AsyncClient, studio: Studio, body: dict[str, Any], code: str) -> None:
    await game(api, studio, "fixed")
    assert told(await api.patch("/v1/games/fixed", json=body, headers=studio.admin.headers)) == (422, code)


async def test_one_name_is_one_game_whosever(api: httpx.AsyncClient, studio: Studio) -> None:
    asked = [game(api, studio, "one-only") for _ in range(6)]
    assert sorted(told(one) for one in await asyncio.gather(*asked)) == [(201, ""), *[(409, "game_taken")] * 5]
    assert told(await game(api, studio, "demo")) == (409, "game_taken")


async def test_thresholds_say_who_has_it_bad_from_then_on(api: httpx.AsyncClient, studio: Studio) -> None:
    admin = studio.admin.headers
    await game(api, studio, "strict", is_public=True)
    key = (await api.post("/v1/games/strict/keys", json={"kind": "client"}, headers=admin)).json()["key"]

    async def bad_sessions(region: str) -> list[tuple[int, int]]:
        sent = await api.post(
            "/v1/reports", json=batch([report(region=region, rtt_ms=60)], game="strict"), headers={"authorization": f"Bearer {key}"}
        )
        assert sent.status_code == 202
        await complete(api)
        found = await api.get("/v1/quality", params={"game": "strict", "group_by": "region"})
        return [(one["sessions"], one["bad_sessions"]) for one in found.json()["groups"] if one["region"] == region]

    assert await bad_sessions("before") == [(1, 0)]
    await api.patch("/v1/games/strict", json={"thresholds": {"profile": "dense"}}, headers=admin)
    deadline = awake_s() + 20
    while await bad_sessions(f"r{time.monotonic_ns()}") != [(1, 1)]:
        assert awake_s() < deadline
    regions = (await api.put("/v1/games/strict/regions", json=[{"region": "before", "title": "Before"}], headers=admin)).json()
    assert regions["regions"] == [{"region": "before", "title": "Before"}]
    assert regions["undeclared"] and all(name.startswith("r") for name in regions["undeclared"])


async def test_regions_have_their_limits(api: httpx.AsyncClient, studio: Studio) -> None:
    await game(api, studio, "wide")
    for wanted, answer in (
        ([{"region": f"r{n}"} for n in range(REGIONS_MAX)], (200, "")),
        ([{"region": f"r{n}"} for n in range(REGIONS_MAX + 1)], (422, "invalid_parameter")),
        ([{"region": "a"}, {"region": "a"}], (422, "region_twice")),
        ([{"region": "no good"}], (422, "invalid_parameter")),
        ([], (200, "")),
    ):
        assert told(await api.put("/v1/games/wide/regions", json=wanted, headers=studio.admin.headers)) == answer


# -- keys -----------------------------------------------------------------------------------------------------------------------


async def test_keys_are_shown_once_counted_and_revoked(api: httpx.AsyncClient, studio: Studio) -> None:
    admin = studio.admin.headers
    await game(api, studio, "keyed")
    asked = [
        api.post("/v1/games/keyed/keys", json={"kind": "server", "label": f"k{n}"}, headers=admin) for n in range(KEYS_MAX + 3)
    ]
    answers = await asyncio.gather(*asked)
    made = [one.json() for one in answers if one.status_code == 201]
    assert (len(made), {told(one) for one in answers if one.is_error}) == (KEYS_MAX, {(409, "too_many_keys")})
    assert len({one["key"] for one in made}) == KEYS_MAX and all(one["key"].startswith("gps_") for one in made)
    listed = await api.get("/v1/games/keyed/keys", headers=admin)
    assert len(listed.json()) == KEYS_MAX
    connection = await asyncpg.connect(studio.database_url)
    stored = str(await connection.fetch("SELECT * FROM ingest_key")) + str(await connection.fetch("SELECT * FROM audit_log"))
    await connection.close()
    assert not any(one["key"] in listed.text + stored for one in made)
    assert (await api.delete(f"/v1/games/keyed/keys/{made[0]['key_id']}", headers=admin)).status_code == 204
    assert told(await api.delete(f"/v1/games/keyed/keys/{made[0]['key_id']}", headers=admin)) == (404, "unknown_key_id")
    another = (await api.post("/v1/games/keyed/keys", json={"kind": "client"}, headers=admin)).json()
    assert (await audit(api, studio, 2)) == [
        ("admin", "key_revoked", "keyed", f"server {made[0]['key_id']}: {made[0]['label']}"),
        ("admin", "key_created", "keyed", f"client {another['key_id']}"),
    ]
    await game(api, studio, "unkeyed")
    assert told(await api.delete(f"/v1/games/unkeyed/keys/{made[1]['key_id']}", headers=admin)) == (404, "unknown_key_id")


# -- what is taken away ---------------------------------------------------------------------------------------------------------


async def test_what_is_taken_away_is_felt_in_every_process(database_url: str, valkey_url: str, tmp_path: Path) -> None:
    with serve(database_url, valkey_url, tmp_path / "log", GAMEPULSE_WORKERS="2") as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as api:
            admin, studio_id = await first_admin(api, database_url, "admin", "Ours")
            studio = Studio(service, database_url, admin, studio_id)
            await game(api, studio, "secret")
            key = (await api.post("/v1/games/secret/keys", json={"kind": "client"}, headers=admin.headers)).json()
            people = {name: await member(api, admin, studio_id, name, "viewer") for name in ("ended", "removed", "watching")}

            async def asked(person: Person) -> tuple[int, str]:
                async with httpx.AsyncClient(base_url=service.url) as other:  # a new connection may be to the other worker
                    return told(await other.get("/v1/games/secret", headers=person.headers))

            async def sent() -> tuple[int, str]:
                async with httpx.AsyncClient(base_url=service.url) as other:
                    headers = {"authorization": f"Bearer {key['key']}"}
                    return told(await other.post("/v1/reports", json=batch(1, game="secret"), headers=headers))

            checks: list[tuple[Callable[[], Coroutine[Any, Any, tuple[int, str]]], tuple[int, str]]] = [
                (lambda: asked(people["ended"]), (401, "sign_in_ended")),
                (lambda: asked(people["removed"]), (404, "unknown_game")),
                (sent, (401, "unknown_key")),
            ]
            for ask, _ in checks:
                assert {(await ask())[0] for _ in range(12)} <= {200, 202}
            watched = asyncio.create_task(_watch(service.url, people["watching"]))
            await asyncio.sleep(1)
            assert not watched.done()
            await api.delete("/v1/sign-ins/current", headers=people["ended"].headers)
            for name in ("removed", "watching"):
                await api.delete(f"/v1/studios/{studio_id}/members/{people[name].account_id}", headers=admin.headers)
            await api.delete(f"/v1/games/secret/keys/{key['key_id']}", headers=admin.headers)
            await asyncio.sleep(FELT_S)
            for ask, refused in checks:
                assert {await ask() for _ in range(12)} == {refused}
            await asyncio.wait_for(watched, 2)


async def _watch(url: str, person: Person) -> None:
    """Until the stream ends."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=20) as api,
        api.stream("GET", "/v1/live", params={"game": "secret"}, headers=person.headers) as stream,
    ):
        assert stream.status_code == 200
        async for _ in stream.aiter_lines():
            pass


# -- the audit log --------------------------------------------------------------------------------------------------------------


async def test_the_audit_log_is_read_in_pages(api: httpx.AsyncClient, studio: Studio) -> None:
    for n in range(3):
        await game(api, studio, f"page-{n}")
    path, seen, before = f"/v1/studios/{studio.studio_id}/audit", [], None
    while True:
        page = (
            await api.get(path, params={"limit": 2, **({"before": before} if before else {})}, headers=studio.admin.headers)
        ).json()
        seen += [one["entry_id"] for one in page["entries"]]
        before = page["before"]
        if before is None:
            break
    assert seen == sorted(set(seen), reverse=True)
    connection = await asyncpg.connect(studio.database_url)
    assert len(seen) == await connection.fetchval("SELECT count(*) FROM audit_log WHERE studio_id = $1", studio.studio_id)
    await connection.close()


async def test_nobody_rewrites_the_audit_log(connection: Database) -> None:
    old, young = datetime.now(UTC) - timedelta(days=401), datetime.now(UTC) - timedelta(days=399)
    for at in (old, young):
        await connection.execute("INSERT INTO audit_log (studio_id, at, actor, action) VALUES (1, $1, 'a', 'b')", at)
    for statement in ("UPDATE audit_log SET actor = 'c'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await connection.execute(statement)
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE gamepulse_aggregate")
        await connection.execute("DELETE FROM audit_log")
    assert [row["at"] for row in await connection.fetch("SELECT at FROM audit_log")] == [young]
