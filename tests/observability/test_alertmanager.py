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
from urllib.parse import parse_qs

import httpx
import pytest
import yaml

from stack.prepare import alertmanager_configuration
from stack.programs import ensure_program
from stack.settings import read_settings
from tests.conftest import free_port, wait_for
from tests.webhook import listening

TOPIC = "arn:aws:sns:eu-central-1:123456789012:gamepulse-alerts"
TARGETS = {"webhook": "http://127.0.0.1:9/alerts", "sns": TOPIC}
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


@pytest.fixture(params=TARGETS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "alertmanager.yml"
    path.write_text(alertmanager_configuration(request.param, TARGETS[request.param]))
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
        for one in yaml.safe_load(alertmanager_configuration("webhook", "http://127.0.0.1:9"))["route"]["routes"]
        if "Watchdog" in str(one["matchers"])
    ]
    most_m = sum(int(route[name].removesuffix("m")) for name in ("group_interval", "repeat_interval"))
    assert most_m <= 5


PUBLISHED = b"<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>"


@contextmanager
def running(folder: Path, configuration: str, **environ: str) -> Iterator[Callable[[dict[str, str]], None]]:
    """An Alertmanager; yields what sends it an alert by its labels."""
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

            def send(labels: dict[str, str]) -> None:
                alert = {"labels": labels, "annotations": {"summary": "s"}, "startsAt": datetime.now(UTC).isoformat()}
                httpx.post(f"http://{address}/api/v2/alerts", json=[alert]).raise_for_status()

            yield send
        finally:
            process.terminate()


@pytest.mark.parametrize(("cause", "follows", "other"), INHIBITED)
def test_what_follows_from_another_alert_is_held_back(
    cause: dict[str, str], follows: dict[str, str], other: dict[str, str], tmp_path: Path
) -> None:
    with listening() as (url, bodies):
        soon = re.sub(r"group_wait: \d+s", "group_wait: 2s", alertmanager_configuration("webhook", url))
        with running(tmp_path, soon) as send:
            for labels in (cause, follows, other):
                send(labels)
            wait_for("two groups", lambda: len(bodies) >= 2, 10)
            time.sleep(1)  # a third would have come with them
    told = [alert["labels"] for body in bodies for alert in json.loads(body)["alerts"]]
    assert sorted(told, key=str) == sorted([cause, other], key=str)


def test_sns_is_told_who_what_and_how_bad(tmp_path: Path) -> None:
    with listening(PUBLISHED) as (url, bodies):
        with running(tmp_path, alertmanager_configuration("sns", TOPIC), **AWS, AWS_ENDPOINT_URL_SNS=url) as send:
            send({"alertname": "Watchdog", "severity": "none", "environment": "staging"})
            wait_for("a message", lambda: bodies)
    sent = {name: value for name, [value] in parse_qs(bodies[0].decode()).items()}
    assert sent["Action"] == "Publish"
    assert sent["TopicArn"] == TOPIC
    assert sent["Subject"] == "[FIRING] none Watchdog in staging"
    assert sent["MessageAttributes.entry.1.Value.StringValue"] == "none"
    assert sent["Message"].startswith("s: ")
    assert "alertname=Watchdog environment=staging severity=none" in sent["Message"]
