"""Questions: filters, one group against another, answers that are kept, and who else was there."""

import asyncio
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import numpy as np
import pytest
import redis.asyncio as redis

from gamepulse import cache, compare, database, errors, gather, merging, quality, resample, rollup, sessions, settings, valkey
from gamepulse.asker import Game
from gamepulse.errors import Problem
from gamepulse.telemetry import Telemetry
from tests.awake import awake_s
from tests.batches import Json, batch, event, now_ms, report
from tests.conftest import SERVER_KEY, complete, free_port, rolled, serve, service_environ

type Database = asyncpg.Connection[asyncpg.Record]
SERVERS = {"authorization": f"Bearer {SERVER_KEY}"}
GAME = Game(1, 1, "demo", is_public=True)
HOUR = timedelta(hours=1)
NOW = 4, gather.Span(datetime.now(UTC), datetime.now(UTC) + HOUR)
QUESTIONS: list[tuple[str, dict[str, str]]] = [
    ("/v1/quality", {}),
    ("/v1/quality/series", {"step": "1h"}),
    ("/v1/quality/compare", {"a.build": "1", "b.build": "2"}),
]


def viewer(country: str, asn: int) -> dict[str, str]:
    """Headers of the edge, which the service believes here."""
    return {"cloudfront-viewer-country": country, "cloudfront-viewer-asn": str(asn)}


async def play(client: httpx.AsyncClient, count: int, rtt_ms: Callable[[], float], **fields: Any) -> None:
    """So many sessions of ten reports each; half of each in another region, which is 100 ms farther."""
    for since in range(0, count, 50):
        sessions = []
        for _ in range(min(count - since, 50)):
            base = rtt_ms()
            reports = [
                report(
                    n,
                    at=now_ms() - n,
                    region="near" if n < 5 else "far",
                    rtt_ms=round(base + n / 10 + 100 * (n >= 5), 3),
                    loss=0.01,
                )
                for n in range(10)
            ]
            sessions.append({"session": str(uuid.uuid4()), "reports": reports} | fields)
        answer = await client.post("/v1/reports", json=batch(None, session=None, sessions=sessions), headers=SERVERS)
        assert answer.status_code == 202, answer.text


