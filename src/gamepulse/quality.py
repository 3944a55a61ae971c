"""Answers from the rollups: the quality of groups of players, at a time and over time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from gamepulse import database, errors, gather, measures, merging, score
from gamepulse.asker import Game
from gamepulse.batch import EVENT_KINDS, QUALITIES
from gamepulse.gather import NO_FILTERS, Filters, Names, Of, Span
from gamepulse.measures import Measures
from gamepulse.roll import MINUTE
from gamepulse.rollup import (
    DIMENSIONS,
    EVENTS,
    LOSS_COUNT,
    LOSS_PPM_SUM,
    OTHER,
    REJECTED,
    REPORTS,
    SETS,
    WORDS,
    Ints,
)
from gamepulse.rows import Read, one_row

GROUPS_MAX = 1_000
POINTS_MAX = 1_500
"""Points of a series, all groups together counted apart: step × points covers `from` to `to`."""
YEARS = range(2000, 2100)
SPAN_MAX = timedelta(days=366)
ONE_STEP = 2 * SPAN_MAX
"""So wide that no span, widened to whole hours, is more than one step."""
STEPS: Final = {"1m": 60, "5m": 300, "10m": 600, "30m": 1800, "1h": 3600, "6h": 21600, "1d": 86400}
_HOUR = timedelta(hours=1)


class Percentiles(msgspec.Struct):
    """In milliseconds; `inverted_cdf`, at most 1.1 % off."""

    p5: float
    p50: float
    p75: float
    p95: float
    p99: float


class Bands(msgspec.Struct):
    """Reports by round-trip time: up to 100, 200, 400 ms, and beyond."""

    excellent: int
    good: int
    fair: int
    poor: int


class Group(msgspec.Struct, omit_defaults=True, rename={"class_": "class"}):
    """What is known of one group. `count`: reports; `sessions`: distinct ones; `bad_sessions`: those that had it bad."""

    count: int
    sessions: int
    bad_sessions: int
    rejected: int
    events: dict[str, int]
    qualities: dict[str, int]
    rtt_ms: Percentiles | None
    jitter_ms: Percentiles | None
    loss: float | None
    """Mean packet loss of the reports that know it, 0 to 1."""
    bands: Bands
    band: str | None
    """Mirror's band of the median round-trip time."""
    score: int | None
    """Cloudflare AIM's points for latency and loss: −40 to 30."""
    class_: str | None
    """AIM's class for games by these points, where loss is known: bad, poor, average, good, great."""
    reason: str | None
    """What costs most points, in words."""
    mos: float | None
    """Mean opinion score of voice, 1 to 4.5 (ITU-T G.107), of medians and mean loss, where all three are known."""
    is_overflow: bool = False
    """This is no value of the game's but all those together that are beyond its limit: `(other)`."""
    region: str | None = None
    country: str | None = None
    subdivision: str | None = None
    network: str | None = None
    connection: str | None = None
    platform: str | None = None
    build: str | None = None
    server: str | None = None


class Quality(msgspec.Struct, rename={"from_": "from"}):
    """Groups over one span. Complete up to `as_of`; `remainder`: all groups beyond `limit` together."""

    game: str
    from_: datetime
    to: datetime
    as_of: datetime
    groups: list[Group]
    remainder: Group | None


class Point(msgspec.Struct):
    """A group at one time; `at` is the start of the step."""

    at: datetime
    quality: Group


class Line(msgspec.Struct):
    """A group over time."""

    group: dict[str, str]
    points: list[Point]


class Series(msgspec.Struct, rename={"from_": "from"}):
    """Lines over one span. Complete up to `as_of`."""

    game: str
    from_: datetime
    to: datetime
    as_of: datetime
    step: str
    lines: list[Line]


