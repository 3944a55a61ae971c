"""Routes: games, their thresholds, regions and keys."""

from typing import Annotated

from litestar import delete, get, patch, post, put
from litestar.params import Body
from msgspec import UNSET

from gamepulse import errors, games
from gamepulse.asker import Role
from gamepulse.serve.describe import GAME_OF_STUDIO, SIGNED_IN, STUDIO, problems
from gamepulse.serve.reader import Asked, Id, account_of, asker_of, game_of, member_of, reader_of

RegionList = Annotated[list[games.Region], Body(max_items=games.REGIONS_MAX)]


@get("/v1/games", responses=problems(*SIGNED_IN))
async def games_route(request: Asked) -> list[games.GameSettings]:
    """The games of the account's studios."""
    found = await account_of(request)
    pool = reader_of(request).manage_pool
    return [game for studio_id in sorted(found.roles) for game in await games.of_studio(pool, studio_id)]


@post(
    "/v1/games",
    responses=problems(*STUDIO, errors.GAME_TAKEN, errors.TOO_MANY_GAMES, errors.INVALID_THRESHOLDS, has_body=True),
)
async def create_game_route(request: Asked, data: games.NewGame) -> games.GameSettings:
    """A new game. Takes an admin of the studio."""
    found = await member_of(request, data.studio_id, Role.ADMIN)
    return await games.create(reader_of(request).manage_pool, found, data)


@get("/v1/games/{game:str}", responses=problems(*GAME_OF_STUDIO))
async def game_route(request: Asked, game: str) -> games.GameSettings:
    """One game, as its studio sees it."""
    return await games.find(reader_of(request).manage_pool, await game_of(request, game, Role.VIEWER))


@patch(
    "/v1/games/{game:str}", responses=problems(*GAME_OF_STUDIO, errors.INVALID_THRESHOLDS, errors.RETENTION_TOO_LONG, has_body=True)
)
async def change_game_route(request: Asked, game: str, data: games.GameChange) -> games.GameSettings:
    """Change a game. Thresholds take an operator, all else an admin. A shorter retention of raw data deletes what is older."""
    others = {data.title, data.is_public, data.raw_retention_days}
    role = Role.OPERATOR if others == {UNSET} else Role.ADMIN
    found, reader = await game_of(request, game, role), reader_of(request)
    days = reader.settings.raw_retention_days
    return await games.change(reader.manage_pool, await asker_of(request), found, data, role, days)


@get("/v1/games/{game:str}/regions", responses=problems(*GAME_OF_STUDIO))
async def regions_route(request: Asked, game: str) -> games.Regions:
    """The game's regions, and those that were seen since yesterday and are not declared."""
    return await games.regions(reader_of(request).manage_pool, await game_of(request, game, Role.VIEWER))


@put("/v1/games/{game:str}/regions", responses=problems(*GAME_OF_STUDIO, errors.REGION_TWICE, has_body=True))
async def put_regions_route(request: Asked, game: str, data: RegionList) -> games.Regions:
    """Declare the game's regions: all of them. Takes an operator."""
    found = await game_of(request, game, Role.OPERATOR)
    return await games.put_regions(reader_of(request).manage_pool, await asker_of(request), found, data)


@get("/v1/games/{game:str}/keys", responses=problems(*GAME_OF_STUDIO))
async def keys_route(request: Asked, game: str) -> list[games.Key]:
    """The game's keys, without their secrets. Takes an admin."""
    return await games.keys(reader_of(request).manage_pool, await game_of(request, game, Role.ADMIN))


@post("/v1/games/{game:str}/keys", responses=problems(*GAME_OF_STUDIO, errors.TOO_MANY_KEYS, has_body=True))
async def create_key_route(request: Asked, game: str, data: games.NewKey) -> games.CreatedKey:
    """A new key; its secret is shown this once. Takes an admin."""
    found = await game_of(request, game, Role.ADMIN)
    return await games.create_key(reader_of(request).manage_pool, await asker_of(request), found, data)


@delete("/v1/games/{game:str}/keys/{key_id:int}", status_code=204, responses=problems(*GAME_OF_STUDIO, errors.UNKNOWN_KEY_ID))
async def revoke_key_route(request: Asked, game: str, key_id: Id) -> None:
    """Revoke a key; every process refuses it within 5 s. Takes an admin."""
    found = await game_of(request, game, Role.ADMIN)
    await games.revoke_key(reader_of(request).manage_pool, await asker_of(request), found, key_id)


ROUTES = [
    games_route, create_game_route, game_route, change_game_route, regions_route, put_regions_route, keys_route, create_key_route,
    revoke_key_route,
]  # fmt: skip
