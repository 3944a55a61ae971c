"""The routes that are not hot: quality, sessions, the live stream, health, the page, and their description (OpenAPI)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from html import escape
from importlib.resources import files
from mimetypes import guess_type
from typing import Annotated, Any, Literal
from uuid import UUID

import redis.asyncio as redis
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.exceptions import HTTPException, SerializationException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.params import Body, QueryParameter
from litestar.response import Stream
from msgspec import Struct

from gamepulse import __version__, batch, database, errors, gather, health, live, quality, receive, sessions
from gamepulse.settings import Settings

QUESTIONS_MAX = 2
"""Questions that a process answers at a time; each may hold tens of megabytes."""
QUESTION_WAIT_S = 5.0
STATIC = files("gamepulse").joinpath("static")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_DOCS_POLICY = SECURITY_HEADERS["content-security-policy"] + "; img-src 'self' data:"

# Plain assignments: the framework does not look into `type` aliases.
GameName = Annotated[str, QueryParameter(description="The game's slug", max_length=64)]
GroupBy = Annotated[
    str, QueryParameter(name="group_by", description="Comma-separated dimensions that are rolled up together", max_length=200)
]
From = Annotated[datetime | None, QueryParameter(name="from", description="RFC 3339; default: an hour before `to`")]
To = Annotated[datetime | None, QueryParameter(description="RFC 3339; default: now")]
Limit = Annotated[int, QueryParameter(ge=1, le=quality.GROUPS_MAX)]
Order = Literal["count", "sessions", "bad_sessions"]
_TEXT, _NULL, _NONE = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.NULL), Schema(max_items=0)
_OF_SESSION = Schema(required=["session"], properties={"session": _TEXT})
ONE_OR_MANY = [
    Schema(required=["session"], properties={"session": _TEXT, "sessions": _NULL}),
    Schema(
        required=["sessions"],
        properties={
            "sessions": Schema(type=OpenAPIType.ARRAY, items=_OF_SESSION), "session": _NULL, "reports": _NONE, "events": _NONE
        },
    ),
]  # fmt: skip
"""What the types of batch.py do not say: one session inline, or `sessions`."""
Step = Literal["1m", "5m", "10m", "30m", "1h", "6h", "1d"]


class Reader(Struct):
    """What the routes need; made in app.py, found in the application's state."""

    settings: Settings
    pool: database.Pool
    names: gather.Names
    ingest_pool: database.Pool
    valkey: redis.Redis
    live: live.Live
    questions: asyncio.Semaphore
    is_draining: bool = False

    def minutes_since(self) -> datetime:
        """Since when minute rollups are kept for certain."""
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=self.settings.minute_retention_days)

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


class Limits(Struct):
    """What a batch may hold."""

    body_bytes: int = batch.BODY_BYTES_MAX
    body_expanded_bytes: int = batch.BODY_EXPANDED_BYTES_MAX
    reports_and_events: int = batch.ITEMS_MAX
    sessions: int = batch.SESSIONS_MAX
    rtt_ms_min: float = batch.RTT_MS_MIN
    rtt_ms_max: float = batch.RTT_MS_MAX
    age_s: int = receive.AGE_MS_MAX // 1000
    ahead_s: int = receive.AHEAD_MS_MAX // 1000


class Meta(Struct):
    """Who answers, and its limits."""

    name: str
    version: str
    revision: str
    environment: str
    limits: Limits


def _reader(request: Request[Any, Any, Any]) -> Reader:
    reader: Reader = request.app.state.reader
    return reader


@post("/v1/reports", status_code=202)
async def reports_route(data: Annotated[batch.Batch, Body(schema_extra={"one_of": ONE_OR_MANY})]) -> batch.Answer:
    """Send a batch of reports and events. Answered when it is safe in PostgreSQL."""
    del data  # only described here: app.py routes this to reports.py, all but odd spellings such as //v1/reports
    raise errors.Problem(errors.UNKNOWN_ROUTE)


@get("/v1/quality")
async def quality_route(
    request: Request[Any, Any, Any],
    game: GameName,
    to: To = None,
    from_: From = None,
    group_by: GroupBy = "region",
    limit: Limit = 100,
    order: Order = "count",
) -> quality.Quality:
    """Quality by group over one span."""
    reader = _reader(request)
    asked = quality.span(from_, to)
    dimensions = _dimensions(group_by)
    found = await quality.find_game(reader.pool, game)
    async with reader.asking():
        return await quality.quality(
            reader.pool, reader.names, found, dimensions, quality.coarsened(asked, reader.minutes_since()), limit, order
        )


