"""The ancestor's endpoint: one round-trip time in each request, from whoever sends it, stored as a batch of one report.

It names no session, so a game's measurements are spread over one session for each shard, always the same: counts of sessions grow
by no more than those, whatever comes.
"""

import random
import time
from collections.abc import Mapping
from itertools import count
from typing import Annotated, Final, Literal
from uuid import UUID, uuid4

import msgspec
from msgspec import Meta

from gamepulse import database, errors, metrics, receive
from gamepulse.accept import Acceptor
from gamepulse.batch import RTT_MS_MAX, RTT_MS_MIN, Batch, Quality, Report, Side
from gamepulse.geography import Place
from gamepulse.keys import IngestKey, LookUps
from gamepulse.spans import RequestFacts
from gamepulse.telemetry import Telemetry

REGION = "unknown"
SESSIONS: Final = tuple(
    next(session for session in (UUID(int=n) for n in count(1)) if receive.shard_of(session) == shard)
    for shard in range(receive.SHARDS)
)
type Scale = Literal["mirror-legacy", "mirror"]
_LEGACY: Final[tuple[Quality, ...]] = ("excellent", "good", "fair", "poor", "estimating")
WORDS: Final[Mapping[Scale, tuple[Quality, ...]]] = {"mirror-legacy": _LEGACY, "mirror": _LEGACY[::-1]}
"""Mirror reversed its numbers in version 86.10.0."""
_SQL = database.queries("accept")


class Measurement(msgspec.Struct):
    """`type`: who measured; `rtt`: ms; `quality`: 0 to 4, as the header X-Quality-Scale says."""

    type: Side
    rtt: Annotated[float, Meta(ge=RTT_MS_MIN, le=RTT_MS_MAX)]
    quality: Annotated[int, Meta(ge=0, le=4)]


class _Games(LookUps[IngestKey]):
    async def _read(self, connection: database.Connection, secret: str) -> IngestKey | None:
        row = await connection.fetchrow(_SQL["game"], secret)
        return IngestKey(row["studio_id"], row["game_id"], row["slug"], is_server=False) if row else None


class Ancestor:
    """Stores measurements of one game; `game`: its name, or empty for none."""

    def __init__(self, game: str, look_ups: database.Pool, acceptor: Acceptor, telemetry: Telemetry) -> None:
        self._game = game
        self._games = _Games(look_ups)
        self._acceptor = acceptor
        self._telemetry = telemetry

    async def find(self) -> IngestKey:
        """The game. Raises Problem UNKNOWN_ROUTE when there is none, or as keys.LookUps.look_up."""
        key = await self._games.look_up(self._game) if self._game else None
        if key is None:
            raise errors.Problem(errors.UNKNOWN_ROUTE)
        return key

    async def store(self, key: IngestKey, measured: Measurement, scale: Scale, place: Place, facts: RequestFacts) -> None:
        """Returns when it is safe. Raises Problem as Acceptor.accept."""
        now_ms = time.time_ns() // 1_000_000
        quality = WORDS[scale][measured.quality]
        report = Report(seq=0, at=now_ms, region=REGION, side=measured.type, rtt_ms=measured.rtt, quality=quality)
        batch = Batch(batch_id=uuid4(), game=key.game, sent_at=now_ms, session=random.choice(SESSIONS), reports=[report])
        sent = receive.prepare(receive.content_of(batch), key, place, now_ms, b"", facts)
        facts.received_ns, facts.reports = time.time_ns(), 1
        facts.commit = (await self._acceptor.accept(sent)).commit
        self._telemetry.metrics.add(metrics.INGEST_BATCHES, 1, "accepted")
        self._telemetry.metrics.add(metrics.INGEST_REPORTS, 1, "accepted")
