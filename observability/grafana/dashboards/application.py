"""The service itself: what it answers, how fast, what it stores, how full it is."""

from grafana_foundation_sdk.builders import dashboard as d

from observability.grafana.dashboards.assembly import Row, assemble, environment
from observability.grafana.dashboards.panels import (
    BLUE,
    BREAKERS,
    GREEN,
    LOKI,
    ORANGE,
    OUTCOMES,
    PERCENTILES,
    RED,
    ROUTES,
    SERVICE,
    STATUSES,
    YELLOW,
    About,
    by_process,
    explore,
    glance,
    go_to,
    graph,
    heat,
    percentiles,
    prom,
    prom_heatmap,
    prom_now,
    states,
    to_failed_traces,
    to_logs,
    to_slow_traces,
)

HTTP = "http_server_request_duration_seconds"
INGEST = f'{SERVICE},http_route="/v1/reports"'
FAILED = 'http_response_status_code=~"5.."'
NO_REQUESTS = "No requests in this time"
NO_SERIES = "Nothing reports: is the service up?"


def rate(labels: str, by: str = "", metric: str = HTTP) -> str:
    """The rate of a histogram or counter, summed."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{labels}}}[$__rate_interval]))"


def count(labels: str, by: str = "") -> str:
    """Requests a second: the count in the histogram's rate."""
    return f"histogram_count({rate(labels, by)})"


def at_a_glance() -> Row:
    good = f"1 - ({count(f'{SERVICE},{FAILED}')} or vector(0)) / {count(SERVICE)}"
    firing = 'count(ALERTS{alertstate="firing",alertname!="Watchdog"}) or vector(0)'
    panels = [
        glance(
            About("Requests", "Answers a second, all routes.", "reqps", NO_REQUESTS),
            prom(count(SERVICE), "requests"),
            links=[go_to("Traces", "traces")],
        ),
        glance(
            About(
                "Success",
                "Share of answers that are not 5xx. What clients did wrong (4xx) is not ours.",
                "percentunit",
                NO_REQUESTS,
            ),
            prom(good, "success"),
            [(None, RED), (0.99, ORANGE), (0.999, GREEN)],
            links=[to_failed_traces()],
        ),
        glance(
            About(
                "p99 of reports", "99 of 100 batches were answered, and are safe, within this. Target: 100 ms.", "s", NO_REQUESTS
            ),
            prom(f"histogram_quantile(0.99, {rate(INGEST)})", "p99"),
            [(None, GREEN), (0.1, ORANGE), (0.25, RED)],
            links=[to_slow_traces("100ms")],
        ),
        glance(
            About("Reports stored", "New reports and events a second.", "cps", "No reports in this time"),
            prom(rate(f'{SERVICE},outcome="accepted"', metric="ingest_reports_total"), "reports"),
        ),
        glance(
            About("Refused", "Batches a second that were answered 5xx: clients will send them again.", "cps", NO_REQUESTS),
            prom(f"{count(f'{INGEST},{FAILED}')} or vector(0)", "refused"),
            [(None, GREEN), (0.01, ORANGE), (1, RED)],
            links=[to_logs("Refused", ' | http_route="/v1/reports" | http_response_status_code=~"5.."')],
        ),
        glance(
            About("Freshness", "How old the rollups of the furthest shard are. Target: 2 s.", "s", NO_SERIES),
            prom(f"max(aggregate_lag_seconds{{{SERVICE}}})", "lag"),
            [(None, GREEN), (2, ORANGE), (10, RED)],
        ),
        glance(
            About("Fullest pool", "Connections in use, as a share of the pool's limit.", "percentunit", NO_SERIES),
            prom(f"max({pool_use()})", "in use"),
            [(None, GREEN), (0.8, ORANGE), (0.95, RED)],
        ),
        glance(
            About("Alerts", "Alerts that fire now, without the Watchdog.", "short", "Prometheus knows no alerts"),
            prom_now(firing, "firing"),
            [(None, GREEN), (1, RED)],
            links=[d.DashboardLink("Alertmanager").url("/alerting/groups?alertmanager=Alertmanager")],
        ),
    ]
    return Row("At a glance", panels)


