"""Routes: quality by group, over time, and live."""

from typing import Annotated, Literal

from litestar import get
from litestar.params import QueryParameter
from litestar.response import Stream

from gamepulse import asker, errors, live, quality
from gamepulse.serve import limited
from gamepulse.serve.describe import GAME, problems
from gamepulse.serve.reader import Asked, From, GameName, To, game_of, reader_of

GroupBy = Annotated[
    str, QueryParameter(name="group_by", description="Comma-separated dimensions that are rolled up together", max_length=200)
]
Limit = Annotated[int, QueryParameter(ge=1, le=quality.GROUPS_MAX)]
Order = Literal["count", "sessions", "bad_sessions"]
_QUESTION = (
    *GAME, errors.NO_OFFSET, errors.EMPTY_SPAN, errors.SPAN_TOO_LONG, errors.UNKNOWN_DIMENSION, errors.NOT_ROLLED_UP_TOGETHER,
    errors.TOO_MUCH, errors.BUSY,
)  # fmt: skip
Step = Literal["1m", "5m", "10m", "30m", "1h", "6h", "1d"]


@get("/v1/quality", responses=problems(*_QUESTION))
async def quality_route(
    request: Asked,
    game: GameName,
    to: To = None,
    from_: From = None,
    group_by: GroupBy = "region",
    limit: Limit = 100,
    order: Order = "count",
) -> quality.Quality:
    """Quality by group over one span."""
    reader = reader_of(request)
    asked = quality.span(from_, to)
    dimensions = _dimensions(group_by)
    found = await game_of(request, game)
    async with limited.asking(request):
        return await quality.quality(
            reader.pool, reader.names, found, dimensions, quality.coarsened(asked, reader.minutes_since()), limit, order
        )


@get("/v1/quality/series", responses=problems(*_QUESTION, errors.TOO_FINE, errors.TOO_MANY_POINTS))
async def series_route(
    request: Asked,
    game: GameName,
    to: To = None,
    from_: From = None,
    group_by: GroupBy = "region",
    step: Step = "1m",
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
) -> quality.Series:
    """Quality by group over time."""
    reader = reader_of(request)
    asked = quality.span(from_, to)
    dimensions = _dimensions(group_by)
    found = await game_of(request, game)
    if asked.start < reader.minutes_since() and quality.STEPS[step] < quality.STEPS["1h"]:
        raise errors.Problem(errors.TOO_FINE, f"Minutes are kept since {reader.minutes_since():%Y-%m-%d}: choose a step from 1h.")
    async with limited.asking(request):
        return await quality.series(
            reader.pool, reader.names, found, dimensions, quality.coarsened(asked, reader.minutes_since()), step, limit
        )


def _dimensions(group_by: str) -> list[str]:
    """The dimensions named, checked to be rolled up together."""
    dimensions = list(dict.fromkeys(name.strip() for name in group_by.split(",") if name.strip()))
    quality.dimension_set(dimensions)
    return dimensions


@get("/v1/live", media_type="text/event-stream", responses=problems(*GAME, errors.TOO_MANY_VIEWERS))
async def live_route(request: Asked, game: GameName) -> Stream:
    """Server-sent events: the last 15 minutes, every second."""
    reader = reader_of(request)
    if reader.is_draining or reader.live.viewers >= live.VIEWERS_MAX:
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

    return Stream(reader.live.watch(found, may), media_type="text/event-stream", headers=headers)


ROUTES = [quality_route, series_route, live_route]
