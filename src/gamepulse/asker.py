"""Who asks, and what they may: the one place that decides who sees which game."""

import re
from collections.abc import Mapping
from enum import IntEnum

import msgspec

from gamepulse import database, errors
from gamepulse.batch import SLUG_PATTERN

_SQL = database.queries("serve")
_SLUG = re.compile(SLUG_PATTERN)


class Role(IntEnum):
    """What one may in a studio; each role may what those before it may. ANYONE: only what is public."""

    ANYONE = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


class Asker(msgspec.Struct, frozen=True):
    """Who asks: an account, or nobody (None). `roles`: by studio_id."""

    account_id: int | None
    name: str
    roles: Mapping[int, Role]
    has_totp: bool


ANYONE = Asker(None, "anyone", {}, False)


class Game(msgspec.Struct):
    """A game that the asker may see."""

    studio_id: int
    game_id: int
    slug: str
    is_public: bool = False


async def find_game(pool: database.Pool, slug: str, asker: Asker, role: Role = Role.ANYONE) -> Game:
    """A game with which the asker may do what takes `role`. Raises Problem UNKNOWN_GAME: also for what they may not see."""
    del asker, role
    row = None
    if _SLUG.fullmatch(slug):
        async with database.studio(pool, None) as connection:
            row = await connection.fetchrow(_SQL["game"], slug)
    if row is None or not row["is_public"]:
        raise errors.Problem(errors.UNKNOWN_GAME)
    return Game(row["studio_id"], row["game_id"], row["slug"], row["is_public"])