def pool_use() -> str:
    labels = f'{SERVICE},db_client_connection_state="used"'
    by = "by (instance, db_client_connection_pool_name)"
    return f"sum {by} (db_client_connection_count{{{labels}}}) / sum {by} (db_client_connection_max{{{SERVICE}}})"


def requests() -> Row:
    every = rate(SERVICE)
    by_status = count(SERVICE, "http_response_status_code")
    slow = [to_slow_traces(), to_logs("Slow requests", " | duration > 0.25")]
    failing = [to_failed_traces(), to_logs("Failed requests", ' | http_response_status_code=~"5.."')]
    panels = [
        graph(
            About("Rate by route", "Answers a second.", "reqps", NO_REQUESTS),
            prom(count(SERVICE, "http_route"), "{{http_route}}"),
            stacked=True,
            colours=ROUTES,
            links=[go_to("Traces", "traces")],
        ),
        graph(
            About("Rate by status", "Answers a second.", "reqps", NO_REQUESTS),
            prom(by_status, "{{http_response_status_code}}"),
            stacked=True,
            colours=STATUSES,
            links=failing,
        ),
        graph(
            About("Errors by route", "Share of a route's answers that are 5xx.", "percentunit", "No request failed"),
            prom(f"{count(f'{SERVICE},{FAILED}', 'http_route')} / {count(SERVICE, 'http_route')}", "{{http_route}}"),
            links=failing,
        ),
        graph(
            About("Latency", "From a request's head to the end of its answer. The diamonds are traces.", "s", NO_REQUESTS),
            percentiles(every, exemplars=True),
            colours=PERCENTILES,
            links=slow,
        ),
        graph(
            About("p95 by route", "95 of 100 requests of a route were answered within this.", "s", NO_REQUESTS),
            prom(f"histogram_quantile(0.95, {rate(SERVICE, 'http_route')})", "{{http_route}}", exemplars=True),
            colours=ROUTES,
            links=slow,
        ),
        graph(
            About("p95 by status", "Failures that are slow are time-outs.", "s", NO_REQUESTS),
            prom(
                f"histogram_quantile(0.95, {rate(SERVICE, 'http_response_status_code')})",
                "{{http_response_status_code}}",
                exemplars=True,
            ),
            colours=STATUSES,
            links=failing,
        ),
        heat(
            About(
                "Latency of reports", "How many batches took how long; the native histogram, in steps of 2.2 %.", "s", NO_REQUESTS
            ),
            prom_heatmap(rate(INGEST), exemplars=True),
            width=12,
            links=slow,
        ),
        heat(
            About("Latency of everything else", "How many of the other requests took how long.", "s", NO_REQUESTS),
            prom_heatmap(rate(f'{SERVICE},http_route!="/v1/reports"'), exemplars=True),
            width=12,
            links=slow,
        ),
    ]
    return Row("Requests", panels)


def ingest() -> Row:
    by_outcome = rate(SERVICE, "outcome", "ingest_batches_total")
    panels = [
        graph(
            About("Batches by answer", "accepted, duplicate, or the code of the problem that was answered.", "cps", "No batches"),
            prom(by_outcome, "{{outcome}}"),
            stacked=True,
            colours=OUTCOMES,
            links=[
                explore(
                    "Lines with this code",
                    LOKI,
                    expr=f'{{{SERVICE}}} | error_code="${{__field.labels.outcome}}"',
                    queryType="range",
                )
            ],
            width=6,
        ),
        graph(
            About(
                "Reports by outcome",
                "Reports and events: stored, known already, refused, or dropped by the client.",
                "cps",
                "No reports",
            ),
            prom(rate(SERVICE, "outcome", "ingest_reports_total"), "{{outcome}}"),
            stacked=True,
            colours=OUTCOMES,
            width=6,
        ),
        graph(
            About(
                "Pending reports",
                "Reports that wait for their commit, by web worker. Beyond the limit (10,000 by default): 503.",
                "short",
                NO_SERIES,
            ),
            by_process(f"ingest_pending_reports{{{SERVICE}}}"),
            width=6,
        ),
        graph(
            About("Odd batches", "Batches whose client's clock was wrong, or that had fields which are not known.", "cps", "None"),
            [
                prom(rate(SERVICE, metric="ingest_clocks_corrected_total"), "clock corrected"),
                prom(rate(SERVICE, metric="ingest_fields_unknown_total"), "unknown fields"),
            ],
            width=6,
        ),
    ]
    return Row("Reports", panels)