def span(from_: datetime | None, to: datetime | None) -> Span:
    """The span asked for, widened to whole minutes; by default the last hour.

    Raises Problem: EMPTY_SPAN, SPAN_TOO_LONG, NO_OFFSET.
    """
    if any(at is not None and at.tzinfo is None for at in (from_, to)):
        raise errors.Problem(errors.NO_OFFSET)
    if any(at is not None and at.year not in YEARS for at in (from_, to)):
        raise errors.Problem(errors.INVALID_PARAMETER, f"`from` and `to` lie in the years {YEARS.start} to {YEARS.stop - 1}.")
    end = _ceil_minute(to or datetime.now(UTC))
    start = from_.astimezone(UTC).replace(second=0, microsecond=0) if from_ else end - _HOUR
    if not start < end:
        raise errors.Problem(errors.EMPTY_SPAN)
    if end - start > SPAN_MAX:
        raise errors.Problem(errors.SPAN_TOO_LONG)
    return Span(start, end)


def coarsened(asked: Span, minutes_since: datetime) -> Span:
    """The span, widened to whole hours where minutes are no longer kept: before `minutes_since`, a midnight."""
    start, end = asked.start, asked.end
    if start < minutes_since:
        start = start.replace(minute=0)
    if end < minutes_since and end.minute:
        end = end.replace(minute=0) + _HOUR
    return Span(start, end)


def stepped(asked: Span, step: str) -> Span:
    """The span, widened to begin with a multiple of `step` in UTC."""
    since_s = int(asked.start.timestamp())
    return Span(datetime.fromtimestamp(since_s - since_s % STEPS[step], UTC), asked.end)


def dimension_set(group_by: Sequence[str], filters: Filters = NO_FILTERS) -> int:
    """The smallest dimension set that holds what is grouped by and filtered by. Raises Problem, naming what is possible."""
    asked = {*group_by, *(dimension for dimension, _ in filters)}
    if asked - set(DIMENSIONS):
        raise errors.Problem(errors.UNKNOWN_DIMENSION, f"group_by takes {', '.join(DIMENSIONS)}.")
    for number in sorted(range(len(SETS)), key=lambda number: len(SETS[number])):
        if asked <= set(SETS[number]):
            return number
    sets = "; ".join(", ".join(dimensions) for dimensions in SETS)
    raise errors.Problem(errors.NOT_ROLLED_UP_TOGETHER, f"These are not rolled up together. Possible are mixtures within: {sets}.")


def of_game(game: Game, group_by: Sequence[str], filters: Filters) -> Of:
    """Where in the rollups to look. Raises Problem as dimension_set does."""
    return Of(game.studio_id, game.game_id, dimension_set(group_by, filters), tuple(group_by), filters)


async def quality(
    pool: database.Pool,
    names: Names,
    game: Game,
    group_by: Sequence[str],
    asked: Span,
    limit: int,
    order: str,
    filters: Filters = NO_FILTERS,
) -> Quality:
    """The groups of a span, the largest `order` first. The answer's own span says what it is about. Raises Problem TOO_MUCH."""
    of = of_game(game, group_by, filters)
    by = "reports" if order == "count" else order
    async with database.studio(pool, game.studio_id) as connection:
        found = await gather.sources(connection, of, asked, ONE_STEP, is_total=not filters)
        known = await gather.groups(connection, names, of, found)
        is_ranked = order == "count"
        count = limit if is_ranked else gather.CANDIDATES * limit
        most = await gather.at_once(gather.CANDIDATES * len(known.values), gather.largest, known, by, count)
        chosen = sorted(most)  # as their rows lie
        groups: list[Group] = []
        taken = [gather.NO_ROWS]

        def take(numbers: Ints, rows: Read) -> None:
            for number, one in zip(numbers.tolist(), measures.of_rows(rows), strict=True):
                groups.append(group_of(one, dict(zip(of.group_by, known.values[chosen[number]], strict=True))))
            if is_ranked:
                taken.append(rows)

        await merging.merge_rows(connection, of, found, merging.choose(known, chosen), ONE_STEP, take)
        best = sorted(range(len(groups)), key=lambda n: (-getattr(groups[n], order), known.values[chosen[n]]))[:limit]
        is_all, rest = len(known.values) <= limit, list[Read]()
        if not is_all:
            those = [chosen[n] for n in best]
            if not is_ranked:
                taken = [await merging.as_one(connection, of, found, known, those, ONE_STEP)]
            if filters:  # the total is of all; what is filtered must be read
                others = sorted(set(range(len(known.values))) - set(those))
                rest = [await merging.as_one(connection, of, found, known, others, ONE_STEP)]

    def remainder() -> Group:
        shown = one_row(taken)
        total = one_row([shown, *rest]) if filters else merging.total(found)
        return group_of(measures.without(total, shown), {})

    left = None if is_all else await gather.in_thread(remainder)
    return Quality(game.slug, found.asked.start, found.asked.end, found.as_of, [groups[n] for n in best], left)


