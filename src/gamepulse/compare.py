"""Compares two groups of players, or one at two times: how much they differ, and whether that is more than chance."""

from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import numpy as np
import numpy.typing as npt

from gamepulse import database, gather, histogram, measures, merging, quality, records, resample
from gamepulse.asker import Game
from gamepulse.gather import Filters, Names, Span, in_thread
from gamepulse.measures import Measures
from gamepulse.quality import Group
from gamepulse.resample import Interval, Sample
from gamepulse.rollup import LOSS_COUNT, LOSS_PPM_SUM, UNKNOWN, Ints

SESSIONS_MAX = 2_000
"""Sampled of each side."""
WALKED_MAX = 200_000
"""Rows of session_seen that are looked at for them: with fewer sessions in a thousand than one that fits, the sample is smaller."""
REPORTS_MAX = 300_000
"""Of the sampled sessions of a side; then the sample is smaller."""
REPORTS_AT_ONCE = 50_000
"""Read at a time. A session that has sent more in the span's days is not sampled."""
LEVELS = (0.5, 0.95)
_SQL = database.queries("compare")
_COLUMNS = {"region": "region", "server": "server", "country": "country"} | {
    name: f"coalesce({name}, '{UNKNOWN}')" for name in ("subdivision", "network", "connection", "platform", "build")
}
"""Of session_seen, as the rollups call them."""

type Verdict = Literal["better", "worse", "no_difference_shown", "too_few_sessions"]


class Side(NamedTuple):
    """Which players, when."""

    asked: Span
    filters: Filters


class Difference(msgspec.Struct):
    """One measure of both sides over their whole spans, a − b, and the bounds between which that lies with 95 % confidence."""

    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    """better: a is, as far as can be told from the sampled sessions."""


class ComparedSide(msgspec.Struct, rename={"from_": "from"}):
    """What a side is. The bounds come from `sampled_sessions` sessions, from `sampled_from` on: raw data is not kept for longer."""

    from_: datetime
    to: datetime
    filters: dict[str, list[str]]
    quality: Group
    sampled_sessions: int
    sampled_from: datetime


class Comparison(msgspec.Struct):
    """Two sides and how they differ. Complete up to `as_of`."""

    game: str
    as_of: datetime
    a: ComparedSide
    b: ComparedSide
    rtt_p50_ms: Difference
    rtt_p95_ms: Difference
    loss: Difference


class _Found(NamedTuple):
    """What was read of a side."""

    of: Side
    as_of: datetime
    sampled_from: datetime
    measures: Measures
    rtt: tuple[Ints, Ints]
    """Buckets, rising, and their counts."""
    sample: Sample


async def compare(pool: database.Pool, names: Names, game: Game, a: Side, b: Side, raw_since: datetime) -> Comparison:
    """Both sides in one snapshot; `raw_since`: since when raw data is kept. Raises Problem as quality() does."""
    async with database.studio(pool, game.studio_id) as connection:
        sides = [await _read(connection, names, game, side, raw_since) for side in (a, b)]
    return await in_thread(_comparison, game.slug, *sides)


async def _read(connection: database.Connection, names: Names, game: Game, side: Side, raw_since: datetime) -> _Found:
    of = quality.of_game(game, (), side.filters)
    found = await gather.sources(connection, of, side.asked, quality.ONE_STEP, is_total=False)
    known = await gather.groups(connection, names, of, found)
    rows = await merging.as_one(connection, of, found, known, range(len(known.values)), quality.ONE_STEP)
    told = (await in_thread(measures.of_rows, rows) if known.values else None) or [measures.NOTHING]
    _, indexes, counts = rows.histograms[0]
    sampled = Span(max(found.asked.start, min(raw_since, found.asked.end)), found.asked.end)
    sample = await _sampled(connection, game, sampled, side.filters)
    return _Found(Side(found.asked, side.filters), found.as_of, sampled.start, told[0], (indexes, counts), sample)


# -- sampling --------------------------------------------------------------------------------------------------------------------


class _Values(NamedTuple):
    """Of some reports: session and bucket of each round trip, session and millionths of each loss."""

    session: Ints
    bucket: Ints
    loss_session: Ints
    loss_ppm: Ints


_NO_VALUES = _Values(*[np.zeros(0, dtype=np.int64)] * 4)


