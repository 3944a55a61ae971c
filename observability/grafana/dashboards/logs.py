"""What the service says: levels, errors, messages, the access log; each line leads to its trace."""

from grafana_foundation_sdk.builders import dashboard as d

from observability.grafana.dashboards.assembly import Row, assemble, environment, log_label
from observability.grafana.dashboards.panels import (
    GREEN,
    LEVELS,
    ORANGE,
    PERCENTILES,
    RED,
    ROUTES,
    SERVICE,
    STATUSES,
    About,
    glance,
    go_to,
    graph,
    lines,
    log_lines,
    logql,
    logql_now,
    rows,
    to_failed_traces,
    to_logs,
    to_slow_traces,
)

LINES = f'{{{SERVICE},level=~"$level"}} |~ `(?i)$search`'
ACCESS = f'{{{SERVICE}}} | http_route != ""'
BAD = f'{{{SERVICE},level=~"error|fatal"}}'
WITH_FIELDS = (
    " | line_format `{{ __line__ }}"
    "{{ if .http_route }} {{ .http_request_method }} {{ .http_route }} {{ .http_response_status_code }} {{ .duration }} s{{ end }}"
    "{{ if .error_code }} {{ .error_code }}{{ end }}"
    "{{ if .error_type }}: {{ .error_type }} ← {{ .error_stack }}{{ end }}`"
)
"""A line's text says what happened; to whom and how stands in its fields."""
NO_LINES = "No lines in this time: is the service up, and the Collector?"
NO_ERRORS = "No errors"


def at_a_glance() -> Row:
    panels = [
        glance(
            About("Lines", "Log lines a second.", "cps", NO_LINES),
            logql(f"sum(rate({{{SERVICE}}}[$__auto]))", "lines"),
            width=6,
        ),
        glance(
            About(
                "Errors",
                "Lines of level error and fatal in this time. One each second at most is told of the same trouble.",
                "short",
                "0",
            ),
            logql_now(f"sum(count_over_time({BAD}[$__range]))", "errors"),
            [(None, GREEN), (1, ORANGE), (50, RED)],
            width=6,
        ),
        glance(
            About("Failed requests", "Access-log lines with 5xx in this time.", "short", "0"),
            logql_now(f'sum(count_over_time({ACCESS} | http_response_status_code=~"5.." [$__range]))', "failed"),
            [(None, GREEN), (1, ORANGE), (100, RED)],
            width=6,
            links=[to_failed_traces()],
        ),
        glance(
            About("Slowest request", "The longest that a request took in this time, by its access-log line.", "s", NO_LINES),
            logql_now(f"max_over_time({ACCESS} | unwrap duration [$__range]) by (service_name)", "slowest"),
            [(None, GREEN), (0.25, ORANGE), (1, RED)],
            width=6,
            links=[to_slow_traces()],
        ),
    ]
    return Row("At a glance", panels)


def levels() -> Row:
    panels = [
        graph(
            About("Lines by level", "How many lines of each level.", "short", NO_LINES),
            logql(f"sum by (level) (count_over_time({{{SERVICE}}}[$__auto]))", "{{level}}"),
            bars=True,
            colours=LEVELS,
            width=12,
            links=[to_logs("These lines", ' | level="${__field.labels.level}"')],
        ),
        rows(
            About("Top messages", "What was said most often in this time.", "short", NO_LINES),
            logql_now(
                f"topk(20, sum by (message, level) (count_over_time({LINES} | label_format message=`{{{{ __line__ }}}}`"
                " [$__range])))",
                "",
            ),
            names={"level": "level", "message": "message", "Value #A": "lines"},
            hidden=["Time"],
            widths={"level": 90, "lines": 110},
            sort="lines",
        ),
    ]
    return Row("Levels and messages", panels)


def streams() -> Row:
    panels = [
        lines(
            About(
                "Errors, newest first",
                "Level error and fatal. Open a line for its fields and the link to its trace.",
                "short",
                NO_ERRORS,
            ),
            log_lines(BAD + WITH_FIELDS, 200),
            height=8,
        ),
        lines(
            About(
                "Live stream",
                "All that level and search let through, newest first. The search reads what is shown.",
                "short",
                NO_LINES,
            ),
            log_lines(f'{{{SERVICE},level=~"$level"}}{WITH_FIELDS} |~ `(?i)$search`', 500),
            height=14,
        ),
    ]
    return Row("Lines", panels)


def access_log() -> Row:
    of = "${__field.labels.http_route}"
    panels = [
        graph(
            About("Requests by status", "Access-log lines a second.", "reqps", NO_LINES),
            logql(f"sum by (http_response_status_code) (rate({ACCESS} [$__auto]))", "{{http_response_status_code}}"),
            stacked=True,
            colours=STATUSES,
            links=[go_to("Application", "application")],
        ),
        graph(
            About("Requests by route in the log", "Access-log lines a second.", "reqps", NO_LINES),
            logql(f"sum by (http_route) (rate({ACCESS} [$__auto]))", "{{http_route}}"),
            stacked=True,
            colours=ROUTES,
            links=[to_logs("These lines", f' | http_route="{of}"')],
        ),
        graph(
            About("Latency by the log", "Quantiles of every line's duration: no sampling, no buckets.", "s", NO_LINES),
            [
                logql(f"quantile_over_time({q}, {ACCESS} | unwrap duration [$__auto]) by (service_name)", name)
                for name, q in (("p99", 0.99), ("p95", 0.95), ("p50", 0.5))
            ],
            colours=PERCENTILES,
            links=[to_slow_traces()],
        ),
        rows(
            About("Routes and statuses", "Access-log lines in this time.", "short", NO_LINES),
            logql_now(
                "sum by (http_request_method, http_route, http_response_status_code, error_code)"
                f" (count_over_time({ACCESS} [$__range]))",
                "",
            ),
            names={
                "http_route": "route",
                "http_request_method": "method",
                "http_response_status_code": "status",
                "error_code": "error",
                "Value #A": "requests",
            },
            hidden=["Time"],
            sort="requests",
            width=24,
        ),
    ]
    return Row("Access log", panels)


def build() -> d.Dashboard:
    variables = [
        environment(),
        log_label("level", "Level"),
        d.TextBoxVariable("search")
        .label("Search")
        .description("A regular expression; upper and lower case are the same")
        .default_value(""),
    ]
    return assemble(
        "logs",
        "GamePulse: logs",
        "What the service says: levels, errors, messages, the access log.",
        variables,
        at_a_glance(),
        levels(),
        streams(),
        access_log(),
    )
