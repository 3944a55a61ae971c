"""Alertmanager's file with each receiver: its own checker, its routes, and what it sends and holds back when it runs."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
import yaml

from stack.components import OBSERVABILITY
from stack.prepare import alertmanager_configuration
from stack.programs import ensure_program
from stack.settings import CHECKOUT, read_settings
from tests.conftest import free_port, wait_for
from tests.dashboards import DASHBOARDS, panels
from tests.webhook import listening

RULES = OBSERVABILITY / "prometheus" / "rules"
TOPIC = "arn:aws:sns:eu-central-1:123456789012:gamepulse-alerts"
RECEIVERS = {
    "webhook": {"ALERT_TARGET": "http://127.0.0.1:9/alerts"},
    "sns": {"ALERT_TARGET": TOPIC, "REPOSITORY_URL": CHECKOUT.as_uri(), "GRAFANA_URL": "https://grafana.example"},
}
# The credentials are made up; the endpoint is the test's own.
AWS = {"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
ROUTES = {
    "alertname=HighErrorRate severity=critical": "people",
    "alertname=TelemetryDropped severity=warning": "people",
    "alertname=Watchdog severity=none": "people",
}
OF_THE_SERVICE = {"service_name": "gamepulse", "environment": "test"}
# what fires · what is held back by it · what is not
INHIBITED: list[tuple[dict[str, str], dict[str, str], dict[str, str]]] = [
    (
        {"alertname": "DatabaseUnavailable", "severity": "critical", "environment": "test"},
        {"alertname": "IngestRefusing", "severity": "critical", **OF_THE_SERVICE},
        {"alertname": "HighErrorRate", "severity": "critical", **OF_THE_SERVICE},
    ),
    (
        {"alertname": "DatabaseUnavailable", "severity": "critical", "environment": "test"},
        {"alertname": "FreshnessBurn", "severity": "critical", "sloth_severity": "page", "sloth_id": "gamepulse-freshness"},
        {"alertname": "DurabilityBurn", "severity": "critical", "sloth_severity": "page", "sloth_id": "gamepulse-durability"},
    ),
    (
        {"alertname": "HighErrorRate", "severity": "critical", **OF_THE_SERVICE},
        {"alertname": "HighResponseTime", "severity": "warning", **OF_THE_SERVICE},
        {"alertname": "CommitErrors", "severity": "warning", "outcome": "database_unavailable", **OF_THE_SERVICE},
    ),
    (
        {"alertname": "ShardWithoutLeader", "severity": "critical", "service_name": "gamepulse"},
        {"alertname": "AggregatorLag", "severity": "warning", **OF_THE_SERVICE},
        {"alertname": "DeltasWaiting", "severity": "warning", **OF_THE_SERVICE},
    ),
    (
        {"alertname": "TargetDown", "severity": "critical", "job": "collector"},
        {"alertname": "ServiceSilent", "severity": "critical", "service_name": "gamepulse"},
        {"alertname": "IngestRefusing", "severity": "critical", **OF_THE_SERVICE},
    ),
    (
        {"alertname": "TargetDown", "severity": "critical", "job": "loki"},
        {"alertname": "CollectorQueueFilling", "severity": "warning", "exporter": "otlp_http/loki"},
        {"alertname": "ServiceSilent", "severity": "critical", "service_name": "gamepulse"},
    ),
    (
        {"alertname": "TargetDown", "severity": "critical", "job": "alertmanager"},
        {"alertname": "AlertsNotDelivered", "severity": "critical", "job": "prometheus"},
        {"alertname": "DiskFilling", "severity": "warning", "job": "loki"},
    ),
    (
        {"alertname": "ServiceSilent", "severity": "critical", "service_name": "gamepulse"},
        {"alertname": "ShardWithoutLeader", "severity": "critical", "service_name": "gamepulse"},
        {"alertname": "ReportsMissing", "severity": "critical"},
    ),
    (
        {"alertname": "FreshnessBurn", "severity": "critical", "sloth_severity": "page", "sloth_id": "gamepulse-freshness"},
        {"alertname": "FreshnessBurn", "severity": "warning", "sloth_severity": "ticket", "sloth_id": "gamepulse-freshness"},
        {"alertname": "DurabilityBurn", "severity": "warning", "sloth_severity": "ticket", "sloth_id": "gamepulse-durability"},
    ),
    (
        {"alertname": "StoreCannotWrite", "severity": "critical", "job": "loki"},
        {"alertname": "DiskFilling", "severity": "warning", "job": "loki"},
        {"alertname": "CollectorQueueFilling", "severity": "warning", "exporter": "otlp_http/loki"},
    ),
]


def program(name: str) -> Path:
    return ensure_program(read_settings(), "alertmanager") / name


def amtool(*arguments: str) -> str:
    done = subprocess.run([program("amtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=RECEIVERS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "alertmanager.yml"
    path.write_text(alertmanager_configuration(request.param, **RECEIVERS[request.param]))
    return path


def test_file_is_valid_with_each_receiver(file: Path) -> None:
    assert "1 receivers" in amtool("check-config", str(file))


def test_every_severity_reaches_people(file: Path) -> None:
    for labels, receiver in ROUTES.items():
        amtool("config", "routes", "test", f"--config.file={file}", f"--verify.receivers={receiver}", *labels.split())


def test_the_watchdog_is_repeated_within_five_minutes() -> None:
    """A group is looked at once in `group_interval`; what is not to be repeated yet waits for the next time."""
    [route] = [
        one
        for one in yaml.safe_load(alertmanager_configuration("webhook", **RECEIVERS["webhook"]))["route"]["routes"]
        if "Watchdog" in str(one["matchers"])
    ]
    most_m = sum(int(route[name].removesuffix("m")) for name in ("group_interval", "repeat_interval"))
    assert most_m <= 5


PUBLISHED = b"<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>"


@contextmanager
def running(folder: Path, configuration: str, **environ: str) -> Iterator[Callable[..., None]]:
    """An Alertmanager; yields what sends it an alert by its labels and annotations."""
    (folder / "alertmanager.yml").write_text(configuration)
    address = f"127.0.0.1:{free_port()}"
    flags = {
        "config.file": folder / "alertmanager.yml",
        "storage.path": folder,
        "web.listen-address": address,
        "cluster.listen-address": "",
    }
    command: list[str | Path] = [program("alertmanager"), *(f"--{name}={value}" for name, value in flags.items())]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=kept | environ, stdout=log, stderr=log) as process:
        try:
            wait_for("Alertmanager", lambda: httpx.get(f"http://{address}/-/ready").status_code == 200)

            def send(labels: dict[str, str], annotations: dict[str, str] | None = None) -> None:
                alert = {"labels": labels, "annotations": annotations or {}, "startsAt": datetime.now(UTC).isoformat()}
                httpx.post(f"http://{address}/api/v2/alerts", json=[alert]).raise_for_status()

            yield send
        finally:
            process.terminate()


@pytest.mark.parametrize(("cause", "follows", "other"), INHIBITED)
def test_what_follows_from_another_alert_is_held_back(
    cause: dict[str, str], follows: dict[str, str], other: dict[str, str], tmp_path: Path
) -> None:
    with listening() as (url, bodies):
        soon = re.sub(r"group_wait: \d+s", "group_wait: 2s", alertmanager_configuration("webhook", ALERT_TARGET=url))
        with running(tmp_path, soon) as send:
            for labels in (cause, follows, other):
                send(labels)
            wait_for("two groups", lambda: len(bodies) >= 2, 10)
            time.sleep(1)  # a third would have come with them
    told = [alert["labels"] for body in bodies for alert in json.loads(body)["alerts"]]
    assert sorted(told, key=str) == sorted([cause, other], key=str)


def rules() -> dict[str, dict[str, Any]]:
    """All alerts, by name."""
    groups = [group for path in RULES.glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_sns_is_told_who_what_how_bad_and_where_to_look(tmp_path: Path) -> None:
    """Of every alert: its links open (the runbook's), or lead to a panel that there is (Grafana's, which is not here)."""
    alerts, dashboards = rules(), {dashboard["uid"]: dashboard for dashboard in DASHBOARDS.values()}
    with listening(PUBLISHED) as (url, bodies):
        soon = re.sub(r"group_wait: \d+s", "group_wait: 1s", alertmanager_configuration("sns", **RECEIVERS["sns"]))
        soon = soon[: soon.index("inhibit_rules:")] + soon[soon.index("receivers:") :]
        with running(tmp_path, soon, **AWS, AWS_ENDPOINT_URL_SNS=url) as send:
            for name, rule in alerts.items():
                severity = rule["labels"]["severity"]
                send({"alertname": name, "severity": severity, "environment": "staging"}, rule["annotations"])
            wait_for("a message of each", lambda: len(bodies) == len(alerts))
    told = {}
    for body in bodies:
        sent = {name: value for name, [value] in parse_qs(body.decode()).items()}
        assert (sent["Action"], sent["TopicArn"]) == ("Publish", TOPIC)
        name = sent["Subject"].split()[2]
        told[name] = sent["Message"]
        severity = alerts[name]["labels"]["severity"]
        assert sent["Subject"] == f"[FIRING] {severity} {name} in staging"
        assert sent["MessageAttributes.entry.1.Value.StringValue"] == severity
        assert sent["Message"].startswith(f"{alerts[name]['annotations']['summary']}: ")
        assert f"alertname={name} environment=staging severity={severity}" in sent["Message"]
    assert set(told) == set(alerts)
    for name, message in told.items():
        [runbook] = re.findall(r"^Runbook: (\S+)$", message, re.MULTILINE)
        assert Path.from_uri(runbook).read_text().startswith(f"# {name}\n")
        [(uid, panel)] = re.findall(r"^Panel: https://grafana\.example/d/(\S+)\?viewPanel=(\d+)$", message, re.MULTILINE)
        assert int(panel) in {one["id"] for one in panels(dashboards[uid])}, name
