"""What is asked of the service, and whether it is so. Ratios are of the same round; the median of the rounds counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.figures import Round, spread

SERVICE = "gamepulse"


@dataclass(frozen=True, slots=True)
class Target:
    """`measured` takes one round; `needs`: what must have been measured in it."""

    what: str
    limit: float
    is_least: bool
    needs: tuple[str, ...]
    measured: Callable[[Round], float]


def at_least(what: str, limit: float, needs: tuple[str, ...], measured: Callable[[Round], float]) -> Target:
    """The more the better."""
    return Target(what, limit, True, needs, measured)


def at_most(what: str, limit: float, needs: tuple[str, ...], measured: Callable[[Round], float]) -> Target:
    """The less the better."""
    return Target(what, limit, False, needs, measured)


def faster(limit: float, other: str, what: str, service: str = SERVICE) -> Target:
    """Requests/s of the service against another's."""
    name = "requests_per_s"
    return at_least(f"requests/s of {what}", limit, (service, other), lambda one: one[service][name] / one[other][name])


def figure(of: str, name: str) -> Callable[[Round], float]:
    """One figure of a row."""
    return lambda one: one[of][name]


def share_of_limit(one: Round) -> float:
    """CPU of decoding and COPY alone ÷ CPU of a request, each with PostgreSQL's."""
    limit, service = one["limit"], one[SERVICE]
    least = limit["decode_and_copy_cpu_us"] + limit["database_cpu_us"]
    return least / (service["server_cpu_us"] + service["database_cpu_us"])


TARGETS = (
    faster(15, "fastapi-otel", "FastAPI + pydantic + OpenTelemetry + executemany"),
    faster(1.5, "go-copy", "Go + CopyFrom per request, no telemetry, no dedupe"),
    faster(0.6, "go-group", "Go + group commit, dedupe, telemetry in bulk"),
    at_least("CPU of msgspec + COPY alone ÷ CPU of a request", 0.4, (SERVICE, "limit"), share_of_limit),
    at_least("requests/s of the service with its telemetry off", 0.92, (SERVICE, "gamepulse-silent"),
             lambda one: one[SERVICE]["requests_per_s"] / one["gamepulse-silent"]["requests_per_s"]),
    faster(6, "fastapi-otel-one", "the same FastAPI, batches of one report", "gamepulse-one"),
    at_most("p99 at half the peak, ms", 20, ("half",), figure("half", "p99_ms")),
    at_least("goodput at 3 × the peak ÷ the peak", 0.9, ("overload",), figure("overload", "goodput_share")),
    at_most("p99 of refusals at 3 × the peak, ms", 50, ("overload",), figure("overload", "refused_p99_ms")),
    at_most("bytes of raw data on disk a report", 40, (SERVICE,), figure(SERVICE, "raw_batch_bytes_per_report")),
    at_most("answered → GET /v1/quality, p95, s", 2, ("freshness",), figure("freshness", "quality_p95_s")),
    at_most("answered → on the live page in Chromium, p95, s", 2, ("freshness",), figure("freshness", "page_p95_s")),
    at_most("answered → Prometheus, the slowest, s", 15, ("freshness",), figure("freshness", "prometheus_max_s")),
    at_most("answered → Loki, the slowest, s", 5, ("freshness",), figure("freshness", "loki_max_s")),
    at_most("answered → Jaeger, the slowest, s", 5, ("freshness",), figure("freshness", "jaeger_max_s")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, what was measured (median, min, max), and whether it is met."""

    target: Target
    measured: dict[str, float]

    @property
    def is_met(self) -> bool:
        """By the median."""
        median = self.measured["median"]
        return median >= self.target.limit if self.target.is_least else median <= self.target.limit

    def told(self) -> dict[str, object]:
        """As it stands in the JSON."""
        bound = "at least" if self.target.is_least else "at most"
        return {"target": self.target.what, bound: self.target.limit, "measured": self.measured, "is_met": self.is_met}


def judge(rounds: Sequence[Round], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Of every target whose rows were measured."""
    verdicts = []
    for target in targets:
        values = [target.measured(one) for one in rounds if all(name in one for name in target.needs)]
        if values:
            verdicts.append(Verdict(target, spread(values)))
    return verdicts
