"""POST /v1/reports as a client meets it: what is accepted, what is refused and how, and what a second sending is told."""

import asyncio
import gzip
import json
import uuid
from typing import Any

import asyncpg
import httpx
import pytest
from backports import zstd

from tests.awake import awake_s
from tests.batches import Json, batch, event, now_ms, report
from tests.conftest import INGEST_KEY, SERVER_KEY

HOUR_MS = 3_600_000
type Database = asyncpg.Connection[asyncpg.Record]


async def send(client: httpx.AsyncClient, body: Json | bytes, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.post("/v1/reports", content=content, headers={"content-type": "application/json"} | headers)


async def test_batch_is_stored_as_it_was_sent(client: httpx.AsyncClient, connection: Database) -> None:
    at = now_ms()
    full = {
        "seq": 7, "at": at - 1500, "side": "client", "region": "eu-west-1", "server": "dublin-2", "rtt_ms": 41.237,
        "rtt_min_ms": 0.01,         "rtt_max_ms": 60_000, "jitter_ms": 0,
        "jitter_method": "rfc3550", "loss": 0.0125, "quality": "fair",
    }  # fmt: skip
    sent = batch(
        [full, report(8, rtt_ms=None, server=None)], [event(9, kind="complaint", reason="lag", region="eu-west-1")], player="p-1"
    )
    answer = await send(client, sent)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 3, "duplicate": 0, "rejected": [], "next_report_s": 10})
    rows = await connection.fetch("SELECT (raw_reports(raw_batch)).* FROM raw_batch")
    stored = {name: value for name, value in rows[0].items() if name != "at"}
    assert {name: float(value) if name.endswith("_ms") or name == "loss" else value for name, value in stored.items()} == {
        name: value for name, value in full.items() if name != "at"
    }
    assert round(rows[0]["at"].timestamp() * 1000) == full["at"]
    assert rows[1]["rtt_ms"] is None and rows[1]["server"] is None
    events = json.loads(await connection.fetchval("SELECT events FROM raw_batch"))
    assert events[0]["kind"] == "complaint" and events[0]["reason"] == "lag"
    player = await connection.fetchval("SELECT player FROM raw_batch")
    assert len(player) == 16 and b"p-1" not in player


async def test_a_session_may_name_256_servers(client: httpx.AsyncClient, connection: Database) -> None:
    servers = [f"s{n}" for n in range(256)]
    assert (await send(client, batch([report(n, server=name) for n, name in enumerate(servers)]))).status_code == 202
    rows = await connection.fetch("SELECT (raw_reports(raw_batch)).* FROM raw_batch")
    assert [row["server"] for row in sorted(rows, key=lambda row: row["seq"])] == servers


