"""The lines of a month's bill: of each, how much is used, and at which price (deploy/prices.json)."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.config import APP, IMAGES, REGION, ZONES, Task
from deploy.measured import Measured
from deploy.usage import (
    ACCESS_DAYS,
    ACCESS_LINE_BYTES,
    ANSWER_BYTES,
    CONNECTION_S,
    DAYS,
    FLOW_RECORD_BYTES,
    FLOW_RECORDS,
    GIB,
    HOURS,
    LOG_GIB,
    LOKI_CHUNK_BYTES,
    LOKI_DAYS,
    NIGHTLY_DAYS,
    PROMETHEUS_BACKUP_DAYS,
    PROMETHEUS_COPIES,
    PROMETHEUS_GIB,
    REQUESTS_A_CONNECTION,
    SECONDS,
    SPAN_DAYS,
    STEPS,
    Assumed,
    Usage,
)

PRICES = Path(__file__).with_name("prices.json")
HERE = (REGION, "global", "edge-asia")
"""Prices of these are ours; of others, they are only near."""

# What stands in the templates; a test compares.
ALARMS = 20
ENDPOINTS = 9
"""In each zone."""
ACL_RULES = 6
SECRETS = 13
"""With RDS's own, and the copies of two in us-east-1."""
KEYS = 1
ALONE = ("prometheus", "alertmanager", "loki", "jaeger", "grafana", "infrastructure")
"""Services of one task."""

ADDRESSES = 2 * len(ZONES)
"""Of the load balancer and of the NAT gateways."""
PEOPLE = 20
"""Who sign in to Grafana."""
IMAGE_GIB, KEPT_IMAGES = 0.2, 30
"""Each, about; and how many (deploy/images.py)."""
NAT_GIB = 10
"""Sign-in and probes of our own addresses: all else has an endpoint."""
TASK_METRICS, CLUSTER_METRICS = 157, 23
"""Container Insights, as somebody counted them for a service of one task in August 2026: an upper limit for many tasks."""
ENDPOINT_GIB = 20
"""Without what is logged: images' manifests, secrets, metrics."""
KEPT_LOG_SHARE = 0.15
"""CloudWatch keeps log lines compressed; AWS reckons with this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """In USD. `item`: what it is called there. `also`: what else says so."""

    value: float
    unit: str
    region: str
    date: str
    source: str
    item: str = ""
    also: str = ""

    @property
    def mark(self) -> str:
        return "" if self.region in HERE else "*"


@dataclass(frozen=True, slots=True)
class Line:
    """`quantity`: in the price's unit."""

    group: str
    name: str
    price: str
    quantity: float


def read_prices(path: Path = PRICES) -> dict[str, Price]:
    return {name: Price(**fields) for name, fields in json.loads(path.read_text())["prices"].items()}


def bill(used: Usage, measured: Measured, assumed: Assumed) -> list[Line]:
    """The same lines in the same order for all, but for the names of machines."""
    parts: tuple[Callable[[Usage, Measured, Assumed], Iterator[tuple[str, str, float]]], ...]
    parts = (_edge, _balancer, _tasks, _database, _network, _telemetry, _logs, _rest)
    return [Line(str(part.__doc__).rstrip("."), *one) for part in parts for one in part(used, measured, assumed)]


def usd(lines: list[Line], prices: dict[str, Price]) -> float:
    return sum(line.quantity * prices[line.price].value for line in lines)


def _edge(used: Usage, _measured: Measured, _assumed: Assumed) -> Iterator[tuple[str, str, float]]:
    """CloudFront, web ACL."""
    yield "CloudFront: requests", "edge_requests", used.requests / 10_000
    yield "CloudFront: to players", "edge_out", used.requests * ANSWER_BYTES / GIB
    yield "CloudFront: to the load balancer", "edge_origin", used.requests * used.request_bytes / GIB
    yield "web ACL", "acl", 1
    yield "web ACL: rules", "acl_rule", ACL_RULES
    yield "web ACL: requests", "acl_requests", used.requests / 1e6


def _balancer(used: Usage, _measured: Measured, _assumed: Assumed) -> Iterator[tuple[str, str, float]]:
    """Load balancer."""
    yield "load balancer", "balancer_hour", HOURS
    yield "LCUs", "balancer_lcu", HOURS * max(lcus(used).values())


def lcus(used: Usage) -> dict[str, float]:
    """By what they are counted by; the largest is paid. Rules are not: ten are free."""
    connections_s = used.mean_rps / REQUESTS_A_CONNECTION
    return {
        "new connections": connections_s / 25,
        "connections": connections_s * CONNECTION_S / 3000,
        "bytes": used.mean_rps * (used.request_bytes + ANSWER_BYTES) * 3600 / GIB,
    }


