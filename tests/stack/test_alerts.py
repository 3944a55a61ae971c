"""Real faults make the real alerts arrive at a receiver, and clear. Only the durations of rules and routes are shorter."""

import os
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import read_settings
from tests.alerts import ARRIVES_WITHIN_S, DURATION, SOURCES, Inbox, shortened, shortened_durations
from tests.batches import batch, report
from tests.conftest import Stack, free_port, wait_for
from tests.stack.conftest import Stores
from tests.webhook import listening

REGION = "alerts"


@pytest.mark.parametrize("path", [*SOURCES, OBSERVABILITY / "alertmanager" / "alertmanager.yml"], ids=lambda path: path.name)
def test_only_durations_are_other(path: Path) -> None:
    real, short = path.read_text(), shortened(path.read_text())
    assert short != real
    assert DURATION.sub("", short) == DURATION.sub("", real)
    assert re.sub(r"\d+[smhdw]", "", short) == re.sub(r"\d+[smhdw]", "", real)


@pytest.fixture(scope="module")
def inbox(stack: Stack) -> Iterator[Inbox]:
    """A receiver of alerts, while the stack runs with shortened durations."""
    with listening() as (url, bodies), shortened_durations(stack, url):
        inbox = Inbox(bodies)
        # An Alertmanager that has just started may know of no alert: Prometheus tells it again after a minute (its resend delay).
        inbox.wait("firing", "Watchdog", within_s=60 + ARRIVES_WITHIN_S)
        yield inbox


@contextmanager
def players(stack: Stack) -> Iterator[None]:
    """Batches without end, two at a time, whatever is answered."""
    is_over = threading.Event()
    headers = {"authorization": f"Bearer {stack.file['demo']['ingest_key']}"}
    url = f"{stack.url('gamepulse')}/v1/reports"

    def send() -> None:
        while not is_over.wait(0.1):
            try:
                httpx.post(url, json=batch([report(region=REGION)]), headers=headers, timeout=20)
            except httpx.TransportError:
                continue

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@contextmanager
def without(stack: Stack, name: str) -> Iterator[None]:
    """A program of the stack is stopped, and stays so."""
    stack.supervise("stop", name)
    try:
        yield
    finally:
        stack.supervise("start", name)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("inbox")
def test_objectives_are_measured_and_what_was_answered_is_counted(stack: Stack, stores: Stores) -> None:
    burning = "slo:current_burn_rate:ratio"
    answered, counted = "durability:answered:increase1h", "durability:counted:increase1h"
    with players(stack):
        wait_for("all four are measured", lambda: stores.number(f"count({burning})") == 4, ARRIVES_WITHIN_S)
        wait_for("enough is answered", lambda: stores.number(answered) > 50, ARRIVES_WITHIN_S)
    assert stores.number(f'{burning}{{sloth_slo="ingest-availability"}}') == 0
    assert stores.number(f'{burning}{{sloth_slo="durability"}}') == 0
    # More may be counted than was answered: where a test before this one has cut off PostgreSQL amid a commit.
    wait_for("all that was answered is counted", lambda: stores.number(answered) <= stores.number(counted), ARRIVES_WITHIN_S)


@pytest.mark.timeout(180)
def test_postgresql_away(stack: Stack, stores: Stores, inbox: Inbox) -> None:
    since = len(inbox.told)
    with players(stack):
        with without(stack, "postgres"):
            for name in ("DatabaseUnavailable", "HighErrorRate"):
                inbox.wait("firing", name, since, severity="critical", environment="local")
            # What follows fires too, and is held back (tests/observability/test_alertmanager.py).
            for name in ("IngestRefusing", "HighErrorRatio"):
                firing = f'ALERTS{{alertname="{name}",alertstate="firing",service_name="gamepulse",environment="local"}}'
                wait_for(name, lambda firing=firing: stores.number(firing) == 1, ARRIVES_WITHIN_S)
        for name in ("DatabaseUnavailable", "HighErrorRate"):
            inbox.wait("resolved", name, since)


@pytest.mark.timeout(300)
def test_postgresql_hangs_and_nobody_sends(stack: Stack, inbox: Inbox) -> None:
    since = len(inbox.told)
    postgres = psutil.Process(stack.file["processes"]["postgres"])
    family = [postgres, *postgres.children(recursive=True)]
    for one in family:
        one.suspend()
    try:
        inbox.wait("firing", "DatabaseUnavailable", since, within_s=60 + ARRIVES_WITHIN_S, severity="critical", environment="local")
    finally:
        for one in family:
            one.resume()
    inbox.wait("resolved", "DatabaseUnavailable", since)


