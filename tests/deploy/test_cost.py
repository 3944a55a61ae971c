"""What `make cost` reckons, by hand; its prices; docs/cost.md is what it prints."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from bench import load
from deploy import bill as billing
from deploy import usage as used_by
from deploy.__main__ import main
from deploy.bill import Line, bill, read_prices, usd
from deploy.config import IMAGES, SIZES, ZONES
from deploy.cost import BLOCK, PAGE, PLAYERS, report
from deploy.measured import Measured, PerBatch, bytes_at, read_measured
from deploy.usage import GIB, Assumed, usage
from stack.settings import CHECKOUT, Problem
from tests.deploy.conftest import Json, Templates

PRICES = read_prices()


@pytest.fixture(scope="module")
def measured() -> Measured:
    return read_measured()


@pytest.fixture(scope="module")
def plain(measured: Measured) -> Measured:
    """Round figures, so that a reader can follow."""
    return replace(
        measured,
        task_cpu_us=1_000,
        service_cpu_us=PerBatch(0, 0),
        raw_bytes=PerBatch(200, 50),
        key_bytes=PerBatch(100, 0),
        wal_bytes=PerBatch(800, 100),
        minute_bytes=((1, 1.0), (10, 1.0)),
        hour_bytes=((1, 1.0), (10, 1.0)),
    )


def cost(lines: list[Line], name: str) -> float:
    [line] = [line for line in lines if line.name == name]
    return line.quantity * PRICES[line.price].value


def bill_of(players: int, measured: Measured, size: str = "", **assumed: Any) -> list[Line]:
    one = Assumed(**assumed)
    return bill(usage(players, measured, one, size), measured, one)


def test_each_price_says_what_it_is_and_where_it_stands() -> None:
    for name, price in PRICES.items():
        assert price.value > 0, name
        assert price.unit, name
        assert re.fullmatch(r"https://[^ ]+", price.source), name
        assert re.fullmatch(r"20\d\d(-\d\d(-\d\d)?)?", price.date), name
        assert re.fullmatch(r"global|edge-asia|[a-z]{2}-[a-z]+-\d", price.region), name


def test_a_price_without_a_source_is_refused(tmp_path: Path) -> None:
    told = json.loads(billing.PRICES.read_text())
    del told["prices"]["nat_gb"]["source"]
    (tmp_path / "prices.json").write_text(json.dumps(told))
    with pytest.raises(TypeError, match="source"):
        read_prices(tmp_path / "prices.json")


def test_every_price_is_used(measured: Measured) -> None:
    used = {line.price for size in SIZES for line in bill_of(1_000, measured, size)}
    assert used == PRICES.keys()


def test_requests_by_hand(measured: Measured) -> None:
    lines = bill_of(10_000, measured)
    # 10,000 players each 10 s are 1,000 a second at the peak, 500 in the mean, 1,314 million in 730 hours.
    assert cost(lines, "CloudFront: requests") == pytest.approx(131_400 * 0.012)
    assert cost(lines, "web ACL: requests") == pytest.approx(1_314 * 0.60)
    hundred = bill_of(10_000, measured, sessions=100)
    assert cost(hundred, "web ACL: requests") == pytest.approx(13.14 * 0.60)


def test_machines_by_hand(measured: Measured) -> None:
    idle = bill_of(0, measured, "large")
    assert cost(idle, "PostgreSQL, in two zones") == pytest.approx(8 * 730 * 0.2869)
    assert cost(idle, "service: vCPUs") == pytest.approx(3 * 730 * 0.04656)
    assert cost(idle, "NAT gateways") == pytest.approx(3 * 730 * 0.059)
    assert cost(idle, "endpoints") == pytest.approx(9 * 3 * 730 * 0.013)


def test_tasks_by_hand(plain: Measured) -> None:
    # 60 % of a core ÷ 1 ms are 600 a second, so it is the count of requests that decides: 18,000 a minute.
    one = usage(50_000, plain, Assumed())
    assert (one.task_rps, one.tasks_peak, one.tasks_mean, one.size_name) == (300, 17, 2_500 / 300, "large")
    slow = usage(50_000, replace(plain, task_cpu_us=4_000), Assumed())
    assert (slow.task_rps, slow.tasks_peak) == (150, 34)
    assert usage(500, plain, Assumed()).tasks_mean == SIZES["small"].app_tasks_min


def test_storage_by_hand(plain: Measured) -> None:
    one = usage(50_000, plain, Assumed(), "small")
    # 2,500 batches a second of 200 + 2 × 50 bytes, for seven days and the one that is being filled.
    assert one.database_gib["raw batches"] == pytest.approx(2_500 * 300 * 8 * 86_400 / GIB)
    assert one.database_gib["batch keys"] == pytest.approx(2_500 * 100 * 2 * 86_400 / GIB)
    assert one.wal_gib_a_day == pytest.approx(2_500 * 1_000 * 86_400 / GIB, rel=1e-3)
    assert one.storage_gib == pytest.approx(sum(one.database_gib.values()) / 0.8)
    assert one.stored_row_bytes == 300
    # As many reports, in a sixth of the batches.
    rarer = usage(50_000, plain, Assumed(interval_s=60), "small")
    assert rarer.database_gib["raw batches"] == pytest.approx(2_500 / 6 * (200 + 12 * 50) * 8 * 86_400 / GIB)


def test_the_size_is_the_smaller_one_that_has_room(measured: Measured) -> None:
    assert usage(1_000, measured, Assumed()).size_name == "small"
    assert usage(50_000, measured, Assumed()).size_name == "large"
    far = usage(1_000_000, measured, Assumed())
    assert far.size_name == "large"
    assert not far.has_room


def test_sums(measured: Measured) -> None:
    lines = bill_of(50_000, measured)
    groups = {line.group for line in lines}
    by_group = [usd([line for line in lines if line.group == group], PRICES) for group in groups]
    assert sum(by_group) == pytest.approx(usd(lines, PRICES))
    printed = next(line for line in report([50_000]).splitlines() if line.startswith("| **all**"))
    assert f"**{usd(lines, PRICES):,.0f}**" in printed
    rows = [line.split("|") for line in report([50_000]).splitlines() if line.startswith("| CloudFront: requests")]
    assert rows[0][5].strip() == "7,884"


def test_levers_never_cost_more(measured: Measured) -> None:
    for many in PLAYERS:
        whole = usd(bill_of(many, measured), PRICES)
        for name, changed in used_by.levers(Assumed()).items():
            assert usd(bill(usage(many, measured, changed), measured, changed), PRICES) < whole, name


def test_results_are_read_as_they_stand(measured: Measured) -> None:
    rows = json.loads((CHECKOUT / "bench" / "results" / measured.files[0]).read_text())["rows"]
    assert measured.raw_bytes.of(20) / 20 == pytest.approx(rows["gamepulse"]["raw_batch_bytes_per_report"]["median"])
    assert measured.raw_bytes.of(1) == pytest.approx(rows["gamepulse-one"]["raw_batch_bytes_per_report"]["median"])
    assert measured.database_cpu_us.of(20) == pytest.approx(rows["gamepulse"]["database_cpu_us"]["median"])
    for players, size in measured.minute_bytes:
        assert bytes_at(measured.minute_bytes, players) == pytest.approx(size)
    assert measured.minute_bytes[0][1] < bytes_at(measured.minute_bytes, 10_000) < measured.minute_bytes[1][1]


def test_the_newest_results_count(tmp_path: Path) -> None:
    for name, at, cpu in (("b", "2026-01-01", 10.0), ("a", "2026-02-01", 20.0)):
        figure = {"median": cpu}
        rows = dict.fromkeys(("gamepulse", "gamepulse-one", "wire-task"), _figures(figure))
        told = {"at": at, "load": {"reports": 20, "body_bytes": 4000}, "rows": rows}
        widths = [{"players": many, "minute_bytes": 1, "hour_row_bytes": 1} for many in (1, 10)]
        (tmp_path / f"{name}.json").write_text(json.dumps(told | {"widths": widths}))
    assert read_measured(tmp_path).loki_bytes == 20
    (tmp_path / "a.json").unlink()
    (tmp_path / "b.json").unlink()
    with pytest.raises(Problem, match="make bench"):
        read_measured(tmp_path)


def _figures(figure: Json) -> Json:
    names = ("raw_batch_bytes_per_report", "batch_key_bytes_per_report", "wal_bytes_per_report", "loki_bytes_per_request")
    more = ("prometheus_bytes_per_request", "jaeger_bytes_per_request", "web_cpu_us", "aggregator_cpu_us", "collector_cpu_us")
    return dict.fromkeys((*names, *more, "server_cpu_us", "database_cpu_us"), figure)


def test_docs_have_what_is_printed() -> None:
    found = BLOCK.search(PAGE.read_text())
    assert found, "docs/cost.md has lost its marks"
    assert found[0].strip() == report().strip(), "out of date: python -m deploy cost --write"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--regions", "2"], "No such option"),
        (["--players", "0"], "0 is not in the range"),
        (["--interval-s", "0.5"], "0.5 is not in the range"),
        (["--write", "--sessions", "100"], "--write takes no other option"),
    ],
)
def test_what_is_not_understood_is_an_error(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["cost", *arguments])
    assert done.exit_code == 2
    assert said in done.output


def test_options_change_what_is_reckoned() -> None:
    done = CliRunner().invoke(main, ["cost", "--players", "6000", "--interval-s", "60", "--peak-to-mean", "4", "--sessions", "10"])
    assert done.exit_code == 0
    assert "a batch each 60 s from each player, of 10 sessions; at the peak 4 times" in done.output
    assert re.search(r"requests/s, mean · peak +\| +2.5 · 10 \|", done.output)


def test_what_is_assumed_is_what_is_sent() -> None:
    body = used_by.BATCH_HEAD_BYTES + 2 * (len(load.body(20)) - used_by.BATCH_HEAD_BYTES) / 20
    assert body == pytest.approx(len(load.body(2)), rel=0.05)


def test_lives_of_telemetry_are_those_of_its_stores() -> None:
    def settings(path: str) -> Any:
        return yaml.safe_load((CHECKOUT / "observability" / path).read_text())

    assert settings("loki/loki.yaml")["limits_config"]["retention_period"] == f"{24 * (used_by.LOKI_DAYS - 1)}h"
    assert settings("prometheus/prometheus.yml")["storage"]["tsdb"]["retention"]["size"] == f"{used_by.PROMETHEUS_GIB}GB"
    assert f"spans: {24 * used_by.SPAN_DAYS}h" in (CHECKOUT / "observability" / "jaeger" / "jaeger.yaml").read_text()


def test_what_is_counted_is_what_is_deployed(production: Templates) -> None:
    def of(kind: str) -> list[Json]:
        resources = [one for template in production.values() for one in template["Resources"].values()]
        return [one.get("Properties", {}) for one in resources if one["Type"] == f"AWS::{kind}"]

    assert len(of("EC2::NatGateway")) == len(ZONES)
    assert len([one for one in of("EC2::VPCEndpoint") if one.get("VpcEndpointType") == "Interface"]) == billing.ENDPOINTS
    assert [len(one["Rules"]) for one in of("WAFv2::WebACL")] == [billing.ACL_RULES]
    assert len(of("CloudWatch::Alarm")) == billing.ALARMS
    assert len(of("KMS::Key")) == billing.KEYS
    secrets = of("SecretsManager::Secret")
    assert len(secrets) + sum(len(one.get("ReplicaRegions", [])) for one in secrets) + 1 == billing.SECRETS
    assert len(of("ECR::Repository")) == len(IMAGES)
    assert f'"countNumber":{billing.KEPT_IMAGES}' in of("ECR::Repository")[0]["LifecyclePolicy"]["LifecyclePolicyText"]
    assert {one["ServiceName"] for one in of("ECS::Service")} == {*billing.ALONE, "gamepulse-app"}
    targets = {
        one["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] for one in of("ApplicationAutoScaling::ScalingPolicy")
    }
    assert {used_by.CPU_PERCENT, used_by.REQUESTS_A_MINUTE} < targets
    [database] = of("RDS::DBInstance")
    assert (database["MultiAZ"], database["StorageType"], database["BackupRetentionPeriod"]) == (True, "gp3", used_by.LOG_DAYS)
    [plan] = of("Backup::BackupPlan")
    kept = [rule["Lifecycle"]["DeleteAfterDays"] for rule in plan["BackupPlan"]["BackupPlanRule"]]
    assert kept == [used_by.NIGHTLY_DAYS]
