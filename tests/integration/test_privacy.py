"""A player's data: exported, erased, and raw data that a game keeps for a shorter time."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from gamepulse import database, erase
from gamepulse.asker import ANYONE
from gamepulse.asker import Game as AskedGame
from gamepulse.erase import Eraser, erase_some
from gamepulse.receive import hash_player, shard_of
from tests.awake import awake_s
from tests.batches import Json, batch, event, now_ms, report
from tests.conftest import PLAYER_HASH_KEY
from tests.integration.conftest import Studio
from tests.integration.test_accounts import told
from tests.people import Person, first_admin

type Database = asyncpg.Connection[asyncpg.Record]
RAW = "SELECT count(*) FROM raw_batch WHERE session_id = ANY ($1::uuid[])"
SEEN = "SELECT count(*) FROM session_seen WHERE session_id = ANY ($1::uuid[])"


class Game:
    """A game of somebody's, with its keys."""

    def __init__(self, api: httpx.AsyncClient, admin: Person, name: str, keys: dict[str, str]) -> None:
        self.api, self.admin, self.name, self.keys = api, admin, name, keys

    async def send(self, reports: Any, events: Any = None, kind: str = "client", **more: Any) -> dict[str, Any]:
        """A batch, answered 202; as it was sent."""
        sent = batch(reports, events, game=self.name, **more)
        answer = await self.api.post("/v1/reports", json=sent, headers={"authorization": f"Bearer {self.keys[kind]}"})
        assert answer.status_code == 202, answer.text
        return sent

    async def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return await self.api.request(method, f"/v1/games/{self.name}{path}", json=body, headers=self.admin.headers)

    async def count(self) -> int:
        asked = {"game": self.name, "group_by": ""}
        groups = (await self.api.get("/v1/quality", params=asked, headers=self.admin.headers)).json()["groups"]
        return sum(group["count"] for group in groups)

    async def complete(self) -> None:
        """All that was answered is counted."""
        now, deadline = time.time(), awake_s() + 60
        while awake_s() < deadline:
            answer = await self.api.get("/v1/quality", params={"game": self.name}, headers=self.admin.headers)
            if answer.status_code == 200 and datetime.fromisoformat(answer.json()["as_of"]).timestamp() > now:
                return
            await asyncio.sleep(0.1)
        pytest.fail("not all was counted")

    async def erase(self, player: str) -> str:
        asked = await self.ask("POST", "/erasures", {"player": player})
        assert asked.status_code == 202, asked.text
        erasure_id: str = asked.json()["erasure_id"]
        return erasure_id

    async def done(self, erasure_id: str) -> dict[str, Any]:
        deadline = awake_s() + 60
        while awake_s() < deadline:
            answer = await self.ask("GET", f"/erasures/{erasure_id}")
            found: dict[str, Any] = answer.json()
            if answer.status_code == 200 and found["done_at"] is not None:
                return found
            await asyncio.sleep(0.1)
        pytest.fail(f"not done: {answer.text}")

    async def exported(self, player: str) -> list[dict[str, Any]]:
        answer = await self.ask("POST", "/exports", {"player": player})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
        return [json.loads(line) for line in answer.text.splitlines()]


async def made(api: httpx.AsyncClient, admin: Person, studio_id: int) -> Game:
    """A new game with a key of each kind."""
    name = f"game-{uuid.uuid4().hex[:8]}"
    answer = await api.post("/v1/games", json={"studio_id": studio_id, "game": name}, headers=admin.headers)
    assert answer.status_code == 201, answer.text
    keys = {}
    for kind in ("client", "server"):
        key = await api.post(f"/v1/games/{name}/keys", json={"kind": kind}, headers=admin.headers)
        keys[kind] = key.json()["key"]
    return Game(api, admin, name, keys)


@pytest.fixture
async def game(api: httpx.AsyncClient, studio: Studio) -> Game:
    return await made(api, studio.admin, studio.studio_id)


@pytest.fixture
async def connection(studio: Studio) -> AsyncIterator[Database]:
    """The owner's connection."""
    connection = await asyncpg.connect(studio.database_url)
    yield connection
    await connection.close()


