"""Answers from the rollups: the quality of groups of players, at a time and over time."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import msgspec

from gamepulse import database, errors, histogram
from gamepulse.batch import EVENT_KINDS, QUALITIES, SLUG_PATTERN
from gamepulse.rollup import DIMENSIONS, SETS, Measures
from gamepulse.rows import measures_of

GROUPS_MAX = 1_000
POINTS_MAX = 1_500
"""Points of a series, all groups together counted apart: step × points covers `from` to `to`."""
ROWS_MAX = 100_000
"""Rollup rows that one question may read."""
YEARS = range(2000, 2100)
SPAN_MAX = timedelta(days=366)
STEPS: Final = {"1m": 60, "5m": 300, "10m": 600, "30m": 1800, "1h": 3600, "6h": 21600, "1d": 86400}
PERCENTILES: Final = (0.05, 0.50, 0.75, 0.95, 0.99)
BANDS_S: Final = (("excellent", 0.1), ("good", 0.2), ("fair", 0.4))
"""Upper limits of round-trip time; beyond is poor (Mirror Networking, connection quality by RTT)."""
_SQL = database.queries("serve")
_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


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


class Group(msgspec.Struct, omit_defaults=True):
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
    score: int | None
    """Cloudflare AIM's points for latency and loss: −40 to 30."""
    reason: str | None
    """What costs most points, in words."""
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


class Game(msgspec.Struct):
    """A game that the asker may see."""

    studio_id: int
    game_id: int
    slug: str


_SLUG = re.compile(SLUG_PATTERN)


async def find_game(pool: database.Pool, slug: str) -> Game:
    """A game that anyone may see. Raises Problem UNKNOWN_GAME: also for games that are there but not public."""
    row = None
    if _SLUG.fullmatch(slug):
        async with database.studio(pool, None) as connection:
            row = await connection.fetchrow(_SQL["game"], slug)
    if row is None or not row["is_public"]:
        raise errors.Problem(errors.UNKNOWN_GAME)
    return Game(row["studio_id"], row["game_id"], row["slug"])


class Span(msgspec.Struct):
    """Whole minutes from one moment to another, in UTC."""

    start: datetime
    end: datetime


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


def dimension_set(group_by: Sequence[str]) -> int:
    """The smallest dimension set that holds all of `group_by`. Raises Problem, naming what is possible."""
    unknown = set(group_by) - set(DIMENSIONS)
    if unknown:
        raise errors.Problem(errors.UNKNOWN_DIMENSION, f"group_by takes {', '.join(DIMENSIONS)}.")
    for number, dimensions in enumerate(SETS):
        if set(group_by) <= set(dimensions):
            return number
    sets = "; ".join(", ".join(dimensions) for dimensions in SETS)
    raise errors.Problem(errors.NOT_ROLLED_UP_TOGETHER, f"These are not rolled up together. Possible are mixtures within: {sets}.")


async def quality(pool: database.Pool, game: Game, group_by: Sequence[str], asked: Span, limit: int, order: str) -> Quality:
    """The groups of a span, the largest `order` first. The answer's own span says what it is about."""
    async with database.studio(pool, game.studio_id) as connection:
        as_of = await connection.fetchval(_SQL["as_of"])
        rows = await _rows(connection, game, group_by, asked)
    # In a thread: merging must not hold up those who send.
    groups, remainder = await asyncio.to_thread(_groups, rows, group_by, limit, order)
    return Quality(game.slug, asked.start, asked.end, as_of, groups, remainder)


def _groups(rows: Sequence[asyncpg.Record], group_by: Sequence[str], limit: int, order: str) -> tuple[list[Group], Group | None]:
    merged = _merge(rows, lambda row: tuple(row[dimension] for dimension in group_by))
    groups = [group_of(measures, dict(zip(group_by, values, strict=True))) for values, measures in merged.items()]
    groups.sort(key=lambda group: (-getattr(group, order), *(getattr(group, dimension) for dimension in group_by)))
    rest = {tuple(getattr(group, dimension) for dimension in group_by) for group in groups[limit:]}
    remainder = Measures()
    for values in rest:
        remainder.merge(merged[values])
    return groups[:limit], group_of(remainder, {}) if rest else None


async def series(pool: database.Pool, game: Game, group_by: Sequence[str], asked: Span, step: str, limit: int) -> Series:
    """The `limit` largest groups of a span over time. Steps are multiples of `step` in UTC; the span is widened to the first."""
    step_s = STEPS[step]
    since_s = int(asked.start.timestamp())
    asked = Span(datetime.fromtimestamp(since_s - since_s % step_s, UTC), asked.end)
    if (asked.end - asked.start).total_seconds() > step_s * POINTS_MAX:
        raise errors.Problem(errors.TOO_MANY_POINTS, f"At most {POINTS_MAX} steps: choose a longer step or a shorter span.")
    async with database.studio(pool, game.studio_id) as connection:
        as_of = await connection.fetchval(_SQL["as_of"])
        rows = await _rows(connection, game, group_by, asked, finest=timedelta(seconds=step_s))
    lines = await asyncio.to_thread(_lines, rows, group_by, asked.start, timedelta(seconds=step_s), limit)
    return Series(game.slug, asked.start, asked.end, as_of, step, lines)


