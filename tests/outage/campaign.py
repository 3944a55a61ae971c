"""Prometheus, Loki and Jaeger away under load, the Collector killed meanwhile: what arrives afterwards, what is lost, who is told.

Everything is as `make up` starts it, but for the size of the Collector's queues, and for the durations of rules and routes.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import batched, pairwise
from pathlib import Path

import asyncpg
import httpx

from tests.alerts import Inbox, shortened_durations
from tests.awake import awake_s
from tests.conftest import Stack, running_stack, wait_for
from tests.outage.flow import REGION, TRACED, Flow
from tests.stack.conftest import Stores
from tests.webhook import listening

PER_S = 50
"""Batches a second in the outages that the queues bridge."""
MANY_PER_S = 2_000
"""In the other; of those that are traced not more than the service traces (telemetry.TRACES_PER_SEND_MAX)."""
SPANS = {"POST /v1/reports", "receive", "accept"}
"""Of a batch that is traced; and one of each commit."""
WAITING = 'sum(otelcol_exporter_queue_size{exporter=~"otlp_http/loki|otlp_grpc/jaeger"})'
POINTS_GAP_S = 6.5
"""The service tells its points every 5 s."""
FULL_WITHIN_S = 240
TOLD_WITHIN_S = 120
DELIVERED_WITHIN_S = 180
"""gRPC's own pause between connections grows to two minutes, and the Collector cannot set it: Jaeger's spans come last."""
READY_WITHIN_S = 60
LINES_PER_READ = 5_000
TRACES_PER_READ = 50


@dataclass
class Outcome:
    """Of what was answered since the last one: lines and spans that should be there, are not, are there more than once."""

    lines: int
    lines_missing: int
    lines_again: int
    spans: int
    spans_missing: int

    def __str__(self) -> str:
        lines = f"{self.lines:,} lines of which {self.lines_missing:,} are missing and {self.lines_again:,} came again"
        return f"{lines}, {self.spans:,} spans of which {self.spans_missing:,} are missing"


@dataclass
class Campaign:
    """All of it, against a running stack whose alerts come to `inbox`."""

    stack: Stack
    inbox: Inbox
    flow: Flow
    minutes: float
    began: float = field(default_factory=time.monotonic)
    checked_at: float = field(default_factory=time.time)
    checked: int = 0

    def run(self) -> None:
        """Raises when something is not as it should be."""
        since = len(self.inbox.told)
        self.queues_full()
        self.loki_and_jaeger_away()
        for name in ("CollectorDropping", "TelemetryDropped", "TargetDown"):
            self.inbox.wait("resolved", name, since, TOLD_WITHIN_S)
        self.prometheus_away()
        self.say(f"the slowest of {len(self.flow.answered):,} answers took {self.flow.slowest_s * 1000:.0f} ms")

    def queues_full(self) -> None:
        """What is beyond the queues' size is lost: the service has dropped it, counted it, and told. Nothing else is lost."""
        since, before, slow = len(self.inbox.told), self.dropped(), self.flow.slow
        with self.without("loki", "jaeger"), self.flow.flowing(MANY_PER_S):
            for exporter in ("otlp_http/loki", "otlp_grpc/jaeger"):
                self.inbox.wait("firing", "CollectorDropping", since, FULL_WITHIN_S, exporter=exporter)
            self.kill_collector()
            for told in ("logs", "traces"):
                self.inbox.wait("firing", "TelemetryDropped", since, FULL_WITHIN_S, signal=told)
            self.say("the queues are full, and more is dropped")
        self.totals_are_right()
        wait_for("the queues are empty", lambda: self.stores.number(WAITING) == 0, DELIVERED_WITHIN_S)
        deadline = time.monotonic() + DELIVERED_WITHIN_S
        while True:
            refused = self.refused()
            lost = self.dropped() - before + refused
            outcome = self.delivered()
            # A request that was slow is traced as well, which its sender cannot know for sure.
            most = outcome.spans_missing + (len(SPANS) + 1) * (self.flow.slow - slow)
            if outcome.lines_missing == lost["logs"] and outcome.spans_missing <= lost["traces"] <= most:
                break
            assert time.monotonic() < deadline, (outcome, lost)
            time.sleep(2)
        assert lost["logs"] > 0 and lost["traces"] > 0
        self.say(f"the queues were full: {outcome}; counted as lost: {dict(lost)}, of these by the Collector: {dict(refused)}")
        self.check()

    def loki_and_jaeger_away(self) -> None:
        """What waits in the queues on disk is delivered, though the Collector was killed."""
        since = len(self.inbox.told)
        with self.flow.flowing(PER_S), self.without("loki", "jaeger"):
            for job in ("loki", "jaeger"):
                self.inbox.wait("firing", "TargetDown", since, job=job)
            self.outlast()
            waited = self.stores.number(WAITING)
        self.totals_are_right()
        wait_for("the queues are empty", lambda: self.stores.number(WAITING) == 0, DELIVERED_WITHIN_S)
        deadline = time.monotonic() + DELIVERED_WITHIN_S
        while (outcome := self.delivered()).lines_missing or outcome.spans_missing:
            assert time.monotonic() < deadline, (outcome, self.refused())
            time.sleep(2)
        self.say(f"Loki and Jaeger were away, {waited:,.0f} items waited on disk: {outcome}")
        self.check()

    def prometheus_away(self) -> None:
        """Its totals are right as soon as it is back, and those of meanwhile are there. Who waits for the Watchdog knows of it."""
        since, away_at, awake_since = len(self.inbox.told), time.time(), awake_s()
        with self.flow.flowing(PER_S):
            with self.without("prometheus"):
                self.inbox.wait("resolved", "Watchdog", since)
                self.outlast()
            back_at, back = time.time(), len(self.inbox.told)
            stood_s = max(0.0, back_at - away_at - (awake_s() - awake_since))
        self.totals_are_right()
        took_s = time.time() - back_at
        points = self.points(away_at, back_at)
        gap_s = max(later - earlier for earlier, later in pairwise([away_at, *points, back_at]))
        assert gap_s < POINTS_GAP_S + stood_s, points
        self.say(
            f"Prometheus was away: its totals were right {took_s:.0f} s after it was back, with {len(points)} points of meanwhile"
        )
        self.inbox.wait("firing", "Watchdog", back)

    # -- what is done ------------------------------------------------------------------------------------------------------

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """Programs are stopped; afterwards all is well again."""
        self.stack.supervise("stop", *names)
        self.away_since = time.monotonic()
        try:
            yield
        finally:
            self.stack.supervise("start", *names)
        wait_for("all are ready", lambda: self.stack.run("status").returncode == 0, READY_WITHIN_S)

    def outlast(self) -> None:
        """Until the outage has lasted as long as it shall; the Collector is killed halfway."""
        time.sleep(max(self.away_since + self.minutes * 30 - time.monotonic(), 0))
        self.kill_collector()
        time.sleep(max(self.away_since + self.minutes * 60 - time.monotonic(), 0))

    def kill_collector(self) -> None:
        """supervisord starts it again."""
        killed = self.stack.file["processes"]["collector"]
        os.kill(killed, signal.SIGKILL)
        wait_for(
            "the Collector is back", lambda: self.stack.file["processes"].get("collector") not in (None, killed), READY_WITHIN_S
        )

    def check(self) -> None:
        """What was answered up to now has been looked at."""
        self.checked, self.checked_at = len(self.flow.answered), time.time()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:5.0f} s: {text}", flush=True)

    # -- what is there -----------------------------------------------------------------------------------------------------

    @property
    def stores(self) -> Stores:
        return Stores(self.stack)

    def totals_are_right(self) -> None:
        """Prometheus counts as many batches, requests and reports as were answered."""
        for query in (
            'sum(ingest_batches_total{outcome="accepted"})',
            'sum(histogram_count(http_server_request_duration_seconds{http_route="/v1/reports",http_response_status_code="202"}))',
            f'sum(player_reports_total{{region="{REGION}"}})',
        ):
            wait_for(query, lambda query=query: self.stores.number(query) == len(self.flow.answered), DELIVERED_WITHIN_S)

    def points(self, since: float, until: float) -> list[float]:
        """When the web worker has told of its memory."""
        query = f'process_memory_usage_bytes{{instance=~"web-.+"}}[{int(until - since)}s]'
        params = {"query": query, "time": str(until)}
        [series] = httpx.get(f"{self.stack.url('prometheus')}/api/v1/query", params=params).json()["data"]["result"]
        return [at for at, _ in series["values"]]

    def dropped(self) -> Counter[str]:
        """By signal: what the web worker has dropped, as Prometheus knows."""
        found = self.stores.prometheus('sum by (signal) (telemetry_dropped_total{instance=~"web-.+"})')
        return Counter({series["metric"]["signal"]: int(float(series["value"][1])) for series in found})

    def refused(self) -> Counter[str]:
        """By signal: what the Collector has given up since it was killed, because a store said no for good."""
        names = {"logs": "log_records", "traces": "spans"}
        counted = {told: self.stores.number(f"sum(otelcol_exporter_send_failed_{name}_total)") for told, name in names.items()}
        return +Counter({told: int(items) for told, items in counted.items()})

    def delivered(self) -> Outcome:
        """What Loki and Jaeger have of what was answered since the last check."""
        answered = dict(list(self.flow.answered.items())[self.checked :])
        lines = Counter(self.lines(self.checked_at, time.time()))
        assert lines.keys() <= self.flow.answered.keys()
        spans = Counter(self.spans([trace for trace, is_traced in answered.items() if is_traced]))
        commits = asyncio.run(self.commits(self.checked_at))
        batches = sum(answered.values())
        missing = len(SPANS) * batches - sum(spans[name] for name in SPANS)
        return Outcome(
            lines=len(answered),
            lines_missing=len(answered.keys() - lines.keys()),
            lines_again=sum(lines.values()) - len(lines),
            spans=len(SPANS) * batches + commits,
            spans_missing=missing + commits - spans["commit"],
        )

    def lines(self, since: float, until: float) -> Iterator[str]:
        """The trace ids of the access log."""
        query = '{service_name="gamepulse"} | http_route="/v1/reports" | line_format "{{.trace_id}}" | keep service_name'
        params: dict[str, str | int] = {"query": query, "limit": LINES_PER_READ, "start": int(since * 1e9), "end": int(until * 1e9)}
        answer = httpx.get(f"{self.stack.url('loki')}/loki/api/v1/query_range", params=params, timeout=60)
        assert answer.status_code == 200, answer.text
        found = [line for stream in answer.json()["data"]["result"] for _, line in stream["values"]]
        if len(found) < LINES_PER_READ:
            yield from found
        else:
            yield from self.lines(since, (since + until) / 2)
            yield from self.lines((since + until) / 2, until)

    def spans(self, traces: Iterable[str]) -> Iterator[str]:
        """The names of these traces' spans, each span once."""
        with httpx.Client(base_url=self.stack.url("jaeger"), timeout=60) as client:
            for some in batched(traces, TRACES_PER_READ, strict=False):
                answer = client.get("/api/traces", params={"traceID": list(some)})
                assert answer.status_code == 200, answer.text
                for trace in answer.json()["data"]:
                    yield from {span["spanID"]: span["operationName"] for span in trace["spans"]}.values()

    async def commits(self, since: float) -> int:
        """How many commits were traced, as their rows say."""
        connection = await asyncpg.connect(self.stack.file["database_url"])
        statement = "SELECT count(DISTINCT commit_span) FROM raw_batch WHERE received_at > to_timestamp($1)"
        count: int = await connection.fetchval(statement, since)
        await connection.close()
        return count