async def test_all_of_a_player_is_exported_and_erased_and_nothing_of_others(
    api: httpx.AsyncClient, studio: Studio, game: Game, connection: Database
) -> None:
    other_admin, other_studio = await first_admin(api, studio.database_url, "other", "Theirs")
    theirs = await made(api, other_admin, other_studio)
    mine, second, both, someone = (str(uuid.uuid4()) for _ in range(4))
    # A game server's part, which does not name the player, may be counted first, or together with the client's.
    await game.send(None, session=None, kind="server", sessions=[{"session": mine, "reports": [report(7, side="server")]}])
    parts: list[Json] = [{"reports": [report(1, side="server")]}, {"player": "p-1", "reports": [report(1, side="client")]}]
    await game.send(None, session=None, kind="server", sessions=[{"session": both} | part for part in parts])
    await game.send([report(1, rtt_ms=0)], session=str(uuid.uuid4()), player="p-1")  # all of it is refused
    first = await game.send(
        [report(1, loss=0.25, rtt_ms=41.5)], [event(2, kind="complaint", reason="lag")], session=mine, player="p-1", build="1.0"
    )
    for n in range(60):
        await game.send(1, session=second, player="p-1", match=f"m-{n}")
    await game.send(1, session=someone, player="p-2")
    await game.send(1, session=mine, player="p-2")  # another's under the same session: theirs
    await theirs.send(2, session=mine, player="p-1")
    await game.complete()
    await theirs.complete()
    counted = await game.count()

    *lines, end = await game.exported("p-1")
    assert end == {"sessions": 3, "batches": 64, "is_cut": False}
    assert {line["session"] for line in lines} == {mine, second, both}
    batches = [line for line in lines if "reports" in line]
    assert {line["match"] for line in batches} == {None, *(f"m-{n}" for n in range(60))}
    [of_client] = [line for line in batches if line["build"] == "1.0"]
    [shown], [happened] = of_client["reports"], of_client["events"]
    assert (shown["seq"], shown["rtt_ms"], shown["loss"], shown["server"]) == (1, 41.5, 0.25, "seoul-1")
    assert (happened["kind"], happened["reason"]) == ("complaint", "lag")
    assert sum(place["reports"] for line in lines for place in line.get("places", ())) >= 64

    done = await game.done(await game.erase("p-1"))
    assert (done["sessions"], done["batches"]) == (3, 64)
    assert await connection.fetchval(SEEN, [second, both]) == await connection.fetchval(RAW, [second, both]) == 0
    game_id = await connection.fetchval("SELECT game_id FROM game WHERE slug = $1", game.name)
    hashed = hash_player("p-1", game_id, bytes.fromhex(PLAYER_HASH_KEY))
    assert await connection.fetchval("SELECT count(*) FROM raw_batch WHERE player = $1", hashed) == 0
    assert (await game.ask("GET", f"/sessions/{second}")).status_code == 404
    assert (await game.ask("POST", "/player-sessions", {"player": "p-1"})).json()["sessions"] == []
    assert await game.exported("p-1") == [{"sessions": 0, "batches": 0, "is_cut": False}]
    assert len((await game.ask("GET", f"/sessions/{someone}")).json()["reports"]) == 1
    left = await connection.fetch("SELECT studio_id, player FROM raw_batch WHERE session_id = $1 ORDER BY 1", uuid.UUID(mine))
    assert [row["studio_id"] for row in left] == [studio.studio_id, other_studio]
    assert len(await theirs.exported("p-1")) == 3
    assert await game.count() == counted, "rollups stay: they are about nobody"

    again = await api.post("/v1/reports", json=first, headers={"authorization": f"Bearer {game.keys['client']}"})
    assert (again.json()["accepted"], again.json()["duplicate"]) == (0, 2), "what is sent again does not bring it back"
    await game.send(1, session=str(uuid.uuid4()), player="p-1")
    await game.complete()
    assert len((await game.ask("POST", "/player-sessions", {"player": "p-1"})).json()["sessions"]) == 1, "who comes back is new"

    entries = (await api.get(f"/v1/studios/{studio.studio_id}/audit", headers=studio.admin.headers)).json()["entries"]
    written = [one for one in entries if one["action"] in ("export", "erasure")]
    assert {one["player"] for one in written} == {hashed.hex()}
    assert [one["action"] for one in written] == ["export", "erasure", "export"]
    assert "p-1" not in json.dumps(entries)
    assert await connection.fetchval("SELECT count(*) FROM erasure WHERE player IS NOT NULL") == 0
    unknown = await theirs.ask("GET", f"/erasures/{done['erasure_id']}")
    assert told(unknown) == (404, "unknown_erasure")


