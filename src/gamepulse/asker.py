"""Who asks, and what they may: the one place that decides who sees which game."""

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from gamepulse import database, errors
from gamepulse.batch import SLUG_PATTERN
from gamepulse.keys import LookUps, hash_key

COOKIE = "__Host-gamepulse"
TOKEN_PREFIX = "gpt_"  # noqa: S105 — what a token begins with, so that one that has leaked is known as such
IDLE = timedelta(hours=12)
"""A sign-in that is not used for so long has ended."""
LIFETIME = timedelta(days=7)
"""And each after this."""
NOTED = timedelta(minutes=5)
"""So often, at most, it is written down that a sign-in is used."""
_SQL = database.queries("asker")
_SLUG = re.compile(SLUG_PATTERN)
_TOKEN = re.compile(TOKEN_PREFIX + r"[A-Za-z0-9_-]{43}\Z")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Role(IntEnum):
    """What one may in a studio; each role may what those before it may. ANYONE: only what is public."""

    ANYONE = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


class Asker(msgspec.Struct, frozen=True):
    """Who asks: an account, or nobody (None). `roles`: by studio_id; `has_ended`: nobody, but with a token."""

    account_id: int | None
    name: str
    roles: Mapping[int, Role]
    has_totp: bool
    sign_in_id: UUID | None = None
    has_ended: bool = False


ANYONE = Asker(None, "anyone", {}, False)
_ENDED = Asker(None, "anyone", {}, False, has_ended=True)


class Game(msgspec.Struct):
    """A game that the asker may see."""

    studio_id: int
    game_id: int
    slug: str
    is_public: bool = False
    raw_retention_days: int | None = None
    """None: as the service."""


class Given(NamedTuple):
    """The token of a request, and whether it came as a cookie."""

    token: str
    is_cookie: bool


class Askers(LookUps[Asker]):
    """Those who are signed in, by their tokens."""

    async def find(self, given: Given | None, client: str = "") -> Asker:
        """Who has this token. One that is unknown or has ended is nobody's. Raises Problem as `look_up`."""
        if given is None:
            return ANYONE
        found = await self.look_up(given.token, client) if _TOKEN.match(given.token) else None
        return found or _ENDED

    async def _read(self, connection: database.Connection, secret: str) -> Asker | None:
        row = await connection.fetchrow(_SQL["asker"], hash_key(secret), IDLE, LIFETIME, NOTED)
        if row is None:
            return None
        roles = {studio_id: Role[role.upper()] for studio_id, role in zip(row["studio_ids"], row["roles"], strict=True)}
        return Asker(row["account_id"], row["name"], roles, row["has_totp"], row["sign_in_id"])


def given(headers: Mapping[str, str], cookies: Mapping[str, str]) -> Given | None:
    """The token: as `Authorization: Bearer …`, else as the cookie."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Given(token.strip(), is_cookie=False)
    token = cookies.get(COOKIE, "")
    return Given(token, is_cookie=True) if token else None


def check_same_site(method: str, headers: Mapping[str, str]) -> None:
    """For what a browser sends with its cookie. Raises Problem CROSS_SITE when another site may have made it send.

    By `Sec-Fetch-Site`, which no page can set; where a browser does not know it, by `Origin`.
    """
    if method in _SAFE:
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin", "")
    is_ours = site == "same-origin" if site else bool(origin) and urlsplit(origin).netloc == headers.get("host")
    if not is_ours:
        raise errors.Problem(errors.CROSS_SITE)


async def find_game(pool: database.Pool, slug: str, asker: Asker, role: Role = Role.ANYONE) -> Game:
    """A game with which the asker may do what takes `role`.

    Raises Problem: UNKNOWN_GAME, also for what they may not see; SIGN_IN_ENDED instead for who seems to be signed in; as `require`.
    """
    row = None
    if _SLUG.fullmatch(slug):
        async with database.account(pool, asker.account_id) as connection:
            row = await connection.fetchrow(_SQL["game"], slug)
    if row is None or not (row["is_public"] or row["studio_id"] in asker.roles):
        raise errors.Problem(errors.SIGN_IN_ENDED if asker.has_ended else errors.UNKNOWN_GAME)
    require(asker, row["studio_id"], role)
    return Game(row["studio_id"], row["game_id"], row["slug"], row["is_public"], row["raw_retention_days"])


def require(asker: Asker, studio_id: int, role: Role) -> None:
    """That the asker may do in the studio what takes `role`.

    Raises Problem: SIGN_IN_REQUIRED, SIGN_IN_ENDED, ROLE_REQUIRED, TOTP_ENROLMENT_REQUIRED.
    """
    if role is Role.ANYONE:
        return
    signed_in(asker)
    if asker.roles.get(studio_id, Role.ANYONE) < role:
        raise errors.Problem(errors.ROLE_REQUIRED, f"This takes the role {role.name.lower()} in the game's studio.")
    if role is Role.ADMIN and not asker.has_totp:
        raise errors.Problem(errors.TOTP_ENROLMENT_REQUIRED)


def signed_in(asker: Asker) -> int:
    """The account's id. Raises Problem: SIGN_IN_REQUIRED, SIGN_IN_ENDED."""
    if asker.account_id is None:
        raise errors.Problem(errors.SIGN_IN_ENDED if asker.has_ended else errors.SIGN_IN_REQUIRED)
    return asker.account_id
