"""What the load (tests/load) has sent and what it was told. k6's own metrics: durations are in ms, `instance` is the run."""

from grafana_foundation_sdk.builders import dashboard as d

from observability.grafana.dashboards.assembly import Row, assemble, environment, run
from observability.grafana.dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PERCENTILES,
    RED,
    STATUSES,
    YELLOW,
    About,
    glance,
    go_to,
    graph,
    heat,
    percentiles,
    prom,
    prom_heatmap,
    prom_now,
)

LOAD = 'service_name="k6",environment="$environment",instance=~"$run"'
BATCHES = f'{LOAD},name="POST /v1/reports"'
STORED = f'{BATCHES},status="202"'
NO_LOAD = "No load in this time"
PARTS = ("blocked", "connecting", "sending", "waiting", "receiving")
FATES = {"safe": GREEN, "duplicate": BLUE, "rejected": ORANGE, "retried": YELLOW, "lost": RED, "not begun": GREY}


def rate(metric: str, labels: str = LOAD, by: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ''}(rate(k6_{metric}{{{labels}}}[$__rate_interval]))"


def total(metric: str, labels: str = LOAD) -> str:
    """Of all runs: each has series of its own, which begin with it, so the last value is the whole of it."""
    return f"sum(max_over_time(k6_{metric}{{{labels}}}[$__range]))"


def at_a_glance() -> Row:
    kept = f"{total('checks_total', f'{LOAD},condition="nonzero"')} / {total('checks_total')}"
    answered = f"{total('http_reqs_total', STORED)} / {total('http_reqs_total', BATCHES)}"
    panels = [
        glance(
            About("Batches", "Batches a second that were sent.", "reqps", NO_LOAD),
            prom(rate("http_reqs_total", BATCHES), "batches"),
            [(None, GREEN)],
            links=[go_to("Application", "application")],
        ),
        glance(
            About(
                "p99 of answers", "99 of 100 batches were answered 202 within this, as k6 saw it. Target: 100 ms.", "ms", NO_LOAD
            ),
            prom(f"histogram_quantile(0.99, {rate('http_req_duration_milliseconds', STORED)})", "p99"),
            [(None, GREEN), (100, ORANGE), (250, RED)],
            links=[go_to("Application", "application")],
        ),
        glance(
            About("Answered 202", "Share of all answers; refusals and no answer are the rest.", "percentunit", NO_LOAD),
            prom_now(answered, "answered"),
            [(None, RED), (0.99, ORANGE), (0.999, GREEN)],
        ),
        glance(
            About(
                "Checks",
                "Share of what must be so for every batch that was so. Less than all is a broken promise.",
                "percentunit",
                NO_LOAD,
            ),
            prom_now(kept, "kept"),
            [(None, RED), (1, GREEN)],
        ),
        glance(
            About("Reports safe", "Reports and events that were answered as stored.", "short", NO_LOAD),
            prom_now(total("reports_safe_total"), "safe"),
            [(None, GREEN)],
        ),
        glance(
            About("Tries again", "Batches that were sent again because the service refused, or did not answer.", "short", NO_LOAD),
            prom_now(f"{total('batches_retried_total')} or vector(0)", "tries"),
            [(None, GREEN), (1, YELLOW)],
        ),
        glance(
            About("Batches lost", "Batches that were tried for 30 s and given up.", "short", NO_LOAD),
            prom_now(f"{total('batches_lost_total')} or vector(0)", "lost"),
            [(None, GREEN), (1, RED)],
        ),
        glance(
            About("Not begun in time", "Batches that k6 had no free VU for: the load was less than was asked.", "short", NO_LOAD),
            prom_now(f"{total('dropped_iterations_total')} or vector(0)", "not begun"),
            [(None, GREEN), (1, ORANGE)],
        ),
    ]
    return Row("At a glance", panels)


def answers() -> Row:
    durations = rate("http_req_duration_milliseconds", STORED)
    panels = [
        graph(
            About("Answers by status", "Batches a second by what they were answered; 0 is no answer.", "reqps", NO_LOAD),
            prom(rate("http_reqs_total", BATCHES, "status"), "{{status}}"),
            stacked=True,
            colours=STATUSES | {"0": GREY},
        ),
        graph(
            About(
                "Latency of answers",
                "How long an answer of 202 took, as k6 saw it. The line is the objective for p99.",
                "ms",
                NO_LOAD,
            ),
            percentiles(durations),
            limit=100,
            colours=PERCENTILES,
            links=[go_to("As the service saw it", "application")],
        ),
        heat(About("Answers of 202", "How many took how long.", "ms", NO_LOAD), prom_heatmap(durations)),
    ]
    return Row("Answers", panels)


def batches() -> Row:
    panels = [
        graph(
            About("Reports by fate", "Reports and events a second as the answers said.", "cps", NO_LOAD),
            [prom(rate(f"reports_{fate}_total"), fate) for fate in ("safe", "duplicate", "rejected")],
            colours=FATES,
        ),
        graph(
            About(
                "Safe after", "From when a batch was due until it was answered 202, with all its tries and waits.", "ms", NO_LOAD
            ),
            percentiles(rate("batch_safe_after_milliseconds")),
            colours=PERCENTILES,
        ),
        graph(
            About("Trouble", "Batches a second that were tried again, given up, or not begun in time.", "cps", "No trouble"),
            [
                prom(rate("batches_retried_total"), "retried"),
                prom(rate("batches_lost_total"), "lost"),
                prom(rate("dropped_iterations_total"), "not begun"),
            ],
            colours=FATES,
        ),
    ]
    return Row("Batches", panels)


def the_load_itself() -> Row:
    panels = [
        graph(
            About("VUs", "k6's virtual users: each sends for 20 players, one after the other.", "short", NO_LOAD),
            [prom(f"sum(k6_vus{{{LOAD}}})", "busy"), prom(f"sum(k6_vus_max{{{LOAD}}})", "there")],
        ),
        graph(
            About(
                "Parts of a request",
                "p99 of each: waiting is the service's part, the others are k6's and the network's.",
                "ms",
                NO_LOAD,
            ),
            [prom(f"histogram_quantile(0.99, {rate(f'http_req_{part}_milliseconds', BATCHES)})", part) for part in PARTS],
        ),
        graph(
            About("Bytes", "Sent and received, headers included.", "Bps", NO_LOAD),
            [prom(rate("data_sent_bytes_total"), "sent"), prom(rate("data_received_bytes_total"), "received")],
        ),
    ]
    return Row("The load itself", panels)


def build() -> d.Dashboard:
    return assemble(
        "load",
        "GamePulse: load",
        "What `make load` has sent, and what it was told.",
        [environment(), run()],
        at_a_glance(),
        answers(),
        batches(),
        the_load_itself(),
    )