async def holding(connection: Database, player: bytes) -> set[str]:
    """The tables that have a row with this hash, but for the audit log."""
    rows = await connection.fetch(
        "SELECT oid::regclass::text AS name FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'audit_log'"
    )
    assert {"raw_batch", "session_seen", "session_seen_other", "erasure"} <= {row["name"] for row in rows}
    has = "SELECT EXISTS (SELECT FROM {} AS one WHERE strpos(one::text, $1) > 0)"
    return {row["name"] for row in rows if await connection.fetchval(has.format(row["name"]), player.hex())}


async def test_every_player_of_a_session_is_found_exported_and_erased_alone(game: Game, connection: Database) -> None:
    """Some are named by later steps, some by the same one; always in the place and on the day of the first."""
    session = str(uuid.uuid4())
    at = now_ms() - 60_000
    sent = {"a": 1, "b": 2, "c": 3, "d": 4}

    def reports(name: str) -> list[Json]:
        return [report(n, at=at) for n in range(sent[name])]

    for name in ("a", "b"):
        await game.send(reports(name), session=session, player=name, build=name)
        await game.complete()
    many: list[Json] = [
        {"session": session, "player": name, "build": name, "reports": reports(name)} for name in ("c", "d", "c", "a")
    ]
    nobodys: Json = {"session": session, "reports": [report(9, at=at, side="server")]}
    await game.send(None, session=None, kind="server", sessions=[*many, nobodys])
    await game.complete()
    sent |= {"a": 2 * sent["a"], "c": 2 * sent["c"]}
    game_id = await connection.fetchval("SELECT game_id FROM game WHERE slug = $1", game.name)
    hashed = {name: hash_player(name, game_id, bytes.fromhex(PLAYER_HASH_KEY)) for name in sent}

    async def check(name: str, nobodys: int) -> None:
        """Their look-up and their export hold what they sent, what nobody is named for, and nothing of others."""
        [found] = (await game.ask("POST", "/player-sessions", {"player": name})).json()["sessions"]
        assert (found["session"], found["places"]) == (session, ["ap-northeast-2 seoul-1"]), name
        [of_session, *batches, end] = await game.exported(name)
        [place] = of_session["places"]
        assert len(batches) == end["batches"] == (2 if name in "ac" else 1) + nobodys, name
        assert {one["build"] for one in batches} == {name} | ({None} if nobodys else set()), name
        assert sum(len(one["reports"]) for one in batches) == sent[name] + nobodys
        assert name == "a" or (place["reports"], place["build"], found["reports"]) == (sent[name], name, sent[name])

    for name in sent:
        assert await holding(connection, hashed[name]) == {"raw_batch", "session_seen" if name == "a" else "session_seen_other"}
        await check(name, 1)
    counted = await game.count()
    done = await game.done(await game.erase("c"))  # not the first one
    assert (done["sessions"], done["batches"]) == (1, 3)
    assert await holding(connection, hashed["c"]) == set()
    for name in ("a", "b", "d"):
        await check(name, 0)
    done = await game.done(await game.erase("a"))
    assert (done["sessions"], done["batches"]) == (1, 2)
    assert await holding(connection, hashed["a"]) == set()
    for name in ("b", "d"):
        await check(name, 0)
    on_server = (await game.ask("GET", "/servers/seoul-1/sessions")).json()["sessions"]
    assert [(one["session"], one["build"]) for one in on_server] in ([(session, "b")], [(session, "d")]), "it is one of theirs now"
    for name in ("b", "d"):
        assert (await game.done(await game.erase(name)))["batches"] == 1
        assert await holding(connection, hashed[name]) == set()
    assert (await game.ask("GET", f"/sessions/{session}")).status_code == 404
    assert await connection.fetchval("SELECT count(*) FROM session_seen_all WHERE session_id = $1", uuid.UUID(session)) == 0
    assert await game.count() == counted == 15


