"""Where time goes: rates, errors and durations by operation, the service map, the slowest and the failed traces."""

from typing import Any

from grafana_foundation_sdk.builders import dashboard as d

from observability.grafana.dashboards.assembly import Row, assemble, environment
from observability.grafana.dashboards.panels import (
    GREEN,
    JAEGER,
    LOKI,
    ORANGE,
    PERCENTILES,
    RED,
    ROUTES,
    SERVICE,
    About,
    AnyPanel,
    explore,
    glance,
    go_to,
    graph,
    heat,
    jaeger,
    prom,
    prom_heatmap,
    prom_table,
    rows,
    service_map,
    to_failed_traces,
    to_logs,
    to_slow_traces,
)

CALLS, DURATION = "traces_span_metrics_calls_total", "traces_span_metrics_duration_seconds_bucket"
REQUESTS = f'{SERVICE},span_kind="SPAN_KIND_SERVER"'
FAILED = f'{REQUESTS},status_code="STATUS_CODE_ERROR"'
STAGES = f'{SERVICE},span_kind!="SPAN_KIND_SERVER"'
NO_CALLS = "No requests in this time"
NO_TRACES = "No such traces in this time"


def rate(labels: str, by: str = "", metric: str = CALLS) -> str:
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{labels}}}[$__rate_interval]))"


def at_a_glance() -> Row:
    kept = 'sum(rate(otelcol_receiver_accepted_spans_total{job="collector"}[$__rate_interval]))'
    panels = [
        glance(
            About("Calls", "Requests a second, before sampling.", "reqps", NO_CALLS),
            prom(rate(REQUESTS), "calls"),
            width=6,
            links=[go_to("Application", "application")],
        ),
        glance(
            About("Failed", "Share of calls that ended with an error.", "percentunit", NO_CALLS),
            prom(f"({rate(FAILED)} or vector(0)) / {rate(REQUESTS)}", "failed"),
            [(None, GREEN), (0.001, ORANGE), (0.01, RED)],
            width=6,
            links=[to_failed_traces()],
        ),
        glance(
            About("p95", "95 of 100 calls took at most this; buckets are powers of two.", "s", NO_CALLS),
            prom(f"histogram_quantile(0.95, {rate(REQUESTS, 'le', DURATION)})", "p95"),
            [(None, GREEN), (0.1, ORANGE), (0.25, RED)],
            width=6,
            links=[to_slow_traces()],
        ),
        glance(
            About("Spans kept", "Spans a second that the Collector took: sampled, failed or slow requests.", "cps", "No spans"),
            prom(kept, "spans"),
            width=6,
        ),
    ]
    return Row("At a glance", panels)


def by_operation() -> Row:
    name = "{{span_name}}"
    of = [
        explore(
            "Traces of this operation",
            JAEGER,
            queryType="search",
            service="gamepulse",
            operation="${__field.labels.span_name}",
            limit=50,
        ),
        to_slow_traces(),
    ]
    panels = [
        graph(
            About("Rate", "Calls a second by operation, before sampling.", "reqps", NO_CALLS),
            prom(rate(REQUESTS, "span_name"), name),
            stacked=True,
            colours=ROUTES,
            links=of,
        ),
        graph(
            About("Errors", "Failed calls a second by operation, before sampling.", "reqps", "No call failed"),
            prom(rate(FAILED, "span_name"), name),
            links=[to_failed_traces(), to_logs("Failed requests", ' | http_response_status_code=~"5.."')],
        ),
        graph(
            About("Duration", "p95 by operation, before sampling.", "s", NO_CALLS),
            prom(f"histogram_quantile(0.95, {rate(REQUESTS, 'span_name, le', DURATION)})", name),
            colours=ROUTES,
            links=of,
        ),
        heat(
            About("Latency distribution", "How many calls took how long, before sampling.", "s", NO_CALLS),
            prom_heatmap(rate(REQUESTS, "le", DURATION), "{{le}}"),
            width=12,
            height=10,
            links=[to_slow_traces()],
        ),
        graph(
            About("Percentiles", "Of all calls, before sampling.", "s", NO_CALLS),
            [
                prom(f"histogram_quantile({q}, {rate(REQUESTS, 'le', DURATION)})", called)
                for called, q in (("p99", 0.99), ("p95", 0.95), ("p50", 0.5))
            ],
            colours=PERCENTILES,
            width=12,
            height=10,
            links=[to_slow_traces()],
        ),
        graph(
            About(
                "Stages",
                "p95 of what is done within a request and behind it, before sampling: receive and accept make up a batch's answer, "
                "which waits for the commit; aggregate is a step behind it.",
                "s",
                NO_CALLS,
            ),
            prom(f"histogram_quantile(0.95, {rate(STAGES, 'span_name, le', DURATION)})", name),
            width=24,
            links=of,
        ),
    ]
    return Row("Operations", panels)