# -- filters ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_rolled", [False, True])
async def test_filters_choose_what_is_counted(client: httpx.AsyncClient, connection: Database, is_rolled: bool) -> None:
    dice, expected = random.Random(3), dict[tuple[str, str], int]()
    for country, asn in (("KR", 4766), ("KR", 9318), ("KR", 3786), ("JP", 2516), ("US", 7018)):
        reports = [report(n, rtt_ms=dice.uniform(5, 300)) for n in range(dice.randrange(1, 9))]
        await client.post("/v1/reports", json=batch(reports), headers=viewer(country, asn))
        expected[country, f"AS{asn}"] = len(reports)
    await complete(client)
    if is_rolled:
        await rolled(connection)
    since = (
        (datetime.now(UTC) - timedelta(hours=24)).isoformat() if is_rolled else (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    )

    async def ask(path: str = "/v1/quality", **params: Any) -> Json:
        answer = await client.get(path, params={"game": "demo", "from": since} | params)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    for params, chosen in (
        ({"country": "KR"}, lambda one: one[0] == "KR"),
        ({"country": ["KR", "JP"]}, lambda one: one[0] in ("KR", "JP")),
        ({"country": ["KR", "US"], "network": ["AS4766", "AS7018"]}, lambda one: one[1] in ("AS4766", "AS7018")),
        ({"network": "AS1"}, lambda _: False),
    ):
        wanted = {one: count for one, count in expected.items() if chosen(one)}
        found = await ask(group_by="country,network", **params)
        assert {(one["country"], one["network"]): one["count"] for one in found["groups"]} == wanted
        for order in ("count", "sessions"):
            one = await ask(group_by="network", order=order, limit=1, **params)
            rest = sum(wanted.values()) - sum(group["count"] for group in one["groups"])
            assert (one["remainder"] or {"count": 0})["count"] == rest
            assert (one["remainder"] or {"sessions": 0})["sessions"] == max(len(wanted) - 1, 0)
        lines = (await ask("/v1/quality/series", group_by="", step="1h", **params))["lines"]
        assert sum(point["quality"]["count"] for line in lines for point in line["points"]) == sum(wanted.values())
    elsewhere = await ask(group_by="region", network="AS4766")
    assert [(one["region"], one["count"]) for one in elsewhere["groups"]] == [("ap-northeast-2", expected["KR", "AS4766"])]


async def test_what_cannot_be_filtered_is_refused(client: httpx.AsyncClient) -> None:
    for path, params, code in (
        ("/v1/quality", "group_by=server&build=1", "not_rolled_up_together"),
        ("/v1/quality/series", "network=AS1&platform=switch", "not_rolled_up_together"),
        ("/v1/quality/compare", "network=AS1&a.build=1&b.build=2", "not_rolled_up_together"),
        ("/v1/quality", "countri=KR", "invalid_parameter"),
        ("/v1/quality/series", "order=count", "invalid_parameter"),
        ("/v1/quality", "&".join(f"country=C{n}" for n in range(51)), "invalid_parameter"),
        ("/v1/quality", f"country={'K' * 65}", "invalid_parameter"),
        ("/v1/quality/compare", "country=%00&a.build=1", "invalid_parameter"),
        ("/v1/quality/compare", "a.build=1&b.server=a%00b", "invalid_parameter"),
        ("/v1/quality/compare", "country=KR", "nothing_to_compare"),
        ("/v1/quality/compare", "versus_from=2026-01-01T00:00:00Z&a.country=KR", "nothing_to_compare"),
        ("/v1/quality/compare", "versus_from=2026-01-02T00:00:00Z&versus_to=2026-01-01T00:00:00Z", "empty_span"),
    ):  # fmt: skip
        answer = await client.get(f"{path}?game=demo&{params}")
        assert (params, answer.status_code, answer.json()["code"]) == (params, 422, code)
        if code == "not_rolled_up_together":
            assert "region, country, subdivision, network" in answer.json()["detail"]
    for params, name in (("from=x", "from"), ("country=%00", "country"), ("b.server=%00", "b.server")):
        answer = await client.get(f"/v1/quality/compare?game=demo&{params}")
        assert answer.json()["detail"].endswith(f": {name}.")
    schema = (await client.get("/docs/schema/openapi.json")).json()
    common = {"game", "from", "to", *rollup.DIMENSIONS}
    of_sides = {f"{side}.{dimension}" for side in "ab" for dimension in rollup.DIMENSIONS}
    for path, known in (
        ("/v1/quality", common | {"group_by", "limit", "order"}),
        ("/v1/quality/series", common | {"group_by", "limit", "step"}),
        ("/v1/quality/compare", common | {"versus_from", "versus_to"} | of_sides),
    ):
        told = schema["paths"][path]["get"]
        assert {one["name"] for one in told["parameters"]} == known
        assert {"200", "304", "404", "422", "503"} <= set(told["responses"])


async def test_a_parameter_that_is_mistyped_is_told_and_not_passed_over(client: httpx.AsyncClient) -> None:
    game = "/v1/games/demo"
    for method, path, detail in (
        ("GET", "/v1/quality?game=demo&countri=KR", "country, from, game, group_by"),
        ("GET", "/v1/live?gam=demo&game=demo", "Possible are game."),
        ("GET", f"{game}/servers/s/sessions?form=2026-01-01T00:00:00Z", "Possible are from, to."),
        ("GET", f"{game}/networks/AS1/sessions?since=1", "Possible are from, to."),
        ("HEAD", f"{game}/builds/1/sessions?since=1", ""),
        ("GET", "/v1/studios/1/audit?befor=1", "Possible are before, limit."),
    ):
        answer = await client.request(method, path)
        assert (path, answer.status_code) == (path, 422)
        assert method == "HEAD" or (answer.json()["code"] == "invalid_parameter" and detail in answer.json()["detail"])
        assert "demo" not in answer.text and "since" not in answer.text  # what was sent is not quoted
    for path in ("/health?x=1", "/?utm_source=x", "/docs/errors?x", "/v1/meta?x=1"):  # of no consequence there
        assert (await client.get(path)).status_code == 200


# -- comparing -------------------------------------------------------------------------------------------------------------------


async def test_a_slower_build_is_shown_to_be_slower(client: httpx.AsyncClient, connection: Database) -> None:
    dice = random.Random(5)
    values: dict[str, list[float]] = {}

    def drawn(build: str, median_ms: float) -> Callable[[], float]:
        def one() -> float:
            values.setdefault(build, []).append(dice.lognormvariate(0, 0.3) * median_ms)
            return values[build][-1]

        return one

    for build, count, median_ms in (("1.0", 60, 40), ("1.1", 60, 80), ("1.2", 60, 40), ("1.3", resample.SESSIONS_MIN - 1, 300)):
        await play(client, count, drawn(build, median_ms), build=build)
    await complete(client)

    async def ask(**params: str) -> Json:
        answer = await client.get("/v1/quality/compare", params={"game": "demo"} | params)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    found = await ask(**{"a.build": "1.1", "b.build": "1.0", "region": "near"})
    exact = {build: np.concatenate([np.array(values[build]) + n / 10 for n in range(5)]) for build in ("1.0", "1.1")}
    assert (found["a"]["filters"], found["b"]["filters"]) == (
        {"region": ["near"], "build": ["1.1"]},
        {"region": ["near"], "build": ["1.0"]},
    )
    assert [found[side]["quality"]["count"] for side in "ab"] == [300, 300]
    assert [found[side]["sampled_sessions"] for side in "ab"] == [60, 60]
    for name, level in (("rtt_p50_ms", 0.5), ("rtt_p95_ms", 0.95)):
        one = found[name]
        assert one["a"] == pytest.approx(float(np.quantile(exact["1.1"], level)), rel=0.025)
        assert one["difference"] == pytest.approx(one["a"] - one["b"], abs=0.002)
        assert one["low"] < one["difference"] < one["high"]
        assert one["verdict"] == "worse"
    assert found["loss"] | {"verdict": "no_difference_shown"} == found["loss"]
    assert (found["loss"]["a"], found["loss"]["difference"]) == (0.01, 0)
    other_way = await ask(**{"a.build": "1.0", "b.build": "1.1", "region": "near"})
    assert other_way["rtt_p50_ms"]["verdict"] == "better"
    regions = await ask(**{"build": "1.0", "a.region": "far", "b.region": "near"})
    assert regions["rtt_p50_ms"]["difference"] == pytest.approx(100.5, rel=0.1)
    assert (await ask(**{"a.build": "1.2", "b.build": "1.0", "region": "near"}))["rtt_p50_ms"]["verdict"] == "no_difference_shown"
    few = await ask(**{"a.build": "1.3", "b.build": "1.0"})
    assert (few["rtt_p50_ms"]["verdict"], few["rtt_p50_ms"]["low"]) == ("too_few_sessions", None)
    assert few["rtt_p50_ms"]["difference"] > 100
    nobody = await ask(**{"a.build": "9.9", "b.build": "1.0"})
    assert (nobody["a"]["quality"]["count"], nobody["rtt_p50_ms"]["difference"]) == (0, None)


async def test_one_group_is_compared_at_two_times(client: httpx.AsyncClient) -> None:
    """Sessions that were there both times: of each only the reports of the time count."""
    now, dice = datetime.now(UTC), random.Random(6)
    hours_ago, sessions_sent = now - timedelta(hours=3), []
    for _ in range(45):
        base = dice.uniform(20, 40)
        reports = [
            report(n, at=int(at.timestamp() * 1_000) - n * 100, rtt_ms=round(base + more, 3), loss=None)
            for n, (at, more) in enumerate([(now, 0.0)] * 4 + [(hours_ago, 100.0)] * 4)
        ]
        sessions_sent.append({"session": str(uuid.uuid4()), "reports": reports})
    await client.post("/v1/reports", json=batch(None, session=None, sessions=sessions_sent), headers=SERVERS)
    await complete(client)
    before = {"versus_from": (now - timedelta(hours=4)).isoformat(), "versus_to": (now - timedelta(hours=2)).isoformat()}
    found = (await client.get("/v1/quality/compare", params={"game": "demo"} | before)).json()
    assert [found[side]["quality"]["count"] for side in "ab"] == [180, 180]
    assert [found[side]["sampled_sessions"] for side in "ab"] == [45, 45]
    one = found["rtt_p50_ms"]
    assert (one["difference"], one["verdict"]) == (pytest.approx(-100, abs=3), "better")
    assert -110 < one["low"] < one["high"] < -90
    assert found["loss"] == dict.fromkeys(("a", "b", "difference", "low", "high")) | {"verdict": "too_few_sessions"}


async def test_a_sample_is_bounded_by_sessions_reports_and_what_is_looked_at(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, asker: database.Pool
) -> None:
    await play(client, 40, lambda: 50.0, build="1.0")
    await play(client, 40, lambda: 50.0, build="1.1")
    await complete(client)
    end = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    span = gather.Span(end - timedelta(hours=1), end)
    sides = [compare.Side(span, (("build", (build,)),)) for build in ("1.0", "1.1")]

    async def sampled() -> tuple[int, int]:
        found = await compare.compare(asker, gather.Names(), GAME, sides[0], sides[1], end - timedelta(days=7))
        return found.a.sampled_sessions, found.b.sampled_sessions

    assert await sampled() == (40, 40)
    for name, value, expected in (
        ("SESSIONS_MAX", 35, (35, 35)), ("REPORTS_MAX", 305, (30, 30)), ("REPORTS_AT_ONCE", 25, (40, 40)), ("REPORTS_AT_ONCE", 9, (0, 0)),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(compare, name, value)
            assert (name, await sampled()) == (name, expected)
    monkeypatch.setattr(compare, "WALKED_MAX", 60)  # rows: two of each session, for its two regions
    assert sum(await sampled()) == 30


@pytest.fixture
async def asker(database_url: str) -> AsyncIterator[database.Pool]:
    pool = await database.open_pool({"dsn": database_url}, "query", size=4)
    yield pool
    pool.terminate()


# -- answers that are kept -------------------------------------------------------------------------------------------------------


async def test_who_has_the_answer_is_told_so(client: httpx.AsyncClient) -> None:
    await client.post("/v1/reports", json=batch(3))
    await complete(client)
    now = datetime.now(UTC)
    span = {"game": "demo", "from": f"{now - HOUR:%Y-%m-%dT%H:%M:00Z}", "to": f"{now + HOUR:%Y-%m-%dT%H:%M:00Z}"}
    for path, params in QUESTIONS:
        for _ in range(5):  # the moment may change in between
            first = await client.get(path, params=span | params)
            assert first.status_code == 200, first.text
            again = await client.get(path, params=span | params, headers={"if-none-match": f'"other", {first.headers["etag"]}'})
            if again.status_code == 304:
                break
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert first.headers["cache-control"] == again.headers["cache-control"] == "public, max-age=1"
        other = await client.get(path, params=span | params | {"country": "KR"}, headers={"if-none-match": first.headers["etag"]})
        assert other.status_code == 200
        deadline = awake_s() + 10
        while (await client.get(path, params=span | params, headers={"if-none-match": first.headers["etag"]})).status_code == 304:
            assert awake_s() < deadline
            await asyncio.sleep(0.1)


async def test_what_is_over_is_the_same_until_something_late_comes(client: httpx.AsyncClient, connection: Database) -> None:
    now = datetime.now(UTC)
    if now.minute == 59:  # with the next hour all is named anew
        await asyncio.sleep(61 - now.second)
    over = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - HOUR
    span = {"game": "demo", "from": f"{over - HOUR:%Y-%m-%dT%H:%M:00Z}", "to": f"{over:%Y-%m-%dT%H:%M:00Z}"}

    async def settled() -> list[str]:
        await complete(client)
        await rolled(connection)
        return [(await client.get(path, params=span | params)).headers["etag"] for path, params in QUESTIONS[:2]]

    async def is_still(tags: list[str]) -> list[bool]:
        asked = zip(QUESTIONS[:2], tags, strict=True)
        return [
            (await client.get(path, params=span | params, headers={"if-none-match": tag})).status_code == 304
            for (path, params), tag in asked
        ]

    first = await settled()
    await complete(client, time.time() + 1.1)
    assert await is_still(first) == [True] * 2
    await client.post("/v1/reports", json=batch([report(at=int((over - HOUR / 2).timestamp() * 1000))]))
    await complete(client)
    assert await is_still(first) == [False] * 2
    second = await settled()
    path, params = QUESTIONS[2]  # its sample is of raw data, of which an erasure may take some
    compared = (await client.get(path, params=span | params)).headers["etag"]
    await complete(client, time.time() + 1.1)
    assert await is_still(second) == [True] * 2
    assert (await client.get(path, params=span | params)).headers["etag"] != compared
    assert await is_still(first) == [False] * 2


async def test_a_question_that_fails_midway_says_why(
    client: httpx.AsyncClient, connection: Database, asker: database.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is still reading then: its connection is left in order."""
    await client.post("/v1/reports", json=batch([report(n, region=f"r{n}") for n in range(3)]))
    await complete(client)
    await rolled(connection)

    def fail(*_: object) -> None:
        raise RuntimeError("merging")

    slow = {step: query.replace("FROM rollup", "FROM pg_sleep(0.5), rollup") for step, query in merging._GROUPS.items()}
    monkeypatch.setattr(merging, "_GROUPS", slow)
    monkeypatch.setattr(merging, "SLICE_BYTES_MAX", merging.ROW_BYTES)  # a slice for each group
    monkeypatch.setattr(merging._Merging, "add", fail)
    now = datetime.now(UTC)
    with pytest.raises(RuntimeError, match="merging"):
        await quality.quality(asker, gather.Names(), GAME, ["region"], gather.Span(now - 24 * HOUR, now), 100, "count")
    async with database.studio(asker, 1) as studio:
        assert await studio.fetchval("SELECT 1") == 1


type Made = Callable[[], Awaitable[object]]


@pytest.fixture
async def telemetry(database_url: str) -> AsyncIterator[Telemetry]:
    telemetry = Telemetry(settings.load(service_environ(database_url)), "test")
    yield telemetry
    await telemetry.close()


def counting(made: list[int], answer: object, takes_s: float = 0.05) -> Made:
    async def make() -> object:
        made.append(1)
        await asyncio.sleep(takes_s)
        return answer

    return make


async def test_an_answer_is_made_once_for_all_who_ask(
    asker: database.Pool, telemetry: Telemetry, database_url: str, valkey_url: str
) -> None:
    made: list[int] = []
    async with redis.Redis.from_url(valkey_url) as connection:
        one, another = (cache.Answers(asker, database_url, connection, valkey.policy(), telemetry) for _ in range(2))
        tag = await one.tag(GAME, ("question", 1), NOW)
        assert tag == await another.tag(GAME, ("question", 1), NOW)
        assert len({tag, await one.tag(GAME, ("question", 2), NOW), await one.tag(Game(1, 2, "demo"), ("question", 1), NOW),
                    await one.tag(Game(2, 1, "demo"), ("question", 1), NOW)}) == 4  # fmt: skip
        elsewhere = cache.Answers(asker, database_url + "2", connection, valkey.policy(), telemetry)
        assert await elsewhere.tag(GAME, ("question", 1), NOW) != tag
        answers = await asyncio.gather(*(one.get(GAME, tag, counting(made, {"a": 1})) for _ in range(20)))
        assert (set(answers), len(made)) == ({b'{"a":1}'}, 1)
        assert await another.get(GAME, tag, counting(made, None)) == b'{"a":1}'
        assert len(made) == 1
        other_studio = Game(2, 1, "demo")  # even with the tag of another's answer
        assert await another.get(other_studio, tag, counting(made, {"b": 2})) == b'{"b":2}'
        [key] = [key async for key in connection.scan_iter(f"*:1:1:{tag}")]
        assert 0 < await connection.ttl(key) <= cache.KEPT_S
        large = "x" * cache.BYTES_MAX
        for _ in range(2):
            await one.get(GAME, "large", counting(made, large))
        assert len(made) == 4


async def test_what_goes_wrong_is_told_to_all_and_not_kept(
    asker: database.Pool, telemetry: Telemetry, database_url: str, valkey_url: str
) -> None:
    async with redis.Redis.from_url(valkey_url) as connection:
        answers = cache.Answers(asker, database_url, connection, valkey.policy(), telemetry)

        async def fail() -> object:
            await asyncio.sleep(0.05)
            raise Problem(errors.TOO_MUCH)

        tag = await answers.tag(GAME, ("fails",), NOW)
        found = await asyncio.gather(*(answers.get(GAME, tag, fail) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [Problem] * 3
        assert await answers.get(GAME, tag, counting([], 5)) == b"5"


async def test_a_valkey_that_hangs_holds_up_few_questions(asker: database.Pool, telemetry: Telemetry, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        async with redis.Redis.from_url(f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as connection:
            policy = valkey.policy()
            answers = cache.Answers(asker, database_url, connection, policy, telemetry)
            was_open = []
            for n in range(3):
                was_open.append(policy.is_open)
                assert await answers.get(GAME, str(n), counting([], n, 0)) == str(n).encode()
    assert was_open == [False] * 3
    assert policy.is_open  # each answer has asked twice


async def test_questions_are_answered_without_valkey(database_url: str, tmp_path: Path) -> None:
    away = f"redis://127.0.0.1:{free_port()}/0"
    with serve(database_url, away, tmp_path / "service.log") as service:
        async with httpx.AsyncClient(base_url=service.url, headers=SERVERS, timeout=20) as client:
            await client.post("/v1/reports", json=batch(7))
            await complete(client)
            answers = await asyncio.gather(*(client.get("/v1/quality", params={"game": "demo"}) for _ in range(10)))
            assert {(one.status_code, one.json()["groups"][0]["count"]) for one in answers} == {(200, 7)}
            assert all(one.headers["etag"] for one in answers)


# -- who else was there ----------------------------------------------------------------------------------------------------------


async def test_a_timeline_leads_to_everyone_who_was_there_and_how_they_fared(client: httpx.AsyncClient) -> None:
    mine, at = str(uuid.uuid4()), now_ms() - 600_000
    same = {"server": str(uuid.uuid4()), "network": str(uuid.uuid4()), "build": str(uuid.uuid4())}
    sent = [
        (mine, "arena-1", "1.5+a", 4766), (same["server"], "arena-1", "1.4", 1), (same["network"], "arena-2", "1.4", 4766),
        (same["build"], "arena-2", "1.5+a", 1), (str(uuid.uuid4()), "arena-2", "1.4", 1),
    ]  # fmt: skip
    for session, server, build, asn in sent:
        reports = [report(n, at=at + n * 1_000, server=server, rtt_ms=400 if session == mine else 30) for n in range(3)]
        events = [event(9, at=at + 3_000, kind="complaint")] if session == mine else []
        await client.post("/v1/reports", json=batch(reports, events, session=session, build=build), headers=viewer("KR", asn))
    much_later = [report(0, at=now_ms(), server="arena-1")]
    await client.post("/v1/reports", json=batch(much_later, build="1.5+a"), headers=viewer("KR", 4766))
    await complete(client)
    told = (await client.get(f"/v1/games/demo/sessions/{mine}")).json()
    assert [(one["dimension"], one["value"]) for one in told["others"]] == [
        ("server", "arena-1"), ("network", "AS4766"), ("build", "1.5+a"),
    ]  # fmt: skip
    for one in told["others"]:
        found = (await client.get(one["sessions"])).json()
        assert {session["session"] for session in found["sessions"]} == {mine, same[one["dimension"]]}, one
        assert {session["session"]: session["bad_reports"] for session in found["sessions"]} == {mine: 3, same[one["dimension"]]: 0}
        assert not found["is_cut"]
        [group] = (await client.get(one["quality"])).json()["groups"]
        assert (group[one["dimension"]], group["count"], group["sessions"], group["bad_sessions"]) == (one["value"], 6, 2, 1)
        assert group["events"]["complaint"] == 1


async def test_look_ups_by_network_and_build_are_bounded(
    client: httpx.AsyncClient, connection: Database, asker: database.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await play(client, 30, lambda: 50.0, build="1.0")
    await complete(client)
    end = datetime.now(UTC) + timedelta(minutes=1)
    span = gather.Span(end - timedelta(hours=1), end)
    found = await sessions.on(asker, GAME, "build", "1.0", span)
    assert (len(found.sessions), found.is_cut) == (30, False)
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 29)
    found = await sessions.on(asker, GAME, "build", "1.0", span)
    assert (len(found.sessions), found.is_cut) == (29, True)
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 500)
    monkeypatch.setattr(sessions, "WALKED_MAX", 40)
    found = await sessions.on(asker, GAME, "build", "1.0", span)
    assert len(found.sessions) < 40 and found.is_cut
    for path in ("networks/%00", "builds/a%20b"):
        answer = await client.get(f"/v1/games/demo/{path}/sessions")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    for of, query in (("network", "sessions_of"), ("build", "sessions_of")):
        async with connection.transaction():  # of so few rows it may be known by now that reading all is cheaper
            for way in ("seqscan", "sort", "bitmapscan"):
                await connection.execute(f"SET LOCAL enable_{way} = off")
            plan = await connection.fetch(
                "EXPLAIN " + database.queries("serve")[query].format(dimension=of), 1, 1, "x", span.start, span.end, 501, 20_000
            )
        assert any(f"{of}_first_at" in row[0] for row in plan), plan
