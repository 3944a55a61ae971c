"""Limits at their edges: just within, and one beyond."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from backports import zstd
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from gamepulse import batch, errors, quality, receive, reports
from gamepulse.aggregate import MOMENTS_MAX, TOTALS_MAX, TOTALS_PER_REQUEST, Aggregator, Shard
from gamepulse.geography import NOWHERE
from gamepulse.keys import IngestKey
from gamepulse.labels import Labels
from gamepulse.metrics import PLAYER_REPORTS
from gamepulse.receive import AGE_MS_MAX, AHEAD_MS_MAX, CLOCK_TOLERANCE_MS, ZSTD_WINDOW_LOG_MAX, Sent
from gamepulse.rollup import OTHER, UNKNOWN, VALUES_MAX
from gamepulse.settings import Settings
from gamepulse.spans import RequestFacts
from gamepulse.telemetry import Telemetry
from gamepulse.totals import Total, TotalKey

NOW_MS = 1_795_512_000_000
FACTS = RequestFacts(0, "POST", 1, 0, False, 1, 1)


def prepared(sent_at: int, at: int) -> Sent:
    batch = {"batch_id": str(UUID(int=1)), "session": str(UUID(int=2)), "game": "demo", "sent_at": sent_at}
    body = json.dumps(batch | {"reports": [{"seq": 1, "at": at, "region": "r"}, {"seq": 2, "at": sent_at, "region": "r"}]})
    return receive.prepare(receive.decode(body.encode()), IngestKey(1, 1, "demo", False), NOWHERE, NOW_MS, bytes(32), FACTS)


@pytest.mark.parametrize("sign", [1, -1])
def test_clocks_are_corrected_beyond_their_tolerance(sign: int) -> None:
    assert prepared(NOW_MS - sign * CLOCK_TOLERANCE_MS, NOW_MS).clock_offset_ms is None
    beyond = sign * (CLOCK_TOLERANCE_MS + 1)
    assert prepared(NOW_MS - beyond, NOW_MS - beyond).clock_offset_ms == beyond


@pytest.mark.parametrize(("at", "code"), [(NOW_MS - AGE_MS_MAX, "too_old"), (NOW_MS + AHEAD_MS_MAX, "in_the_future")])
def test_what_is_too_old_or_in_the_future_is_set_aside(at: int, code: str) -> None:
    assert prepared(NOW_MS, at).rejected == []
    beyond = prepared(NOW_MS, at + (-1 if code == "too_old" else 1))
    assert [(one.pointer, one.code) for one in beyond.rejected] == [("/reports/0/at", code)]
    assert beyond.accepted == 1


def test_a_zstd_window_may_be_8_mib_and_no_more() -> None:
    def compressed(window_log: int) -> bytes:
        options: dict[int, int] = {zstd.CompressionParameter.window_log: window_log, zstd.CompressionParameter.content_size_flag: 0}
        compressor = zstd.ZstdCompressor(options=options)
        return compressor.compress(b"x" * 100) + compressor.flush()

    assert receive.expand(compressed(ZSTD_WINDOW_LOG_MAX), b"zstd") == b"x" * 100
    with pytest.raises(errors.Problem, match="not_its_encoding"):
        receive.expand(compressed(ZSTD_WINDOW_LOG_MAX + 1), b"zstd")


def test_a_label_has_64_characters_and_4096_are_remembered() -> None:
    assert batch.is_label("a" * batch.LABEL_LENGTH_MAX)
    assert not batch.is_label("a" * (batch.LABEL_LENGTH_MAX + 1))
    for n in range(batch.LABELS_REMEMBERED + 100):
        batch.is_label(f"label-{n}")
    assert batch._matches_label.cache_info().currsize == batch.LABELS_REMEMBERED
    before = batch._matches_label.cache_info().misses
    batch.is_label("b" * (batch.LABEL_LENGTH_MAX + 1))
    assert batch._matches_label.cache_info().misses == before  # what is too long does not take the place of another


@pytest.mark.parametrize("dimension", VALUES_MAX)
def test_a_game_has_so_many_values(dimension: str) -> None:
    labels, limit = Labels(), VALUES_MAX[dimension]
    assert labels.bounded(1, dimension, UNKNOWN) == UNKNOWN
    assert [labels.bounded(1, dimension, f"v{n}") for n in range(limit)] == [f"v{n}" for n in range(limit)]
    assert labels.bounded(1, dimension, "more") == OTHER
    assert labels.bounded(1, dimension, "v7") == "v7"
    assert labels.bounded(1, dimension, UNKNOWN) == UNKNOWN
    assert labels.bounded(2, dimension, "more") == "more"


async def test_the_slowest_body_may_be_late_at_the_moment_when_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "BODIES_BYTES_MAX", 10)
    bodies, sent = reports.Bodies(), iter([b"x" * 8])

    async def stops() -> dict[str, Any]:
        return {"type": "http.request", "body": next(sent, b"") or await asyncio.sleep(9, b""), "more_body": True}

    async def comes() -> dict[str, Any]:
        return {"type": "http.request", "body": b"y" * 10}

    slow = asyncio.create_task(bodies.read({}, stops))
    await asyncio.sleep(0.01)
    next(iter(bodies._sizes)).reschedule(0)  # its time is over, which it will learn after the next one has come
    assert await asyncio.create_task(bodies.read({}, comes)) == b"y" * 10
    with pytest.raises(errors.Problem, match="body_too_slow"):
        await slow


def totals(since: int, until: int) -> dict[TotalKey, Total]:
    return {(1, 1, f"r{n}", "ZZ"): Total() for n in range(since, until)}


def test_a_shard_has_so_many_totals() -> None:
    shard = Shard(0, totals(0, TOTALS_MAX - 1), 0, datetime.now(UTC), datetime.now(UTC))
    new = shard.added(totals(TOTALS_MAX - 1, TOTALS_MAX + 2))
    assert new.keys() == {*totals(TOTALS_MAX - 1, TOTALS_MAX), (1, 1, OTHER, OTHER)}


def test_a_request_holds_so_many_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(database_url="postgresql://x", player_hash_key="00" * 32)
    telemetry = Telemetry(settings, "test")
    aggregator = Aggregator(settings, telemetry)
    aggregator._alive_at = time.monotonic()
    aggregator._led[0] = Shard(0, totals(0, 2 * TOTALS_PER_REQUEST + 1), 0, datetime.now(UTC), datetime.now(UTC))
    sent: list[int] = []
    monkeypatch.setattr(telemetry, "send_points", lambda counted, _: sent.append(_reports(counted.points(1))))
    aggregator._export()
    assert sent == [TOTALS_PER_REQUEST, TOTALS_PER_REQUEST, 1]


def _reports(metrics: list[Metric]) -> int:
    return next(len(metric.sum.data_points) for metric in metrics if metric.name == PLAYER_REPORTS.name)


def test_a_shard_remembers_so_many_moments() -> None:
    at = datetime.now(UTC)
    shard = Shard(0, {}, 0, at, at)
    for n in range(10 * MOMENTS_MAX):
        shard.complete_up_to(0, n + 1, at + timedelta(seconds=n))
        assert len(shard.moments) <= MOMENTS_MAX
    assert shard.complete_up_to(10 * MOMENTS_MAX, 10 * MOMENTS_MAX + 1, at) > at + timedelta(seconds=9 * MOMENTS_MAX)


def test_a_span_is_a_year_at_most() -> None:
    now = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
    quality.span(now - quality.SPAN_MAX, now)
    with pytest.raises(errors.Problem, match="span_too_long"):
        quality.span(now - quality.SPAN_MAX - timedelta(minutes=1), now)