def commits() -> Row:
    commit = rate(SERVICE, metric="ingest_commit_duration_seconds")
    panels = [
        graph(
            About("Commit latency", "Time of one commit; batches that arrive meanwhile share the next.", "s", "No commits"),
            percentiles(commit),
            colours=PERCENTILES,
            links=[to_slow_traces("100ms")],
        ),
        graph(
            About("Commits by outcome", "Commits a second. What is not ok was answered 503.", "ops", "No commits"),
            prom(f"histogram_count({rate(SERVICE, 'outcome', 'ingest_commit_duration_seconds')})", "{{outcome}}"),
            stacked=True,
            colours=OUTCOMES | {"(?!ok).+": RED},
            links=[to_logs("Errors", ' | level="error"')],
        ),
        graph(
            About("Commit size", "Reports stored by one commit: grows with the load.", "short", "No commits"),
            percentiles(rate(SERVICE, metric="ingest_commit_size")),
            colours=PERCENTILES,
        ),
        heat(
            About("Commit latency, all", "How many commits took how long.", "s", "No commits"),
            prom_heatmap(commit),
            width=24,
        ),
    ]
    return Row("Commits", panels)


def limits() -> Row:
    panels = [
        graph(
            About(
                "Refused by a limit",
                "Requests a second that were answered 429, but for reports: see Batches by answer.",
                "reqps",
                "None",
            ),
            prom(rate(f'{SERVICE},outcome="refused"', "limit", "rate_limit_checks_total"), "{{limit}}"),
            stacked=True,
        ),
        graph(
            About(
                "Sign-ins by answer",
                "Tries to sign in, a second. Guessing shows as wrong_credentials and rate_limited.",
                "reqps",
                "None",
            ),
            prom(rate(SERVICE, "outcome", "account_sign_ins_total"), "{{outcome}}"),
            stacked=True,
            colours=OUTCOMES | {"(?!accepted).+": RED},
        ),
        graph(
            About("Limits are shared", "1: counted in Valkey for all. 0: each process counts for itself.", "short", NO_SERIES),
            by_process(f"rate_limit_shared{{{SERVICE}}}"),
            most=1,
        ),
        graph(
            About(
                "Load", "What waits for its commit as a share of what may, or how late the event loop is.", "percentunit", NO_SERIES
            ),
            by_process(f"ingest_load{{{SERVICE}}}"),
            most=1,
            limit=0.5,
            width=12,
        ),
        graph(
            About("Next report", "When clients are asked to report next: later while there is too much load.", "s", NO_SERIES),
            by_process(f"ingest_next_report_seconds{{{SERVICE}}}"),
            width=12,
        ),
    ]
    return Row("Limits and load", panels)


def database() -> Row:
    pool = "db_client_connection_pool_name"
    named = {0: ("closed", BREAKERS["closed"]), 1: ("half open", BREAKERS["half_open"]), 2: ("open", BREAKERS["open"])}
    state = "+".join(
        f'{value} * max by (circuit_breaker_name) (circuit_breaker_state{{{SERVICE},circuit_breaker_state="{name}"}})'
        for value, name in ((1, "half_open"), (2, "open"))
    )
    panels = [
        graph(
            About("Connections", "To PostgreSQL, by pool and state.", "short", NO_SERIES),
            prom(
                f"sum by ({pool}, db_client_connection_state) (db_client_connection_count{{{SERVICE}}})",
                "{{db_client_connection_pool_name}} {{db_client_connection_state}}",
            ),
            stacked=True,
            colours={".+ idle": GREEN, ".+ used": BLUE},
            width=6,
        ),
        graph(
            About("Pool use", "Share of a pool's connections that are in use, by process.", "percentunit", NO_SERIES),
            by_process(pool_use(), "{{db_client_connection_pool_name}}"),
            most=1,
            limit=0.95,
            width=6,
        ),
        graph(
            About("Waiting for a connection", "Questions that wait until a connection is free.", "short", NO_SERIES),
            prom(f"sum by ({pool}) (db_client_connection_pending_requests{{{SERVICE}}})", "{{db_client_connection_pool_name}}"),
            width=6,
        ),
        states(
            About(
                "Circuit breakers",
                "Open: the dependency is not asked, and requests that need it are refused at once.",
                "short",
                NO_SERIES,
            ),
            prom(state, "{{circuit_breaker_name}}"),
            named,
            width=6,
        ),
    ]
    return Row("PostgreSQL and circuit breakers", panels)


