"""What so many players use in a month: requests, tasks, bytes stored and sent. From what was measured, and what is assumed here."""

import math
from dataclasses import dataclass, replace

import msgspec

from deploy.config import APP, SIZES, Size
from deploy.measured import Measured, bytes_at
from gamepulse.settings import Settings

HOURS = 730
SECONDS = HOURS * 3600
DAYS = HOURS / 24
GIB = 2**30
"""What AWS calls a GB."""
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Settings)}

# What players do. The benchmark's population and the load test's players are made up; these are, too.
MEASURED_EVERY_S = 5
"""A client measures so often, and sends what it has at each interval: a batch of two reports at 10 s (docs/load.md)."""
VISIT_H = 1
"""A player stays so long; somebody else comes instead."""
PLAY_H_A_DAY = 2
"""Of each player who comes that day."""

# What goes over the wire beside what was measured.
BATCH_HEAD_BYTES = 230
"""Ids and labels of a session's part of a batch; the rest of the measured body is its reports'."""
HEADERS_BYTES = 500
"""Of a request with its key and what a browser or engine adds; not compressed between CloudFront and the load balancer."""
ANSWER_BYTES = 400
"""The answer's body of about 100 bytes, and its headers."""
REQUESTS_A_CONNECTION = 100
"""CloudFront keeps connections to the load balancer, for up to 55 s of silence (deploy/edge.py)."""
CONNECTION_S = 60

# What is written about traffic.
ACCESS_LINE_BYTES = 150
"""A line of the load balancer's log, or of CloudFront's, compressed."""
ACCESS_DAYS = 90 + 30
"""deploy/stacks.py, and deploy/buckets.py: what has expired stays for another month, not current."""
FLOW_RECORDS = 6
"""Of a connection from CloudFront: two at the load balancer, two there and two at the task for the one behind it."""
FLOW_RECORD_BYTES = 110
LOG_GIB = 5
"""A month, of all programs' stdout, and of RDS's monitoring. The service's has no access log there; a test looks."""

# The stores of telemetry.
LOKI_DAYS = 7 + 1
"""observability/loki/loki.yaml, and a day as not current version (deploy/buckets.py)."""
LOKI_CHUNK_BYTES = 1_500_000
"""Loki's target; each is one PUT."""
SPAN_DAYS = 3
"""observability/jaeger/jaeger.yaml."""
PROMETHEUS_GIB = 8
"""observability/prometheus/prometheus.yml: no more. Reckoned as full."""
PROMETHEUS_COPIES = 2
PROMETHEUS_BACKUP_DAYS = 14 + 30
"""deploy/buckets.py."""

# What stands in the templates; a test compares. (Not imported: whoever imports aws_cdk starts Node.)
CPU_PERCENT, REQUESTS_A_MINUTE = 60, 18_000
"""At which autoscaling starts another task."""
LOG_DAYS = 14
"""Of WAL that are kept, for recovery to any moment."""

# The database.
SESSION_BYTES = 500
"""A row of `session_seen` with its indexes; the benchmark counts each update before a vacuum."""
FREE_SHARE = 0.2
"""Of the storage: room for a vacuum, WAL, and until it has grown (deploy/alarms.py, deploy/database.py)."""
ROLLUP_WRITES = 2
"""A delta, then the minute or hour that it is added to."""
NIGHTLY_DAYS = 14
"""deploy/backups.py."""
STEPS = {"large": 1, "xlarge": 2, "2xlarge": 4}
"""AWS's prices of a family go by size."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What can be chosen. `peak_to_mean`: players at a time in the evening ÷ the day's mean; where most live in one time zone."""

    interval_s: float = DEFAULTS["next_report_s"]
    peak_to_mean: float = 2.0
    sessions: int = 1
    """In a batch: 1 when each client sends its own, more when game servers send for their players."""
    raw_days: int = DEFAULTS["raw_retention_days"]
    prometheus_copy_h: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError, naming what is wrong."""
        if self.interval_s < 1 or self.peak_to_mean < 1 or self.sessions < 1:
            raise ValueError("the interval is at least 1 s, the peak at least the mean, and a batch has at least one session")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Of a month; bytes in AWS's GB."""

    players: int
    size_name: str
    size: Size
    peak_rps: float
    mean_rps: float
    task_rps: float
    """What one task of the service is made to answer before another is started."""
    tasks_peak: int
    tasks_mean: float
    database_cores_peak: float
    request_bytes: float
    database_gib: dict[str, float]
    """What lies in PostgreSQL, by what it is."""
    storage_gib: float
    written_gib_a_day: float
    wal_gib_a_day: float
    backup_gib: float
    stored_row_bytes: float
    """Of a batch."""

    @property
    def requests(self) -> float:
        return self.mean_rps * SECONDS

    @property
    def has_room(self) -> bool:
        """Whether this size, as deploy/config.py has it, goes so far."""
        return self.tasks_peak <= self.size.app_tasks_max and self.storage_gib <= 5 * self.size.database_gib


