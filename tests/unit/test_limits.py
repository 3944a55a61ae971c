"""Limits of a batch at their edges: just within, and one beyond."""

import json
from uuid import UUID

import pytest
from backports import zstd

from gamepulse import errors, receive
from gamepulse.geography import NOWHERE
from gamepulse.keys import IngestKey
from gamepulse.receive import AGE_MS_MAX, AHEAD_MS_MAX, CLOCK_TOLERANCE_MS, ZSTD_WINDOW_LOG_MAX, Sent
from gamepulse.spans import RequestFacts

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