async def test_a_players_place_says_nothing_of_another(game: Game) -> None:
    """Also where nothing is known of the first one: only parts of the same player, or of nobody, add to it."""
    session = str(uuid.uuid4())

    async def place() -> Json:
        [of_session, *_] = await game.exported("a")
        [place] = of_session["places"]
        return {name: place[name] for name in ("connection", "platform", "build", "match")}

    await game.send(1, session=session, player="a")
    await game.complete()
    await game.send(1, session=session, player="b", connection="wifi", platform="ps5", build="2", match="m-b")
    await game.complete()
    assert await place() == {"connection": None, "platform": None, "build": None, "match": None}
    await game.done(await game.erase("b"))
    for fields in ({"player": "a", "platform": "pc", "match": "m-a"}, {"build": "1"}):
        await game.send(1, session=session, **fields)
        await game.complete()
    assert await place() == {"connection": None, "platform": "pc", "build": "1", "match": "m-a"}


async def test_an_erasure_waits_until_what_it_is_about_is_counted(game: Game, connection: Database) -> None:
    session = str(uuid.uuid4())
    await game.send(2, session=session, player="p")
    await game.complete()
    async with connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")  # while this is open, nothing that follows is counted
        await game.send(3, session=session, player="p")
        erasure_id = await game.erase("p")
        await asyncio.sleep(1)
        pending = (await game.ask("GET", f"/erasures/{erasure_id}")).json()
        assert (pending["done_at"], pending["sessions"]) == (None, 0)
        eraser = Eraser(7)
        await eraser.watch(connection)
        assert 1 < eraser.oldest_s < 20
        assert await connection.fetchval(RAW, [session]) == 2
    done = await game.done(erasure_id)
    assert (done["sessions"], done["batches"]) == (1, 2)
    await eraser.watch(connection)
    assert eraser.oldest_s == 0
    await game.complete()
    assert await connection.fetchval(SEEN, [session]) == await connection.fetchval(RAW, [session]) == 0
    assert await game.count() == 5


async def test_a_step_that_is_under_way_brings_nothing_back(studio: Studio, game: Game, connection: Database) -> None:
    session = str(uuid.uuid4())
    await game.send(1, session=session, player="p")
    await game.complete()
    rows = await connection.fetch("SELECT studio_id, game_id, player FROM session_seen WHERE session_id = $1", uuid.UUID(session))
    due = {**rows[0], "erasure_id": uuid.uuid4(), "upto": None}
    other = await asyncpg.connect(studio.database_url)
    async with connection.transaction():  # what a step does: first the watermark, then where the session was seen
        await connection.execute("UPDATE watermark SET as_of = as_of WHERE shard = $1", shard_of(uuid.UUID(session)))
        await connection.execute(
            'INSERT INTO session_seen SELECT (jsonb_populate_record(seen, \'{"server": "another"}\')).*'
            " FROM session_seen AS seen WHERE session_id = $1",
            uuid.UUID(session),
        )
        erasing = asyncio.create_task(erase_some(other, due))
        await asyncio.sleep(0.5)
        assert not erasing.done()
    await erasing
    await other.close()
    assert await connection.fetchval(SEEN, [session]) == await connection.fetchval(RAW, [session]) == 0


async def test_what_is_not_counted_is_neither_erased_nor_past_its_retention(
    studio: Studio, game: Game, connection: Database
) -> None:
    session = str(uuid.uuid4())
    await game.send(1, session=session, player="p")
    await game.complete()
    [row] = await connection.fetch("SELECT studio_id, game_id, player FROM session_seen WHERE session_id = $1", session)
    await game.ask("PATCH", "", {"raw_retention_days": 2})
    other = await asyncpg.connect(studio.database_url)
    await other.execute("SELECT create_partitions($1, $1)", datetime.now(UTC).date() - timedelta(days=5))
    async with connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")  # while this is open, nothing that follows is counted
        await game.send(1, session=session, player="p")
        await other.execute(
            "UPDATE raw_batch SET received_at = received_at - interval '5 days' WHERE session_id = $1"
            " AND xid = (SELECT max(xid) FROM raw_batch)", session
        )  # fmt: skip
        await expire(other)
        assert await other.fetchval(RAW, [session]) == 2
        await erase_some(other, {**row, "erasure_id": uuid.uuid4(), "upto": None})
        assert await other.fetchval(RAW, [session]) == 1
    await other.close()


