"""Routes: a session's timeline, a player's sessions, everyone on a server, in a network, on a build."""

from uuid import UUID

from litestar import get, post

from gamepulse import errors, sessions
from gamepulse.asker import Role
from gamepulse.gather import Span
from gamepulse.serve import limited
from gamepulse.serve.describe import GAME, GAME_OF_STUDIO, problems
from gamepulse.serve.reader import Asked, From, To, asker_of, game_of, reader_of, span

_OTHERS = problems(*GAME, errors.NO_OFFSET, errors.EMPTY_SPAN, errors.SPAN_TOO_LONG, errors.BUSY)


@get("/v1/games/{game:str}/sessions/{session_id:uuid}", responses=problems(*GAME, errors.UNKNOWN_SESSION, errors.BUSY))
async def session_route(request: Asked, game: str, session_id: UUID) -> sessions.Timeline:
    """One session's timeline: client and server side by side, and its events."""
    reader = reader_of(request)
    found = await game_of(request, game)
    async with limited.asking(request):
        return await sessions.timeline(reader.pool, found, session_id, reader.raw_since(found))


@post("/v1/games/{game:str}/player-sessions", status_code=200, responses=problems(*GAME_OF_STUDIO, has_body=True))
async def player_sessions_route(request: Asked, game: str, data: sessions.PlayerQuestion) -> sessions.FoundSessions:
    """A player's recent sessions. The id is hashed on arrival, and the look-up is written down. Takes an operator."""
    reader = reader_of(request)
    found = await game_of(request, game, Role.OPERATOR)
    since = reader.raw_since(found)
    return await sessions.of_player(reader.pool, found, data.player, reader.secret, await asker_of(request), since)


@get("/v1/games/{game:str}/servers/{server:str}/sessions", responses=_OTHERS)
async def server_sessions_route(
    request: Asked, game: str, server: str, to: To = None, from_: From = None
) -> sessions.FoundSessions:
    """Everyone on one server during a span (default: the last hour)."""
    return await _on(request, game, "server", server, span(from_, to))


@get("/v1/games/{game:str}/networks/{network:str}/sessions", responses=_OTHERS)
async def network_sessions_route(
    request: Asked, game: str, network: str, to: To = None, from_: From = None
) -> sessions.FoundSessions:
    """Everyone in one network during a span (default: the last hour)."""
    return await _on(request, game, "network", network, span(from_, to))


@get("/v1/games/{game:str}/builds/{build:str}/sessions", responses=_OTHERS)
async def build_sessions_route(request: Asked, game: str, build: str, to: To = None, from_: From = None) -> sessions.FoundSessions:
    """Everyone on one build during a span (default: the last hour)."""
    return await _on(request, game, "build", build, span(from_, to))


async def _on(request: Asked, game: str, of: sessions.Dimension, value: str, asked: Span) -> sessions.FoundSessions:
    reader = reader_of(request)
    found = await game_of(request, game)
    since = reader.raw_since(found)
    kept = Span(max(asked.start, since), max(asked.end, since))
    async with limited.asking(request):
        return await sessions.on(reader.pool, found, of, value, kept)


ROUTES = [session_route, player_sessions_route, server_sessions_route, network_sessions_route, build_sessions_route]
