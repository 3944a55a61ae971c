"""Rubbish of every kind: each has its answer in docs/api.md, none is a 500, and the good reports beside it are stored."""

import asyncio
import gzip
import hashlib
import json
import random
import re
import secrets
import struct
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import httpx
import pytest
from backports import zstd
from hypothesis import given

from tests.awake import awake_s
from tests.batches import Json, batch, event, now_ms, report
from tests.conftest import INGEST_KEY, PATIENT, SERVER_KEY, Cluster, Service, complete, serve, smaller
from tests.rubbish import FACTOR, Published, batches, examples, mutated, without_hint

type Database = asyncpg.Connection[asyncpg.Record]
type Answer = tuple[int, str]
"""Status, and `code` (nothing where there is none)."""

YEAR_MS = 365 * 24 * 3_600_000
SLOW_S = 10.0


# One service for the whole module: each test looks at sessions of its own.


@pytest.fixture(scope="module")
def database_url(cluster: Cluster) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE bench OWNER bench")
    yield cluster.url(name)
    cluster.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def service(database_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Whatever it is sent here, it says nothing of errors of its own."""
    folder = tmp_path_factory.mktemp("rubbish")
    log = folder / "service.log"
    with serve(database_url, valkey_url, log, **smaller(folder, *PATIENT)) as running:
        yield running
        time.sleep(0.5)  # lines are written four times a second
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) > 1_000
    assert [line for line in lines if line["level"] not in {"info", "warning"} or line.get("status", 0) >= 500] == []


@pytest.fixture(autouse=True)
async def neighbour(client: httpx.AsyncClient, connection: Database) -> AsyncIterator[None]:
    """A good client that goes on sending beside every test: whatever the others send, all of its reports are stored."""
    session, answers, is_over = str(uuid.uuid4()), list[Json](), asyncio.Event()
    of_server = {"authorization": f"Bearer {SERVER_KEY}"}  # a client's session may not send so often

    async def send_on() -> None:
        while not answers or not is_over.is_set():
            answer = await client.post("/v1/reports", json=batch(3, [event()], session=session), headers=of_server)
            answers.append(answer.json() | {"status": answer.status_code})
            await asyncio.sleep(0.03)

    sending = asyncio.create_task(send_on())
    yield
    is_over.set()
    await sending
    assert {(answer["status"], answer.get("accepted")) for answer in answers} == {(202, 4)}
    assert await stored(connection, session) == (3 * len(answers), len(answers))


async def stored(connection: Database, session: str) -> tuple[int, int]:
    """Reports and events of a session in PostgreSQL."""
    row = await connection.fetchrow(
        """SELECT coalesce(sum((SELECT count(*) FROM raw_reports(raw_batch))), 0)::integer AS reports,
                  coalesce(sum(jsonb_array_length(events)), 0)::integer AS events
           FROM raw_batch WHERE session_id = $1""",
        uuid.UUID(session),
    )
    assert row is not None
    return row["reports"], row["events"]


async def send(client: httpx.AsyncClient, body: Json | bytes, **headers: str | bytes) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/v1/reports", content=content, headers=httpx.Headers(named, encoding="latin-1"))  # type: ignore[arg-type]  # bytes too


def told(answer: httpx.Response) -> Answer:
    assert answer.headers["content-type"].split(";")[0] in {"application/json", "application/problem+json"}
    return answer.status_code, answer.json().get("code", "")


# -- reports and events -----------------------------------------------------------------------------------------------------------

QUOTED = "x - at `$.secret\0` - at `$.reports[7].secret"
"""Looks like the words in which the decoder tells a place."""
# Field, what is written for its value, code; the same for reports and events unless the field is only of one.
BAD_ITEMS: list[tuple[str, str, str, str]] = [
    *[("reports", field, value, code) for field, value, code in (
        ("rtt_ms", "1e400", "out_of_range"), ("rtt_ms", "-1e400", "out_of_range"), ("rtt_ms", "1e-400", "out_of_range"),
        ("rtt_ms", "9" * 100_000, "out_of_range"), ("rtt_ms", "true", "wrong_type"), ("rtt_ms", "[30]", "wrong_type"),
        ("rtt_min_ms", "0", "out_of_range"), ("rtt_max_ms", "60000.01", "out_of_range"), ("jitter_ms", "-0.001", "out_of_range"),
        ("jitter_method", '"variance"', "unknown_value"), ("loss", "-1e-300", "out_of_range"), ("loss", '"0"', "wrong_type"),
        ("side", '"SERVER"', "unknown_value"), ("quality", '"good\\u0000"', "unknown_value"), ("region", "null", "wrong_type"),
        ("region", '"\\u0000"', "invalid_characters"), ("region", '"서울"', "invalid_characters"), ("region", f'"{"r" * 65}"', "invalid_characters"),
        ("region", '"eu\\n"', "invalid_characters"), ("server", '"a,b c"', "invalid_characters"), ("server", "7", "wrong_type"),
    )],
    *[(kind, field, value, code) for kind in ("reports", "events") for field, value, code in (
        ("seq", "1.0", "wrong_type"), ("seq", "1e0", "wrong_type"), ("seq", '"1"', "wrong_type"), ("seq", "-1", "out_of_range"),
        ("seq", "2147483648", "out_of_range"), ("seq", "1" * 100_000 if kind == "events" else "1" * 400, "out_of_range"),
        ("at", "9223372036854775808", "out_of_range"), ("at", "-9223372036854775809", "out_of_range"), ("at", "1.7e12", "wrong_type"),
        ("at", "9007199254740992", "in_the_future"), ("at", "0", "too_old"), ("at", "null", "wrong_type"), ("at", "[" * 500 + "]" * 500, "wrong_type"),
    )],
    *[("events", field, value, code) for field, value, code in (
        ("kind", '"crashed"', "unknown_value"), ("kind", '""', "unknown_value"), ("kind", '"Connected"', "unknown_value"), ("kind", "3", "wrong_type"),
        ("kind", "null", "wrong_type"), ("reason", '"the cat"', "invalid_characters"), ("reason", '"\\ud83d\\ude00"', "invalid_characters"),
        ("reason", "{}", "wrong_type"), ("region", '""', "invalid_characters"), ("server", '"-a"', "invalid_characters"),
    )],
]  # fmt: skip
BAD_SHAPES = [("null", "", "wrong_type"), ("7", "", "wrong_type"), ("[]", "", "wrong_type"), ("{}", "/seq", "missing_field")]


async def test_each_bad_item_is_named_and_the_good_around_it_are_stored(client: httpx.AsyncClient, connection: Database) -> None:
    for start in range(0, len(BAD_ITEMS), 12):  # a few in each batch: some are long
        kinds = BAD_ITEMS[start : start + 12]
        session, expected = str(uuid.uuid4()), []
        items: dict[str, list[str]] = {"reports": [], "events": []}
        for kind, field, value, code in kinds:
            good: Callable[..., Json] = report if kind == "reports" else event
            expected.append((f"/{kind}/{len(items[kind]) + 1}/{field}", code))
            items[kind] += [json.dumps(good()), json.dumps(good(**{field: "@"})).replace('"@"', value), json.dumps(good())]
        text = json.dumps(batch("@", "@", session=session))  # type: ignore[arg-type]  # replaced at once
        for kind, texts in items.items():
            text = text.replace(f'"{kind}": "@"', f'"{kind}": [{",".join(texts)}]')
        answer = (await send(client, text.encode())).json()
        assert sorted((item["pointer"], item["code"]) for item in answer["rejected"]) == sorted(expected)
        reports, events = (2 * sum(kind == name for kind, *_ in kinds) for name in ("reports", "events"))
        assert (answer["accepted"], await stored(connection, session)) == (reports + events, (reports, events))


async def test_what_is_no_object_is_refused_alone(client: httpx.AsyncClient, connection: Database) -> None:
    session = str(uuid.uuid4())
    items = ",".join(f"{shape},{json.dumps(report())}" for shape, _, _ in BAD_SHAPES)
    body = json.dumps(batch("@", session=session)).replace('"@"', f"[{items}]")  # type: ignore[arg-type]  # replaced at once
    answer = (await send(client, body.encode())).json()
    assert [(item["pointer"], item["code"]) for item in answer["rejected"]] == [
        (f"/reports/{2 * n}{pointer}", code) for n, (_, pointer, code) in enumerate(BAD_SHAPES)
    ]
    assert await stored(connection, session) == (len(BAD_SHAPES), 0)


async def test_numbers_and_texts_at_their_edges_are_taken(client: httpx.AsyncClient, connection: Database) -> None:
    session, now = str(uuid.uuid4()), now_ms()
    odd: list[Json] = [
        {"rtt_ms": 60_000, "rtt_min_ms": 0.01, "jitter_ms": 0, "loss": 1}, {"loss": -0.0}, {"seq": 2**31 - 1}, {"seq": -0},
        {"region": "r" * 64}, {"region": "0._:+-A"}, {"server": None, "side": None, "rtt_ms": None}, {"at": now - 24 * 3_600_000 + 9_000},
    ]  # fmt: skip
    body = json.dumps(batch([report(**fields) for fields in odd], session=session, player="\u0085" + "😀" * 63))
    body = body.replace("0.01", "0.00999999999999999999999").replace('"side"', '"s\\u0069de"')  # both read as what they were
    assert told(await send(client, body.encode())) == (202, "")
    assert await stored(connection, session) == (len(odd), 0)
    assert (
        await connection.fetchval(
            "SELECT min(r.rtt_min_ms) FROM raw_batch, raw_reports(raw_batch) r WHERE session_id = $1", uuid.UUID(session)
        )
        > 0
    )


async def test_the_order_of_seq_does_not_matter_and_none_is_a_duplicate(client: httpx.AsyncClient, connection: Database) -> None:
    session, seqs = str(uuid.uuid4()), [5, 4, 4, 0, 2**31 - 1, 0]
    for _ in range(2):
        answer = (await send(client, batch([report(seq) for seq in seqs], [event(5), event(3)], session=session))).json()
        assert (answer["accepted"], answer["duplicate"], answer["rejected"]) == (8, 0, [])
    assert await stored(connection, session) == (12, 4)


# -- the batch as a whole ---------------------------------------------------------------------------------------------------------


def text(**fields: Any) -> bytes:
    return json.dumps(batch(**fields)).encode()


def with_more(more: str, **fields: Any) -> bytes:
    """A good batch with more written at its end."""
    return text(**fields)[:-1] + more.encode("utf-8", "surrogatepass") + b"}"


NEST = 100_000
BAD_BODIES: list[tuple[str, bytes, Answer]] = [
    ("BOM", b"\xef\xbb\xbf" + text(), (400, "not_json")),
    ("UTF-16", text().decode().encode("utf-16"), (400, "not_json")),
    ("two documents", text() + text(), (400, "not_json")),
    ("lines", text() + b"\n" + text(), (400, "not_json")),
    ("NUL at the end", text() + b"\0", (400, "not_json")),
    ("only space", b" \r\n\t", (400, "not_json")),
    ("comma at the end", text()[:-1] + b",}", (400, "not_json")),
    ("comment", b"/* */" + text(), (400, "not_json")),
    ("single quotes", text().replace(b'"', b"'"), (400, "not_json")),
    ("control character", text(build="@").replace(b"@", b"\n"), (400, "not_json")),
    ("half a surrogate pair", text(player="\ud800"), (400, "not_json")),
    ("a surrogate in UTF-8", text(player="@").replace(b"@", b"\xed\xa0\x80"), (400, "not_json")),
    ("overlong UTF-8", text(player="@").replace(b"@", b"\xc0\xaf"), (400, "not_json")),
    ("deep", with_more(',"x":' + "[" * NEST + "]" * NEST), (400, "not_json")),
    ("deep and unclosed", with_more(',"x":' + '{"a":' * (NEST // 4)), (400, "not_json")),
    ("leading zero", text(sent_at="@").replace(b'"@"', b"01"), (400, "not_json")),
    ("a word", b"null", (422, "wrong_type")),
    ("a list", b"[" + text() + b"]", (422, "wrong_type")),
    ("a text", json.dumps(text().decode()).encode(), (422, "wrong_type")),
    ("brackets", b"[" * 250_000, (422, "wrong_type")),
    ("sent_at negative", text(sent_at=-1), (422, "out_of_range")),
    ("sent_at huge", text(sent_at=2**53 + 1), (422, "out_of_range")),
    ("sent_at of 100,000 digits", text(sent_at="@").replace(b'"@"', b"9" * 100_000), (422, "out_of_range")),
    ("sent_at with a point", text(sent_at=float(now_ms())), (422, "wrong_type")),
    ("sent_at missing", text(sent_at=None), (422, "missing_field")),
    ("dropped negative", text(dropped=-1), (422, "out_of_range")),
    ("reports null", with_more(',"reports":null'), (422, "wrong_type")),
    ("reports an object", with_more(',"reports":{}'), (422, "wrong_type")),
    ("batch_id with braces", text(batch_id=f"{{{uuid.uuid4()}}}"), (422, "invalid_uuid")),
    ("batch_id with a space", text(batch_id=f"{uuid.uuid4()} "), (422, "invalid_uuid")),
    ("session too short", text(session=str(uuid.uuid4())[:-1]), (422, "invalid_uuid")),
    ("player with NUL", text(player="a\0b"), (422, "invalid_characters")),
    ("player too long", text(player="😀" * 65), (422, "invalid_characters")),
    ("key a number", text(key=7), (422, "wrong_type")),
    ("connection quotes", text(connection=QUOTED), (422, "unknown_value")),
    ("an unknown game", text(game="no-such-game"), (403, "other_game")),
    ("sessions empty", with_more(',"sessions":[]', reports=None, session=None), (422, "wrong_length")),
    ("sessions of nothing", with_more(',"sessions":[null]', reports=None, session=None), (422, "wrong_type")),
    ("a session without its id", with_more(',"sessions":[{}]', reports=None, session=None), (422, "missing_field")),
    ("sessions beside bad reports", text(reports=[{"seq": -1}], session=None, sessions=[{"session": str(uuid.uuid4())}]), (422, "session_and_sessions")),
    ("257 servers", text(reports=[report(server=f"s{n}") for n in range(257)]), (422, "too_many_servers")),
]  # fmt: skip


async def test_bodies_that_are_refused_as_a_whole(client: httpx.AsyncClient) -> None:
    for name, body, expected in BAD_BODIES:
        answer = await send(client, body)
        assert (name, told(answer)) == (name, expected)
        assert "secret" not in answer.text


async def test_what_is_unknown_or_stands_twice_does_no_harm(client: httpx.AsyncClient, connection: Database) -> None:
    """Unknown fields are not looked into; of a name that stands twice the last value holds."""
    session = str(uuid.uuid4())
    unknown: Json = {"x": 1, "": None, "__proto__": {"seq": 1}, "Seq": -1, "rtt_ms ": 0, "xs": [[], {"y": [None]}], "z": "\0"}
    sent = batch([report(**unknown)], [event(**unknown)], session=session, **unknown)
    assert told(await send(client, sent)) == (202, "")
    for more in (
        '"dropped":1e400,',
        '"x":1e400,',
        f'"x":{"9" * 200_000},',
        f'"x":{"[" * 400 + "]" * 400},',
        '"game":"other",',
        '"seq":0,',
    ):
        body = text(session=session).replace(b"{", b"{" + more.encode(), 1)
        expected = (422, "out_of_range") if "dropped" in more else (202, "")
        assert (more[:20], told(await send(client, body))) == (more[:20], expected)
    assert await stored(connection, session) == (6, 1)


async def test_a_batch_may_not_change(client: httpx.AsyncClient, connection: Database) -> None:
    session = str(uuid.uuid4())
    sent = batch([report(1), report(2, rtt_ms=0)], [event(3)], session=session, player="p")
    assert (await send(client, sent)).json()["accepted"] == 2
    same: list[Json] = [
        sent | {"sent_at": 0}, sent | {"sent_at": now_ms() + YEAR_MS}, sent | {"key": INGEST_KEY}, sent | {"extra": 1}, dict(reversed(sent.items())),
        sent | {"batch_id": sent["batch_id"].upper(), "session": session.replace("-", "")}, sent | {"build": None},
    ]  # fmt: skip
    for again in same:
        assert (await send(client, again)).json()["duplicate"] == 2, again
    other: list[Json] = [
        sent | {"reports": sent["reports"][:1]}, sent | {"events": []}, sent | {"session": str(uuid.uuid4())}, sent | {"player": "q"},
        sent | {"dropped": 1}, sent | {"reports": [report(1), report(2)]}, sent | {"reports": [report(1), report(2, rtt_ms=-1)]},
    ]  # fmt: skip
    for changed in other:
        assert told(await send(client, changed)) == (409, "batch_id_reused"), changed
    assert await stored(connection, session) == (1, 1)


CLOCKS: list[tuple[Json, int, str]] = [
    # sent_at and at beside the true time in ms, how many of the two items are accepted, code of the others.
    ({"sent": -30 * YEAR_MS, "at": -30 * YEAR_MS - 500}, 2, ""), ({"sent": 80 * YEAR_MS, "at": 80 * YEAR_MS - 500}, 2, ""),
    ({"sent": 0, "at": -30 * YEAR_MS}, 0, "too_old"), ({"sent": 0, "at": 30 * YEAR_MS}, 0, "in_the_future"),
    ({"sent": -30 * YEAR_MS, "at": 0}, 0, "in_the_future"), ({"sent": 80 * YEAR_MS, "at": 0}, 0, "too_old"),
    ({"sent": 29_000, "at": 299_000}, 2, ""), ({"sent": 40_000, "at": 330_000}, 2, ""), ({"sent": -29_000, "at": 310_000}, 0, "in_the_future"),
]  # fmt: skip


async def test_clocks_that_are_years_off(client: httpx.AsyncClient, connection: Database) -> None:
    for clock, accepted, code in CLOCKS:
        now, session = now_ms(), str(uuid.uuid4())
        at = now + clock["at"]
        sent = batch([report(at=at)], [event(at=at)], session=session, sent_at=now + clock["sent"])
        answer = (await send(client, sent)).json()
        assert (clock, answer["accepted"], {item["code"] for item in answer["rejected"]}) == (clock, accepted, {code} - {""})
        assert await stored(connection, session) == (accepted // 2, accepted // 2)


# -- compression ------------------------------------------------------------------------------------------------------------------


def _zstd(body: bytes, **options: int) -> bytes:
    compressor = zstd.ZstdCompressor(options={getattr(zstd.CompressionParameter, name): value for name, value in options.items()})
    return compressor.compress(body) + compressor.flush()


def _with_dictionary(body: bytes) -> bytes:
    dictionary = zstd.train_dict([text() for _ in range(200)], 4096)
    return zstd.compress(body, zstd_dict=dictionary)


GOOD_BODY = text(build="b" * 64)
GZIPPED, ZSTD = gzip.compress(GOOD_BODY), zstd.compress(GOOD_BODY)  # ZSTD tells how much it is beyond 256 in bytes 5 and 6
SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + b"skip"  # RFC 8878, 3.1.2
COMPRESSED: list[tuple[str, str, bytes, Answer]] = [
    ("nothing", "gzip", b"", (400, "truncated")),
    ("nothing", "zstd", b"", (400, "truncated")),
    ("of nothing", "gzip", gzip.compress(b""), (400, "not_json")),
    ("of nothing", "zstd", zstd.compress(b""), (400, "not_json")),
    ("plain", "gzip", GOOD_BODY, (400, "not_its_encoding")),
    ("zlib", "gzip", zlib.compress(GOOD_BODY), (400, "not_its_encoding")),
    ("wrong CRC", "gzip", GZIPPED[:-8] + b"\0\0\0\0" + GZIPPED[-4:], (400, "not_its_encoding")),
    ("wrong size", "gzip", GZIPPED[:-4] + b"\xff\xff\xff\x7f", (400, "not_its_encoding")),
    ("head only", "gzip", GZIPPED[:5], (400, "truncated")),
    ("rubbish behind", "gzip", GZIPPED + b"rubbish", (400, "not_its_encoding")),
    ("a batch in two members", "gzip", gzip.compress(GOOD_BODY[:90]) + gzip.compress(GOOD_BODY[90:]), (400, "not_its_encoding")),
    ("two batches", "gzip", GZIPPED + gzip.compress(text()), (400, "not_its_encoding")),
    ("twice", "gzip", gzip.compress(GZIPPED), (400, "not_json")),
    ("bomb behind a batch", "gzip", GZIPPED + gzip.compress(b" " * 10_000_000), (400, "not_its_encoding")),
    ("bomb of bombs", "zstd", zstd.compress(b" " * 1_000_000) * 2_000, (400, "not_its_encoding")),
    ("1 MiB and 1", "zstd", zstd.compress(GOOD_BODY.ljust(1024 * 1024 + 1)), (413, "expanded_too_large")),
    ("head only", "zstd", ZSTD[:5], (400, "truncated")),
    ("without its end", "zstd", ZSTD[:-1], (400, "truncated")),
    ("tells less", "zstd", ZSTD[:5] + b"\0\0" + ZSTD[7:], (400, "not_its_encoding")),
    ("tells more", "zstd", ZSTD[:5] + b"\xff\xff" + ZSTD[7:], (400, "not_its_encoding")),
    ("wrong checksum", "zstd", _zstd(GOOD_BODY, checksum_flag=1)[:-1] + b"\0", (400, "not_its_encoding")),
    ("window of 128 MiB", "zstd", _zstd(GOOD_BODY, window_log=27), (400, "not_its_encoding")),
    ("with a dictionary", "zstd", _with_dictionary(GOOD_BODY), (400, "not_its_encoding")),
    ("rubbish behind", "zstd", ZSTD + b"rubbish", (400, "not_its_encoding")),
    ("two batches", "zstd", ZSTD + zstd.compress(text()), (400, "not_its_encoding")),
    ("something skippable first", "zstd", SKIPPABLE + ZSTD, (400, "not_its_encoding")),
    ("gzip", "zstd", GZIPPED, (400, "not_its_encoding")),
    ("twice", "gzip, gzip", gzip.compress(GZIPPED), (415, "unsupported_encoding")),
    ("deflate", "deflate", zlib.compress(GOOD_BODY), (415, "unsupported_encoding")),
    ("window of 8 MiB", "zstd", _zstd(text(), window_log=23), (202, "")),
    ("name of 200,000 bytes", "gzip", GZIPPED[:3] + b"\x08" + GZIPPED[4:10] + b"n" * 200_000 + b"\0" + GZIPPED[10:], (202, "")),
    ("in capitals", "GZIP", gzip.compress(text()), (202, "")),
]


async def test_compressed_bodies(client: httpx.AsyncClient) -> None:
    for name, encoding, body, expected in COMPRESSED:
        started = awake_s()
        assert (name, encoding, told(await send(client, body, content_encoding=encoding))) == (name, encoding, expected)
        assert awake_s() - started < 1, name


# -- keys -------------------------------------------------------------------------------------------------------------------------

STRANGE_KEYS: list[tuple[str | bytes, str | None, Answer]] = [
    # The header, `key` in the body, the answer.
    ("", None, (401, "missing_key")), ("Bearer", None, (401, "missing_key")),     (f"Basic {INGEST_KEY}", None, (401, "missing_key")), (INGEST_KEY, None, (401, "missing_key")), ("Bearer \t x", None, (401, "unknown_key")),
    (b"Bearer k\xe9\xff", None, (401, "unknown_key")), ("Bearer ключ".encode(), None, (401, "unknown_key")),
    (f"Bearer {'k' * 20_000}", None, (401, "unknown_key")), (f"Bearer {INGEST_KEY}x", None, (401, "unknown_key")),
    (f"Bearer {INGEST_KEY.upper()}", None, (401, "unknown_key")), ("", "", (401, "unknown_key")), ("", "a\0b", (401, "unknown_key")),
    ("", "k" * 100_000, (401, "unknown_key")), ("", "ключ", (401, "unknown_key")), ("Bearer wrong", INGEST_KEY, (401, "unknown_key")),
    ("", INGEST_KEY, (202, "")), ("Basic eDp5", INGEST_KEY, (202, "")), (f"bEARER   {INGEST_KEY}", "wrong", (202, "")),
]  # fmt: skip


async def test_strange_keys(client: httpx.AsyncClient) -> None:
    for header, key, expected in STRANGE_KEYS:
        answer = await send(client, batch(key=key), authorization=header)
        assert (header, key, told(answer)) == (header, key, expected)


async def test_a_key_opens_its_own_game_only(client: httpx.AsyncClient, connection: Database) -> None:
    secret = await _new_key(connection, "other-game")
    assert told(await send(client, batch(game="other-game"), authorization=f"Bearer {secret}")) == (202, "")
    assert told(await send(client, batch(), authorization=f"Bearer {secret}")) == (403, "other_game")
    assert told(await send(client, batch(game="other-game"))) == (403, "other_game")


async def _new_key(connection: Database, game: str) -> str:
    """A client key for a game, which is made if there is none of that name."""
    secret = secrets.token_hex(32)
    await connection.execute(
        """WITH made AS (INSERT INTO game (studio_id, slug) SELECT studio_id, $1 FROM game LIMIT 1 ON CONFLICT DO NOTHING RETURNING *),
                found AS (SELECT studio_id, game_id FROM made UNION SELECT studio_id, game_id FROM game WHERE slug = $1)
           INSERT INTO ingest_key (studio_id, game_id, key_hash, kind) SELECT studio_id, game_id, $2, 'client' FROM found""",
        game, hashlib.sha256(secret.encode()).digest(),
    )  # fmt: skip
    return secret


# -- HTTP -------------------------------------------------------------------------------------------------------------------------


def request(body: bytes, *more: bytes, head: bytes = b"POST /v1/reports HTTP/1.1", length: bytes | None = b"") -> bytes:
    """A request as it goes over the wire, the last of its connection. `length`: another Content-Length; None for none."""
    lines = [head, b"Host: gamepulse", b"Authorization: Bearer " + INGEST_KEY.encode(), b"Connection: close", *more]
    if length is not None:
        lines.append(b"Content-Length: " + (length or str(len(body)).encode()))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:])) + end


async def exchange(service: Service, sent: bytes, shut: bool = False, drip: bytes = b"") -> list[Answer]:
    """The answers on a connection of its own until the service closes it. `drip`: sent after it, slowly; `shut`: then send no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
    received = bytearray()

    async def write() -> None:
        with suppress(ConnectionError):  # it may be refused before all of it is sent
            writer.write(sent)
            for n in range(len(drip)):
                await asyncio.sleep(0.1)
                writer.write(drip[n : n + 1])
            await writer.drain()
            if shut:
                writer.write_eof()

    writing = asyncio.create_task(write())
    async with asyncio.timeout(SLOW_S + 5):
        with suppress(ConnectionError):
            while more := await reader.read(65_536):
                received += more
    writing.cancel()
    writer.close()
    answers = re.split(rb"HTTP/1\.[01] (?=\d{3} )", bytes(received))[1:]
    codes = [re.search(rb'"code":"(\w+)"', answer) for answer in answers]
    return [(int(answer[:3]), code[1].decode() if code else "") for answer, code in zip(answers, codes, strict=True)]


CHUNKED = b"Transfer-Encoding: chunked"
HTTP: list[tuple[str, Any, list[Answer]]] = [
    ("HTTP/1.0", lambda: request(text(), head=b"POST /v1/reports HTTP/1.0"), [(202, "")]),
    ("HTTP/2", lambda: request(text(), head=b"POST /v1/reports HTTP/2.0"), [(400, "")]),
    ("TLS", lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), [(400, "")]),
    ("NULs", lambda: bytes(5_000), [(400, "")]),
    ("Expect", lambda: request(text(), b"Expect: 100-continue"), [(100, ""), (202, "")]),
    ("chunks", lambda: request(chunked(text()), CHUNKED, length=None), [(202, "")]),
    ("no chunk", lambda: request(b"zz\r\n" + text(), CHUNKED, length=None), [(400, "cut_off")]),
    ("huge chunk", lambda: request(b"f" * 18 + b"\r\n", CHUNKED, length=None), [(400, "cut_off")]),
    ("chunk longer than told", lambda: request(b"5\r\n" + text(), CHUNKED, length=None), [(400, "cut_off")]),
    ("too large in chunks", lambda: request(chunked(bytes(300_000)), CHUNKED, length=None), [(413, "body_too_large")]),
    ("too large, told at once", lambda: request(b"", length=b"262145"), [(413, "body_too_large")]),
    ("length negative", lambda: request(text(), length=b"-1"), [(400, "")]),
    ("length no number", lambda: request(text(), length=b"1e3"), [(400, "")]),
    ("length of 30 digits", lambda: request(text(), length=b"9" * 30), [(400, "")]),
    ("two lengths", lambda: request(text(), b"Content-Length: 5"), [(400, "")]),
    ("no length", lambda: request(text(), length=None), [(400, "not_json")]),
    ("length too small", lambda: request(text(), length=b"20"), [(400, "not_json")]),
    ("pipelined", lambda: request(text()).replace(b"close", b"keep-alive") * 2 + request(text()), [(202, "")] * 3),
    ("rubbish, then good", lambda: request(b"{").replace(b"close", b"keep-alive") + request(text()), [(400, "not_json"), (202, "")]),
    ("200 headers", lambda: request(text(), *[b"x-%d: 1" % n for n in range(200)]), [(431, "")]),
    ("header of 1 MB", lambda: request(text(), b"x: " + b"a" * 1_000_000), [(431, "")]),
    ("header of 100 kB", lambda: request(text(), b"x: " + b"a" * 100_000), [(202, "")]),
    ("URL of 70 kB", lambda: request(text(), head=b"POST /v1/reports?" + b"a" * 70_000 + b" HTTP/1.1"), [(414, "")]),
    ("URL of 60 kB", lambda: request(text(), head=b"POST /v1/reports?" + b"a" * 60_000 + b" HTTP/1.1"), [(202, "")]),
    ("NUL in a header", lambda: request(text(), b"x: a\0b"), [(400, "")]),
    ("NUL in the URL", lambda: request(text(), head=b"POST /v1/reports%00 HTTP/1.1"), [(404, "unknown_route")]),
    ("two slashes", lambda: request(text(), head=b"POST //v1/reports HTTP/1.1"), [(404, "unknown_route")]),
    ("two slashes within", lambda: request(text(), head=b"POST /v1//reports HTTP/1.1"), [(404, "unknown_route")]),
    ("dots", lambda: request(text(), head=b"POST /x/../v1/reports HTTP/1.1"), [(404, "unknown_route")]),
    ("made-up method", lambda: request(text(), head=b"A" * 5_000 + b" /v1/reports HTTP/1.1"), [(405, "method_not_allowed")]),
    ("traceparent is rubbish", lambda: request(text(), b"traceparent: \xff00-zz-" + b"0" * 5_000), [(202, "")]),
    ("addresses are rubbish", lambda: request(text(), b"x-forwarded-for: \xff, , 999.1.1.1, [::1", b"cloudfront-viewer-country: \xe9"), [(202, "")]),
    ("media type in Latin-1", lambda: request(text(), b"Content-Type: \xff"), [(415, "unsupported_media_type")]),
    ("another charset", lambda: request(text(), b"Content-Type: application/json; charset=utf-16"), [(202, "")]),
    ("upgrade", lambda: request(text(), b"Upgrade: h2c"), [(202, "")]),
]  # fmt: skip


