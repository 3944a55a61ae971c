"""What is stored of a report, where a client is, and what may be set."""

import json
import math
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gamepulse import metrics, receive, records, settings
from gamepulse.batch import JITTER_METHODS, QUALITIES, SIDES, Report
from gamepulse.geography import NOWHERE, Geography, Place
from gamepulse.limits import client_of
from gamepulse.metrics import Instrument, Metrics

GEOGRAPHY = Path("data/demo-geography.mmdb")
REPORTS = st.builds(
    Report,
    seq=st.integers(0, 2**31 - 1),
    at=st.just(0),
    region=st.just("r"),
    side=st.sampled_from([None, *SIDES]),
    rtt_ms=st.none() | st.floats(0.01, 60_000),
    rtt_min_ms=st.none() | st.floats(0.01, 60_000),
    rtt_max_ms=st.none() | st.floats(0.01, 60_000),
    jitter_ms=st.none() | st.floats(0, 60_000),
    jitter_method=st.sampled_from([None, *JITTER_METHODS]),
    loss=st.none() | st.floats(0, 1),
    quality=st.sampled_from([None, *QUALITIES]),
)


@given(st.lists(st.lists(REPORTS, max_size=20), max_size=3))
def test_packed_reports_say_what_was_sent_to_a_microsecond(parts: list[list[Report]]) -> None:
    arrivals_ms = [86_400_000 + n for n in range(len(parts))]
    places = [[37 * n % records.PLACES_MAX for n in range(len(part))] for part in parts]
    packed = records.pack([records.columns(part) for part in parts], places, arrivals_ms)
    for part, arrival_ms, codes, stored in zip(parts, arrivals_ms, places, packed, strict=True):
        assert len(stored) == 26 * len(part)
        for report, code, one in zip(part, codes, records.unpack(bytes(stored)), strict=True):
            assert (int(one["seq"]), int(one["at_ms"]), int(one["place"])) == (report.seq, report.at - arrival_ms, code)
            for sent, kept, scale in (
                (report.rtt_ms, one["rtt_us"], 1e3), (report.rtt_min_ms, one["rtt_min_us"], 1e3),
                (report.rtt_max_ms, one["rtt_max_us"], 1e3), (report.jitter_ms, one["jitter_us"], 1e3),
                (report.loss, one["loss_ppm"], 1e6),
            ):  # fmt: skip
                assert (sent is None) == (kept == records.UNKNOWN)
                assert sent is None or math.isclose(int(kept) / scale, sent, abs_tol=0.51 / scale)
            for word, words, kept in (
                (report.quality, QUALITIES, one["quality"]), (report.jitter_method, JITTER_METHODS, one["jitter_method"]),
                (report.side, SIDES, one["side"]),
            ):  # fmt: skip
                assert word == (None, *words)[kept]


KNOWN: dict[str, object] = {"seq": 1, "at": 1_795_512_000_000, "region": "r"}
BATCH: dict[str, object] = {"batch_id": str(UUID(int=1)), "session": str(UUID(int=2)), "game": "demo", "sent_at": 1_795_512_000_000}


@pytest.mark.parametrize(
    ("batch", "has_some", "rejected"),
    [
        (BATCH | {"reports": [KNOWN]}, False, 0),
        (BATCH | {"reports": [KNOWN], "later": 1}, True, 0),
        (BATCH | {"reports": [KNOWN, KNOWN | {"later": {}}]}, True, 0),
        (BATCH | {"reports": [KNOWN | {"seq": -1}, KNOWN | {"later": 1}]}, True, 1),
        (BATCH | {"reports": [KNOWN | {"seq": -1}], "later": 1}, True, 1),
        (BATCH | {"reports": [KNOWN | {"side": "unknown field"}, KNOWN]}, False, 1),
        (BATCH | {"session": None, "sessions": [{"session": str(UUID(int=3)), "events": [{"kind": 0}], "reports": [KNOWN], "later": 1}]},
         True, 1),
    ],
)  # fmt: skip
def test_fields_that_are_not_known_are_ignored_and_told(batch: dict[str, object], has_some: bool, rejected: int) -> None:
    content = receive.decode(json.dumps(batch).encode())
    assert (content.has_unknown_fields, len(content.rejected)) == (has_some, rejected)
    assert sum(len(columns.seq) for columns in content.columns) >= 1 - rejected


def located(geography: Geography, peer: str, headers: dict[bytes, bytes]) -> Place:
    return geography.locate(geography.client(peer, headers), headers)


def test_the_rightmost_address_that_is_no_proxy_of_ours_is_the_clients() -> None:
    geography = Geography("127.0.0.0/8, 10.0.0.0/8", str(GEOGRAPHY))
    known = located(geography, "192.0.2.1", {})
    assert known != NOWHERE
    for forwarded in (b"192.0.2.1", b"192.0.2.1, 10.1.2.3", b"203.0.113.9, 192.0.2.1", b"rubbish, 192.0.2.1 ,10.0.0.1"):
        assert located(geography, "127.0.0.1", {b"x-forwarded-for": forwarded}) == known, forwarded
    assert located(geography, "198.18.0.1", {b"x-forwarded-for": b"192.0.2.1"}) == NOWHERE  # who is no proxy is not believed
    assert located(geography, "127.0.0.1", {b"x-forwarded-for": b"rubbish"}) == NOWHERE
    for forwarded in (b"", b",", b"192.0.2.1, ", b"rubbish", b"127.0.0.1.example", b"[]"):  # whoever sends that is one client
        assert client_of(geography.client("127.0.0.1", {b"x-forwarded-for": forwarded}).address) == "unknown", forwarded


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("198.51.100.7:5678", "198.51.100.7"), ("198.51.100.7:1, 10.0.0.1:2", "198.51.100.7"), ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"), ("2001:db8::1", "2001:db8::1"), ("[::ffff:10.0.0.9]:1", "::ffff:10.0.0.9"), ("[", "unknown"), (":", "unknown"),
    ],
)  # fmt: skip
def test_a_port_makes_no_other_client(forwarded: str, address: str) -> None:
    assert Geography("10.0.0.0/8", "").client("10.0.0.7", {b"x-forwarded-for": forwarded.encode()}).address == address