async def series(
    pool: database.Pool,
    names: Names,
    game: Game,
    group_by: Sequence[str],
    asked: Span,
    step: str,
    limit: int,
    filters: Filters = NO_FILTERS,
) -> Series:
    """The `limit` largest groups of a span over time, by steps from the first on (`stepped`)."""
    width = timedelta(seconds=STEPS[step])
    asked = stepped(asked, step)
    if asked.end - asked.start > width * POINTS_MAX:
        raise errors.Problem(errors.TOO_MANY_POINTS, f"At most {POINTS_MAX} steps: choose a longer step or a shorter span.")
    of = of_game(game, group_by, filters)
    async with database.studio(pool, game.studio_id) as connection:
        found = await gather.sources(connection, of, asked, width, is_total=False)
        known = await gather.groups(connection, names, of, found)
        chosen = await gather.at_once(gather.CANDIDATES * len(known.values), gather.largest, known, "reports", limit)
        lines = [Line(dict(zip(of.group_by, known.values[code], strict=True)), []) for code in chosen]

        def take(numbers: Ints, rows: Read) -> None:
            for number, one in zip(numbers.tolist(), measures.of_rows(rows), strict=True):
                at, line = divmod(number, len(lines))
                lines[line].points.append(Point(found.asked.start + at * width, group_of(one, {})))

        await merging.merge_rows(connection, of, found, merging.choose(known, chosen), width, take)
    return Series(game.slug, found.asked.start, found.asked.end, found.as_of, step, lines)


def group_of(of: Measures, dimensions: Mapping[str, str]) -> Group:
    """Measures as they are shown."""
    counts, (excellent, good, fair, known) = of.counts, of.up_to
    rtt_ms, jitter_ms = percentiles(of.rtt_ms), percentiles(of.jitter_ms)
    loss = counts[LOSS_PPM_SUM] / counts[LOSS_COUNT] / 1e6 if counts[LOSS_COUNT] else None
    aim = score.aim(rtt_ms.p50, loss) if rtt_ms else None
    return Group(
        count=counts[REPORTS],
        sessions=of.sessions,
        bad_sessions=of.bad_sessions,
        rejected=counts[REJECTED],
        events=dict(zip(EVENT_KINDS, counts[EVENTS:WORDS], strict=True)),
        qualities=dict(zip(QUALITIES, counts[WORDS:], strict=True)),
        rtt_ms=rtt_ms,
        jitter_ms=jitter_ms,
        loss=loss,
        bands=Bands(excellent, good - excellent, fair - good, known - fair),
        band=score.band(rtt_ms.p50) if rtt_ms else None,
        score=aim.points if aim else None,
        class_=aim.class_ if aim else None,
        reason=aim.reason if aim else None,
        mos=round(score.mos(rtt_ms.p50, jitter_ms.p50, loss), 2) if rtt_ms and jitter_ms and loss is not None else None,
        is_overflow=OTHER in dimensions.values(),
        **dimensions,
    )


def percentiles(told_ms: Sequence[float] | None) -> Percentiles | None:
    """Those of measures.PERCENTILES, by name."""
    return Percentiles(*told_ms) if told_ms else None


def _ceil_minute(at: datetime) -> datetime:
    floor = at.astimezone(UTC).replace(second=0, microsecond=0)
    return floor if floor == at else floor + MINUTE
