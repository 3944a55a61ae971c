"""The real Grafana: every query of every panel through its own API, and a picture of each dashboard."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from stack.settings import CHECKOUT
from tests.conftest import wait_for
from tests.containers.engine import ComposeStack, docker
from tests.dashboards import DASHBOARDS, ONLY_SOMETIMES, SOURCES, Json, Query, expand, metrics_in
from tests.stack.conftest import Stores
from tests.stack.test_dashboards import NOTHING_HERE, RUNNABLE, Grafana, listed, place, players, traced

ARRIVES_WITHIN_S = 120
PICTURES = Path(os.environ.get("PICTURES", CHECKOUT / ".gamepulse" / "pictures"))


class RealGrafana(Grafana):
    """Asks Grafana, which asks the data sources."""

    def run(self, query: Query) -> list[Any]:
        """Its frames that hold something."""
        end_ms = int(time.time() * 1000)
        text = expand(query.text, self.values[query.dashboard]).replace(" or vector(0)", "")  # a 0 is not data
        model: Json = query.target | {"refId": "A", "datasource": {"uid": query.source}, "intervalMs": 15_000, "maxDataPoints": 240}
        model |= {name: text for name in ("expr", "rawSql") if name in query.target}
        body = {"queries": [model], "from": str(end_ms - 3_600_000), "to": str(end_ms)}
        answer = httpx.post(f"{self._stack.url('grafana')}/api/ds/query", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        [result] = answer.json()["results"].values()
        assert "error" not in result, result
        return [frame for frame in result["frames"] if any(column for column in frame["data"]["values"])]


@pytest.fixture(scope="module")
def grafana(stack: ComposeStack, stores: Stores) -> RealGrafana:
    """Players of all kinds, refusals, a PostgreSQL that hangs, a load, and the demo's players as compose starts them."""
    stack.up("demo")
    stack.compose("--profile", "load", "run", "--rm", "--no-deps", "--pull", "never", "load")
    key = {"authorization": f"Bearer {stack.file['demo']['ingest_key']}"}
    postgres = stack.container("postgres")["Id"]
    with httpx.Client(base_url=stack.url("gamepulse"), timeout=30) as client:
        for _ in range(2):  # again, because a series must grow before it has a rate
            for n in range(8):
                sent = client.post("/v1/reports", json=players(n), headers=key | place(n) | traced())
                assert sent.status_code == 202, sent.text
            assert client.post("/v1/reports", json=players(0), headers={"authorization": "Bearer nobody"}).status_code == 401
            assert client.get("/v1/quality?game=demo").status_code == 200
            docker("pause", postgres)
            try:
                assert client.post("/v1/reports", json=players(9), headers=key).status_code == 503
            finally:
                docker("unpause", postgres)
            wait_for("the region", lambda: stores.prometheus('player_rtt_seconds{region="dashboards"}'), ARRIVES_WITHIN_S)
            wait_for("it takes reports again", lambda: client.get("/health").json()["status"] == "Healthy", 60)
    return RealGrafana(stores, time.time())


@pytest.fixture(scope="module")
def until(grafana: RealGrafana) -> float:
    """By when everything must have arrived."""
    return time.monotonic() + ARRIVES_WITHIN_S


def test_all_data_sources_and_dashboards_are_there(grafana: RealGrafana, stack: ComposeStack) -> None:
    url = stack.url("grafana")
    assert {one["uid"] for one in httpx.get(f"{url}/api/search", params={"type": "dash-db"}).json()} == {
        one["uid"] for one in DASHBOARDS.values()
    }
    assert set(SOURCES) == {"prometheus", "loki", "jaeger", "postgres", "alertmanager", "cloudwatch"}
    for uid in ("prometheus", "loki", "jaeger", "postgres"):  # Alertmanager's has no such check, and there is no AWS here
        answer = httpx.get(f"{url}/api/datasources/uid/{uid}/health", timeout=30)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("query", RUNNABLE, ids=lambda query: query.name)
def test_query_finds_something(query: Query, grafana: RealGrafana, until: float) -> None:
    metrics = metrics_in(query.text, set()) if query.source == "prometheus" else set()
    if listed(query.name, NOTHING_HERE) or any(listed(name, ONLY_SOMETIMES) for name in metrics):
        grafana.run(query)
    else:
        wait_for(query.name, lambda: grafana.run(query), max(until - time.monotonic(), 5))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "chromium is missing"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_is_drawn(name: str, grafana: RealGrafana, stack: ComposeStack, browser: Browser) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": 1600, "height": 2400})
    page.goto(f"http://127.0.0.1:{stack.environ['GRAFANA_PORT']}/d/{DASHBOARDS[name]['uid']}?kiosk&from=now-30m&to=now")
    expect(page.get_by_test_id("data-testid panel content").first).to_be_visible(timeout=60_000)
    page.wait_for_load_state("networkidle", timeout=60_000)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
    assert page.get_by_test_id("data-testid Panel status error").count() == 0
    page.close()
