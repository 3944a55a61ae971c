"""Routes: quality by group, over time, of one group against another, and live."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from litestar import MediaType, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter
from litestar.response import Stream

from gamepulse import asker, cache, compare, errors, live, quality
from gamepulse.asker import Game
from gamepulse.cache import Question, Source
from gamepulse.gather import Filters, Span
from gamepulse.serve import limited
from gamepulse.serve.describe import GAME, Told, problems
from gamepulse.serve.filters import both, filters
from gamepulse.serve.reader import TIME, Asked, From, GameName, Reader, To, game_of, reader_of, span

GroupBy = Annotated[
    str, QueryParameter(name="group_by", description="Comma-separated dimensions that are rolled up together", max_length=200)
]
Limit = Annotated[int, QueryParameter(ge=1, le=quality.GROUPS_MAX)]
Order = Annotated[Literal["count", "sessions", "bad_sessions"], QueryParameter(description="The largest first")]
Step = Annotated[Literal["1m", "5m", "10m", "30m", "1h", "6h", "1d"], QueryParameter(description="Between two points")]
Versus = Annotated[str | None, QueryParameter(description="When side b was, RFC 3339; default: when side a was", schema_extra=TIME)]
_QUESTION = (
    *GAME, errors.NO_OFFSET, errors.EMPTY_SPAN, errors.SPAN_TOO_LONG, errors.NOT_ROLLED_UP_TOGETHER, errors.TOO_MUCH, errors.BUSY,
)  # fmt: skip


def _answers(of: Any, *kinds: errors.Kind) -> dict[int, ResponseSpec]:
    """What a route that keeps its answers says of itself."""
    headers = ("ETag", "Cache-Control", "Vary")
    return {
        200: Told(of, generate_examples=False, description="The answer, with its `ETag`", headers=headers),
        304: Told(None, description="What `If-None-Match` names is still the answer", headers=headers),
    } | problems(*_QUESTION, *kinds)


@get(
    "/v1/quality",
    dependencies={"filters": filters()},
    responses=_answers(quality.Quality, errors.UNKNOWN_DIMENSION),
)
async def quality_route(
    request: Asked,
    game: GameName,
    filters: Any,
    to: To = None,
    from_: From = None,
    group_by: GroupBy = "region",
    limit: Limit = 100,
    order: Order = "count",
) -> Response[bytes]:
    """Quality by group over one span."""
    reader = reader_of(request)
    asked = quality.coarsened(span(from_, to), reader.minutes_since())
    dimensions = _dimensions(group_by, filters)
    found = await game_of(request, game)

    async def make() -> quality.Quality:
        return await quality.quality(reader.pool, reader.names, found, dimensions, asked, limit, order, filters)

    source = quality.dimension_set(dimensions, filters), asked
    return await _answered(request, found, ("quality", dimensions, asked, limit, order, filters), source, make)


@get(
    "/v1/quality/series",
    dependencies={"filters": filters()},
    responses=_answers(quality.Series, errors.UNKNOWN_DIMENSION, errors.TOO_MANY_POINTS, errors.TOO_FINE),
)
async def series_route(
    request: Asked,
    game: GameName,
    filters: Any,
    to: To = None,
    from_: From = None,
    group_by: GroupBy = "region",
    step: Step = "1m",
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
) -> Response[bytes]:
    """Quality by group over time."""
    reader = reader_of(request)
    asked = span(from_, to)
    dimensions = _dimensions(group_by, filters)
    found = await game_of(request, game)
    if asked.start < reader.minutes_since() and quality.STEPS[step] < quality.STEPS["1h"]:
        raise errors.Problem(errors.TOO_FINE, f"Minutes are kept since {reader.minutes_since():%Y-%m-%d}: choose a step from 1h.")
    asked = quality.coarsened(asked, reader.minutes_since())

    async def make() -> quality.Series:
        return await quality.series(reader.pool, reader.names, found, dimensions, asked, step, limit, filters)

    source = quality.dimension_set(dimensions, filters), quality.stepped(asked, step)
    return await _answered(request, found, ("series", dimensions, asked, step, limit, filters), source, make)


@get(
    "/v1/quality/compare",
    dependencies={"filters": filters(), "of_a": filters("a."), "of_b": filters("b.")},
    responses=_answers(compare.Comparison, errors.NOTHING_TO_COMPARE),
)
async def compare_route(
    request: Asked,
    game: GameName,
    filters: Any,
    of_a: Any,
    of_b: Any,
    to: To = None,
    from_: From = None,
    versus_to: Versus = None,
    versus_from: Versus = None,
) -> Response[bytes]:
    """Two groups of players, or one at two times: how much they differ, and whether that is more than chance."""
    reader = reader_of(request)
    asked = span(from_, to)
    if (versus_from is None) != (versus_to is None) or (versus_from is None and not of_a and not of_b):
        raise errors.Problem(errors.NOTHING_TO_COMPARE)
    versus = span(versus_from, versus_to, "versus_") if versus_from else asked
    a, b = _side(reader, asked, both(filters, of_a)), _side(reader, versus, both(filters, of_b))
    found = await game_of(request, game)

    async def make() -> compare.Comparison:
        return await compare.compare(reader.pool, reader.names, found, a, b, reader.raw_since(found))

    return await _answered(request, found, ("compare", a, b), None, make)  # the sample is of raw data, which goes


def _side(reader: Reader, asked: Span, of: Filters) -> compare.Side:
    quality.dimension_set((), of)
    return compare.Side(quality.coarsened(asked, reader.minutes_since()), of)


def _dimensions(group_by: str, of: Filters) -> list[str]:
    """The dimensions named, checked to be rolled up together and with those that are filtered by."""
    dimensions = list(dict.fromkeys(name.strip() for name in group_by.split(",") if name.strip()))
    quality.dimension_set(dimensions, of)
    return dimensions


async def _answered(
    request: Asked, game: Game, question: Question, source: Source | None, make: Callable[[], Awaitable[object]]
) -> Response[bytes]:
    """The answer to a question, or 304 for who has it."""
    reader = reader_of(request)
    tag = await reader.answers.tag(game, question, source)
    headers = {"etag": f'W/"{tag}"', "cache-control": f"{'public' if game.is_public else 'private'}, max-age={cache.STEP_S}"}
    if not game.is_public:
        headers["vary"] = "authorization, cookie"
    known = request.headers.get("if-none-match", "")
    if known == "*" or f'"{tag}"' in known:
        return Response(b"", status_code=304, headers=headers)

    async def made() -> object:
        async with limited.asking(request):
            return await make()

    return Response(await reader.answers.get(game, tag, made), headers=headers, media_type=MediaType.JSON)


_EVENTS = Told(
    live.Snapshot, media_type="text/event-stream", generate_examples=False, headers=("Cache-Control", "X-Accel-Buffering"),
    description="Events `quality`, whose data is JSON; comments when there is nothing new",
)  # fmt: skip


@get("/v1/live", media_type="text/event-stream", responses={200: _EVENTS} | problems(*GAME, errors.TOO_MANY_VIEWERS))
async def live_route(request: Asked, game: GameName) -> Stream:
    """Server-sent events: the last 15 minutes, every second. HEAD takes no place among those who watch."""
    reader = reader_of(request)
    client = limited.client_of(request)
    if reader.is_draining or not reader.live.has_place(client):
        raise errors.Problem(errors.TOO_MANY_VIEWERS)
    found = await game_of(request, game)
    given = asker.given(request.headers, request.cookies)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}

    async def may() -> bool:
        """Asked at each event: a sign-in may end meanwhile, or a role be taken away."""
        try:
            return found.studio_id in (await reader.askers.find(given)).roles
        except errors.Problem:  # PostgreSQL cannot say; nor is there anything new to show
            return True

    is_head = request.scope["state"]["facts"].method == "HEAD"
    events = iter(()) if is_head else reader.live.watch(found, client, may)
    return Stream(events, media_type="text/event-stream", headers=headers)


ROUTES = [quality_route, series_route, compare_route, live_route]
