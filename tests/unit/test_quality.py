"""How a span is put together from minutes, hours, quarters of days, and days."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gamepulse import gather, merging, quality
from gamepulse.errors import Problem
from gamepulse.gather import Sources, Span
from gamepulse.roll import Start

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SINCE = datetime(2026, 2, 26, tzinfo=UTC)
MINUTES = st.integers(0, 6 * 24 * 60)


@given(
    MINUTES,
    MINUTES,
    st.sets(st.integers(0, 6 * 4)),
    st.sets(st.integers(0, 6)),
    st.dictionaries(st.integers(0, 6 * 24), st.booleans()),
    st.sampled_from([MINUTE, 30 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY]),
)
def test_pieces_cover_a_span_once_and_use_nothing_stale(
    a: int, b: int, quarters: set[int], days: set[int], recent: dict[int, bool], width: timedelta
) -> None:
    start, end = SINCE + min(a, b) * MINUTE, SINCE + (max(a, b) + 1) * MINUTE
    there = {SINCE + hour * HOUR for hour in recent}
    stale = {("quarter", SINCE + quarter * 6 * HOUR) for quarter in quarters} | {("day", SINCE + day * DAY) for day in days}
    stale_recent = {("recent", SINCE + hour * HOUR) for hour, is_stale in recent.items() if is_stale}
    right = there - {at for _, at in stale_recent}
    at = start
    sizes = {"minute": MINUTE, "hour": HOUR, "quarter": 6 * HOUR, "recent": 23 * HOUR, "day": DAY}
    for step, since, until in gather.pieces(Span(start, end), stale | stale_recent, width, there):
        assert since == at < until
        at = until
        if step == "recent":
            assert (until - since) % sizes[step] == timedelta()
            assert {since + n * sizes[step] for n in range((until - since) // sizes[step])} <= right
        else:
            assert (since - SINCE) % sizes[step] == timedelta() == (until - SINCE) % sizes[step]
        for n in range(0 if step == "minute" else (until - since) // sizes[step]):  # each lies within one step of the question
            first = since + n * sizes[step] - start
            assert first // width == (first + sizes[step] - MINUTE) // width
        for name, stale_at in stale if step != "recent" else ():
            overlaps = stale_at < until and since < stale_at + sizes[name]
            assert not (overlaps and sizes[step] >= sizes[name]), (step, name)
    assert at == end


def test_the_last_day_is_three_pieces_in_each_minute_of_the_hour() -> None:
    """The recent hours that are there are those that were made an hour ago, and what is made now."""
    for hour in range(24):
        running = SINCE + DAY + hour * HOUR
        there = {running - 25 * HOUR, running - 24 * HOUR}
        pieces = gather.pieces(Span(running - DAY, running + HOUR), {("recent", running - 23 * HOUR)}, DAY * 366, there)
        assert [(step, until - since) for step, since, until in pieces] in (
            [("recent", 23 * HOUR), ("hour", 2 * HOUR)],
            [("day", DAY), ("hour", HOUR)],
        )
        stale = {("recent", running - 24 * HOUR)}
        assert "recent" not in {step for step, _, _ in gather.pieces(Span(running - DAY, running + HOUR), stale, DAY * 366, there)}


def test_long_spans_are_whole_hours() -> None:
    assert gather.whole_hours(Span(SINCE + 7 * MINUTE, SINCE + 9 * HOUR + MINUTE)) == Span(SINCE, SINCE + 10 * HOUR)
    assert gather.whole_hours(Span(SINCE, SINCE + DAY)) == Span(SINCE, SINCE + DAY)


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [("", 0), ("country", 0), ("network", 4), ("network,country", 4), ("region,network", 2), ("server", 3), ("region,build", 1)],
)
def test_the_smallest_set_is_chosen(group_by: str, expected: int) -> None:
    assert quality.dimension_set([name for name in group_by.split(",") if name]) == expected


def test_where_minutes_are_gone_spans_are_whole_hours() -> None:
    old, new = SINCE + timedelta(hours=2, minutes=30), SINCE + timedelta(days=3, minutes=7)
    kept_since = SINCE + DAY
    assert quality.coarsened(Span(old, new), kept_since) == Span(SINCE + 2 * HOUR, new)
    assert quality.coarsened(Span(old, old + 10 * MINUTE), kept_since) == Span(SINCE + 2 * HOUR, SINCE + 3 * HOUR)
    assert quality.coarsened(Span(new - HOUR, new), kept_since) == Span(new - HOUR, new)


async def test_no_more_threads_run_than_questions_are_answered() -> None:
    """A question that has timed out still has its thread: its place is not free before that has ended."""
    places, running, most = asyncio.Semaphore(2), 0, 0

    def merge() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.1)
        running -= 1

    async def question() -> None:
        async with places, asyncio.timeout(0.01):
            await gather.in_thread(merge)

    found = await asyncio.gather(*(question() for _ in range(6)), return_exceptions=True)
    assert [type(one) for one in found] == [TimeoutError] * 6
    assert (running, most) == (0, 2)


async def test_what_goes_wrong_in_a_thread_is_told() -> None:
    with pytest.raises(ZeroDivisionError):
        await gather.in_thread(divmod, 1, 0)


STEPS = st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 9), st.integers(0, 400)), max_size=6)


@given(STEPS, st.integers(1, 30), st.integers(1, 40))
def test_slices_hold_each_row_once_in_order_and_are_small(steps: dict[int, tuple[int, int]], ids: int, rows: int) -> None:
    """Steps with so many starts and bytes of minutes."""
    found = Sources(
        asked=Span(SINCE, SINCE + DAY),
        as_of=SINCE,
        fine={step: bytes(size) for step, (_, size) in steps.items() if size},
        coarse={step: [Start("hour", SINCE + step * DAY + n * HOUR) for n in range(starts)] for step, (starts, _) in steps.items()},
        sizes=gather.NO_SIZES,
        total=gather.NO_ROWS,
    )
    with patch.object(merging, "SLICE_BYTES_MAX", rows * merging.ROW_BYTES):
        slices = list(merging.slices(found, ids))
    read = [((start.at - SINCE) // DAY, n, start) for one in slices for n in range(one.since, one.until) for start in one.starts]
    every = [(step, n, start) for step, starts in sorted(found.coarse.items()) for n in range(ids) for start in starts]
    assert sorted(read) == sorted(every)
    assert all(len(one.starts) * (one.until - one.since) <= rows for one in slices)
    assert sorted(step for one in slices for step in one.fine if step in found.fine) == sorted(found.fine)
    begins = [(one.number, one.since) for one in slices]
    assert begins == sorted(begins)


@pytest.mark.parametrize("year", [1, 1999, 2100, 9999])
def test_years_are_bounded(year: int) -> None:
    with pytest.raises(Problem, match="invalid_parameter"):
        quality.span(None, datetime(year, 1, 1, tzinfo=UTC))
