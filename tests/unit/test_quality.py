"""How a span is put together from minutes, hours and days."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gamepulse import quality
from gamepulse.errors import Problem
from gamepulse.quality import Span

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SINCE = datetime(2026, 2, 26, tzinfo=UTC)
MINUTES = st.integers(0, 6 * 24 * 60)


@given(
    MINUTES,
    MINUTES,
    st.sets(st.integers(0, 6 * 24)),
    st.sets(st.integers(0, 6)),
    st.sampled_from([MINUTE, 30 * MINUTE, HOUR, 6 * HOUR, DAY]),
)
def test_pieces_cover_a_span_once_and_use_nothing_stale(a: int, b: int, hours: set[int], days: set[int], finest: timedelta) -> None:
    start, end = SINCE + min(a, b) * MINUTE, SINCE + (max(a, b) + 1) * MINUTE
    stale = {("hour", SINCE + hour * HOUR) for hour in hours} | {("day", SINCE + day * DAY) for day in days}
    at = start
    for table, since, until in quality.pieces(Span(start, end), stale, finest):
        assert since == at < until
        at = until
        step = {"rollup_minute": MINUTE, "rollup_hour": HOUR, "rollup_day": DAY}[table]
        assert (since - SINCE) % step == timedelta() == (until - SINCE) % step
        assert step <= max(finest, MINUTE)
        for name, stale_at in stale:
            size = HOUR if name == "hour" else DAY
            overlaps = stale_at < until and since < stale_at + size
            assert not (overlaps and step >= size), (table, name)
    assert at == end


def test_where_minutes_are_gone_spans_are_whole_hours() -> None:
    old, new = SINCE + timedelta(hours=2, minutes=30), SINCE + timedelta(days=3, minutes=7)
    kept_since = SINCE + DAY
    assert quality.coarsened(Span(old, new), kept_since) == Span(SINCE + 2 * HOUR, new)
    assert quality.coarsened(Span(old, old + 10 * MINUTE), kept_since) == Span(SINCE + 2 * HOUR, SINCE + 3 * HOUR)
    assert quality.coarsened(Span(new - HOUR, new), kept_since) == Span(new - HOUR, new)


@pytest.mark.parametrize("year", [1, 1999, 2100, 9999])
def test_years_are_bounded(year: int) -> None:
    with pytest.raises(Problem, match="invalid_parameter"):
        quality.span(None, datetime(year, 1, 1, tzinfo=UTC))