async def test_an_export_ends_where_it_has_many_sessions(
    studio: Studio, game: Game, connection: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await game.send(1, session=str(uuid.uuid4()), player="p")
    await game.complete()
    *_, end = await game.exported("p")
    assert end == {"sessions": 3, "batches": 3, "is_cut": False}
    monkeypatch.setattr(erase, "EXPORTED_SESSIONS_MAX", 2)
    game_id = await connection.fetchval("SELECT game_id FROM game WHERE slug = $1", game.name)
    pool = await database.open_pool({"dsn": studio.database_url}, "query", size=1)
    of = AskedGame(studio.studio_id, game_id, game.name)
    lines = await erase.Exports().begin(pool, ANYONE, of, "p", bytes.fromhex(PLAYER_HASH_KEY))
    [*_, end] = [json.loads(line) for part in [one async for one in lines] for line in part.splitlines()]
    assert end == {"sessions": 2, "batches": 2, "is_cut": True}
    pool.terminate()


async def test_an_erasure_that_is_cut_off_is_told_as_such_and_ended_later(studio: Studio, game: Game, connection: Database) -> None:
    sessions = [str(uuid.uuid4()) for _ in range(8)]
    for session in sessions:
        await game.send(1, session=session, player="p")
    await game.complete()
    # One session cannot be erased for now: that stands for whatever ends a process amid its work.
    await connection.execute(f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF old.session_id = '{sessions[0]}' THEN RAISE EXCEPTION 'no'; END IF; RETURN old; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON session_seen FOR EACH ROW EXECUTE FUNCTION refuse()""")
    try:
        erasure_id = await game.erase("p")
        await asyncio.sleep(1)
        for child in studio.service.children(aggregator=True):
            child.kill()
        for session in sessions:  # each is whole, or gone
            assert await connection.fetchval(SEEN, [session]) == await connection.fetchval(RAW, [session])
        assert await connection.fetchval(SEEN, sessions[:1]) == 1
        assert (await game.ask("GET", f"/erasures/{erasure_id}")).json()["done_at"] is None
    finally:
        await connection.execute("DROP TRIGGER refuse ON session_seen")
    done = await game.done(erasure_id)
    assert (done["sessions"], done["batches"]) == (8, 8)
    assert await connection.fetchval(SEEN, sessions) == await connection.fetchval(RAW, sessions) == 0


async def test_the_books_agree_when_batches_come_in_while_players_are_erased(game: Game, connection: Database) -> None:
    sessions, sent, is_over = [str(uuid.uuid4()) for _ in range(12)], 0, asyncio.Event()

    async def play(session: str) -> None:
        """Once more when the last erasure is done: some comes later."""
        nonlocal sent
        is_last, batches = False, 0
        while not is_last:
            is_last = is_over.is_set()
            await game.send(2, session=session, player="p")
            sent += 2
            batches += 1
            await asyncio.sleep(0.1 if batches < 25 else 0.25)  # more often is a flood: there is a limit of 60 in 10 s

    async def forget() -> None:
        until, erased = time.monotonic() + 3, 0
        while time.monotonic() < until or not erased:
            erased += (await game.done(await game.erase("p")))["batches"]
        is_over.set()

    await asyncio.gather(*(play(session) for session in sessions), forget())
    await game.complete()
    of = "FROM {} WHERE session_id = ANY ($1::uuid[]) GROUP BY session_id ORDER BY session_id"
    seen = await connection.fetch("SELECT session_id, sum(reports) " + of.format("session_seen"), sessions)
    raw = await connection.fetch("SELECT session_id, sum(length(records) / 26) " + of.format("raw_batch"), sessions)
    assert seen == raw
    assert 0 < sum(row["sum"] for row in raw) < sent, "some was erased, some came later"
    assert await game.count() == sent, "each is counted once, erased or not"
    await game.done(await game.erase("p"))
    assert await connection.fetchval(SEEN, sessions) == await connection.fetchval(RAW, sessions) == 0


async def expire(connection: Database) -> None:
    """What the aggregator does when it keeps house."""
    await connection.execute("SET ROLE gamepulse_aggregate")
    eraser = Eraser(7)
    await eraser.look(connection)
    while await eraser.step(connection):
        pass
    await connection.execute("RESET ROLE")


async def test_a_game_may_keep_raw_data_for_a_shorter_time(
    api: httpx.AsyncClient, studio: Studio, game: Game, connection: Database
) -> None:
    too_long = await game.ask("PATCH", "", {"raw_retention_days": 8})
    assert told(too_long) == (422, "retention_too_long")
    old, young, others = (str(uuid.uuid4()) for _ in range(3))
    neighbour = await made(api, studio.admin, studio.studio_id)
    await game.send(1, session=old, player="p", build="1.0")
    await game.send(1, session=young, player="p", build="1.0")
    await neighbour.send(1, session=others, player="p")
    await game.complete()
    for player in ("q", "r"):  # further ones
        for session in (old, young):
            await game.send(1, session=session, player=player, build=player)
        await neighbour.send(1, session=others, player=player, build=player)
    await game.complete()
    await neighbour.complete()
    await connection.execute("SELECT create_partitions($1, $1)", datetime.now(UTC).date() - timedelta(days=5))
    moved = [old, others]
    await connection.execute(
        "UPDATE raw_batch SET received_at = received_at - interval '5 days' WHERE session_id = ANY ($1)", moved
    )
    await connection.execute(
        "UPDATE session_seen SET day = day - 5, first_at = first_at - interval '5 days', last_at = last_at - interval '5 days'"
        " WHERE session_id = ANY ($1)",
        moved,
    )
    further = "UPDATE session_seen_other SET day = day - {} WHERE session_id = ANY ($1) AND build = ANY ($2)"
    await connection.execute(further.format(5), moved, ["q", "r"])
    await connection.execute(further.format(4), [others], ["r"])  # more days than the service keeps anything
    assert (await game.ask("GET", f"/sessions/{old}")).status_code == 200
    changed = await game.ask("PATCH", "", {"raw_retention_days": 2})
    assert changed.json()["raw_retention_days"] == 2
    # Nobody is told of it any more, at once; it goes when the aggregator keeps house.
    assert (await game.ask("GET", f"/sessions/{old}")).status_code == 404
    found = (await game.ask("POST", "/player-sessions", {"player": "p"})).json()["sessions"]
    assert [one["session"] for one in found] == [young]
    span = {"from": (datetime.now(UTC) - timedelta(days=6)).isoformat()}
    on_build = await api.get(f"/v1/games/{game.name}/builds/1.0/sessions", params=span, headers=studio.admin.headers)
    assert [one["session"] for one in on_build.json()["sessions"]] == [young]
    compared = await api.get(
        "/v1/quality/compare", params=span | {"game": game.name, "a.build": "1.0", "b.build": "2.0"}, headers=studio.admin.headers
    )
    assert datetime.fromisoformat(compared.json()["a"]["sampled_from"]).date() == datetime.now(UTC).date() - timedelta(days=2)

    await expire(connection)
    rows = await connection.fetch("SELECT session_id FROM raw_batch JOIN session_seen USING (session_id) WHERE session_id = ANY ($1)",
                                  [old, young, others])  # fmt: skip
    assert {str(row["session_id"]) for row in rows} == {young, others}
    assert await connection.fetchval(RAW, [old]) == await connection.fetchval(SEEN, [old]) == 0
    left = await connection.fetch(
        "SELECT session_id, build FROM session_seen_other WHERE session_id = ANY ($1)", [old, young, others]
    )
    assert sorted((str(row["session_id"]), row["build"]) for row in left) == sorted([(young, "q"), (young, "r"), (others, "q")])