def campaign(home: Path, minutes: float) -> None:
    """Each outage lasts so long; that of the full queues until they are. Raises when something is not as it should be."""
    lines = int(minutes * 60 * PER_S * 1.5) + 3_000
    queues = {"COLLECTOR_QUEUE_LOG_RECORDS": str(lines), "COLLECTOR_QUEUE_SPANS": str(int(lines * TRACED * (len(SPANS) + 1)))}
    with running_stack(home, GAMEPULSE_TRACE_SAMPLE_RATIO="0", **queues) as stack, listening() as (url, bodies):
        _resend_soon(stack)
        with shortened_durations(stack, url):
            inbox = Inbox(bodies)
            inbox.wait("firing", "Watchdog")
            Campaign(stack, inbox, Flow(stack.url("gamepulse"), stack.file["demo"]["ingest_key"]), minutes).run()


def _resend_soon(stack: Stack) -> None:
    """Prometheus tells Alertmanager of each alert every second, so that this one knows in seconds that Prometheus is away."""
    configuration = stack.home / "supervisord.conf"
    flag = '"--web.enable-otlp-receiver"'
    text = configuration.read_text()
    assert flag in text
    configuration.write_text(text.replace(flag, f'{flag} "--rules.alert.resend-delay=1s"'))
    stack.supervise("update", "prometheus")
    stack.supervise("start", "prometheus")
    wait_for("all are ready", lambda: stack.run("status").returncode == 0, READY_WITHIN_S)
