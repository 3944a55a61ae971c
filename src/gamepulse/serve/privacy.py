"""Routes: a player's data, exported or erased."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from litestar import get, post
from litestar.response import Stream

from gamepulse import erase, errors
from gamepulse.asker import Role
from gamepulse.serve.describe import GAME_OF_STUDIO, Told, problems
from gamepulse.serve.reader import Asked, asker_of, game_of, reader_of
from gamepulse.sessions import PlayerQuestion

_LINE: Any = erase.ExportedSession | erase.ExportedBatch | erase.ExportedEnd
_LINES = Told(
    _LINE, media_type="application/x-ndjson", generate_examples=False,
    description="Lines of JSON, each as the schema says: a session, then its batches; last the end, without which it broke off",
)  # fmt: skip


@post(
    "/v1/games/{game:str}/exports", status_code=200, media_type="application/x-ndjson",
    responses={200: _LINES} | problems(*GAME_OF_STUDIO, has_body=True),
)  # fmt: skip
async def export_route(request: Asked, game: str, data: PlayerQuestion) -> Stream:
    """All that is stored of a player's sessions, as lines of JSON: sessions, their batches, and an end. Takes an admin; audited."""
    reader = reader_of(request)
    found = await game_of(request, game, Role.ADMIN)
    lines = await reader.exports.begin(reader.pool, await asker_of(request), found, data.player, reader.secret)

    async def told() -> AsyncIterator[bytes]:
        try:
            async for line in lines:
                yield line
        except Exception as error:  # noqa: BLE001 — the answer has begun; that its last line is missing tells
            request.app.state.telemetry.failed("export broke off", error)

    return Stream(told(), media_type="application/x-ndjson")


@post(
    "/v1/games/{game:str}/erasures", status_code=202,
    responses=problems(*GAME_OF_STUDIO, errors.TOO_MANY_ERASURES, has_body=True),
)  # fmt: skip
async def erase_route(request: Asked, game: str, data: PlayerQuestion) -> erase.Erasure:
    """Have a player's sessions erased. Written down now, done within seconds: ask for it by its id. Takes an admin; audited."""
    reader = reader_of(request)
    found = await game_of(request, game, Role.ADMIN)
    return await erase.request(reader.manage_pool, await asker_of(request), found, data.player, reader.secret)


@get("/v1/games/{game:str}/erasures/{erasure_id:uuid}", responses=problems(*GAME_OF_STUDIO, errors.UNKNOWN_ERASURE))
async def erasure_route(request: Asked, game: str, erasure_id: UUID) -> erase.Erasure:
    """How far an erasure is. Takes an admin."""
    found = await game_of(request, game, Role.ADMIN)
    return await erase.find(reader_of(request).manage_pool, found, erasure_id)


ROUTES = [export_route, erase_route, erasure_route]