def test_a_proxy_on_this_machine_that_was_not_named_is_told_of_once() -> None:
    told: list[str] = []
    geography = Geography("10.0.0.0/8", "", on_unnamed=lambda: told.append("once"))
    forwarded = {b"x-forwarded-for": b"198.51.100.7"}
    for peer, headers in (("127.0.0.1", {}), ("10.0.0.7", forwarded), ("198.18.0.1", forwarded), ("", forwarded)):
        geography.client(peer, headers)
    assert told == []
    for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert geography.client(peer, forwarded).address == peer
    assert told == ["once"]


def test_what_an_edge_says_is_believed_where_it_is_in_front_only() -> None:
    lies = {b"cloudfront-viewer-country": b"KR", b"cloudfront-viewer-address": b"192.0.2.1:1", b"x-forwarded-for": b"198.51.100.7"}
    assert Geography("10.0.0.0/8", "").client("10.0.0.7", lies) == ("198.51.100.7", False)
    assert located(Geography("10.0.0.0/8", ""), "10.0.0.7", lies) == NOWHERE
    assert Geography("10.0.0.0/8", "", "cloudfront").client("10.0.0.7", lies) == ("192.0.2.1", True)


def test_the_edges_headers_are_believed_from_proxies_only() -> None:
    geography = Geography("10.0.0.0/8", "", "cloudfront")
    headers = {
        b"cloudfront-viewer-country": b"KR",
        b"cloudfront-viewer-country-region": b"11",
        b"cloudfront-viewer-asn": b"64500",
    }
    assert located(geography, "10.0.0.7", headers) == Place("KR", "KR-11", "AS64500")
    assert located(geography, "198.18.0.1", headers) == NOWHERE
    assert located(geography, "10.0.0.7", {b"cloudfront-viewer-country": b"<b>"}) == NOWHERE


def test_the_viewers_address_is_believed_from_proxies_only() -> None:
    geography = Geography("10.0.0.0/8", str(GEOGRAPHY), "cloudfront")
    known, known6 = located(geography, "192.0.2.1", {}), located(geography, "2001:db8:a::1", {})
    assert NOWHERE not in (known, known6) and known != known6
    for written, place in (
        (b"192.0.2.1:46532", known), (b"2001:db8:a::1:46532", known6), (b"[2001:db8:a::1]:46532", known6),
        (b"2001:0db8:000a:0000:0000:0000:0000:0001:1", known6),
        (b"192.0.2.1", NOWHERE), (b"rubbish", NOWHERE), (b":", NOWHERE), (b"\xff:1", NOWHERE), (b"[]:1", NOWHERE), (b"192.0.2.1\0:1", NOWHERE),
    ):  # fmt: skip
        headers = {b"cloudfront-viewer-address": written, b"x-forwarded-for": b"198.51.100.1"}  # the header comes first
        assert located(geography, "10.0.0.7", headers) == place, written
    spoofed = {b"cloudfront-viewer-address": b"192.0.2.1:46532"}
    assert located(geography, "198.18.0.1", spoofed) == NOWHERE
    assert located(geography, "10.0.0.7", spoofed | {b"cloudfront-viewer-country": b"SE"}) == Place("SE", None, None)


def test_an_undeclared_metric_cannot_be_recorded() -> None:
    counted = Metrics()
    with pytest.raises(LookupError, match="not declared"):
        counted.add(Instrument("made.up", "counter", "1", "not in the registry"), 1)
    with pytest.raises(LookupError, match="not declared"):
        counted.record(metrics.INGEST_REPORTS, 1.0, "accepted")  # a counter is no histogram


def test_series_of_an_instrument_are_bounded() -> None:
    counted = Metrics()
    for n in range(metrics.SERIES_MAX + 50):
        counted.add(metrics.INGEST_BATCHES, 1, f"outcome-{n}")
    [metric] = counted.points(1)
    points = metric.sum.data_points
    assert len(points) == metrics.SERIES_MAX + 1
    assert points[-1].attributes[0].key == "otel.metric.overflow" and points[-1].as_double == 50


def test_settings_say_what_is_wrong() -> None:
    good = {"GAMEPULSE_DATABASE_URL": "postgresql://x", "GAMEPULSE_PLAYER_HASH_KEY": "ab" * 32}
    assert settings.load(good).port == 8080
    for name, value in (
        ("GAMEPULSE_PORT", "80a"), ("GAMEPULSE_PORT", "0"), ("GAMEPULSE_TYPO", "1"), ("GAMEPULSE_PLAYER_HASH_KEY", "short"),
        ("GAMEPULSE_TRUSTED_PROXIES", "everyone"), ("GAMEPULSE_TRACE_SAMPLE_RATIO", "2"), ("GAMEPULSE_DATABASE_AUTH", "kerberos"), ("GAMEPULSE_EDGE", "nginx"),
        ("GAMEPULSE_DATABASE_AUTH", "aws-iam"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="settings"):
            settings.load(good | {name: value})
    with pytest.raises(ValueError, match="database_url"):
        settings.load({})