@pytest.mark.timeout(180)
def test_slow_answers(stack: Stack, inbox: Inbox) -> None:
    since = len(inbox.told)
    postgres = psutil.Process(stack.file["processes"]["postgres"])
    with players(stack):
        is_told = threading.Event()

        def hang() -> None:
            """PostgreSQL answers for half a second of each two: commits take long and succeed."""
            while not is_told.is_set():
                family = [postgres, *postgres.children()]
                for one in family:
                    one.suspend()
                time.sleep(1.5)
                for one in family:
                    one.resume()
                is_told.wait(0.5)

        thread = threading.Thread(target=hang)
        thread.start()
        try:
            inbox.wait("firing", "HighResponseTime", since, severity="warning", service_name="gamepulse")
        finally:
            is_told.set()
            thread.join()
        inbox.wait("resolved", "HighResponseTime", since)
    assert not [labels for status, labels in inbox.told[since:] if labels["alertname"] == "HighErrorRate"]


@pytest.mark.timeout(180)
def test_service_gone(stack: Stack, inbox: Inbox) -> None:
    since = len(inbox.told)
    with without(stack, "gamepulse"):
        inbox.wait("firing", "ServiceSilent", since, severity="critical")
    inbox.wait("resolved", "ServiceSilent", since)


@pytest.mark.timeout(180)
def test_collector_gone(stack: Stack, inbox: Inbox) -> None:
    since = len(inbox.told)
    with without(stack, "collector"):
        inbox.wait("firing", "TargetDown", since, severity="critical", job="collector", environment="local")
    inbox.wait("resolved", "TargetDown", since, job="collector")


class Kept(BaseHTTPRequestHandler):
    """Answers nothing, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, _format: str, *_: object) -> None:
        """Says nothing."""


@contextmanager
def secure(context: ssl.SSLContext) -> Iterator[str]:
    """The URL of a server that speaks TLS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Kept) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}/"
        server.shutdown()


def certify(context: ssl.SSLContext, folder: Path, days: int) -> ssl.SSLContext:
    """From now on new connections are shown a certificate that is valid for so long, and that nobody has signed."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days {days} -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    context.load_cert_chain(certificate, key)
    return context


@contextmanager
def looking_at(stack: Stack, folder: Path, *urls: str) -> Iterator[None]:
    """A Collector that looks at the certificates of these addresses every two seconds instead of once a minute."""
    files = [OBSERVABILITY / "collector" / name for name in ("otel-collector-config.yaml", "certificates.yaml")]
    configs = [*map(str, files), "yaml:receivers::httpcheck::collection_interval: 2s"]
    environ = {name: f"127.0.0.1:{free_port()}" for name in ("COLLECTOR_OTLP_GRPC", "COLLECTOR_OTLP_HTTP", "COLLECTOR_HEALTH")}
    environ |= {"COLLECTOR_METRICS_HOST": "127.0.0.1", "COLLECTOR_METRICS_PORT": str(free_port())}
    environ |= {"COLLECTOR_QUEUE_DIRECTORY": str(folder), "PROMETHEUS_URL": stack.url("prometheus"), "PUBLIC_URLS": ",".join(urls)}
    command = [str(ensure_program(read_settings(), "collector") / "otelcol"), *(f"--config={one}" for one in configs)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=os.environ | environ, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.mark.timeout(180)
def test_certificate_expires(stack: Stack, stores: Stores, inbox: Inbox, tmp_path: Path) -> None:
    since = len(inbox.told)
    short, long = (certify(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tmp_path, days) for days in (13, 90))
    with secure(short) as soon, secure(long) as late, looking_at(stack, tmp_path, soon, late):
        inbox.wait("firing", "CertificateExpiring", since, severity="warning", http_url=soon)
        remaining = f'httpcheck_tls_cert_remaining_seconds{{http_url="{late}",service_name="infrastructure",environment="local"}}'
        assert stores.number(remaining) == pytest.approx(90 * 86_400, abs=600)
        certify(short, tmp_path, days=90)
        inbox.wait("resolved", "CertificateExpiring", since, http_url=soon)
    assert not [labels for _, labels in inbox.told[since:] if labels.get("http_url") == late]
