"""The usual way: FastAPI, pydantic, OpenTelemetry as its packages set it up, and `executemany` into a row per report.

Run by `python -m bench.peers.fastapi_peer PORT`, with DATABASE_URL, INGEST_KEY and the OTEL_* variables set.
"""

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from pydantic import BaseModel, Field

logger = logging.getLogger("peer")

TABLE = """
CREATE TABLE IF NOT EXISTS report (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id uuid NOT NULL, game text NOT NULL, session uuid NOT NULL, player text, platform text, build text,
    connection text, match text, seq integer NOT NULL, at timestamptz NOT NULL, side text NOT NULL,
    region text NOT NULL, server text, rtt_ms real, rtt_min_ms real, rtt_max_ms real, jitter_ms real,
    jitter_method text, loss real, quality text
)
"""
INSERT = """
INSERT INTO report (batch_id, game, session, player, platform, build, connection, match, seq, at, side, region, server,
                    rtt_ms, rtt_min_ms, rtt_max_ms, jitter_ms, jitter_method, loss, quality)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
"""

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+/@-]{0,63}$")]
Milliseconds = Annotated[float, Field(ge=0.01, le=60_000)]


class Report(BaseModel):
    """One measurement."""

    seq: int
    at: int
    side: Literal["client", "server"] = "client"
    region: Label
    server: Label | None = None
    rtt_ms: Milliseconds | None
    rtt_min_ms: Milliseconds | None = None
    rtt_max_ms: Milliseconds | None = None
    jitter_ms: Annotated[float, Field(ge=0, le=60_000)] | None = None
    jitter_method: Literal["rfc3550", "stddev", "ipdv"] | None = None
    loss: Annotated[float, Field(ge=0, le=1)] | None = None
    quality: Literal["estimating", "poor", "fair", "good", "excellent"] | None = None


class Batch(BaseModel):
    """One session's measurements."""

    batch_id: UUID
    game: Label
    sent_at: int
    session: UUID
    player: Label | None = None
    platform: Label | None = None
    build: Label | None = None
    connection: Literal["wifi", "wired", "cellular", "unknown"] | None = None
    match: Label | None = None
    reports: Annotated[list[Report], Field(min_length=1, max_length=500)]


class Accepted(BaseModel):
    """What 202 says."""

    accepted: int


def export_telemetry() -> None:
    """All three signals by OTLP, through the SDK's own batching, nothing sampled away: the defaults."""
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
    loggers = LoggerProvider()
    loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    set_logger_provider(loggers)
    logger.setLevel(logging.INFO)
    logger.addHandler(LoggingHandler(logger_provider=loggers))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Holds the pool."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10) as pool:
        await pool.execute(TABLE)
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)
bearer = HTTPBearer()


async def check_key(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> None:
    """Only the game's key may write."""
    if credentials.credentials != os.environ["INGEST_KEY"]:
        raise HTTPException(401)


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    """Started."""
    return {"status": "Healthy"}


@app.post("/v1/reports", status_code=202, dependencies=[Depends(check_key)])
async def store(batch: Batch, request: Request) -> Accepted:
    """Store the batch in one transaction, a row per report."""
    head = (batch.batch_id, batch.game, batch.session, batch.player, batch.platform, batch.build, batch.connection)
    values = [
        (
            *head, batch.match, one.seq, datetime.fromtimestamp(one.at / 1000, UTC), one.side, one.region, one.server,
            one.rtt_ms, one.rtt_min_ms, one.rtt_max_ms, one.jitter_ms, one.jitter_method, one.loss, one.quality,
        )
        for one in batch.reports
    ]  # fmt: skip
    await request.app.state.pool.executemany(INSERT, values)
    logger.info("stored %d reports", len(values))
    return Accepted(accepted=len(values))


def main() -> None:
    """One worker with uvicorn's fast parts; its access log would only cost."""
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        export_telemetry()
        AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call]  # the library has no types
        FastAPIInstrumentor.instrument_app(app)
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