@get("/v1/quality/series")
async def series_route(
    request: Request[Any, Any, Any],
    game: GameName,
    to: To = None,
    from_: From = None,
    group_by: GroupBy = "region",
    step: Step = "1m",
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
) -> quality.Series:
    """Quality by group over time."""
    reader = _reader(request)
    asked = quality.span(from_, to)
    dimensions = _dimensions(group_by)
    found = await quality.find_game(reader.pool, game)
    if asked.start < reader.minutes_since() and quality.STEPS[step] < quality.STEPS["1h"]:
        raise errors.Problem(errors.TOO_FINE, f"Minutes are kept since {reader.minutes_since():%Y-%m-%d}: choose a step from 1h.")
    async with reader.asking():
        return await quality.series(
            reader.pool, reader.names, found, dimensions, quality.coarsened(asked, reader.minutes_since()), step, limit
        )


def _dimensions(group_by: str) -> list[str]:
    """The dimensions named, checked to be rolled up together."""
    dimensions = list(dict.fromkeys(name.strip() for name in group_by.split(",") if name.strip()))
    quality.dimension_set(dimensions)
    return dimensions


@get("/v1/games/{game:str}/sessions/{session_id:uuid}")
async def session_route(request: Request[Any, Any, Any], game: str, session_id: UUID) -> sessions.Timeline:
    """One session's timeline: client and server side by side, and its events."""
    reader = _reader(request)
    found = await quality.find_game(reader.pool, game)
    async with reader.asking():
        return await sessions.timeline(reader.pool, found, session_id)


@post("/v1/games/{game:str}/player-sessions", status_code=200)
async def player_sessions_route(
    request: Request[Any, Any, Any], game: str, data: sessions.PlayerQuestion
) -> sessions.FoundSessions:
    """A player's recent sessions. The id is hashed on arrival, and the look-up is written down."""
    reader = _reader(request)
    found = await quality.find_game(reader.pool, game)
    key = bytes.fromhex(reader.settings.player_hash_key)
    return await sessions.of_player(reader.pool, found, data.player, key, actor="anyone")


@get("/v1/games/{game:str}/servers/{server:str}/sessions")
async def server_sessions_route(
    request: Request[Any, Any, Any], game: str, server: str, to: To = None, from_: From = None
) -> sessions.FoundSessions:
    """Everyone on one server during a span (default: the last hour)."""
    reader = _reader(request)
    asked = quality.span(from_, to)
    return await sessions.on_server(reader.pool, await quality.find_game(reader.pool, game), server, asked)


@get("/v1/live", media_type="text/event-stream")
async def live_route(request: Request[Any, Any, Any], game: GameName) -> Stream:
    """Server-sent events: the last 15 minutes, every second."""
    reader = _reader(request)
    if reader.is_draining or reader.live.viewers >= live.VIEWERS_MAX:
        raise errors.Problem(errors.TOO_MANY_VIEWERS)
    found = await quality.find_game(reader.pool, game)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return Stream(reader.live.watch(found), media_type="text/event-stream", headers=headers)


@get("/health", status_code=200)
async def health_route(request: Request[Any, Any, Any]) -> Response[health.Health]:
    """How the service and what it depends on are doing; 503 when it cannot store."""
    reader = _reader(request)
    document = await health.check(reader.ingest_pool, reader.valkey)
    return Response(document, status_code=503 if document.status == "Unhealthy" else 200)


@get("/health/live")
async def live_health_route() -> dict[str, str]:
    """Answers as long as the process is not stuck."""
    return {"status": "Healthy"}