def usage(players: int, measured: Measured, assumed: Assumed, size_name: str = "") -> Usage:
    """Of the smaller size that has room, else of the larger, as far as it would have to go; or of the one that is named."""
    if size_name:
        return _usage(players, measured, assumed, size_name)
    each = [_usage(players, measured, assumed, name) for name in SIZES]
    return next((one for one in each if one.has_room), each[-1])


def task_rps(measured: Measured, reports: float) -> float:
    """Requests a second of one task at the autoscaling's targets: by count, or by CPU if that is reached before."""
    cpu_us = measured.task_cpu_us + measured.service_cpu_us.report * (reports - measured.batch_reports)
    by_cpu = CPU_PERCENT / 100 * APP.cpu / 1024 * 1e6 / cpu_us
    return min(REQUESTS_A_MINUTE / 60, by_cpu)


def _usage(players: int, measured: Measured, assumed: Assumed, size_name: str) -> Usage:
    size = SIZES[size_name]
    peak_rps = players / assumed.interval_s / assumed.sessions
    mean_rps, mean_players = peak_rps / assumed.peak_to_mean, players / assumed.peak_to_mean
    session_reports = max(1.0, assumed.interval_s / MEASURED_EVERY_S)
    reports = session_reports * assumed.sessions
    rps = task_rps(measured, reports)
    report_bytes = (measured.batch_bytes - BATCH_HEAD_BYTES) / measured.batch_reports
    row_bytes = assumed.sessions * measured.raw_bytes.of(session_reports)

    batches = mean_rps * 86400
    sessions = mean_players * 24 / VISIT_H
    rollups = _rollups(mean_players, measured)
    a_day = {
        "raw batches": batches * row_bytes,
        "sessions seen": sessions * SESSION_BYTES,
        "batch keys": batches * measured.key_bytes.of(reports),
        **rollups,
    }
    # A partition is dropped when all of it is old enough: so there is one more than is kept.
    days = {
        "raw batches": assumed.raw_days + 1,
        "sessions seen": assumed.raw_days + 1,
        "batch keys": 2,
        "minutes": DEFAULTS["minute_retention_days"] + 1,
        "hours and days": (DEFAULTS["hour_retention_months"] + 1) * DAYS,
    }
    kept = {name: size_of * days[name] / GIB for name, size_of in a_day.items()}
    stored, written = sum(kept.values()), sum(a_day.values()) / GIB
    # The line through what was measured is for a session's part of a batch: an upper limit where they share a batch.
    wal_batch = assumed.sessions * measured.wal_bytes.of(session_reports)
    wal = (batches * wal_batch + ROLLUP_WRITES * sum(rollups.values())) / GIB
    storage = max(size.database_gib, stored / (1 - FREE_SHARE))
    copies = stored + NIGHTLY_DAYS * written  # one whole copy, and what differs each night
    return Usage(
        players=players,
        size_name=size_name,
        size=size,
        peak_rps=peak_rps,
        mean_rps=mean_rps,
        task_rps=rps,
        tasks_peak=max(size.app_tasks_min, math.ceil(peak_rps / rps)),
        tasks_mean=max(size.app_tasks_min, mean_rps / rps),
        database_cores_peak=peak_rps * measured.database_cpu_us.of(reports) / 1e6,
        request_bytes=HEADERS_BYTES + assumed.sessions * BATCH_HEAD_BYTES + reports * report_bytes,
        database_gib=kept,
        storage_gib=storage,
        written_gib_a_day=written,
        wal_gib_a_day=wal,
        # AWS gives as much as is provisioned.
        backup_gib=max(0.0, copies + LOG_DAYS * wal - storage),
        stored_row_bytes=row_bytes,
    )


def _rollups(players: float, measured: Measured) -> dict[str, float]:
    """Bytes a day. The longer the span, the more players' groups are in it."""

    def came(hours: float) -> float:
        return players * min(1 + hours / VISIT_H, 24 / PLAY_H_A_DAY)

    hours = [(24, 1), (4, 6), (1, 24)]  # how many a day, of how many hours
    return {
        "minutes": 24 * 60 * bytes_at(measured.minute_bytes, players),
        "hours and days": sum(many * bytes_at(measured.hour_bytes, came(long)) for many, long in hours),
    }


def levers(assumed: Assumed) -> dict[str, Assumed]:
    """What would cost less, by what is done."""
    return {
        "a batch each 60 s (`GAMEPULSE_NEXT_REPORT_S`)": replace(assumed, interval_s=60),
        "game servers send 100 sessions in a batch": replace(assumed, sessions=100),
        "both": replace(assumed, interval_s=60, sessions=100),
        "raw batches for 2 days (`GAMEPULSE_RAW_RETENTION_DAYS`)": replace(assumed, raw_days=2),
        "Prometheus copied each 6 hours": replace(assumed, prometheus_copy_h=6),
    }