async def test_http_that_is_odd_or_broken(service: Service) -> None:
    answers = await asyncio.gather(*(exchange(service, made()) for _, made, _ in HTTP))
    for (name, _, expected), got in zip(HTTP, answers, strict=True):
        assert (name, got) == (name, expected)


async def test_slow_and_broken_bodies_hold_up_nobody(service: Service, client: httpx.AsyncClient, connection: Database) -> None:
    """100 clients that send half a body, one that asks with half of one, one that sends byte by byte, some that hang up; beside them a key is revoked."""
    started, awake_since, body, session = time.monotonic(), awake_s(), text(), str(uuid.uuid4())
    unanswered = request(json.dumps(sent := batch(2, session=session)).encode())
    half = request(body[:100], length=str(len(body)).encode())
    question = request(b'{"pl', head=b"POST /v1/games/demo/player-sessions HTTP/1.1", length=b"20")
    revoking = asyncio.create_task(_revoke(client, connection))
    *slow, asked, drop, cut, dripped, _, is_watching = await asyncio.gather(
        *(exchange(service, half) for _ in range(100)),
        exchange(service, question),
        exchange(service, half, shut=True),
        exchange(service, request(chunked(body, end=b""), CHUNKED, length=None), shut=True),
        exchange(service, request(b"", length=str(len(body)).encode()), drip=body[:150]),
        exchange(service, unanswered, shut=True),  # whoever shuts its side is not answered
        _watch(service),
    )
    assert is_watching
    assert [*slow, asked] == [[(408, "body_too_slow")]] * 101
    assert [drop, cut] == [[(400, "cut_off")]] * 2
    assert dripped == [(408, "body_too_slow")]
    assert await revoking < 5
    assert time.monotonic() - started >= SLOW_S
    assert awake_s() - awake_since < SLOW_S + 4
    answer = (await send(client, sent)).json()
    assert answer["accepted"] + answer["duplicate"] == 2
    assert await stored(connection, session) == (2, 0)