async def _sampled(connection: database.Connection, game: Game, span: Span, filters: Filters) -> Sample:
    """Sessions of a span, chosen by a hash of their ids, with their reports within it."""
    where = "".join(f" AND {_COLUMNS[dimension]} = ANY (${7 + n}::text[])" for n, (dimension, _) in enumerate(filters))
    sessions = await connection.fetch(
        _SQL["sampled_sessions"].format(filters=where),
        game.studio_id, game.game_id, span.start, span.end, SESSIONS_MAX, WALKED_MAX, *(list(words) for _, words in filters),
    ) if span.start < span.end else []  # fmt: skip
    fitting = [row for row in sessions if row["reports"] <= REPORTS_AT_ONCE]
    size = list(accumulate(row["reports"] for row in fitting))
    places: dict[UUID, int] = {row["session_id"]: n for n, row in enumerate(fitting) if size[n] <= REPORTS_MAX}
    parts, ids = [_NO_VALUES], list(places)
    since = 0
    while since < len(ids):
        before = size[since - 1] if since else 0
        until = max(int(np.searchsorted(size[: len(ids)], before + REPORTS_AT_ONCE, side="right")), since + 1)
        rows = await connection.fetch(_SQL["sampled_batches"], game.studio_id, game.game_id, ids[since:until], span.start, span.end)
        if rows:
            parts.append(await in_thread(_values, rows, places, span, dict(filters)))
        since = until
    every = _Values(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return resample.sample(every.session, every.bucket, every.loss_session, every.loss_ppm / 1e6, len(ids))


def _values(rows: Sequence[asyncpg.Record], places: dict[UUID, int], span: Span, filters: dict[str, Sequence[str]]) -> _Values:
    """Of the reports within the span that have what is filtered by."""
    counts = [len(row["records"]) // records.RECORD.itemsize for row in rows]
    reports = records.unpack(b"".join([row["records"] for row in rows]))
    codes: dict[str, int] = {}
    row_code = np.array([codes.setdefault(row["labels"], len(codes)) for row in rows], dtype=np.int64)
    allowed = np.array([_allowed(labels, filters) for labels in codes])
    arrived_ms = np.array([row["received_at"].timestamp() * 1e3 for row in rows], dtype=np.int64)
    at_ms = np.repeat(arrived_ms, counts) + reports["at_ms"]
    is_in = (at_ms >= span.start.timestamp() * 1e3) & (at_ms < span.end.timestamp() * 1e3)
    is_in &= allowed[np.repeat(row_code, counts), reports["place"]]
    session = np.repeat(np.array([places[row["session_id"]] for row in rows], dtype=np.int64), counts)
    knows_rtt = is_in & (reports["rtt_us"] != records.UNKNOWN)
    knows_loss = is_in & (reports["loss_ppm"] != records.UNKNOWN)
    return _Values(
        session[knows_rtt],
        histogram.bucket_indexes(reports["rtt_us"][knows_rtt] / 1e6),
        session[knows_loss],
        reports["loss_ppm"][knows_loss].astype(np.int64),
    )


def _allowed(joined: str, filters: dict[str, Sequence[str]]) -> npt.NDArray[np.bool_]:
    """By place, of labels as they are stored: whether its reports are of the side."""
    values, places = records.split_labels(joined)
    labels = dict(zip(records.LABELS, values, strict=True))
    is_of = all((labels[name] or ("ZZ" if name == "country" else UNKNOWN)) in filters[name] for name in filters if name in labels)
    found = np.zeros(records.PLACES_MAX, dtype=bool)
    for n, (region, server) in enumerate(places):
        of_place = {"region": region, "server": server or UNKNOWN}
        found[n] = is_of and all(of_place[name] in filters[name] for name in filters if name in of_place)
    return found


# -- verdicts --------------------------------------------------------------------------------------------------------------------


def _comparison(game: str, a: _Found, b: _Found) -> Comparison:
    of_rtt = resample.rtt_intervals(a.sample, b.sample, LEVELS)
    p50, p95 = [Interval(low * 1e3, high * 1e3) for low, high in of_rtt] if of_rtt else (None, None)
    return Comparison(
        game=game,
        as_of=min(a.as_of, b.as_of),
        a=_side(a),
        b=_side(b),
        rtt_p50_ms=_difference(_rtt_ms(a, LEVELS[0]), _rtt_ms(b, LEVELS[0]), p50, 3),
        rtt_p95_ms=_difference(_rtt_ms(a, LEVELS[1]), _rtt_ms(b, LEVELS[1]), p95, 3),
        loss=_difference(_loss(a), _loss(b), resample.loss_interval(a.sample, b.sample), 6),
    )


def _side(found: _Found) -> ComparedSide:
    return ComparedSide(
        from_=found.of.asked.start,
        to=found.of.asked.end,
        filters={name: list(words) for name, words in found.of.filters},
        quality=quality.group_of(found.measures, {}),
        sampled_sessions=int((found.sample.rtt.any(axis=1) | (found.sample.loss_count > 0)).sum()),
        sampled_from=found.sampled_from,
    )


def _rtt_ms(found: _Found, level: float) -> float | None:
    """Of the whole span, interpolated as the samples' are."""
    indexes, counts = found.rtt
    if not len(indexes):
        return None
    first = int(indexes[0])
    spread = np.zeros(int(indexes[-1]) - first + 1)
    spread[indexes - first] = counts
    return float(resample.quantile_s(first, spread, level)) * 1e3


def _loss(found: _Found) -> float | None:
    counts = found.measures.counts
    return counts[LOSS_PPM_SUM] / counts[LOSS_COUNT] / 1e6 if counts[LOSS_COUNT] else None


def _difference(a: float | None, b: float | None, interval: Interval | None, digits: int) -> Difference:
    """Less is better, of latency and of loss."""
    verdict: Verdict = "no_difference_shown"
    if interval is None:
        verdict = "too_few_sessions"
    elif interval.low > 0:
        verdict = "worse"
    elif interval.high < 0:
        verdict = "better"
    known = None if a is None or b is None else round(a - b, digits)
    shown = [None if value is None else round(value, digits) for value in (a, b)]
    low, high = (round(interval.low, digits), round(interval.high, digits)) if interval else (None, None)
    return Difference(shown[0], shown[1], known, low, high, verdict)