def _lines(rows: Sequence[asyncpg.Record], group_by: Sequence[str], since: datetime, step: timedelta, limit: int) -> list[Line]:
    counts: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        counts[tuple(row[dimension] for dimension in group_by)] += row["reports"]
    largest = {values: None for values, _ in counts.most_common(limit)}
    rows = [row for row in rows if tuple(row[dimension] for dimension in group_by) in largest]

    def at(row: asyncpg.Record) -> datetime:
        start: datetime = row["start"]
        return since + (start - since) // step * step

    merged = _merge(rows, lambda row: (at(row), *(row[dimension] for dimension in group_by)))
    lines: dict[tuple[str, ...], list[Point]] = {}
    for (start, *values), measures in sorted(merged.items()):
        lines.setdefault(tuple(values), []).append(Point(start, group_of(measures, {})))
    return [Line(dict(zip(group_by, values, strict=True)), lines[values]) for values in largest]


async def _rows(
    connection: database.Connection, game: Game, group_by: Sequence[str], asked: Span, finest: timedelta = SPAN_MAX
) -> list[asyncpg.Record]:
    """The rollup rows of a span: of days and hours where these are whole, not stale, not coarser than `finest`, else of minutes."""
    stale = await connection.fetch(_SQL["stale"], game.studio_id, game.game_id, asked.start, asked.end)
    spoiled = {(row["step"], row["start"]) for row in stale}
    rows: list[asyncpg.Record] = []
    columns = ", ".join(group_by) or "NULL AS nothing"
    for table, start, end in pieces(asked, spoiled, finest):
        query = _SQL["rollups"].format(table=table, dimensions=columns)
        left = ROWS_MAX + 1 - len(rows)
        rows += await connection.fetch(query, game.studio_id, game.game_id, dimension_set(group_by), start, end, left)
        if len(rows) > ROWS_MAX:
            raise errors.Problem(errors.TOO_MUCH)
    return rows


def pieces(asked: Span, stale: set[tuple[str, datetime]], finest: timedelta) -> list[tuple[str, datetime, datetime]]:
    """How to put a span together from rollups: (table, from, to), joined where they meet."""
    found: list[tuple[str, datetime, datetime]] = []
    at = asked.start
    stale_days = {start for step, start in stale if step == "day"} | {
        start.replace(hour=0) for step, start in stale if step == "hour"
    }
    while at < asked.end:
        if at == at.replace(hour=0, minute=0) and at + _DAY <= asked.end and at not in stale_days and finest >= _DAY:
            table, end = "rollup_day", at + _DAY
        elif at.minute == 0 and at + _HOUR <= asked.end and ("hour", at) not in stale and finest >= _HOUR:
            table, end = "rollup_hour", at + _HOUR
        else:
            table, end = "rollup_minute", min(at.replace(minute=0) + _HOUR, asked.end)
        if found and found[-1][0] == table:
            found[-1] = (table, found[-1][1], end)
        else:
            found.append((table, at, end))
        at = end
    return found


def _merge[K](rows: Iterable[asyncpg.Record], key_of: Callable[[asyncpg.Record], K]) -> dict[K, Measures]:
    merged: dict[K, Measures] = {}
    for row in rows:
        measures = measures_of(row)
        key = key_of(row)
        if key in merged:
            merged[key].merge(measures)
        else:
            merged[key] = measures
    return merged


def group_of(measures: Measures, dimensions: Mapping[str, str]) -> Group:
    """Measures as they are shown."""
    rtt_ms = percentiles_ms(measures.rtt)
    loss = measures.loss_ppm_sum / measures.loss_count / 1e6 if measures.loss_count else None
    score, reason = _score(rtt_ms, loss)
    return Group(
        count=measures.reports,
        sessions=measures.sessions.count(),
        bad_sessions=measures.bad_sessions.count(),
        rejected=measures.rejected,
        events=dict(zip(EVENT_KINDS, measures.events, strict=True)),
        qualities=dict(zip(QUALITIES, measures.qualities, strict=True)),
        rtt_ms=rtt_ms,
        jitter_ms=percentiles_ms(measures.jitter),
        loss=loss,
        bands=_bands(measures.rtt),
        score=score,
        reason=reason,
        **dimensions,
    )


def percentiles_ms(buckets: histogram.Buckets) -> Percentiles | None:
    """The percentiles of a histogram over seconds, in milliseconds."""
    found = histogram.quantiles(buckets, PERCENTILES)
    return Percentiles(*(round(seconds * 1e3, 3) for seconds in found)) if found else None


def _bands(buckets: histogram.Buckets) -> Bands:
    up_to = [histogram.count_up_to(buckets, limit) for _, limit in BANDS_S]
    excellent, good, fair = up_to[0], up_to[1] - up_to[0], up_to[2] - up_to[1]
    return Bands(excellent, good, fair, sum(buckets.values()) - up_to[2])


_LATENCY_POINTS = ((10, 20), (20, 10), (50, 5), (100, 0), (500, -10))
_LOSS_POINTS = ((0.01, 10), (0.05, 5), (0.25, 0), (0.5, -10))


def _score(rtt_ms: Percentiles | None, loss: float | None) -> tuple[int | None, str | None]:
    """Points for the median latency and the mean loss (Cloudflare Radar AIM), and what costs the more of them."""
    if rtt_ms is None:
        return None, None
    latency = next((points for limit, points in _LATENCY_POINTS if rtt_ms.p50 < limit), -20)
    lossy = 0 if loss is None else next((points for limit, points in _LOSS_POINTS if loss < limit), -20)
    missed = {f"RTT {rtt_ms.p50:.0f} ms": 20 - latency}
    if loss is not None:
        missed[f"loss {loss * 100:.1f} %"] = 10 - lossy
    worst = max(missed, key=missed.__getitem__)
    return latency + lossy, worst if missed[worst] else None


def _ceil_minute(at: datetime) -> datetime:
    floor = at.astimezone(UTC).replace(second=0, microsecond=0)
    return floor if floor == at else floor + _MINUTE
