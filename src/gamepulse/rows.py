"""Rollups, totals and sightings as rows of PostgreSQL: how they are read and written."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg

from gamepulse import database, histogram
from gamepulse.geography import UNKNOWN_COUNTRY
from gamepulse.records import LABELS
from gamepulse.rollup import Measures, Sketch
from gamepulse.tally import Seen, SeenKey, Total, TotalKey

_SQL = database.queries("aggregate")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def measures_of(row: asyncpg.Record) -> Measures:
    """The measures of a stored rollup row."""
    measures = Measures()
    measures.reports, measures.rejected = row["reports"], row["rejected"]
    measures.loss_count, measures.loss_ppm_sum = row["loss_count"], row["loss_ppm_sum"]
    measures.events, measures.qualities = row["events"], row["qualities"]
    measures.rtt, measures.jitter = histogram.decode(row["rtt"]), histogram.decode(row["jitter"])
    measures.sessions, measures.bad_sessions = Sketch(row["sessions"]), Sketch(row["bad_sessions"])
    return measures


def total_of(row: asyncpg.Record) -> Total:
    """A stored total."""
    total = Total()
    for name in ("reports", "rtt_us_sum", "jitter_us_sum", "loss_ppm_sum", "events", "qualities"):
        setattr(total, name, row[name])
    for name in ("rtt", "jitter", "loss"):
        setattr(total, name, histogram.decode(row[name]))
    return total


def columns(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Rows turned into columns, as unnest() takes them."""
    columns: list[list[object]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns


def _array(numbers: Iterable[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


type Put = tuple[int, int, int, datetime, int, Measures]
"""studio, game, dimension set, start, dimension_id, measures."""


async def put_rollups(connection: database.Connection, table: str, number: int, puts: Iterable[Put]) -> None:
    """Write rollup rows of shard `number`, in the place of those that are there."""
    rows = (
        (
            *key, m.reports, m.rejected, m.loss_count, m.loss_ppm_sum, _array(m.events), _array(m.qualities),
            histogram.encode(m.rtt), histogram.encode(m.jitter), m.sessions.encode(), m.bad_sessions.encode(),
        )
        for *key, m in puts
    )  # fmt: skip
    await connection.execute(_SQL["put_rollups"].format(table=table), number, *columns(rows, 15))


async def put_totals(connection: database.Connection, number: int, totals: Mapping[TotalKey, Total]) -> None:
    """Write totals of shard `number`, in the place of those that are there."""
    rows = (
        (
            *key, t.reports, t.rtt_us_sum, t.jitter_us_sum, t.loss_ppm_sum, _array(t.events), _array(t.qualities),
            histogram.encode(t.rtt), histogram.encode(t.jitter), histogram.encode(t.loss),
        )
        for key, t in sorted(totals.items())
    )  # fmt: skip
    await connection.execute(_SQL["put_totals"], number, *columns(rows, 13))


def seen_columns(seen: Mapping[SeenKey, Seen]) -> list[list[object]]:
    """Sightings as the columns of put_seen."""
    rows = (
        (
            studio_id, game_id, (_EPOCH + timedelta(days=day)).date(), session_id, region, server,
            one.labels["country"] or UNKNOWN_COUNTRY, *(one.labels[name] for name in LABELS[1:]), one.row["match"],
            one.row["player"], _EPOCH + timedelta(milliseconds=one.first_ms), _EPOCH + timedelta(milliseconds=one.last_ms),
            one.reports, one.bad_reports, one.events,
        )
        for (studio_id, game_id, session_id, day, region, server), one in sorted(seen.items())
    )  # fmt: skip
    return columns(rows, 19)
