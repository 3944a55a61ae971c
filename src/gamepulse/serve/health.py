"""Routes: health, readiness, version and limits."""

from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct

from gamepulse import __version__, batch, health, receive
from gamepulse.serve.describe import EVERYWHERE, problems, refusals
from gamepulse.serve.reader import Asked, reader_of


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


@get("/health", status_code=200, responses={503: ResponseSpec(health.Health, generate_examples=False)} | refusals(*EVERYWHERE))
async def health_route(request: Asked) -> Response[health.Health]:
    """How the service and what it depends on are doing; 503 when it cannot store."""
    reader = reader_of(request)
    document = await health.check(reader.ingest_pool, reader.valkey, reader.pace, reader.policies)
    return Response(document, status_code=503 if document.status == "Unhealthy" else 200)


@get("/health/live", responses=refusals(*EVERYWHERE))
async def live_health_route() -> dict[str, str]:
    """Answers as long as the process is not stuck."""
    return {"status": "Healthy"}


@get("/health/ready", responses={503: ResponseSpec(dict[str, str], generate_examples=False)} | refusals(*EVERYWHERE))
async def ready_health_route(request: Asked) -> Response[dict[str, str]]:
    """Ready but for start-up and draining. PostgreSQL being away does not count: it would take every task out of service."""
    is_draining = reader_of(request).is_draining
    return Response({"status": "Unhealthy" if is_draining else "Healthy"}, status_code=503 if is_draining else 200)


@get("/v1/meta", responses=problems())
async def meta_route(request: Asked) -> Meta:
    """Version and limits."""
    settings = reader_of(request).settings
    return Meta("gamepulse", __version__, settings.revision, settings.environment, Limits())


ROUTES = [health_route, live_health_route, ready_health_route, meta_route]
