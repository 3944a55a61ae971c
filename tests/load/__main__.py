"""`python -m tests.load smoke`: players by k6, against the stack that runs here or TARGET. docs/load.md says more."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import click

from gamepulse.records import RECORD
from stack.components import ENVIRONMENT
from stack.programs import ensure_program
from stack.settings import Problem, Settings, read_settings

MAIN = Path(__file__).with_name("main.js")
PASSED_ON = ("TARGET", "ALLOW_HOST", "INGEST_KEY", "GAME", "MINUTES")
EXPORT_EVERY = "5s"
STORED = """
SELECT coalesce(sum(length(records)), 0) / $1 + coalesce(sum(jsonb_array_length(events)), 0) FROM raw_batch
WHERE match = $2 AND received_at >= $3
"""

type Json = dict[str, Any]


def stack_of(settings: Settings) -> Json | None:
    """stack.json of what runs, if something does."""
    return json.loads(settings.stack_file.read_text()) if settings.stack_file.exists() else None


def given(stack: Json | None) -> dict[str, str]:
    """What main.js is told: as the user says, else as the stack is. Raises Problem when there is neither."""
    said = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    if "TARGET" in said:
        return said
    if stack is None:
        raise Problem("Nothing runs here: `make up` first, or TARGET=URL with INGEST_KEY=…")
    return {"TARGET": stack["urls"]["gamepulse"], "INGEST_KEY": stack["demo"]["ingest_key"]} | said


def exporting(stack: Json | None, run: str) -> dict[str, str]:
    """k6's settings for the stack's Prometheus: OTLP as all else, durations as native histograms, `instance` the run."""
    if stack is None:
        return {}
    return {
        "K6_OUT": "opentelemetry",
        "K6_OTEL_EXPORTER_PROTOCOL": "http/protobuf",
        "K6_OTEL_HTTP_EXPORTER_INSECURE": "true",
        "K6_OTEL_HTTP_EXPORTER_ENDPOINT": urlsplit(stack["urls"]["prometheus"]).netloc,
        "K6_OTEL_HTTP_EXPORTER_URL_PATH": "/api/v1/otlp/v1/metrics",
        "K6_OTEL_METRIC_PREFIX": "k6_",
        "K6_OTEL_EXPORT_INTERVAL": EXPORT_EVERY,
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
        "OTEL_RESOURCE_ATTRIBUTES": f"service.namespace=gamepulse,service.instance.id={run},environment={ENVIRONMENT}",
    }


def run_k6(settings: Settings, stack: Json | None, run: str, told: dict[str, str]) -> int:
    """k6's exit code: 0, 99 when a threshold is not met, others when it could not run."""
    k6 = ensure_program(settings, "k6") / "k6"
    environment = os.environ | told | exporting(stack, run) | {"K6_NO_USAGE_REPORT": "true"}
    # By the environment, not -e: nobody else shall see the key in the list of processes.
    process = subprocess.Popen([k6, "run", MAIN], env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()  # it has got it too, lets the batches under way end, and prints its table


async def stored(stack: Json, run: str, since: datetime) -> int:
    """Reports and events of this run in PostgreSQL."""
    connection = await asyncpg.connect(stack["database_url"])
    try:
        return int(await connection.fetchval(STORED, RECORD.itemsize, run, since))
    finally:
        await connection.close()


def balance(stack: Json, run: str, since: datetime, summary: Json) -> bool:
    """Is what was answered as safe stored, neither more nor less? Batches that were lost may be stored or not."""
    safe, lost = (
        int(summary["metrics"].get(name, {"values": {"count": 0}})["values"]["count"]) for name in ("reports_safe", "batches_lost")
    )
    found = asyncio.run(stored(stack, run, since))
    print(f"Answered as safe: {safe:,} reports and events. In PostgreSQL: {found:,}.", flush=True)
    return found == safe or (lost > 0 and found > safe)


@click.command()
@click.argument("scenario", type=click.Choice(("smoke", "load", "stress", "spike", "soak")))
def main(scenario: str) -> None:
    """Send a scenario's players, print what came of it, and end: 0 when every threshold was met."""
    settings = read_settings()
    stack, began = stack_of(settings), datetime.now(UTC) - timedelta(minutes=1)
    run = f"load-{scenario}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    told = given(stack) | {"SCENARIO": scenario, "RUN": run}
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(os.environ.get("SUMMARY") or Path(folder) / "summary.json").absolute()
        code = run_k6(settings, stack, run, told | {"SUMMARY": str(summary)})
        is_ours = stack is not None and told["TARGET"] == stack["urls"]["gamepulse"]
        if stack and is_ours and summary.exists() and not balance(stack, run, began, json.loads(summary.read_text())):
            raise Problem("What was answered as safe is not what is stored.")
    sys.exit(code)


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"\n{problem}")
