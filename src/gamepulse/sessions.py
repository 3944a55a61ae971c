"""Looking up: one session's timeline, a player's sessions, everyone on a server, in a network, on a build at a time."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Literal
from urllib.parse import quote, urlencode
from uuid import UUID

import asyncpg
import msgspec

from gamepulse import database, errors, records, studios
from gamepulse.asker import Asker, Game
from gamepulse.batch import JITTER_METHODS, LABEL_PATTERN, QUALITIES, SIDES, Player
from gamepulse.gather import Span, in_thread
from gamepulse.receive import hash_player

BATCHES_MAX = 2_000
"""Of one session's timeline: more than five hours at one batch each 10 s."""
REPORTS_MAX = 20_000
"""Of one session's timeline, as many as its first batches hold."""
SESSIONS_MAX = 500
WALKED_MAX = 20_000
"""Of a network's or a build's sessions of a day, so many are looked at for them: those who came last before the span's end."""
_SQL = database.queries("serve")
_LABEL = re.compile(LABEL_PATTERN)
_MINUTE = timedelta(minutes=1)
Dimension = Literal["server", "network", "build"]  # no alias: the framework does not look into those


class TimelineReport(msgspec.Struct, omit_defaults=True):
    """A report as it was stored; `side` tells who measured."""

    seq: int
    at: datetime
    region: str
    server: str | None = None
    side: str | None = None
    rtt_ms: float | None = None
    rtt_min_ms: float | None = None
    rtt_max_ms: float | None = None
    jitter_ms: float | None = None
    jitter_method: str | None = None
    loss: float | None = None
    quality: str | None = None


class TimelineEvent(msgspec.Struct, omit_defaults=True):
    """An event as it was stored."""

    seq: int
    at: datetime
    kind: str
    reason: str | None = None
    region: str | None = None
    server: str | None = None


class Others(msgspec.Struct):
    """Where to ask who else was there while the session was, and how all of them fared."""

    dimension: Dimension
    value: str
    sessions: str
    """Path of who was there, session by session."""
    quality: str
    """Path of how all of them fared together."""


class KnownSession(msgspec.Struct):
    """A session, and what is known of who played it."""

    session: UUID
    country: str
    subdivision: str | None
    network: str | None
    connection: str | None
    platform: str | None
    build: str | None
    match: str | None


class Timeline(KnownSession):
    """A session, by time: what client and server measured side by side, and what happened. `is_cut`: there is more."""

    clock_offset_ms: int | None
    reports: list[TimelineReport]
    events: list[TimelineEvent]
    others: list[Others]
    is_cut: bool


class FoundSession(KnownSession):
    """A session and when and where it was seen; `bad_reports` by the game's thresholds at that time."""

    first_at: datetime
    last_at: datetime
    reports: int
    bad_reports: int
    events: int
    places: list[str]
    """"region server"."""


class FoundSessions(msgspec.Struct):
    """Sessions, the latest first. `is_cut`: there are more."""

    sessions: list[FoundSession]
    is_cut: bool


class PlayerQuestion(msgspec.Struct):
    """Whose sessions, data, erasure: the player's id as the game knows it. It is hashed on arrival."""

    player: Player


async def timeline(pool: database.Pool, game: Game, session: UUID, raw_since: datetime) -> Timeline:
    """All that is stored of a session since then. Raises Problem UNKNOWN_SESSION."""
    of = (game.studio_id, game.game_id, session)
    async with database.studio(pool, game.studio_id) as connection:
        rows = await connection.fetch(_SQL["session_batches"], *of, BATCHES_MAX + 1, raw_since)
    if not rows:
        raise errors.Problem(errors.UNKNOWN_SESSION)
    return await in_thread(_timeline, game.slug, session, rows)


