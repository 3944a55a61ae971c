"""Looking up: a session's timeline, a player's sessions, everyone on a server; and the routes beside them."""

import json
import time
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx

from tests.awake import awake_s
from tests.batches import batch, event, now_ms, report
from tests.conftest import SERVER_KEY, complete
from tests.people import first_admin

type Database = asyncpg.Connection[asyncpg.Record]


async def test_a_session_shows_client_and_server_side_by_side(client: httpx.AsyncClient) -> None:
    session, at = str(uuid.uuid4()), now_ms()
    await client.post(
        "/v1/reports",
        json=batch([report(1, at=at, side="client", rtt_ms=31)], [event(2, at=at + 1, kind="disconnected")], session=session),
    )
    servers = [{"session": session, "reports": [report(1, at=at - 10, side="server", rtt_ms=29)]}]
    sent = batch(session=None, reports=None, sessions=servers)
    await client.post("/v1/reports", json=sent, headers={"authorization": f"Bearer {SERVER_KEY}"})
    told = (await client.get(f"/v1/games/demo/sessions/{session}")).json()
    assert [(one["side"], one["rtt_ms"]) for one in told["reports"]] == [("server", 29.0), ("client", 31.0)]
    assert [one["kind"] for one in told["events"]] == ["disconnected"]
    assert not told["is_cut"]
    unknown = await client.get(f"/v1/games/demo/sessions/{uuid.uuid4()}")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_session")


async def test_a_players_sessions_are_found_and_the_look_up_is_written_down(
    client: httpx.AsyncClient, connection: Database, database_url: str
) -> None:
    sessions = [str(uuid.uuid4()) for _ in range(3)]
    for session in sessions:
        await client.post("/v1/reports", json=batch(2, session=session, player="p-77", platform="switch"))
    shared = str(uuid.uuid4())
    await client.post("/v1/reports", json=batch(2, session=shared, player="p-78"))
    await complete(client)
    await client.post("/v1/reports", json=batch(3, session=shared, player="p-79"))  # not the first one there
    await complete(client)
    nobody = await client.post("/v1/games/demo/player-sessions", json={"player": "p-77"})
    assert nobody.status_code == 401
    admin, _ = await first_admin(client, database_url, "mina", "Demo studio")
    answer = (await client.post("/v1/games/demo/player-sessions", json={"player": "p-77"}, headers=admin.headers)).json()
    assert {one["session"] for one in answer["sessions"]} == set(sessions)
    assert all(
        one["reports"] == 2 and one["platform"] == "switch" and one["places"] == ["ap-northeast-2 seoul-1"]
        for one in answer["sessions"]
    )
    [audit] = await connection.fetch("SELECT * FROM audit_log WHERE action = 'player_sessions'")
    assert (audit["actor"], audit["account_id"], audit["game_id"]) == ("mina", admin.account_id, 1)
    assert b"p-77" not in audit["subject"]
    answer = (await client.post("/v1/games/demo/player-sessions", json={"player": "p-79"}, headers=admin.headers)).json()
    assert [(one["session"], one["reports"]) for one in answer["sessions"]] == [(shared, 3)]


async def test_everyone_on_a_server_at_a_time(client: httpx.AsyncClient) -> None:
    at = now_ms()
    here, gone = str(uuid.uuid4()), str(uuid.uuid4())
    await client.post("/v1/reports", json=batch([report(server="arena-9")], session=here))
    await client.post("/v1/reports", json=batch([report(server="arena-9", at=at - 7_200_000)], session=gone))
    await client.post("/v1/reports", json=batch([report(server="arena-1")]))
    await complete(client)
    now = datetime.now(UTC)
    for since, until, expected in (
        (now - timedelta(hours=1), now, {here}),
        (now - timedelta(hours=3), now - timedelta(hours=1), {gone}),
    ):
        span = {"from": since.isoformat(), "to": until.isoformat()}
        answer = (await client.get("/v1/games/demo/servers/arena-9/sessions", params=span)).json()
        assert {one["session"] for one in answer["sessions"]} == expected