async def _watch(service: Service) -> bool:
    """Whether a live stream goes on though its request told of a body that does not come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
    writer.write(request(b"{", head=b"GET /v1/live?game=demo HTTP/1.1", length=b"10"))
    await asyncio.sleep(SLOW_S + 1)
    await reader.read(1_000_000)
    writer.close()
    return not reader.at_eof()


async def _revoke(client: httpx.AsyncClient, connection: Database) -> float:
    """How many seconds a key was still taken after it was revoked."""
    secret = await _new_key(connection, "demo")
    assert told(await send(client, batch(), authorization=f"Bearer {secret}")) == (202, "")
    await connection.execute(
        "UPDATE ingest_key SET revoked_at = now() WHERE key_hash = $1", hashlib.sha256(secret.encode()).digest()
    )
    revoked = awake_s()
    answer = (202, "")
    while answer == (202, ""):
        await asyncio.sleep(0.1)
        answer = told(await send(client, batch(), authorization=f"Bearer {secret}"))
    assert answer == (401, "unknown_key")
    return awake_s() - revoked


# -- many -------------------------------------------------------------------------------------------------------------------------


async def test_300_sessions_behind_one_address(service: Service, connection: Database) -> None:
    sessions = [str(uuid.uuid4()) for _ in range(300)]
    bodies = [json.dumps(batch(2, [event()], session=session)).encode() for session in sessions]
    answers = await asyncio.gather(*(exchange(service, request(body, b"x-forwarded-for: 192.0.2.77")) for body in bodies))
    assert answers == [[(202, "")]] * 300
    assert [await stored(connection, session) for session in sessions] == [(2, 1)] * 300


async def test_one_session_that_sends_1000_times(service: Service, client: httpx.AsyncClient, connection: Database) -> None:
    session, at = str(uuid.uuid4()), now_ms()
    sent = [request(json.dumps(batch([report(n, at=at)], session=session)).encode()) for n in range(1_000)]
    sent = [one.replace(INGEST_KEY.encode(), SERVER_KEY.encode()) for one in sent]  # with a client key it may send 60 in 10 s
    pipelines = [b"".join(sent[n : n + 99]).replace(b"close", b"keep-alive") + sent[n + 99] for n in range(0, 1_000, 100)]
    assert await asyncio.gather(*(exchange(service, pipeline) for pipeline in pipelines)) == [[(202, "")] * 100] * 10
    assert await stored(connection, session) == (1_000, 0)
    await complete(client)
    seen = await connection.fetch("SELECT reports FROM session_seen WHERE session_id = $1", uuid.UUID(session))
    assert [row["reports"] for row in seen] == [1_000]
    group = (await client.get("/v1/quality", params={"game": "demo", "group_by": ""})).json()["groups"][0]
    assert group["sessions"] < group["count"] / 2  # so many reports are still one session


# -- made up ----------------------------------------------------------------------------------------------------------------------


def test_acceptance_over_http_is_what_the_published_schema_says(service: Service, cluster: Cluster, database_url: str) -> None:
    headers = {"authorization": f"Bearer {SERVER_KEY}", "content-type": "application/json"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=20) as client:
        published = Published(client.get("/docs/schema/openapi.json").json())

        @examples(300)
        @given(batches())
        def compare(body: bytes) -> None:
            expected, answer = published.verdict(body), client.post("/v1/reports", content=body)
            if expected is None or answer.status_code == 403:
                assert answer.status_code in {400, 422} or json.loads(body)["game"] != "demo", body
                return
            told = answer.json()
            by_schema = {
                without_hint(item["pointer"]) for item in told["rejected"] if item["code"] not in {"too_old", "in_the_future"}
            }
            assert (answer.status_code, by_schema) == (202, expected.bad), body
            assert told["accepted"] + len(told["rejected"]) == len(expected.good) + len(expected.bad)

        compare()


async def test_mutated_bodies_have_an_answer(client: httpx.AsyncClient, connection: Database) -> None:
    chance = random.Random(4 if FACTOR == 1 else None)
    session, accepted, rejected = str(uuid.uuid4()), 0, 0
    for _ in range(500 * FACTOR):
        body = mutated(chance, [text(reports=[report(n) for n in range(3)], session=session, player="p", dropped=3)])
        answer = await send(client, body)
        assert answer.status_code in {202, 400, 401, 403, 409, 422}, body
        if answer.status_code == 202 and session.encode() in body:
            accepted += answer.json()["accepted"]
            rejected += len(answer.json()["rejected"])
    assert accepted > 30
    assert rejected > 0
    assert (await stored(connection, session))[0] == accepted
