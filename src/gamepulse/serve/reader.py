"""What the routes need, and who asks: made in app.py, found in the application's state."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import redis.asyncio as redis
from litestar import Request
from litestar.params import PathParameter, QueryParameter
from msgspec import Struct

from gamepulse import accounts, asker, cache, database, erase, errors, gather, live, quality, studios
from gamepulse.ancestor import Ancestor
from gamepulse.asker import Asker, Game, Role
from gamepulse.gather import Span
from gamepulse.geography import Geography
from gamepulse.limits import Limits
from gamepulse.pace import Pace
from gamepulse.resilience import Policy
from gamepulse.settings import Settings

QUESTIONS_MAX = 2
"""Questions that a process answers at a time; each may hold tens of megabytes."""
QUESTION_WAIT_S = 5.0

# Plain assignments: the framework does not look into `type` aliases.
Asked = Request[Any, Any, Any]
Id = Annotated[int, PathParameter(ge=1, le=2**31 - 1)]
GameName = Annotated[str, QueryParameter(description="The game's slug", max_length=64)]
TIME = {"format": "date-time"}
"""A text, because the framework takes seconds since the epoch for a time too: `span` reads it."""
From = Annotated[str | None, QueryParameter(name="from", description="RFC 3339; default: an hour before `to`", schema_extra=TIME)]
To = Annotated[str | None, QueryParameter(description="RFC 3339; default: now", schema_extra=TIME)]


class Reader(Struct):
    """What the routes need; made in app.py, found in the application's state."""

    settings: Settings
    pool: database.Pool
    names: gather.Names
    ingest_pool: database.Pool
    valkey: redis.Redis
    live: live.Live
    questions: asyncio.Semaphore
    account_pool: database.Pool
    manage_pool: database.Pool
    askers: asker.Askers
    passwords: accounts.Passwords
    answers: cache.Answers
    geography: Geography
    limits: Limits
    pace: Pace
    policies: list[Policy]
    ancestor: Ancestor
    exports: erase.Exports
    is_draining: bool = False

    @property
    def secret(self) -> bytes:
        """Under which players' ids are hashed, and from which TOTP's secrets are made."""
        return bytes.fromhex(self.settings.player_hash_key)

    def minutes_since(self) -> datetime:
        """Since when minute rollups are kept for certain."""
        return _midnight() - timedelta(days=self.settings.minute_retention_days)

    def raw_since(self, game: Game) -> datetime:
        """Since when a game's raw data is; what is older may not be gone yet, but counts as gone."""
        shared = self.settings.raw_retention_days
        return _midnight() - timedelta(days=min(game.raw_retention_days or shared, shared))

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """A place for a question that may cost much. Raises Problem BUSY when there is none for QUESTION_WAIT_S."""
        try:
            await asyncio.wait_for(self.questions.acquire(), QUESTION_WAIT_S)
        except TimeoutError:
            raise errors.Problem(errors.BUSY) from None
        try:
            yield
        finally:
            self.questions.release()


def span(from_: str | None, to: str | None, prefix: str = "") -> Span:
    """The span asked for, as quality.span; its parameters begin with `prefix`. Raises Problem, also INVALID_PARAMETER."""
    return quality.span(_time(f"{prefix}from", from_), _time(f"{prefix}to", to))


def _time(name: str, text: str | None) -> datetime | None:
    try:
        return None if text is None else msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise errors.Problem(errors.INVALID_PARAMETER, f"{errors.INVALID_PARAMETER.detail[:-1]}: {name}.") from None


def _midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def reader_of(request: Asked) -> Reader:
    """The application's."""
    reader: Reader = request.app.state.reader
    return reader


async def asker_of(request: Asked) -> Asker:
    """Who asks. Raises Problem: CROSS_SITE, as keys.LookUps.look_up."""
    given = asker.given(request.headers, request.cookies)
    if given is not None and given.is_cookie:
        asker.check_same_site(request.method, request.headers)
    return await reader_of(request).askers.find(given)


async def account_of(request: Asked) -> Asker:
    """Who asks, signed in. Raises Problem: SIGN_IN_REQUIRED, SIGN_IN_ENDED, as `asker_of`."""
    found = await asker_of(request)
    asker.signed_in(found)
    return found


async def game_of(request: Asked, slug: str, role: Role = Role.ANYONE) -> Game:
    """The game, if the asker may do with it what takes `role`. Raises Problem, as asker.find_game."""
    return await asker.find_game(reader_of(request).account_pool, slug, await asker_of(request), role)


async def member_of(request: Asked, studio_id: int, role: Role) -> Asker:
    """Who asks, if they may do in the studio what takes `role`. Raises Problem, as studios.check_member."""
    found = await asker_of(request)
    studios.check_member(found, studio_id, role)
    return found
