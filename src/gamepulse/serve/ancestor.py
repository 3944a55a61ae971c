"""Route: the ancestor's endpoint."""

from typing import Annotated, Literal

from litestar import MediaType, post
from litestar.params import HeaderParameter

from gamepulse import ancestor, errors, limits
from gamepulse.serve import limited
from gamepulse.serve.describe import problems
from gamepulse.serve.reader import Asked, reader_of

# A plain assignment: the framework does not look into `type` aliases.
QualityScale = Annotated[
    Literal["mirror-legacy", "mirror"],
    HeaderParameter(name="X-Quality-Scale", description="What `quality` 0 to 4 means: of Mirror before 86.10.0, or since"),
]


async def _before_body(request: Asked) -> None:
    """So a body that is refused counts as well. Raises Problem: RATE_LIMITED, as Ancestor.find."""
    await reader_of(request).ancestor.find()
    await limited.spend(request, (limits.ANCESTOR, limited.client_of(request)))


@post(
    ["/api/sod/rtt", "/api/sod/rtt/v1"],
    status_code=200,
    before_request=_before_body,
    media_type=MediaType.TEXT,
    responses=problems(
        errors.UNKNOWN_ROUTE,
        errors.OVERLOADED,
        errors.DATABASE_UNAVAILABLE,
        errors.COMMIT_FAILED,
        errors.NOT_STORABLE,
        has_body=True,
    ),
)
async def rtt_route(request: Asked, data: ancestor.Measurement, scale: QualityScale = "mirror-legacy") -> str:
    """One round-trip time, without a key. Answered when it is safe. Only where a setting names its game."""
    reader = reader_of(request)
    key = await reader.ancestor.find()
    peer, headers = request.scope["client"], dict(request.scope["headers"])
    place = reader.geography.locate(reader.geography.client(peer[0] if peer else "", headers), headers)
    await reader.ancestor.store(key, data, scale, place, request.scope["state"]["facts"])
    return "Success"


ROUTES = [rtt_route]
