"""Answers to questions, made once for all who ask the same at about the same time: in this process, and by Valkey in all.

An answer is of a question (studio, game, all parameters) at a state of the rollups: the moment up to which they are complete, in
steps of STEP_S; of hours that are over, how much is counted in them. Both are its ETag, so that who has it already is told so
without anything being read but that state. Without Valkey each process makes its own (docs/adr/0034).
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis.asyncio as redis

from gamepulse import __version__, database, gather, valkey
from gamepulse.asker import Game
from gamepulse.batch import EVENT_KINDS
from gamepulse.gather import Span
from gamepulse.resilience import Open, Policy
from gamepulse.roll import floor
from gamepulse.telemetry import Telemetry

STEP_S = 1
"""Answers are at most so much older than they could be."""
KEPT_S = 5
"""In Valkey: so old, at most, is what an answer about hours that are over calls `as_of`."""
BYTES_MAX = 256 * 1024
"""Of an answer that is kept."""
_LATE = timedelta(hours=25)
"""Reports are up to 24 h late (receive.AGE_MS_MAX); this much before now, an hour changes no more."""
_SQL = database.queries("serve")
_COUNTED = _SQL["counted"].format(counts=" + ".join(("reports", "rejected", *EVENT_KINDS)))

type Question = tuple[Any, ...]
"""What is asked, of values that msgspec can encode."""
type Source = tuple[int, Span]
"""What of the rollups alone answers it: a dimension set's span."""


class Answers:
    """The answers that are being made, and those that Valkey keeps."""

    def __init__(
        self, pool: database.Pool, database_url: str, connection: redis.Redis, policy: Policy, telemetry: Telemetry
    ) -> None:
        url = urlsplit(database_url)
        self._where = url.netloc.rpartition("@")[2] + url.path  # two databases may share a Valkey, and have the same ids
        self._pool = pool
        self._connection = connection
        self._telemetry = telemetry
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self._policy = policy

    async def tag(self, game: Game, question: Question, source: Source | None = None) -> str:
        """What names the answer that a question has now."""
        asked = (__version__, self._where, game.studio_id, game.game_id, await self._state(game, source), question)
        return blake2b(msgspec.json.encode(asked), digest_size=16).hexdigest()

    async def _state(self, game: Game, source: Source | None) -> tuple[object, ...]:
        """What differs when the answer does."""
        span = None if source is None else gather.whole_hours(source[1])
        if source is None or span is None or span.end > datetime.now(UTC):
            async with database.use(self._pool, database.LOOK_UP_TIMEOUT_S) as connection:
                as_of = await connection.fetchval(_SQL["as_of"])
            return (_moment(as_of),)
        async with database.studio(self._pool, game.studio_id) as connection:
            [row] = await connection.fetch(_COUNTED, game.studio_id, game.game_id, source[0], span.start, span.end, _LATE)
        if row["as_of"] < span.end or row["is_waiting"]:
            return (_moment(row["as_of"]),)
        return floor(row["as_of"], "hour"), int(row["counted"])  # each report is counted once, and stays

    async def get(self, game: Game, tag: str, make: Callable[[], Awaitable[object]]) -> bytes:
        """The answer as JSON; `make` makes it when nobody has. Raises what `make` raises, to all who wait for it."""
        key = f"gamepulse:answer:{game.studio_id}:{game.game_id}:{tag}"
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(self._get(key, make))
            making.add_done_callback(lambda done: self._made(key, done))
        return await asyncio.shield(making)

    def _made(self, key: str, done: asyncio.Task[bytes]) -> None:
        del self._making[key]
        if not done.cancelled():
            done.exception()  # is seen, even if all who waited have gone

    async def _get(self, key: str, make: Callable[[], Awaitable[object]]) -> bytes:
        kept = await self._ask(self._connection.get, key)
        if kept is not None:
            return bytes(kept)
        answer = msgspec.json.encode(await make())
        if len(answer) <= BYTES_MAX:
            await self._ask(self._connection.set, key, answer, timedelta(seconds=KEPT_S))
        return answer

    async def _ask(self, command: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        """Valkey's answer; None while it is away: an answer is made in less time than Valkey could be asked again in."""
        try:
            async with self._policy.guarded(), valkey.in_time():
                return await command(*arguments)
        except Open:
            return None
        except valkey.AWAY as error:
            self._telemetry.failed("answers not kept", error)
            return None


def _moment(as_of: datetime) -> int:
    return int(as_of.timestamp() // STEP_S)
