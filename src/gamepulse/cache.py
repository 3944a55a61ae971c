"""Answers to questions, made once for all who ask the same at about the same time: in this process, and by Valkey in all.

An answer is of a question (studio, game, all parameters) at a moment up to which the rollups are complete, in steps of STEP_S.
Both are its ETag, so that who has it already is told so without anything being read but that moment. Without Valkey each process
makes its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis.asyncio as redis

from gamepulse import __version__, database, valkey
from gamepulse.asker import Game
from gamepulse.resilience import Open, Policy
from gamepulse.telemetry import Telemetry

STEP_S = 1
"""Answers are at most so much older than they could be."""
KEPT_S = 5
"""In Valkey. Nobody asks for an answer of an earlier moment; this only lets it go."""
BYTES_MAX = 256 * 1024
"""Of an answer that is kept."""
_SQL = database.queries("serve")

type Question = tuple[Any, ...]
"""What is asked, of values that msgspec can encode."""


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

    async def tag(self, game: Game, question: Question) -> str:
        """What names the answer that a question has at this moment."""
        async with database.use(self._pool, database.LOOK_UP_TIMEOUT_S) as connection:
            as_of: datetime = await connection.fetchval(_SQL["as_of"])
        step = as_of.timestamp() // STEP_S
        asked = msgspec.json.encode((__version__, self._where, game.studio_id, game.game_id, step, question))
        return blake2b(asked, digest_size=16).hexdigest()

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