def aggregation() -> Row:
    panels = [
        graph(
            About(
                "Lag by shard",
                "Age of the moment up to which a shard's rollups are complete. No series: nobody leads it.",
                "s",
                NO_SERIES,
            ),
            prom(f"max by (shard) (aggregate_lag_seconds{{{SERVICE}}})", "shard {{shard}}"),
            limit=2,
            width=6,
        ),
        graph(
            About("Step", "Time of one step of aggregation: a shard takes one each 0.4 s.", "s", "No steps"),
            percentiles(rate(SERVICE, metric="aggregate_duration_seconds")),
            colours=PERCENTILES,
            width=6,
        ),
        graph(
            About("Stored and aggregated", "Both go side by side; a gap is a backlog.", "cps", "No reports"),
            [
                prom(rate(f'{SERVICE},outcome="accepted"', metric="ingest_reports_total"), "stored"),
                prom(rate(SERVICE, metric="aggregate_reports_total"), "aggregated"),
            ],
            width=6,
        ),
        graph(
            About("Oldest delta", "What steps have counted is added to its minute and hour after 15 s.", "s", NO_SERIES),
            prom(f"max(aggregate_delta_age_seconds{{{SERVICE}}})", "oldest"),
            limit=60,
            width=6,
        ),
        graph(
            About(
                "Oldest erasure", "A player's erasure that is not done waits for so long; usually a second or two.", "s", NO_SERIES
            ),
            prom(f"max(aggregate_erasure_age_seconds{{{SERVICE}}})", "oldest"),
            limit=3600,
            width=6,
        ),
    ]
    return Row("Aggregation", panels)


def processes() -> Row:
    cpu = f"sum by (instance) (rate(process_cpu_time_seconds_total{{{SERVICE}}}[$__rate_interval]))"
    dropped = f"sum by (signal) (increase(telemetry_dropped_total{{{SERVICE}}}[$__rate_interval]))"
    panels = [
        graph(
            About("CPU", "Cores, by process. A web worker is one thread of Python: 1 is its limit.", "short", NO_SERIES),
            by_process(cpu),
            limit=0.9,
            width=6,
        ),
        graph(
            About("CPU by mode", "Cores, all processes: user is our code, system the kernel's.", "short", NO_SERIES),
            prom(rate(SERVICE, "cpu_mode", "process_cpu_time_seconds_total"), "{{cpu_mode}}"),
            stacked=True,
            width=6,
        ),
        graph(
            About("Memory", "Resident memory, by process.", "bytes", NO_SERIES),
            by_process(f"process_memory_usage_bytes{{{SERVICE}}}"),
            width=6,
        ),
        graph(
            About("Live viewers", "Open live streams, by web worker.", "short", NO_SERIES),
            by_process(f"live_viewers{{{SERVICE}}}"),
            width=6,
        ),
        graph(
            About(
                "Telemetry dropped",
                "Log records, spans and points that the service could not send.",
                "short",
                "Nothing was dropped",
            ),
            prom(dropped, "{{signal}}"),
            bars=True,
            colours={".+": RED},
            width=12,
        ),
        graph(
            About("Processes", "How many report: web workers, aggregators, parents.", "short", NO_SERIES),
            prom(
                f"count by (component) (label_replace(process_memory_usage_bytes{{{SERVICE}}},"
                ' "component", "$1", "instance", "([a-z]+)-.*"))',
                "{{component}}",
            ),
            width=12,
            colours={"web": GREEN, "aggregate": YELLOW},
        ),
    ]
    return Row("Processes", panels)


def build() -> d.Dashboard:
    return assemble(
        "application",
        "GamePulse: application",
        "What the service answers, how fast, what it stores, how full it is.",
        [environment()],
        at_a_glance(),
        requests(),
        ingest(),
        commits(),
        limits(),
        database(),
        aggregation(),
        processes(),
    )
