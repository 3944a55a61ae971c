"""The replay of data/: reproducible, within what the service takes, and true to the files."""

import ipaddress
import itertools
import re
import runpy
import uuid
from collections import Counter
from pathlib import Path

import httpx
import maxminddb
import msgspec
import pytest

from stack.exact import File, file_batches
from stack.measurements import DATA, ELSEWHERE, Report, figures_of_pair, figures_of_phone, networks, rows
from stack.players import Batch, Event, Session, batches
from stack.replay import Demo, Sender, Tally, count_retries_only

RUN = uuid.UUID("6f0b6c1e-3f0e-4d59-9b2c-0d4f8ac1f7aa")
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,63}")
DOCUMENTATION_RANGES = [
    ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]


def first_minutes(seed: int = 1, run: uuid.UUID = RUN, minutes: float = 5.0) -> list[Batch]:
    return list(itertools.takewhile(lambda batch: batch.due_s < minutes * 60, batches(seed, run)))


def statements(session: Session) -> list[Report | Event]:
    return [*session.reports, *session.events]


def test_same_seed_plays_the_same() -> None:
    assert first_minutes() == first_minutes()


def test_other_seed_plays_differently() -> None:
    assert first_minutes(seed=2, minutes=1) != first_minutes(minutes=1)


def test_another_run_repeats_the_play_under_new_names() -> None:
    once, again = first_minutes(), first_minutes(run=uuid.uuid4())
    assert not {batch.batch_id for batch in once} & {batch.batch_id for batch in again}
    assert [(batch.due_s, batch.address) for batch in once] == [(batch.due_s, batch.address) for batch in again]
    assert [session.reports for batch in once for session in batch.sessions] == [
        session.reports for batch in again for session in batch.sessions
    ]


def test_the_play_is_steady_and_has_everything_in_it() -> None:
    played = [batch for batch in first_minutes(minutes=10) if batch.due_s >= 60]
    assert 50 <= sum(len(session.reports) for batch in played for session in batch.sessions) / 540 <= 100
    sessions_by_minute = Counter(
        minute for minute, _ in {(batch.due_s // 60, one.session) for batch in played for one in batch.sessions}
    )
    assert all(100 <= count <= 300 for count in sessions_by_minute.values())
    kinds = Counter(event.kind for batch in played for session in batch.sessions for event in session.events)
    assert set(kinds) == {"connect_failed", "connected", "disconnected", "reconnected", "complaint"}
    assert len({report.region for batch in played for one in batch.sessions for report in one.reports}) == 12


@pytest.mark.parametrize("file", [None, "mobile", "country"])
def test_batches_are_within_what_the_service_takes(file: File | None) -> None:
    sent = list(file_batches(file, RUN)) if file else first_minutes()
    assert len({batch.batch_id for batch in sent}) == len(sent)
    for batch in sent:
        assert any(ipaddress.ip_address(batch.address) in known for known in DOCUMENTATION_RANGES)
        assert 1 <= len(batch.sessions) <= (1 if batch.key == "ingest_key" else 100)
        assert 1 <= batch.report_count <= 500
        for session in batch.sessions:
            check_session(session)


def check_session(session: Session) -> None:
    assert session.connection in {"wifi", "wired", "cellular", "unknown"}
    labels = [session.player, session.platform, session.build, session.match]
    labels += [label for said in statements(session) for label in (said.region, said.server)]
    assert all(LABEL.fullmatch(label) for label in labels), labels
    for report in session.reports:
        known = [value for value in (report.rtt_min_ms, report.rtt_ms, report.rtt_max_ms) if value is not None]
        assert known == sorted(known)
        assert all(0.01 <= value <= 60_000 for value in known)
        assert report.loss is None or 0 <= report.loss <= 1
        assert report.jitter_ms is None or report.jitter_ms >= 0
        assert -300_000 < report.at <= 0


def test_a_session_never_repeats_a_number() -> None:
    numbers = Counter(
        (session.session, batch.key, said.seq)
        for batch in first_minutes()
        for session in batch.sessions
        for said in statements(session)
    )
    assert max(numbers.values()) == 1


def test_each_row_of_a_file_is_sent_once() -> None:
    mobile = [report for batch in file_batches("mobile", RUN) for report in batch.sessions[0].reports]
    assert [report.rtt_ms for report in mobile] == [float(row["rtt_avg_ms"]) for row in rows("mobile_sessions.csv")]
    country = [report for batch in file_batches("country", RUN) for report in batch.sessions[0].reports]
    expected = [float(row["rtt_mean_ms"]) for row in rows("country_rtt.csv")]
    assert Counter(report.rtt_ms for report in country) == Counter(expected)
    seoul = [float(row["rtt_mean_ms"]) for row in rows("country_rtt.csv") if row["country_b"] == "KR"]
    assert sorted(report.rtt_ms or 0 for report in country if report.region == "ap-northeast-2") == sorted(seoul)
    assert any(report.region == ELSEWHERE for report in country)


def test_what_a_row_does_not_know_is_unknown() -> None:
    phone = dict.fromkeys(("rtt_avg_ms", "rtt_min_ms", "rtt_max_ms", "rtt_stdev_ms", "loss_pct"), "")
    body = msgspec.json.decode(msgspec.json.encode(figures_of_phone(phone)))
    assert body == {"rtt_ms": None, "quality": "estimating"}


def test_a_pair_loses_its_outliers() -> None:
    row = {"rtt_mean_ms": "20", "rtt_stdev_ms": "10", "rtt_min_ms": "0.00", "rtt_max_ms": "3592381.0"}
    figures = figures_of_pair(row)
    assert (figures.rtt_min_ms, figures.rtt_ms, figures.rtt_max_ms) == (None, 20.0, 50.0)
    assert figures_of_pair(row | {"rtt_stdev_ms": ""}).rtt_max_ms == 60_000.0


def test_the_demo_geography_is_the_table(tmp_path: Path) -> None:
    made = tmp_path / "made.mmdb"
    runpy.run_path(str(DATA / "demo_geography.py"))["write"](made)
    assert made.read_bytes() == (DATA / "demo-geography.mmdb").read_bytes()
    with maxminddb.open_database(made) as geography:
        for country, known in networks().items():
            for network in known:
                for number in (0, 500):
                    found = geography.get(network.address(number))
                    assert isinstance(found, dict)
                    assert found["country"] == {"iso_code": country}
        assert geography.get("8.8.8.8") is None


@pytest.mark.asyncio
async def test_a_batch_is_sent_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.replay.RETRY_FIRST_S", 0.0)
    monkeypatch.setattr("stack.replay.RETRY_JITTER_S", 0.01)
    bodies: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(msgspec.json.decode(request.content))
        match len(bodies):
            case 1:
                raise httpx.ReadTimeout("no answer")
            case 2:
                return httpx.Response(503, headers={"Retry-After": "0"})
        return httpx.Response(202, json={"accepted": 0, "duplicate": 3, "rejected": []})

    count_retries_only()
    tally = Tally()
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://127.0.0.1") as client:
        await Sender(client, Demo("demo", "i", "s"), tally, 10.0).send(first_minutes(minutes=0.5)[0])
    assert (tally.duplicate, tally.retried, tally.refused) == (3, 2, 0)
    first, second, third = ({**body, "sent_at": 0} for body in bodies)
    assert first == second == third
