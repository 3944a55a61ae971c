"""The real alerts of a running stack, with shorter durations: what has arrived at a receiver."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from stack.components import OBSERVABILITY
from stack.prepare import alertmanager_configuration
from tests.conftest import Stack, wait_for

ARRIVES_WITHIN_S = 60
DURATION = re.compile(r"(\[|offset |for: |interval: |timeout: |wait: )(\d+)([smhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
SOURCES = [OBSERVABILITY / "prometheus" / "prometheus.yml", *(OBSERVABILITY / "prometheus" / "rules").glob("*.yml")]


def shortened(text: str) -> str:
    """A configuration with ranges a twelfth as long (at least 20 s: four points of the service), all else a sixtieth."""

    def shorter(found: re.Match[str]) -> str:
        kind, number, unit = found.groups()
        seconds = int(number) * SECONDS[unit]
        return f"{kind}{max(seconds // 12, 20) if kind in ('[', 'offset ') else max(seconds // 60, 1)}s"

    return DURATION.sub(shorter, text)


class Inbox:
    """What Alertmanager has posted."""

    def __init__(self, bodies: list[bytes]) -> None:
        self._bodies = bodies

    @property
    def told(self) -> list[tuple[str, dict[str, str]]]:
        """Status and labels of each alert, in order."""
        return [(alert["status"], alert["labels"]) for body in self._bodies for alert in json.loads(body)["alerts"]]

    def wait(self, status: str, name: str, since: int = 0, within_s: float = ARRIVES_WITHIN_S, **labels: str) -> None:
        """Until an alert is told to be firing or resolved."""
        wanted = {"alertname": name, **labels}

        def is_there() -> bool:
            return any(one == status and wanted.items() <= has.items() for one, has in self.told[since:])

        wait_for(f"{name} {status}", is_there, within_s)


@contextmanager
def shortened_durations(stack: Stack, webhook: str) -> Iterator[None]:
    """Prometheus and Alertmanager of the running stack with shortened files, and with their own again afterwards."""
    config = stack.home / "config"
    alertmanager = config / "alertmanager" / "alertmanager.yml"
    before = alertmanager.read_text()
    (config / "prometheus" / "rules").unlink()
    (config / "prometheus" / "rules").mkdir()
    (config / "prometheus" / "prometheus.yml").unlink()
    for source in SOURCES:
        (config / "prometheus" / source.relative_to(OBSERVABILITY / "prometheus")).write_text(shortened(source.read_text()))
    alertmanager.write_text(shortened(alertmanager_configuration("webhook", ALERT_TARGET=webhook)))
    _reload(stack)
    yield
    for source in SOURCES:
        (config / "prometheus" / source.relative_to(OBSERVABILITY / "prometheus")).unlink()
    (config / "prometheus" / "rules").rmdir()
    for name in ("prometheus.yml", "rules"):
        (config / "prometheus" / name).symlink_to(OBSERVABILITY / "prometheus" / name)
    alertmanager.write_text(before)
    _reload(stack)


def _reload(stack: Stack) -> None:
    for name in ("prometheus", "alertmanager"):
        psutil.Process(stack.file["processes"][name]).send_signal(1)  # SIGHUP: read the files again