def _tasks(used: Usage, _measured: Measured, _assumed: Assumed) -> Iterator[tuple[str, str, float]]:
    """Tasks (Fargate)."""
    size = used.size
    others: list[Task] = [getattr(size, name) for name in ALONE]
    yield "service: vCPUs", "fargate_cpu", used.tasks_mean * APP.cpu / 1024 * HOURS
    yield "service: memory", "fargate_memory", used.tasks_mean * APP.memory_mib / 1024 * HOURS
    yield "telemetry: vCPUs", "fargate_cpu", sum(one.cpu for one in others) / 1024 * HOURS
    yield "telemetry: memory", "fargate_memory", sum(one.memory_mib for one in others) / 1024 * HOURS
    disk = sum(one.disk_gib - 20 for one in others) + used.tasks_mean * (APP.disk_gib - 20)
    yield "disks beyond 20 GB", "fargate_disk", disk * HOURS


def _database(used: Usage, _measured: Measured, _assumed: Assumed) -> Iterator[tuple[str, str, float]]:
    """Database, cache."""
    family, _, step = used.size.database_class.partition(".")
    yield "PostgreSQL, in two zones", f"db.{family}.large", 2 * STEPS[step] * HOURS
    yield "PostgreSQL: storage", "database_storage", used.storage_gib
    yield "PostgreSQL: copies and WAL", "database_backup", used.backup_gib
    # Of t4g only the smallest one's price was found; a small is two of them.
    is_micro = used.size.cache_class == "cache.t4g.small"
    yield "Valkey, in two zones", "cache.t4g.micro" if is_micro else used.size.cache_class, 2 * (2 if is_micro else 1) * HOURS


def _network(used: Usage, measured: Measured, _assumed: Assumed) -> Iterator[tuple[str, str, float]]:
    """Network."""
    yield "NAT gateways", "nat_hour", len(ZONES) * HOURS
    yield "NAT gateways: bytes", "nat_gb", NAT_GIB
    yield "endpoints", "endpoint_hour", ENDPOINTS * len(ZONES) * HOURS
    yield "endpoints: bytes", "endpoint_gb", ENDPOINT_GIB
    yield "public addresses", "address_hour", ADDRESSES * HOURS
    # Into the database and, for rolling up, out of it again; telemetry once. Two of three tasks are in another zone.
    telemetry = measured.loki_bytes + measured.prometheus_bytes + measured.jaeger_bytes
    sent = used.requests * (2 * used.stored_row_bytes + telemetry) / GIB
    yield "between zones", "zone_gb", 2 * sent * (len(ZONES) - 1) / len(ZONES)
    connections = used.requests / REQUESTS_A_CONNECTION
    yield "flow logs", "vended_gb", connections * FLOW_RECORDS * FLOW_RECORD_BYTES / GIB


def _telemetry(used: Usage, measured: Measured, assumed: Assumed) -> Iterator[tuple[str, str, float]]:
    """Telemetry's stores."""
    lines = used.requests * measured.loki_bytes
    yield "Loki: kept", "s3_gb", lines / SECONDS * 86400 * LOKI_DAYS / GIB
    yield "Loki: PUTs", "s3_puts", lines / LOKI_CHUNK_BYTES / 1000
    spans = used.requests * measured.jaeger_bytes / GIB
    copies = PROMETHEUS_COPIES * PROMETHEUS_GIB
    kept = spans / DAYS * SPAN_DAYS + copies
    yield "files: kept (spans, Prometheus)", "files_gb", kept
    yield "files: spans written", "files_written", spans
    yield "files: Prometheus' copies written", "files_written", HOURS / assumed.prometheus_copy_h * PROMETHEUS_GIB
    # All of it is another the next day, or soon.
    yield "files: copies", "files_backup", kept * NIGHTLY_DAYS
    yield "Prometheus' daily backups", "s3_gb", PROMETHEUS_GIB * PROMETHEUS_BACKUP_DAYS


def _logs(used: Usage, _measured: Measured, _assumed: Assumed) -> Iterator[tuple[str, str, float]]:
    """CloudWatch, access logs."""
    yield "log lines", "logs_in", LOG_GIB
    yield "log lines: kept a month", "logs_kept", LOG_GIB * KEPT_LOG_SHARE
    yield "Container Insights", "container_metric", CLUSTER_METRICS + TASK_METRICS * (len(ALONE) + used.tasks_mean)
    yield "alarms", "alarm", ALARMS
    two = 2 * used.requests * ACCESS_LINE_BYTES / GIB
    yield "access logs of CloudFront, load balancer", "s3_gb", two / DAYS * ACCESS_DAYS


def _rest(_used: Usage, _measured: Measured, _assumed: Assumed) -> Iterator[tuple[str, str, float]]:
    """Keys, secrets, people, images."""
    yield "keys", "key", KEYS
    yield "secrets", "secret", SECRETS
    yield "people at Grafana (Cognito)", "person", PEOPLE
    yield "images", "images_gb", len(IMAGES) * KEPT_IMAGES * IMAGE_GIB