async def test_the_live_stream_tells_of_a_report_within_two_seconds(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/v1/live", params={"game": "demo"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.aiter_lines()
        await anext(lines)
        sent = batch([report(n, region="sa-east-1") for n in range(3)], [event(9, kind="disconnected", region="sa-east-1")])
        await client.post("/v1/reports", json=sent)
        started = awake_s()
        async for line in lines:
            if not line.startswith("data: "):
                continue
            told = json.loads(line.removeprefix("data: "))
            if told["total"]["count"] == 3:
                break
        assert awake_s() - started < 2
    [region] = told["regions"]
    assert (region["region"], region["sessions"], region["bad_sessions"], region["events"]["disconnected"]) == (
        "sa-east-1",
        1,
        1,
        1,
    )
    assert told["series"]["regions"]["sa-east-1"][-1]["drops"] + told["series"]["regions"]["sa-east-1"][-2]["drops"] == 1
    assert len(told["series"]["total"]) == 15


async def test_the_live_stream_shows_50_groups_and_12_lines(client: httpx.AsyncClient) -> None:
    for since in range(0, 60, 20):
        await client.post("/v1/reports", json=batch([report(n, region=f"r{since + n}") for n in range(20)]))
    await client.post("/v1/reports", json=batch([report(region="largest"), report(1, region="largest")]))
    await complete(client)
    async with client.stream("GET", "/v1/live", params={"game": "demo"}) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                told = json.loads(line.removeprefix("data: "))
                break
    assert told["total"]["count"] == 62
    assert (len(told["regions"]), told["regions"][0]["region"]) == (50, "largest")
    assert len(told["series"]["regions"]) == 12


async def test_the_live_stream_keeps_what_is_ahead_of_time(client: httpx.AsyncClient) -> None:
    """A client's clock may be ahead a little; its minute is shown once it has come, also to who watches already."""
    async with client.stream("GET", "/v1/live", params={"game": "demo"}) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        into_minute_s = time.time() % 60
        await client.post("/v1/reports", json=batch([report(0, at=now_ms() + 29_000, region="ahead")]))
        deadline = awake_s() + (35 if into_minute_s > 30 else 5)
        async for line in lines:
            if line.startswith("data: ") and '"ahead"' in line:
                break
            assert awake_s() < deadline


async def test_an_event_says_where_it_was_or_is_where_its_session_was(client: httpx.AsyncClient) -> None:
    events = [event(1), event(2, server="arena-5"), event(3, region="eu-west-1"), event(4, region="eu-west-1", server="dublin-1")]
    await client.post("/v1/reports", json=batch([report(0)], events))
    await client.post("/v1/reports", json=batch([], [event(1, kind="connect_failed")]))
    await complete(client)
    found = (await client.get("/v1/quality", params={"game": "demo", "group_by": "region,server"})).json()["groups"]
    assert {(group["region"], group["server"]): sum(group["events"].values()) for group in found} == {
        ("ap-northeast-2", "seoul-1"): 1, ("ap-northeast-2", "arena-5"): 1, ("eu-west-1", "unknown"): 1,
        ("eu-west-1", "dublin-1"): 1, ("unknown", "unknown"): 1,
    }  # fmt: skip


async def test_health_meta_page_and_description(client: httpx.AsyncClient) -> None:
    health = (await client.get("/health")).json()
    assert health["status"] == "Healthy"
    assert {name: entry["status"] for name, entry in health["entries"].items()} == dict.fromkeys(
        ("postgresql", "valkey", "ingest"), "Healthy"
    )
    assert health["totalDuration"].startswith("00:00:0")
    assert abs(datetime.fromisoformat(health["checkedAt"]) - datetime.now(UTC)) < timedelta(seconds=20)
    assert (await client.get("/health/live")).status_code == 200
    meta = (await client.get("/v1/meta")).json()
    assert (meta["name"], meta["revision"], meta["limits"]["reports_and_events"]) == ("gamepulse", "unknown", 500)
    page = await client.get("/")
    assert page.status_code == 200 and "GamePulse" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    docs = await client.get("/docs")
    assert docs.status_code == 200
    schema = (await client.get("/docs/schema/openapi.json")).json()
    assert {"/v1/reports", "/v1/quality", "/v1/live"} <= set(schema["paths"])
    for path in ("/nothing", "/assets/../../settings.py", "/assets/nothing.js"):
        missing = await client.get(path)
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")


async def test_wrong_questions_are_told_what_is_wrong_and_echo_nothing(client: httpx.AsyncClient) -> None:
    for query, code in (
        ("group_by=planet", "unknown_dimension"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "empty_span"),
        ("from=2020-01-01T00:00:00Z", "span_too_long"),
        ("from=2026-01-01T00:00:00", "no_offset"),
        ("from=yesterday", "invalid_parameter"),
        ("limit=0", "invalid_parameter"),
        ("limit=1001", "invalid_parameter"),
        ("order=SECRET", "invalid_parameter"),
    ):
        answer = await client.get(f"/v1/quality?game=demo&{query}")
        assert (query, answer.status_code, answer.json()["code"]) == (query, 422, code)
        assert "SECRET" not in answer.text and "planet" not in answer.text
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    for minutes, status in ((1_500, 200), (1_501, 422)):
        params = {"game": "demo", "step": "1m", "from": (now - timedelta(minutes=minutes)).isoformat(), "to": now.isoformat()}
        assert (await client.get("/v1/quality/series", params=params)).status_code == status
    for days, code in ((3, "too_many_points"), (30, "too_fine")):  # minutes are kept for 14 days
        since = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        series = await client.get("/v1/quality/series", params={"game": "demo", "step": "1m", "from": since})
        assert (series.status_code, series.json()["code"]) == (422, code)


async def test_no_question_is_a_500(client: httpx.AsyncClient) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    for path in (
        "/v1/quality?game=demo&to=9999-12-31T23:59:30Z", "/v1/quality?game=demo&to=0001-01-01T00:00:00Z",
        "/v1/quality/series?game=demo&from=0001-01-01T00:00:00%2B14:00", "/v1/games/demo/servers/a/sessions?to=9999-12-31T23:59:30Z",
        "/v1/games/demo/servers/%00/sessions", "/v1/games/demo/servers/a%20b/sessions",
    ):  # fmt: skip
        answer = await client.get(path)
        assert (path, answer.status_code, answer.json()["code"]) == (path, 422, "invalid_parameter")
    for path in (
        "/v1/quality?game=%00", "/v1/quality/series?game=a%20b", "/v1/live?game=%00", f"/v1/games/%00/sessions/{nobody}",
        "/assets/" + "a" * 5_000, "/v1/games/demo/sessions/no-uuid",
    ):  # fmt: skip
        answer = await client.get(path)
        assert (path[:40], answer.status_code) == (path[:40], 404)
    for body in (b"{", b'{"player":' + b"[" * 30_000 + b"]" * 30_000 + b"}", b'{"player":"\xff"}', b"", b"[]", b'{"player":""}'):
        answer = await client.post("/v1/games/demo/player-sessions", content=body, headers={"content-type": "application/json"})
        assert (body[:20], answer.status_code in (400, 422)) == (body[:20], True)
