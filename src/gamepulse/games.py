"""Games: how bad is bad there (thresholds), which regions they have, and the keys with which their batches come."""

import secrets
from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from gamepulse import database, errors, studios
from gamepulse.asker import Asker, Game, Role
from gamepulse.batch import LABEL_PATTERN, RTT_MS_MAX, RTT_MS_MIN, Slug
from gamepulse.keys import hash_key
from gamepulse.rollup import PLACE

GAMES_MAX = 100
REGIONS_MAX = 64
KEYS_MAX = 20
_SQL = database.queries("games")

Profile = Literal["general", "shooter", "moba", "racing", "turn-based", "dense", "custom"]
Title = Annotated[str, Meta(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
Milliseconds = Annotated[float, Meta(ge=RTT_MS_MIN, le=RTT_MS_MAX)]
Days = Annotated[int, Meta(ge=1, le=90)]
RegionName = Annotated[str, Meta(pattern=LABEL_PATTERN)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Bad(NamedTuple):
    """Beyond one of these a report is bad."""

    rtt_ms: float
    jitter_ms: float
    loss: float


PROFILES: Final[dict[str, Bad]] = {
    "general": Bad(200, 30, 0.05),
    "shooter": Bad(100, 20, 0.03),
    "moba": Bad(150, 30, 0.03),
    "racing": Bad(100, 20, 0.05),
    "turn-based": Bad(1_000, 500, 0.25),
    "dense": Bad(40, 10, 0.01),
}
"""Where each number comes from: docs/thresholds.md."""


class Thresholds(msgspec.Struct):
    """A report beyond one of these is bad, and so is its session at that time. They hold for what is counted from then on."""

    profile: Profile
    bad_rtt_ms: float
    bad_jitter_ms: float
    bad_loss: float


class ThresholdsChoice(msgspec.Struct):
    """A profile; or `custom` with all three numbers."""

    profile: Profile
    bad_rtt_ms: Milliseconds | None = None
    bad_jitter_ms: Milliseconds | None = None
    bad_loss: Share | None = None

    def resolved(self) -> Thresholds:
        """Raises Problem INVALID_THRESHOLDS."""
        told = (self.bad_rtt_ms, self.bad_jitter_ms, self.bad_loss)
        if self.profile == "custom":
            if self.bad_rtt_ms is None or self.bad_jitter_ms is None or self.bad_loss is None:
                raise errors.Problem(errors.INVALID_THRESHOLDS)
            return Thresholds("custom", self.bad_rtt_ms, self.bad_jitter_ms, self.bad_loss)
        if told != (None, None, None):
            raise errors.Problem(errors.INVALID_THRESHOLDS)
        return Thresholds(self.profile, *PROFILES[self.profile])


class NewGame(msgspec.Struct):
    """`game`: its name in addresses and batches, which cannot be changed. `is_public`: anyone may read its quality."""

    studio_id: int
    game: Slug
    title: Title = ""
    is_public: bool = False
    thresholds: ThresholdsChoice | None = None


class GameChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is left out stays as it is. `raw_retention_days`: null, as long as the service. Thresholds take an operator, the others
    an admin."""

    title: Title | UnsetType = UNSET
    is_public: bool | UnsetType = UNSET
    raw_retention_days: Days | UnsetType | None = UNSET
    thresholds: ThresholdsChoice | UnsetType = UNSET


class Region(msgspec.Struct):
    """A region as batches name it, and as people do."""

    region: RegionName
    title: Title = ""


class GameSettings(msgspec.Struct):
    """A game as its studio sees it. `raw_retention_days`: null where raw data is kept as long as the service keeps it."""

    game: str
    title: str
    studio_id: int
    is_public: bool
    thresholds: Thresholds
    created_at: datetime
    raw_retention_days: int | None


class Regions(msgspec.Struct):
    """Those that are declared, and those that were seen since yesterday and are not."""

    regions: list[Region]
    undeclared: list[str]


class NewKey(msgspec.Struct):
    """client: goes into the game's client, and sends one session's batches. server: stays secret, and sends many sessions'."""

    kind: Literal["client", "server"]
    label: Title = ""


class Key(msgspec.Struct):
    """A key without its secret, which is not kept."""

    key_id: int
    kind: Literal["client", "server"]
    label: str
    created_at: datetime


class CreatedKey(Key):
    """A new key; `key` is the secret, shown this once."""

    key: str


async def of_studio(pool: database.Pool, studio_id: int) -> list[GameSettings]:
    """The studio's games, by name."""
    async with database.manage(pool, studio_id) as connection:
        return [_shown(row) for row in await connection.fetch(_SQL["games"], studio_id)]


async def find(pool: database.Pool, game: Game) -> GameSettings:
    """One of them."""
    async with database.manage(pool, game.studio_id) as connection:
        return await _game(connection, game.studio_id, game.game_id)


async def create(pool: database.Pool, asker: Asker, wanted: NewGame) -> GameSettings:
    """Raises Problem: GAME_TAKEN (also by another studio's), TOO_MANY_GAMES, INVALID_THRESHOLDS, ROLE_REQUIRED."""
    chosen = (wanted.thresholds or ThresholdsChoice("general")).resolved()
    async with studios.changing(pool, asker, wanted.studio_id, Role.ADMIN) as connection:
        if await connection.fetchval(_SQL["count_games"], wanted.studio_id) >= GAMES_MAX:
            raise errors.Problem(errors.TOO_MANY_GAMES, f"At most {GAMES_MAX} games.")
        game_id = await connection.fetchval(
            _SQL["put_game"], wanted.studio_id, wanted.game, wanted.title, wanted.is_public, *msgspec.structs.astuple(chosen)
        )
        if game_id is None:
            raise errors.Problem(errors.GAME_TAKEN)
        await studios.audit(connection, asker, wanted.studio_id, "game_created", game_id=game_id)
        return await _game(connection, wanted.studio_id, game_id)


async def change(
    pool: database.Pool, asker: Asker, game: Game, wanted: GameChange, role: Role, raw_retention_days: int
) -> GameSettings:
    """`raw_retention_days`: the service's. Raises Problem: INVALID_THRESHOLDS, RETENTION_TOO_LONG, ROLE_REQUIRED."""
    wants = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
    if (wants.get("raw_retention_days") or 0) > raw_retention_days:
        raise errors.Problem(errors.RETENTION_TOO_LONG, f"Raw data is kept for {raw_retention_days} days at the most.")
    if wanted.thresholds is not UNSET:
        wants["thresholds"] = wanted.thresholds.resolved()
    of = (game.studio_id, game.game_id)
    async with studios.changing(pool, asker, game.studio_id, role) as connection:
        days = ("raw_retention_days" in wants, wants.get("raw_retention_days"))
        await connection.execute(_SQL["set_game"], *of, wants.get("title"), wants.get("is_public"), *days)
        if "thresholds" in wants:
            await connection.execute(_SQL["set_thresholds"], *of, *msgspec.structs.astuple(wants["thresholds"]))
        told = ", ".join(f"{name}: {msgspec.json.encode(value).decode()}" for name, value in wants.items())
        if told:
            await studios.audit(connection, asker, game.studio_id, "game_changed", told, game.game_id)
        return await _game(connection, *of)


async def regions(pool: database.Pool, game: Game) -> Regions:
    """Declared, and seen."""
    async with database.manage(pool, game.studio_id) as connection:
        return await _regions(connection, game)


async def put_regions(pool: database.Pool, asker: Asker, game: Game, wanted: list[Region]) -> Regions:
    """All that there are, instead of those before. Raises Problem: REGION_TWICE, ROLE_REQUIRED."""
    names = [one.region for one in wanted]
    if len(set(names)) < len(names):
        raise errors.Problem(errors.REGION_TWICE)
    async with studios.changing(pool, asker, game.studio_id, Role.OPERATOR) as connection:
        await connection.execute(_SQL["clear_regions"], game.studio_id, game.game_id)
        titles = [one.title for one in wanted]
        await connection.execute(_SQL["put_regions"], game.studio_id, game.game_id, names, titles)
        await studios.audit(connection, asker, game.studio_id, "regions_changed", game_id=game.game_id)
        return await _regions(connection, game)


async def keys(pool: database.Pool, game: Game) -> list[Key]:
    """Those that are not revoked."""
    async with database.manage(pool, game.studio_id) as connection:
        return [Key(**row) for row in await connection.fetch(_SQL["keys"], game.studio_id, game.game_id)]


async def create_key(pool: database.Pool, asker: Asker, game: Game, wanted: NewKey) -> CreatedKey:
    """Raises Problem: TOO_MANY_KEYS, ROLE_REQUIRED."""
    secret = ("gpc_" if wanted.kind == "client" else "gps_") + secrets.token_urlsafe(32)
    of = (game.studio_id, game.game_id)
    async with studios.changing(pool, asker, game.studio_id, Role.ADMIN) as connection:
        if await connection.fetchval(_SQL["count_keys"], *of) >= KEYS_MAX:
            raise errors.Problem(errors.TOO_MANY_KEYS, f"At most {KEYS_MAX} keys.")
        row = await connection.fetchrow(_SQL["put_key"], *of, hash_key(secret), wanted.kind, wanted.label)
        assert row is not None
        await studios.audit(connection, asker, game.studio_id, "key_created", _about(row), game.game_id)
    return CreatedKey(**row, key=secret)


async def revoke_key(pool: database.Pool, asker: Asker, game: Game, key_id: int) -> None:
    """Every process refuses it within keys.FRESH_S. Raises Problem: UNKNOWN_KEY_ID, ROLE_REQUIRED."""
    async with studios.changing(pool, asker, game.studio_id, Role.ADMIN) as connection:
        row = await connection.fetchrow(_SQL["revoke_key"], game.studio_id, game.game_id, key_id)
        if row is None:
            raise errors.Problem(errors.UNKNOWN_KEY_ID)
        await studios.audit(connection, asker, game.studio_id, "key_revoked", _about(row), game.game_id)


def _about(key: asyncpg.Record) -> str:
    return f"{key['kind']} {key['key_id']}: {key['label']}".removesuffix(": ")


async def _game(connection: database.Connection, studio_id: int, game_id: int) -> GameSettings:
    row = await connection.fetchrow(_SQL["game"], studio_id, game_id)
    assert row is not None
    return _shown(row)


async def _regions(connection: database.Connection, game: Game) -> Regions:
    declared = await connection.fetch(_SQL["regions"], game.studio_id, game.game_id)
    seen = await connection.fetch(_SQL["undeclared"], game.studio_id, game.game_id, PLACE, REGIONS_MAX)
    return Regions([Region(**row) for row in declared], [row["region"] for row in seen])


def _shown(row: asyncpg.Record) -> GameSettings:
    thresholds = Thresholds(row["profile"], *(float(f"{row[f'bad_{name}']:.6g}") for name in Bad._fields))  # real
    shown = ("studio_id", "is_public", "created_at", "raw_retention_days")
    return GameSettings(row["slug"], row["title"], thresholds=thresholds, **{name: row[name] for name in shown})
