"""Routes: a session's timeline, a player's sessions, everyone on a server."""

from uuid import UUID

from litestar import get, post

from gamepulse import quality, sessions
from gamepulse.serve.reader import Asked, From, To, game_of, reader_of


@get("/v1/games/{game:str}/sessions/{session_id:uuid}")
async def session_route(request: Asked, game: str, session_id: UUID) -> sessions.Timeline:
    """One session's timeline: client and server side by side, and its events."""
    reader = reader_of(request)
    found = await game_of(request, game)
    async with reader.asking():
        return await sessions.timeline(reader.pool, found, session_id)


@post("/v1/games/{game:str}/player-sessions", status_code=200)
async def player_sessions_route(request: Asked, game: str, data: sessions.PlayerQuestion) -> sessions.FoundSessions:
    """A player's recent sessions. The id is hashed on arrival, and the look-up is written down."""
    reader = reader_of(request)
    found = await game_of(request, game)
    key = bytes.fromhex(reader.settings.player_hash_key)
    return await sessions.of_player(reader.pool, found, data.player, key, actor="anyone")


@get("/v1/games/{game:str}/servers/{server:str}/sessions")
async def server_sessions_route(
    request: Asked, game: str, server: str, to: To = None, from_: From = None
) -> sessions.FoundSessions:
    """Everyone on one server during a span (default: the last hour)."""
    reader = reader_of(request)
    asked = quality.span(from_, to)
    return await sessions.on_server(reader.pool, await game_of(request, game), server, asked)


ROUTES = [session_route, player_sessions_route, server_sessions_route]
