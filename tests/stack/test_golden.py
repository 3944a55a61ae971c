"""Golden percentiles: what GamePulse and Prometheus say of the replayed data is what numpy says of the files."""

import csv
from collections import defaultdict
from pathlib import Path

import httpx
import numpy as np
import pytest

from stack.measurements import networks
from tests.conftest import Stack, wait_for
from tests.stack.conftest import Json, Stores

DATA = Path(__file__).resolve().parents[2] / "data"
PERCENTILES = {"p5": 0.05, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
OF_THE_FILES = (
    'game="demo",region!~"signals|faults|alerts|dashboards|page|load-.+"'  # the other tests of the stack send from these regions
)
BUILDS = {"mobile_sessions.csv": "1.4.2+phone.synthetic-country", "country_rtt.csv": "1.4.2+country-pair"}


def column(file: str, name: str) -> list[float]:
    with (DATA / file).open() as lines:
        return [float(row[name]) for row in csv.DictReader(lines)]


def by_country() -> dict[str, list[float]]:
    found = defaultdict(list)
    with (DATA / "country_rtt.csv").open() as lines:
        for row in csv.DictReader(lines):
            found[row["country_a"]].append(float(row["rtt_mean_ms"]))
    return found


@pytest.fixture(scope="module")
def told(stack: Stack, replayed: dict[str, Json]) -> list[Json]:
    """Groups by country, connection and build: phones are cellular, pairs of countries wired."""
    sent = sum(one["sent"] for one in replayed.values())
    params: dict[str, str | int] = {"game": "demo", "group_by": "country,connection,build", "limit": 1000}

    def counted() -> list[Json] | None:
        groups = httpx.get(f"{stack.url('gamepulse')}/v1/quality", params=params).json()["groups"]
        groups = [group for group in groups if group["build"] in BUILDS.values()]
        return groups if sum(group["count"] for group in groups) >= sent else None

    found: list[Json] = wait_for("all replayed reports are in the rollups", counted)
    return found


def test_every_row_is_answered_once(replayed: dict[str, Json]) -> None:
    for file, rows in (("mobile", 3208), ("country", 6827)):
        said = replayed[file]
        assert said["sent"] == rows == said["accepted"] + said["duplicate"] + said["rejected"]
        assert said["rejected"] == 0


def test_quality_by_kind_of_connection(stack: Stack, told: list[Json]) -> None:
    params = {"game": "demo", "group_by": "connection,build"}
    groups = {
        group["connection"]: group
        for group in httpx.get(f"{stack.url('gamepulse')}/v1/quality", params=params).json()["groups"]
        if group["build"] in BUILDS.values()
    }
    for connection, file, name in (("cellular", "mobile_sessions.csv", "rtt_avg_ms"), ("wired", "country_rtt.csv", "rtt_mean_ms")):
        sent_ms = column(file, name)
        group = groups[connection]
        assert group["count"] == len(sent_ms)
        for percentile, level in PERCENTILES.items():
            exact = np.quantile(sent_ms, level, method="inverted_cdf")
            assert group["rtt_ms"][percentile] == pytest.approx(exact, rel=0.011), (connection, percentile)
    phones = groups["cellular"]
    assert phones["loss"] == pytest.approx(np.mean(column("mobile_sessions.csv", "loss_pct")) / 100, abs=1e-6)
    jitter_ms = column("mobile_sessions.csv", "rtt_stdev_ms")
    assert phones["jitter_ms"]["p75"] == pytest.approx(np.quantile(jitter_ms, 0.75, method="inverted_cdf"), rel=0.011)
    assert phones["sessions"] == 21


def test_quality_by_country(told: list[Json]) -> None:
    exact = by_country()
    checked = 0
    for group in told:
        if group["connection"] == "wired" and group["country"] in networks():
            sent_ms = exact[group["country"]]
            assert group["count"] == len(sent_ms), group["country"]
            for percentile, level in PERCENTILES.items():
                told_ms = group["rtt_ms"][percentile]
                assert told_ms == pytest.approx(np.quantile(sent_ms, level, method="inverted_cdf"), rel=0.011), group["country"]
            checked += 1
    assert checked >= 25


def test_prometheus_tells_the_same_from_the_same_buckets(stores: Stores, told: list[Json]) -> None:
    sent_ms = column("mobile_sessions.csv", "rtt_avg_ms") + column("country_rtt.csv", "rtt_mean_ms")
    series = f"sum(player_rtt_seconds{{{OF_THE_FILES}}})"
    count = f"histogram_count({series})"
    wait_for("Prometheus has all of it", lambda: stores.number(count) == len(sent_ms), 30)
    for level in PERCENTILES.values():
        exact_s = np.quantile(sent_ms, level, method="inverted_cdf") / 1000
        assert stores.number(f"histogram_quantile({level}, {series})") == pytest.approx(exact_s, rel=0.022), level
    assert stores.number(f"histogram_sum({series})") == pytest.approx(sum(sent_ms) / 1000, rel=1e-6)
    for country in ("KR", "DE", "US"):
        by_name = f'sum(player_rtt_seconds{{{OF_THE_FILES},country="{country}"}})'
        of_country = [group for group in told if group["country"] == country]
        assert stores.number(f"histogram_count({by_name})") == sum(group["count"] for group in of_country)