@get("/health/ready")
async def ready_health_route(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
    """Ready but for start-up and draining. PostgreSQL being away does not count: it would take every task out of service."""
    is_draining = _reader(request).is_draining
    return Response({"status": "Unhealthy" if is_draining else "Healthy"}, status_code=503 if is_draining else 200)


@get("/v1/meta")
async def meta_route(request: Request[Any, Any, Any]) -> Meta:
    """Version and limits."""
    settings = _reader(request).settings
    return Meta("gamepulse", __version__, settings.revision, settings.environment, Limits())


@get("/", include_in_schema=False)
async def page_route() -> Response[bytes]:
    """The live page."""
    return _file("index.html", cache_control="no-cache")


@get("/assets/{name:str}", include_in_schema=False)
async def asset_route(name: str) -> Response[bytes]:
    """The page's files; their names change with their content."""
    return _file(f"assets/{name}", cache_control="public, max-age=31536000, immutable")


@get("/docs", include_in_schema=False)
async def docs_route() -> Response[bytes]:
    """The description of the interface, for people."""
    page = _file("docs/index.html", cache_control="no-cache")
    page.headers["content-security-policy"] = _DOCS_POLICY
    return page


@get("/docs/errors", include_in_schema=False, media_type=MediaType.HTML)
async def errors_route() -> str:
    """What each `code` means: where the `type` of a problem leads."""
    rows = "".join(
        f'<tr id="{kind.code}"><td><code>{kind.code}</code><td>{kind.status}<td>{escape(kind.detail)}'
        for kind in errors.KINDS.values()
    )
    return f"<!doctype html><html lang=en><title>GamePulse errors</title><h1>Errors</h1><table>{rows}</table></html>"


@get("/docs/assets/{name:str}", include_in_schema=False)
async def docs_asset_route(name: str) -> Response[bytes]:
    """Files of the documentation page."""
    return _file(f"docs/{name}", cache_control="no-cache")


@cache
def _files() -> dict[str, bytes]:
    """The page's files by name: the few that there are, so that no name can lead elsewhere."""
    folders = {"": STATIC, "assets/": STATIC.joinpath("assets"), "docs/": STATIC.joinpath("docs")}
    return {
        prefix + file.name: file.read_bytes()
        for prefix, folder in folders.items()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.is_file()
    }


def _file(name: str, cache_control: str) -> Response[bytes]:
    """A file of the page. Raises Problem UNKNOWN_ROUTE."""
    content = _files().get(name)
    if content is None:
        raise errors.Problem(errors.UNKNOWN_ROUTE)
    media_type = guess_type(name)[0] or "application/octet-stream"
    return Response(content, media_type=media_type, headers={"cache-control": cache_control})


# -- errors -------------------------------------------------------------------------------------------------------------------


def _answer_problem(request: Request[Any, Any, Any], problem: errors.Problem) -> Response[bytes]:
    facts = request.scope["state"]["facts"]
    kind = problem.kind
    facts.code = kind.code
    headers = {} if kind.retry_after_s is None else {"retry-after": str(kind.retry_after_s)}
    body = errors.document(problem, facts.trace)
    return Response(body, status_code=kind.status, media_type=errors.CONTENT_TYPE, headers=headers)


_HTTP_KINDS = {
    400: errors.INVALID_PARAMETER,
    404: errors.UNKNOWN_ROUTE,
    405: errors.METHOD_NOT_ALLOWED,
    413: errors.BODY_TOO_LARGE,
}


def _answer_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The framework's own errors, in our shape; their texts may quote what was sent, so only the names of fields are kept."""
    kind = _HTTP_KINDS.get(error.status_code, errors.INTERNAL)
    extra = error.extra if isinstance(error.extra, list) else []
    names = [str(item["key"]) for item in extra if isinstance(item, dict) and "key" in item]
    return _answer_problem(request, errors.Problem(kind, f"{kind.detail[:-1]}: {', '.join(names)}." if names else ""))


def _answer_unreadable(request: Request[Any, Any, Any], _: Exception) -> Response[bytes]:
    return _answer_problem(request, errors.Problem(errors.NOT_JSON))


def _answer_unreachable(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    request.app.state.telemetry.failed("query failed", error)
    return _answer_problem(request, errors.Problem(errors.DATABASE_UNAVAILABLE))


def _answer_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    request.app.state.telemetry.failed("request failed", error)
    return _answer_problem(request, errors.Problem(errors.INTERNAL))


def build(lifespan: Any) -> Litestar:
    """The framework's application."""
    return Litestar(
        [
            reports_route, quality_route, series_route, session_route, player_sessions_route, server_sessions_route, live_route,
            health_route, live_health_route, ready_health_route, meta_route, page_route, asset_route, docs_route,
            errors_route, docs_asset_route,
        ],
        lifespan=[lifespan],
        exception_handlers={
            errors.Problem: _answer_problem,
            HTTPException: _answer_http,
            SerializationException: _answer_unreadable,
            RecursionError: _answer_unreadable,
            UnicodeDecodeError: _answer_unreadable,
            **dict.fromkeys(database.UNREACHABLE, _answer_unreachable),
            Exception: _answer_unexpected,
        },
        openapi_config=OpenAPIConfig(
            title="GamePulse",
            version=__version__,
            path="/docs/schema",
            render_plugins=[JsonRenderPlugin(path="/openapi.json", media_type=MediaType.JSON)],
            use_handler_docstrings=True,
        ),
        response_headers=SECURITY_HEADERS,
        request_max_body_size=64 * 1024,
        logging_config=None,
    )  # fmt: skip