def _timeline(game: str, session: UUID, rows: list[asyncpg.Record]) -> Timeline:
    sizes = accumulate(len(row["records"]) // records.RECORD.itemsize for row in rows)
    fitting = max(sum(1 for size in sizes if size <= REPORTS_MAX), 1)
    is_cut, rows = len(rows) > min(fitting, BATCHES_MAX), rows[: min(fitting, BATCHES_MAX)]
    reports = sorted((report for row in rows for report in reports_of(row)), key=lambda report: (report.at, report.seq))
    events = sorted((event for row in rows for event in events_of(row)), key=lambda event: (event.at, event.seq))

    labels = [dict(zip(records.LABELS, records.split_labels(row["labels"])[0], strict=True)) for row in rows]

    def known(name: str) -> str | None:
        return next((one[name] for one in labels if one[name] is not None), None)

    items: list[TimelineReport | TimelineEvent] = [*reports, *events]
    servers = dict.fromkeys(one.server for one in items if one.server is not None)
    whom: list[tuple[Dimension, str | None]] = [("server", server) for server in servers]
    whom += [("network", known("network")), ("build", known("build"))]
    times = [one.at for one in items]
    return Timeline(
        session=session,
        country=next((one["country"] for one in labels if one["country"] not in (None, "ZZ")), None) or "ZZ",
        **{name: known(name) for name in records.LABELS if name != "country"},
        match=next((row["match"] for row in rows if row["match"] is not None), None),
        clock_offset_ms=next((row["clock_offset_ms"] for row in rows if row["clock_offset_ms"] is not None), None),
        reports=reports,
        events=events,
        others=[_others(game, of, value, min(times), max(times)) for of, value in whom if value is not None] if times else [],
        is_cut=is_cut,
    )


def _others(game: str, of: Dimension, value: str, first: datetime, last: datetime) -> Others:
    since, until = (at.replace(second=0, microsecond=0) for at in (first, last + _MINUTE))
    span = {"from": f"{since:%Y-%m-%dT%H:%M:00Z}", "to": f"{until:%Y-%m-%dT%H:%M:00Z}"}
    return Others(
        dimension=of,
        value=value,
        sessions=f"/v1/games/{quote(game)}/{of}s/{quote(value)}/sessions?{urlencode(span)}",
        quality=f"/v1/quality?{urlencode({'game': game, 'group_by': of, of: value, **span})}",
    )


async def of_player(pool: database.Pool, game: Game, player: str, key: bytes, asker: Asker, raw_since: datetime) -> FoundSessions:
    """A player's sessions since then. Who looked is written down in the same transaction."""
    hashed = hash_player(player, game.game_id, key)
    async with database.studio(pool, game.studio_id) as connection:
        await studios.audit(connection, asker, game.studio_id, "player_sessions", game_id=game.game_id, player=hashed)
        rows = await connection.fetch(_SQL["player_sessions"], game.studio_id, game.game_id, hashed, SESSIONS_MAX + 1, raw_since)
    return _found(rows)


async def on(pool: database.Pool, game: Game, of: Dimension, value: str, asked: Span) -> FoundSessions:
    """Everyone on a server, in a network or on a build during a span. Raises Problem INVALID_PARAMETER for what can be no name."""
    if not _LABEL.fullmatch(value):
        raise errors.Problem(errors.INVALID_PARAMETER, f"The {of}'s name has characters that it may not.")
    where = (game.studio_id, game.game_id, value, asked.start, asked.end, SESSIONS_MAX + 1)
    async with database.studio(pool, game.studio_id) as connection:
        if of == "server":
            return _found(await connection.fetch(_SQL["server_sessions"], *where))
        rows = await connection.fetch(_SQL["sessions_of"].format(dimension=of), *where, WALKED_MAX)
    found = _found(rows)
    found.is_cut |= bool(rows) and rows[0]["walked"] == WALKED_MAX
    return found


class _StoredEvent(msgspec.Struct):
    seq: int
    at: int
    kind: str
    reason: str | None = None
    region: str | None = None
    server: str | None = None

    def shown(self) -> TimelineEvent:
        at = datetime.fromtimestamp(self.at / 1000, UTC)
        return TimelineEvent(self.seq, at, self.kind, self.reason, self.region, self.server)


def events_of(row: asyncpg.Record) -> list[TimelineEvent]:
    """Of a stored batch."""
    return [event.shown() for event in msgspec.json.decode(row["events"], type=list[_StoredEvent])] if row["events"] else []


def reports_of(row: asyncpg.Record) -> list[TimelineReport]:
    """Of a stored batch."""
    _, places = records.split_labels(row["labels"])
    return [
        TimelineReport(
            seq=int(one["seq"]),
            at=row["received_at"] + timedelta(milliseconds=int(one["at_ms"])),
            region=places[one["place"]][0],
            server=places[one["place"]][1],
            side=_word(SIDES, one["side"]),
            rtt_ms=_known(one["rtt_us"], 1e3),
            rtt_min_ms=_known(one["rtt_min_us"], 1e3),
            rtt_max_ms=_known(one["rtt_max_us"], 1e3),
            jitter_ms=_known(one["jitter_us"], 1e3),
            jitter_method=_word(JITTER_METHODS, one["jitter_method"]),
            loss=_known(one["loss_ppm"], 1e6),
            quality=_word(QUALITIES, one["quality"]),
        )
        for one in records.unpack(row["records"])
    ]


def _word(words: Sequence[str], code: int) -> str | None:
    return words[code - 1] if code else None


def _known(value: int, scale: float) -> float | None:
    return None if value == records.UNKNOWN else int(value) / scale


def _found(rows: list[asyncpg.Record]) -> FoundSessions:
    sessions = [
        FoundSession(
            session=row["session_id"],
            places=[place.strip() for place in row["places"]],
            **{
                name: row[name]
                for name in (
                    "first_at", "last_at", "reports", "bad_reports", "events", "country", "subdivision", "network", "connection",
                    "platform", "build", "match",
                )
            },
        )
        for row in rows[:SESSIONS_MAX]
    ]  # fmt: skip
    return FoundSessions(sessions, len(rows) > SESSIONS_MAX)
