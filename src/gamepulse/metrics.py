"""Every metric that GamePulse emits, declared once with unit and meaning; one that is not declared here cannot be recorded."""

import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from gamepulse import histogram

SERIES_MAX = 2_000
"""Attribute sets of an instrument; what comes beyond counts under `otel.metric.overflow` (OpenTelemetry, "Cardinality limits")."""

BOUNDS_S: Final = tuple(2.0**exponent for exponent in range(-11, 5))
"""0.5 ms to 16 s. Powers of two are bounds of scale 5 as well, so the conversion is exact."""

type Attributes = tuple[str | int, ...]
"""Values in the order of the instrument's attributes."""


class Instrument(NamedTuple):
    """A metric: OpenTelemetry name (no unit, no _total), kind, UCUM unit, meaning, and the names of its attributes."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "bucketed"]
    """bucketed: a histogram exported with the fixed bounds BOUNDS_S, for readers that know no exponential one."""
    unit: str
    description: str
    attributes: tuple[str, ...] = ()


REQUEST_DURATION = Instrument(
    "http.server.request.duration", "histogram", "s", "Time from a request's head to the end of its answer",
    ("http.request.method", "http.route", "http.response.status_code"),
)  # fmt: skip
INGEST_REPORTS = Instrument("ingest.reports", "counter", "{report}", "Reports and events by what became of them", ("outcome",))
INGEST_BATCHES = Instrument(
    "ingest.batches", "counter", "{batch}", "Batches by answer: accepted, duplicate, or a problem's code", ("outcome",)
)
INGEST_CLOCKS = Instrument("ingest.clocks.corrected", "counter", "{batch}", "Batches whose client's clock was more than 30 s off")
INGEST_UNKNOWN_FIELDS = Instrument(
    "ingest.fields.unknown", "counter", "{batch}", "Batches with fields that are not known, which were ignored"
)
INGEST_PENDING = Instrument("ingest.pending.reports", "gauge", "{report}", "Reports that wait for their commit")
INGEST_LOAD = Instrument("ingest.load", "gauge", "{load}", "How busy the process is with reports: 1 when it has to refuse")
INGEST_NEXT_REPORT = Instrument("ingest.next_report", "gauge", "s", "When clients are asked to report next")
COMMIT_SIZE = Instrument("ingest.commit.size", "histogram", "{report}", "Reports stored by one commit")
COMMIT_DURATION = Instrument("ingest.commit.duration", "histogram", "s", "Time of one commit", ("outcome",))
POOL_CONNECTIONS = Instrument("db.client.connection.count", "gauge", "{connection}", "Connections to PostgreSQL",
    ("db.client.connection.pool.name", "db.client.connection.state"))  # fmt: skip
_POOL = ("db.client.connection.pool.name",)
POOL_CONNECTIONS_MAX = Instrument("db.client.connection.max", "gauge", "{connection}", "Connections to PostgreSQL, at most", _POOL)
POOL_PENDING = Instrument(
    "db.client.connection.pending_requests", "gauge", "{request}", "Those who wait for a connection to PostgreSQL", _POOL
)
BREAKER_STATE = Instrument(
    "circuit_breaker.state", "gauge", "{state}", "1 for the state that the circuit breaker is in",
    ("circuit_breaker.name", "circuit_breaker.state"),
)  # fmt: skip
LIMIT_CHECKS = Instrument(
    "rate_limit.checks", "counter", "{request}", "Requests by limit and by what it said: allowed, refused", ("limit", "outcome")
)
LIMITS_SHARED = Instrument(
    "rate_limit.shared",
    "gauge",
    "{process}",
    "1 while limits are counted in Valkey for all, 0 while each process counts for itself",
)
SIGN_INS = Instrument(
    "account.sign_ins", "counter", "{sign_in}", "Tries to sign in by answer: accepted, or a problem's code", ("outcome",)
)
AGGREGATE_LAG = Instrument("aggregate.lag", "gauge", "s", "Age of the moment up to which the rollups are complete", ("shard",))
AGGREGATE_DELTA_AGE = Instrument("aggregate.delta.age", "gauge", "s", "Age of the oldest delta that waits to be rolled up")
ERASURE_AGE = Instrument(
    "aggregate.erasure.age", "gauge", "s", "Age of the oldest erasure of a player that is not done, 0 for none"
)
AGGREGATE_DURATION = Instrument("aggregate.duration", "histogram", "s", "Time of one step of aggregation")
AGGREGATE_REPORTS = Instrument("aggregate.reports", "counter", "{report}", "Reports counted into the rollups")
LIVE_VIEWERS = Instrument("live.viewers", "gauge", "{connection}", "Open live streams")
PROCESS_CPU = Instrument("process.cpu.time", "counter", "s", "CPU time of the process", ("cpu.mode",))
PROCESS_MEMORY = Instrument("process.memory.usage", "gauge", "By", "Resident memory of the process")
TELEMETRY_DROPPED = Instrument(
    "telemetry.dropped", "counter", "{item}", "Log records and spans that could not be sent", ("signal",)
)

_SPAN = ("span.name", "span.kind", "status.code")
SPAN_CALLS = Instrument("traces.span.metrics.calls", "counter", "{call}", "Spans by operation, before sampling", _SPAN)
SPAN_DURATION = Instrument("traces.span.metrics.duration", "bucketed", "s", "Duration by operation, before sampling", _SPAN)

_PLAYER = ("game", "region", "country")
PLAYER_RTT = Instrument("player.rtt", "histogram", "s", "Players' round-trip time", _PLAYER)
PLAYER_JITTER = Instrument("player.jitter", "histogram", "s", "Players' jitter", _PLAYER)
PLAYER_LOSS = Instrument("player.loss", "histogram", "1", "Players' packet loss, 0 to 1", _PLAYER)
PLAYER_REPORTS = Instrument("player.reports", "counter", "{report}", "Reports of players", _PLAYER)
PLAYER_QUALITY = Instrument(
    "player.quality", "counter", "{report}", "Reports by the client's own quality word", (*_PLAYER, "quality")
)
PLAYER_EVENTS = Instrument(
    "player.events", "counter", "{event}", "Players who connect, drop, come back, complain", (*_PLAYER, "kind")
)

REGISTRY: Final = {declared.name: declared for declared in list(globals().values()) if isinstance(declared, Instrument)}
"""All of the above, by name."""


class Exemplar(NamedTuple):
    """One recorded value and the trace that it came from."""

    value: float
    time_ns: int
    trace_id: int
    span_id: int


class HistogramState:
    """A cumulative exponential histogram: scale-5 buckets, the sum of what fell in, and the newest exemplar of each octave."""

    __slots__ = ("buckets", "exemplars", "sum")

    def __init__(self, buckets: histogram.Buckets | None = None, total: float = 0.0) -> None:
        self.buckets: histogram.Buckets = {} if buckets is None else buckets
        self.sum = total
        self.exemplars: dict[int, Exemplar] = {}

    def record(self, value: float) -> None:
        index = math.ceil(math.log2(value) * histogram.BUCKETS_PER_OCTAVE) - 1 if value > 0 else histogram.ZERO_BUCKET
        self.buckets[index] = self.buckets.get(index, 0) + 1
        self.sum += value


class Metrics:
    """What one process has counted since `since_ns` (Unix time); at most `series_max` attribute sets an instrument."""

    def __init__(self, since_ns: int | None = None, series_max: int = SERIES_MAX) -> None:
        self._series_max = series_max
        self.since_ns = since_ns or time.time_ns()
        self._numbers: dict[Instrument, dict[Attributes, float]] = {}
        self._histograms: dict[Instrument, dict[Attributes, HistogramState]] = {}

    def add(self, instrument: Instrument, amount: float, *attributes: str | int) -> None:
        """Add to a counter."""
        series = self._series(self._numbers, instrument, "counter")
        key = self._bounded(series, attributes)
        series[key] = series.get(key, 0) + amount

    def set(self, instrument: Instrument, value: float, *attributes: str | int) -> None:
        """Set a gauge, or a counter whose total is known."""
        series = self._series(self._numbers, instrument, "counter", "gauge")
        series[self._bounded(series, attributes)] = value

    def replace(self, instrument: Instrument, series: dict[Attributes, float]) -> None:
        """Set all series of a gauge; those that are not given end."""
        self._series(self._numbers, instrument, "gauge")
        self._numbers[instrument] = series

    def record(self, instrument: Instrument, value: float, *attributes: str | int) -> None:
        """Record one value (in the instrument's unit) into a histogram."""
        series = self._series(self._histograms, instrument, "histogram")
        key = self._bounded(series, attributes)
        state = series.get(key)
        if state is None:
            state = series[key] = HistogramState()
        state.record(value)

    def record_all(self, instrument: Instrument, values: Sequence[float], *attributes: str | int) -> None:
        """Record many values of one attribute set (vectorised)."""
        series = self._series(self._histograms, instrument, "histogram", "bucketed")
        state = series.setdefault(self._bounded(series, attributes), HistogramState())
        indexes, counts = np.unique(histogram.bucket_indexes(np.array(values)), return_counts=True)
        histogram.add(state.buckets, dict(zip(indexes.tolist(), counts.tolist(), strict=True)))
        state.sum += math.fsum(values)

    def exemplify(self, instrument: Instrument, exemplar: Exemplar, *attributes: str | int) -> None:
        """Keep a recorded value's trace until the next points are made."""
        series = self._series(self._histograms, instrument, "histogram")
        state = series.get(self._bounded(series, attributes))
        if state is not None and exemplar.value > 0:
            state.exemplars[math.floor(math.log2(exemplar.value))] = exemplar

    def put(self, instrument: Instrument, state: HistogramState, *attributes: str | int) -> None:
        """Set a histogram whose cumulated state is known."""
        series = self._series(self._histograms, instrument, "histogram", "bucketed")
        series[self._bounded(series, attributes)] = state

    def states(self, instrument: Instrument) -> list[tuple[Attributes, HistogramState]]:
        """The series of a histogram."""
        return list(self._histograms.get(instrument, {}).items())

    def points(self, now_ns: int) -> list[pb.Metric]:
        """All series as OTLP metrics, cumulative. A metric without a point has no type: Prometheus would refuse the request."""
        return [
            *(self._number_metric(instrument, series, now_ns) for instrument, series in self._numbers.items() if series),
            *(
                (self._bucketed_metric if instrument.kind == "bucketed" else self._histogram_metric)(instrument, series, now_ns)
                for instrument, series in self._histograms.items()
            ),
        ]

    def _bounded(self, series: Mapping[Attributes, object], attributes: Attributes) -> Attributes:
        return attributes if attributes in series or len(series) < self._series_max else _OVERFLOW

    @staticmethod
    def _series[T](all_series: dict[Instrument, dict[Attributes, T]], instrument: Instrument, *kinds: str) -> dict[Attributes, T]:
        series = all_series.get(instrument)
        if series is None:
            if REGISTRY.get(instrument.name) is not instrument or instrument.kind not in kinds:
                raise LookupError(f"{instrument.name} is not declared in gamepulse.metrics as {' or '.join(kinds)}")
            series = all_series[instrument] = {}
        return series

    def _number_metric(self, instrument: Instrument, series: Mapping[Attributes, float], now_ns: int) -> pb.Metric:
        metric = pb.Metric(name=instrument.name, unit=instrument.unit, description=instrument.description)
        if instrument.kind == "gauge":
            points = metric.gauge.data_points
        else:
            metric.sum.is_monotonic = True
            metric.sum.aggregation_temporality = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
            points = metric.sum.data_points
        for attributes, value in series.items():
            points.add(
                attributes=_key_values(instrument, attributes),
                start_time_unix_nano=self.since_ns,
                time_unix_nano=now_ns,
                as_double=value,
            )
        return metric

    def _histogram_metric(self, instrument: Instrument, series: Mapping[Attributes, HistogramState], now_ns: int) -> pb.Metric:
        metric = pb.Metric(name=instrument.name, unit=instrument.unit, description=instrument.description)
        metric.exponential_histogram.aggregation_temporality = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
        for attributes, state in series.items():
            point = metric.exponential_histogram.data_points.add(
                attributes=_key_values(instrument, attributes),
                start_time_unix_nano=self.since_ns,
                time_unix_nano=now_ns,
                count=sum(state.buckets.values()),
                sum=state.sum,
                scale=histogram.SCALE,
                zero_count=state.buckets.get(histogram.ZERO_BUCKET, 0),
            )
            for one in state.exemplars.values():
                point.exemplars.add(
                    as_double=one.value,
                    time_unix_nano=one.time_ns,
                    trace_id=one.trace_id.to_bytes(16),
                    span_id=one.span_id.to_bytes(8),
                )
            state.exemplars.clear()
            indexes = state.buckets.keys() - {histogram.ZERO_BUCKET}
            if indexes:
                first, last = min(indexes), max(indexes)
                point.positive.offset = first
                point.positive.bucket_counts.extend(state.buckets.get(index, 0) for index in range(first, last + 1))
        return metric

    def _bucketed_metric(self, instrument: Instrument, series: Mapping[Attributes, HistogramState], now_ns: int) -> pb.Metric:
        metric = pb.Metric(name=instrument.name, unit=instrument.unit, description=instrument.description)
        metric.histogram.aggregation_temporality = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
        for attributes, state in series.items():
            counts = [0] * (len(BOUNDS_S) + 1)
            for index, count in state.buckets.items():
                counts[bisect_left(BOUNDS_S, histogram.upper_bound(index))] += count
            metric.histogram.data_points.add(
                attributes=_key_values(instrument, attributes),
                start_time_unix_nano=self.since_ns,
                time_unix_nano=now_ns,
                count=sum(counts),
                sum=state.sum,
                explicit_bounds=BOUNDS_S,
                bucket_counts=counts,
            )
        return metric


_OVERFLOW = ("",)


def _key_values(instrument: Instrument, attributes: Attributes) -> Iterable[KeyValue]:
    if attributes is _OVERFLOW:
        return [KeyValue(key="otel.metric.overflow", value=AnyValue(bool_value=True))]
    return key_values(zip(instrument.attributes, attributes, strict=True))


def key_values(attributes: Iterable[tuple[str, str | int | float]]) -> list[KeyValue]:
    """OTLP attributes."""
    return [KeyValue(key=key, value=_any_value(value)) for key, value in attributes]


def _any_value(value: str | int | float) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(double_value=value)