REFUSED: list[tuple[str, Any, dict[str, str], int, str]] = [
    ("no body", b"", {}, 400, "not_json"),
    ("not JSON", b"{", {}, 400, "not_json"),
    ("bad UTF-8", json.dumps(batch(platform="xyz")).encode().replace(b"xyz", b"\xff\xfe"), {}, 400, "not_json"),
    ("NaN", json.dumps(batch()).replace("30.0", "NaN").encode(), {}, 400, "not_json"),
    ("Infinity", json.dumps(batch()).replace("30.0", "Infinity").encode(), {}, 400, "not_json"),
    ("a bad report, then rubbish", json.dumps(batch([report(seq=-1)])).encode() + b" xx", {}, 400, "not_json"),
    ("a bad report, then nothing", json.dumps(batch([report(seq=-1), report()])).encode()[:-9], {}, 400, "not_json"),
    (
        "a bad report with bad UTF-8",
        json.dumps(batch([report(region="a b")])).encode().replace(b"a b", b"\xff"),
        {},
        400,
        "not_json",
    ),
    ("a bad report with half a character", json.dumps(batch([report(seq=-1, region="\ud800")])).encode(), {}, 400, "not_json"),
    (
        "a bad report that is deep",
        json.dumps(batch([report(seq=-1)])).replace('"seq": -1', '"seq": ' + "[" * 50_000 + "]" * 50_000).encode(),
        {},
        400,
        "not_json",
    ),
    (
        "a hundred thousand bad reports",
        json.dumps(batch(None)).encode()[:-1] + b',"reports":[' + b"0," * 100_000 + b"0]}",
        {},
        422,
        "wrong_item_count",
    ),
    ("a list", b"[]", {}, 422, "wrong_type"),
    ("empty", b"{}", {}, 422, "missing_field"),
    ("no batch_id", batch(batch_id=None), {}, 422, "missing_field"),
    ("batch_id is no UUID", batch(batch_id="7"), {}, 422, "invalid_uuid"),
    ("no session", batch(session=None), {}, 422, "missing_field"),
    ("no reports", batch(0), {}, 422, "wrong_item_count"),
    ("sent_at is a string", batch(sent_at="now"), {}, 422, "wrong_type"),
    ("game has bad characters", batch(game="Démo"), {}, 422, "invalid_characters"),
    ("platform is too long", batch(platform="x" * 65), {}, 422, "invalid_characters"),
    ("platform ends in a newline", batch(platform="x\n"), {}, 422, "invalid_characters"),
    ("connection is unknown", batch(connection="5g"), {}, 422, "unknown_value"),
    ("both session and sessions", batch(sessions=[{"session": str(uuid.uuid4())}]), {}, 422, "session_and_sessions"),
    ("no key", batch(), {"authorization": ""}, 401, "missing_key"),
    ("wrong key", batch(), {"authorization": "Bearer wrong"}, 401, "unknown_key"),
    ("other game", batch(game="other"), {}, 403, "other_game"),
    ("other media type", batch(), {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    ("other encoding", batch(), {"content-encoding": "br"}, 415, "unsupported_encoding"),
    ("not gzip", batch(), {"content-encoding": "gzip"}, 400, "not_its_encoding"),
    ("not zstd", batch(), {"content-encoding": "zstd"}, 400, "not_its_encoding"),
    ("gzip cut off", gzip.compress(json.dumps(batch()).encode())[:-9], {"content-encoding": "gzip"}, 400, "truncated"),
    ("gzip bomb", gzip.compress(b" " * 50_000_000), {"content-encoding": "gzip"}, 413, "expanded_too_large"),
    ("zstd bomb", zstd.compress(b" " * 50_000_000), {"content-encoding": "zstd"}, 413, "expanded_too_large"),
    ("too large", b" " * (256 * 1024 + 1), {}, 413, "body_too_large"),
]


async def test_refusals_say_why_in_one_shape_and_store_nothing(client: httpx.AsyncClient, connection: Database) -> None:
    for name, body, headers, status, code in REFUSED:
        answer = await send(client, body, **headers)
        assert (name, answer.status_code) == (name, status)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (name, problem["status"], problem["code"]) == (name, status, code)
        assert len(problem["trace_id"]) == 32 and problem["type"].endswith(f"#{code}")
    assert await connection.fetchval("SELECT count(*) FROM batch_key") == 0


async def test_many_sessions_need_a_server_key(client: httpx.AsyncClient, connection: Database) -> None:
    sessions = [{"session": str(uuid.uuid4()), "reports": [report(side="server")]} for _ in range(100)]
    sent = batch(session=None, reports=None, sessions=sessions)
    refused = await send(client, sent)
    assert (refused.status_code, refused.json()["code"]) == (403, "server_key_required")
    answer = await send(client, sent, authorization=f"Bearer {SERVER_KEY}")
    assert answer.json()["accepted"] == 100
    assert await connection.fetchval("SELECT count(DISTINCT session_id) FROM raw_batch") == 100
    silent = [{"session": str(uuid.uuid4())} for _ in range(99)] + sessions[:1]  # they say nothing, so nothing is stored of them
    answer = await send(client, batch(session=None, reports=None, sessions=silent), authorization=f"Bearer {SERVER_KEY}")
    assert answer.json()["accepted"] == 1
    assert await connection.fetchval("SELECT count(*) FROM raw_batch") == 101
    sent = batch(session=None, reports=None, sessions=[*sessions, {"session": str(uuid.uuid4()), "reports": [report()]}])
    too_many = await send(client, sent, authorization=f"Bearer {SERVER_KEY}")
    assert (too_many.status_code, too_many.json()["code"], too_many.json()["pointers"]) == (422, "wrong_length", ["/sessions"])


async def test_a_bad_report_is_named_and_does_not_sink_its_neighbours(client: httpx.AsyncClient) -> None:
    wrong: list[tuple[Json, str, str]] = [
        ({"rtt_ms": 0}, "/rtt_ms", "out_of_range"),
        ({"rtt_ms": 0.0099}, "/rtt_ms", "out_of_range"),
        ({"rtt_ms": 60_000.01}, "/rtt_ms", "out_of_range"),
        ({"rtt_ms": 1e300}, "/rtt_ms", "out_of_range"),
        ({"rtt_ms": "30"}, "/rtt_ms", "wrong_type"),
        ({"jitter_ms": -1}, "/jitter_ms", "out_of_range"),
        ({"loss": 1.01}, "/loss", "out_of_range"),
        ({"seq": -1}, "/seq", "out_of_range"),
        ({"seq": 2**31}, "/seq", "out_of_range"),
        ({"at": 10**30}, "/at", "out_of_range"),
        ({"region": "a b"}, "/region", "invalid_characters"),
        ({"region": ""}, "/region", "invalid_characters"),
        ({"quality": "awful"}, "/quality", "unknown_value"),
        ({"side": 1}, "/side", "wrong_type"),
        ({"at": now_ms() - 24 * HOUR_MS - 10_000}, "/at", "too_old"),
        ({"at": now_ms() + 5 * 60_000 + 10_000}, "/at", "in_the_future"),
    ]
    reports = [item for fields, _, _ in wrong for item in (report(), report(**fields))]
    reports += [report(at=now_ms() - 24 * HOUR_MS + 10_000), report(at=now_ms() + 5 * 60_000 - 10_000)]
    answer = (await send(client, batch(reports))).json()
    assert answer["accepted"] == len(wrong) + 2
    told = {item["index"]: (item["pointer"], item["code"]) for item in answer["rejected"]}
    for number, (fields, pointer, code) in enumerate(wrong):
        index = 2 * number + 1
        assert (fields, told.pop(index)) == (fields, (f"/reports/{index}{pointer}", code))
    assert not told


async def test_item_limit_at_its_edge(client: httpx.AsyncClient) -> None:
    assert (await send(client, batch([report(n) for n in range(499)], [event()]))).json()["accepted"] == 500
    over = await send(client, batch([report(n) for n in range(500)], [event()]))
    assert (over.status_code, over.json()["code"]) == (422, "wrong_item_count")


async def test_body_limits_at_their_edges(client: httpx.AsyncClient) -> None:
    def padded(size: int) -> bytes:
        body = json.dumps(batch()).encode()
        return body + b" " * (size - len(body))

    assert (await send(client, padded(256 * 1024))).status_code == 202
    for encoding, compress in (("gzip", gzip.compress), ("zstd", zstd.compress)):
        at_limit = await send(client, compress(padded(1024 * 1024)), **{"content-encoding": encoding})
        assert (encoding, at_limit.status_code) == (encoding, 202)
        beyond = await send(client, compress(padded(1024 * 1024 + 1)), **{"content-encoding": encoding})
        assert (encoding, beyond.status_code) == (encoding, 413)


async def test_a_batch_sent_again_is_stored_once(client: httpx.AsyncClient, connection: Database) -> None:
    sent = batch([report(0), report(1, rtt_ms=0), report(2)])
    first = (await send(client, sent)).json()
    assert (first["accepted"], first["duplicate"], len(first["rejected"])) == (2, 0, 1)
    again = (await send(client, sent | {"sent_at": now_ms() + 5, "key": INGEST_KEY})).json()
    assert (again["accepted"], again["duplicate"], again["rejected"]) == (0, 2, first["rejected"])
    assert await connection.fetchval("SELECT count(*) FROM raw_batch") == 1
    other = await send(client, sent | {"platform": "ios"})
    assert (other.status_code, other.json()["code"], other.json()["pointers"]) == (409, "batch_id_reused", ["/batch_id"])


async def test_a_bad_report_may_come_again_in_other_words(client: httpx.AsyncClient) -> None:
    bad = report(1, rtt_ms=0)
    sent = batch([report(0), bad])
    assert (await send(client, sent)).json()["accepted"] == 1
    again = sent | {"reports": [sent["reports"][0], dict(reversed(bad.items())) | {"rtt_ms": 0.0}]}
    assert (await send(client, json.dumps(again, indent=2).encode())).json()["duplicate"] == 1
    elsewhere = sent | {"reports": [bad, sent["reports"][0]]}
    assert (await send(client, elsewhere)).status_code == 409


async def test_what_is_too_much_is_told_before_it_is_looked_into(client: httpx.AsyncClient) -> None:
    """A small body that expands to half a million reports must not hold up everyone else; without a key it is not even decoded."""
    body = json.dumps(batch(None)).encode()[:-1] + b',"reports":[' + b"0," * 480_000 + b"0]}"
    for key, expected in (
        (f"Bearer {INGEST_KEY}", (422, "wrong_item_count")),
        ("", (401, "missing_key")),
        ("Bearer x", (401, "unknown_key")),
    ):
        started = awake_s()
        answer = await send(client, zstd.compress(body), authorization=key, **{"content-encoding": "zstd"})
        assert (answer.status_code, answer.json()["code"]) == expected
        assert awake_s() - started < 1


async def test_the_same_batch_at_the_same_time_is_stored_once(client: httpx.AsyncClient, connection: Database) -> None:
    sent = batch(20)
    answers = [answer.json() for answer in await asyncio.gather(*(send(client, sent) for _ in range(30)))]
    assert sorted(answer["accepted"] for answer in answers) == [0] * 29 + [20]
    assert sum(answer["duplicate"] for answer in answers) == 29 * 20
    assert await connection.fetchval("SELECT count(*) FROM raw_batch") == 1


async def test_a_batch_sent_again_after_its_times_have_passed_is_a_duplicate(
    client: httpx.AsyncClient, connection: Database
) -> None:
    at = now_ms()
    sent = batch([report(0, at=at - 23 * HOUR_MS), report(1, at=at)])
    assert (await send(client, sent)).json()["accepted"] == 2
    # Two hours later its first report is too old. The client's clock says so; the server's says the same by the shift of sent_at.
    again = (await send(client, sent | {"sent_at": at + 2 * HOUR_MS})).json()
    assert (again["accepted"], again["duplicate"], again["rejected"]) == (0, 2, [])
    assert await connection.fetchval("SELECT count(*) FROM raw_batch") == 1


async def test_wrong_clocks_are_corrected(client: httpx.AsyncClient, connection: Database) -> None:
    slow = now_ms() - 3 * 24 * HOUR_MS
    answer = await send(client, batch([report(0, at=slow - 2000)], [event(1, at=slow - 1000)], sent_at=slow))
    assert answer.json()["accepted"] == 2
    row = await connection.fetchrow("SELECT clock_offset_ms, events, (raw_reports(raw_batch)).at FROM raw_batch")
    assert row is not None
    assert abs(row["clock_offset_ms"] - 3 * 24 * HOUR_MS) < 2_000
    assert abs(row["at"].timestamp() * 1000 - (now_ms() - 2000)) < 3_000
    assert abs(json.loads(row["events"])[0]["at"] - (now_ms() - 1000)) < 3_000
    at_the_epoch = batch([report(0, at=0)], sent_at=0)  # a console whose clock has never been set
    assert (await send(client, at_the_epoch)).json()["accepted"] == 1
    await send(client, batch(sent_at=now_ms() - 29_000))
    assert await connection.fetchval("SELECT count(*) FROM raw_batch WHERE clock_offset_ms IS NULL") == 1


async def test_browsers_may_send_from_anywhere(client: httpx.AsyncClient) -> None:
    preflight = await client.options(
        "/v1/reports", headers={"origin": "https://game.example", "access-control-request-method": "POST"}
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    beacon = batch(key=INGEST_KEY)
    answer = await send(client, beacon, authorization="", **{"content-type": "text/plain;charset=UTF-8"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (202, "*")
    assert answer.headers["access-control-expose-headers"] == "retry-after, ratelimit, ratelimit-policy"
    wrong_method = await client.get("/v1/reports")
    assert (wrong_method.status_code, wrong_method.json()["code"], wrong_method.headers["allow"]) == (
        405,
        "method_not_allowed",
        "POST, OPTIONS",
    )
    assert (await client.post("/v1/reports/", json=batch())).status_code == 202


async def test_a_revoked_key_is_refused_within_five_seconds(client: httpx.AsyncClient, connection: Database) -> None:
    assert (await send(client, batch())).status_code == 202
    await connection.execute("UPDATE ingest_key SET revoked_at = now() WHERE kind = 'client'")
    await asyncio.sleep(5)
    refused = await send(client, batch())
    assert (refused.status_code, refused.json()["code"]) == (401, "unknown_key")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_compressed_batches(client: httpx.AsyncClient, encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zstd.compress
    answer = await send(client, compress(json.dumps(batch(20)).encode()), **{"content-encoding": encoding})
    assert answer.json()["accepted"] == 20
