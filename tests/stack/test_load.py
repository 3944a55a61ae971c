"""The load by k6: what is told is what is stored and counted. How fast is not asked here."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from stack.settings import CHECKOUT
from tests.conftest import Stack, wait_for
from tests.stack.conftest import Json, Stores
from tests.stack.test_faults import kill

OURS = "region LIKE 'load-%'"
EVENTS = "jsonb_to_recordset(coalesce(events, '[]')) AS event (region text, kind text)"


def said(smoked: Json, name: str) -> int:
    """What a counter says at the end."""
    return int(smoked["metrics"][name]["values"]["count"])


async def rows(stack: Stack, query: str) -> list[Any]:
    connection = await asyncpg.connect(stack.file["database_url"])
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


@pytest.mark.timeout(300)  # the stack, and then the load
def test_all_that_must_be_so_is(smoked: Json) -> None:
    thresholds = {
        f"{name}: {limit}": found["ok"]
        for name, one in smoked["metrics"].items()
        for limit, found in one.get("thresholds", {}).items()
    }
    assert len(thresholds) == 4
    assert all(thresholds.values()), thresholds
    assert said(smoked, "batches_stored") > 200
    assert said(smoked, "reports_duplicate") > 0, "some were sent twice"
    assert smoked["metrics"]["checks"]["values"]["fails"] == 0
    assert smoked["metrics"]["checks"]["values"]["passes"] >= 2 * said(smoked, "batches_stored")


async def test_what_was_answered_as_safe_is_stored(smoked: Json, stack: Stack) -> None:
    [[reports]] = await rows(stack, f"SELECT count(*) FROM raw_batch, raw_reports(raw_batch) WHERE {OURS}")
    [[events]] = await rows(stack, f"SELECT count(*) FROM raw_batch, {EVENTS} WHERE {OURS}")
    assert reports > 0
    assert reports + events == said(smoked, "reports_safe")
    [[batches]] = await rows(stack, "SELECT count(*) FROM raw_batch WHERE match LIKE 'load-smoke-%'")
    assert batches == said(smoked, "batches_stored")


def test_reports_are_counted_in_the_rollups_and_by_prometheus(smoked: Json, stack: Stack, stores: Stores) -> None:
    def counted() -> int:
        params = {"game": "demo", "group_by": "region", "limit": "1000"}
        groups = httpx.get(f"{stack.url('gamepulse')}/v1/quality", params=params).json()["groups"]
        ours = [group for group in groups if group["region"].startswith("load-")]
        return sum(group["count"] + sum(group["events"].values()) for group in ours)

    wait_for("the rollups", lambda: counted() == said(smoked, "reports_safe"))
    for name in ("reports_safe", "reports_duplicate", "batches_stored"):
        assert stores.number(f"sum(max_over_time(k6_{name}_total[1h]))") == said(smoked, name)


@pytest.mark.timeout(300)
def test_what_is_refused_is_sent_again_until_it_is_safe(smoked: Json, stack: Stack, tmp_path: Path) -> None:
    """PostgreSQL is stopped meanwhile. The last test here: what it sends is counted beside what the others look at."""
    said_so_far, summary = tmp_path / "said", tmp_path / "summary.json"
    with said_so_far.open("w") as output:
        command = [sys.executable, "-m", "tests.load", "smoke"]
        environ = stack.environ | {"SUMMARY": str(summary)}
        load = subprocess.Popen(command, env=environ, cwd=CHECKOUT, stdout=output, stderr=subprocess.STDOUT)
        wait_for("batches", lambda: any(int(n) > 100 for n in re.findall(r"(\d+) complete", said_so_far.read_text())), 60)
        kill(stack, "postgres", signal.SIGINT)
        assert load.wait(timeout=120) == 0, said_so_far.read_text()  # every threshold, and PostgreSQL has what was answered as safe
    told = json.loads(summary.read_text())
    assert said(told, "batches_retried") > 0
    assert told["metrics"]["batches_lost"]["values"]["count"] == 0