def who_talks_to_whom() -> Row:
    total = f"rate(traces_service_graph_request_total{{{SERVICE}}}[$__range])"
    ends = f'label_replace(sum by (client, server) ({total}), "source", "$1", "client", "(.+)")'
    ends = f'label_replace({ends}, "target", "$1", "server", "(.+)")'
    edges = f'label_join({ends}, "id", " → ", "source", "target")'
    one = 'sum by (id, title) (label_replace(label_replace({0}, "id", "$1", "{1}", "(.+)"), "title", "$1", "{1}", "(.+)"))'
    nodes = f"{one.format(total, 'server')} or {one.format(total, 'client')}"
    sides = "traces_service_graph_request_client_seconds_bucket"
    pair = "{{client}} → {{server}}"
    panels = [
        service_map(
            About(
                "Service map",
                "Who calls whom, by the spans that were kept; the number is their calls a second.",
                "reqps",
                NO_TRACES,
            ),
            [prom_table(nodes, "nodes"), prom_table(edges, "edges")],
            stats=["Value #nodes", "Value #edges"],
        ),
        service_map(
            About(
                "Dependencies",
                "Jaeger's own: services that have spans themselves. PostgreSQL and Valkey have none.",
                "short",
                "One service alone: nothing to draw",
            ),
            jaeger("dependencyGraph"),
        ),
        graph(
            About("Calls between them", "Calls a second by the spans that were kept.", "reqps", NO_TRACES),
            prom(rate(SERVICE, "client, server", "traces_service_graph_request_total"), pair),
            width=12,
        ),
        graph(
            About("How long they take", "p95 as the caller saw it, by the spans that were kept.", "s", NO_TRACES),
            prom(f"histogram_quantile(0.95, {rate(SERVICE, 'client, server, le', sides)})", pair),
            width=12,
        ),
    ]
    return Row("Service map", panels)


def traces() -> Row:
    lines = explore(
        "Its log lines",
        LOKI,
        expr=f'{{{SERVICE}}} | trace_id="${{__data.fields.traceID}}"',
        queryType="range",
    )
    further = [lines, go_to("Metrics of then", "application")]

    def found(about: About, sort: str = "", **asked: Any) -> AnyPanel:
        return rows(
            about,
            jaeger("search", service="gamepulse", **asked),
            widths={"Trace ID": 130, "Start time": 190, "Duration": 100},
            linked="Trace name",
            sort=sort,
            links=further,
        )

    panels = [
        found(
            About(
                "Slowest traces",
                "The slowest of the newest 200 that took more than 250 ms; such requests are always kept.",
                "short",
                NO_TRACES,
            ),
            sort="Duration",
            minDuration="250ms",
            limit=200,
        ),
        found(
            About("Failed traces", "Requests answered with 5xx are always kept.", "short", NO_TRACES), tags="error=true", limit=20
        ),
        found(
            About("Traced batches", "The newest sampled batches: from the request to the commit.", "short", NO_TRACES),
            operation="POST /v1/reports",
            limit=20,
        ),
        found(
            About("Traced steps", "The newest steps of aggregation; each links to the commits that it read.", "short", NO_TRACES),
            operation="aggregate",
            limit=20,
        ),
    ]
    return Row("Traces", panels)


def build() -> d.Dashboard:
    return assemble(
        "traces",
        "GamePulse: traces",
        "Where time goes, who talks to whom, which requests were slow or failed.",
        [environment()],
        at_a_glance(),
        by_operation(),
        who_talks_to_whom(),
        traces(),
    )
