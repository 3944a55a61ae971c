"""What the service stands on: PostgreSQL, Valkey, the Collector, the stores; in AWS tasks, load balancer and managed databases."""

from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery

from observability.grafana.dashboards import aws
from observability.grafana.dashboards.assembly import Row, assemble, environment
from observability.grafana.dashboards.panels import (
    BLUE,
    GREEN,
    LOKI,
    ORANGE,
    RED,
    YELLOW,
    About,
    explore,
    glance,
    go_to,
    graph,
    prom,
    prom_table,
    rows,
    states,
)

NOT_SCRAPED = "Prometheus does not reach it"
NO_RECEIVER = "The Collector's receiver tells nothing: does it reach it?"
STORES = 'job=~"prometheus|loki|jaeger|alertmanager|collector"'
RATE = "[$__rate_interval]"
SENT = "otelcol_exporter_sent_(log_records|metric_points|spans)_total"
LOKI_LATENCY = 'loki_request_duration_seconds{route=~"otlp.*|loki_api.*"}'


def at_a_glance() -> Row:
    fill = 'max(otelcol_exporter_queue_size{job="collector"} / otelcol_exporter_queue_capacity{job="collector"})'
    panels = [
        glance(
            About("Programs down", "Programs of the stack that Prometheus cannot scrape.", "short", NOT_SCRAPED),
            prom("sum(1 - up)", "down"),
            [(None, GREEN), (1, RED)],
        ),
        glance(
            About(
                "Database connections", "Share of PostgreSQL's connections that are taken, by anybody.", "percentunit", NO_RECEIVER
            ),
            prom("sum(postgresql_backends) / max(postgresql_connection_max)", "taken"),
            [(None, GREEN), (0.7, ORANGE), (0.9, RED)],
        ),
        glance(
            About("Database size", "All of PostgreSQL's databases on its disk.", "bytes", NO_RECEIVER),
            prom("sum(postgresql_db_size_bytes)", "size"),
        ),
        glance(
            About("Valkey memory", "Memory that Valkey uses; here it may take 256 MB.", "bytes", NO_RECEIVER),
            prom("max(redis_memory_used_bytes)", "used"),
            [(None, GREEN), (200e6, ORANGE), (250e6, RED)],
        ),
        glance(
            About(
                "Fullest queue", "Of the Collector's queues on disk; a full one refuses what is new.", "percentunit", NOT_SCRAPED
            ),
            prom(fill, "full"),
            [(None, GREEN), (0.5, ORANGE), (0.9, RED)],
        ),
        glance(
            About("Telemetry lost", "Lines, spans and points that the Collector gave up, in the last hour.", "short", "0"),
            prom(f"sum({lost('1h')}) or vector(0)", "lost"),
            [(None, GREEN), (1, RED)],
        ),
        glance(
            About(
                "Series",
                "Series in Prometheus' memory: its cost, and what grows when labels have too many values.",
                "short",
                NOT_SCRAPED,
            ),
            prom("max(prometheus_tsdb_head_series)", "series"),
            [(None, GREEN), (500e3, ORANGE), (1e6, RED)],
        ),
        glance(
            About("Failed rules", "Rules that Prometheus could not evaluate, in the last hour.", "short", NOT_SCRAPED),
            prom("sum(increase(prometheus_rule_evaluation_failures_total[1h]))", "failed"),
            [(None, GREEN), (1, RED)],
        ),
    ]
    return Row("At a glance", panels)


def lost(window: str) -> str:
    kinds = "otelcol_exporter_(enqueue|send)_failed_(log_records|metric_points|spans)_total"
    return f'increase({{__name__=~"{kinds}",job="collector"}}[{window}])'


def postgres() -> Row:
    of = "{{postgresql_database_name}}"
    by = "by (postgresql_database_name)"
    panels = [
        graph(
            About("Backends", "Connections by database, and the limit of them all.", "short", NO_RECEIVER),
            [prom(f"sum {by} (postgresql_backends)", of), prom("max(postgresql_connection_max)", "limit")],
            ceiling="limit",
            width=6,
        ),
        graph(
            About("Locks", "Held locks by mode. Many that exclude others: somebody holds up the rest.", "short", NO_RECEIVER),
            prom("sum by (mode) (postgresql_database_locks)", "{{mode}}"),
            stacked=True,
            width=6,
        ),
        graph(
            About("Deadlocks", "Transactions that PostgreSQL ended because they waited for each other.", "short", NO_RECEIVER),
            prom(f"sum {by} (increase(postgresql_deadlocks_total{RATE}))", of),
            bars=True,
            colours={".+": RED},
            width=6,
        ),
        graph(
            About("Transactions", "Commits and rollbacks a second.", "ops", NO_RECEIVER),
            [
                prom(f"sum(rate(postgresql_commits_total{RATE}))", "commits"),
                prom(f"sum(rate(postgresql_rollbacks_total{RATE}))", "rollbacks"),
            ],
            colours={"commits": GREEN, "rollbacks": ORANGE},
            width=6,
        ),
        graph(
            About("Blocks", "Read a second: *_hit from memory, *_read from the disk or the system's cache.", "ops", NO_RECEIVER),
            prom(f"sum by (source) (rate(postgresql_blocks_read_total{RATE}))", "{{source}}"),
            width=6,
        ),
        graph(
            About("Rows written", "Inserted, updated, deleted a second.", "ops", NO_RECEIVER),
            prom(f"sum by (operation) (rate(postgresql_operations_total{RATE}))", "{{operation}}"),
            width=6,
        ),
        graph(
            About("Size", "On disk, by database.", "bytes", NO_RECEIVER),
            prom(f"sum {by} (postgresql_db_size_bytes)", of),
            width=6,
        ),
        graph(
            About(
                "Checkpoints",
                "Asked for by much WAL, or due by time. Many that were asked for: max_wal_size is small.",
                "short",
                NO_RECEIVER,
            ),
            prom(f"sum by (type) (increase(postgresql_bgwriter_checkpoint_count_total{RATE}))", "{{type}}"),
            bars=True,
            width=6,
        ),
    ]
    return Row("PostgreSQL", panels)


def valkey() -> Row:
    panels = [
        graph(
            About("Clients", "Connections to Valkey; blocked ones wait for a message.", "short", NO_RECEIVER),
            [prom("sum(redis_clients_connected)", "connected"), prom("sum(redis_clients_blocked)", "blocked")],
            width=6,
        ),
        graph(
            About("Commands", "Commands a second.", "ops", NO_RECEIVER),
            prom(f"sum(rate(redis_commands_processed_total{RATE}))", "commands"),
            width=6,
        ),
        graph(
            About("Memory of Valkey", "Used by data, and taken from the system.", "bytes", NO_RECEIVER),
            [prom("max(redis_memory_used_bytes)", "used"), prom("max(redis_memory_rss_bytes)", "resident")],
            width=6,
        ),
        graph(
            About("Keys gone", "Expired by their time, evicted for want of memory.", "ops", NO_RECEIVER),
            [
                prom(f"sum(rate(redis_keys_expired_total{RATE}))", "expired"),
                prom(f"sum(rate(redis_keys_evicted_total{RATE}))", "evicted"),
            ],
            colours={"expired": BLUE, "evicted": ORANGE},
            width=6,
        ),
    ]
    return Row("Valkey", panels)


def collector() -> Row:
    def kinds(direction: str, what: str = "") -> list[Builder[Dataquery]]:
        return [
            prom(
                f'sum(rate(otelcol_{direction}_{kind}_total{{job="collector"}}{RATE}))', f"{kind.replace('_', ' ')} {what}".strip()
            )
            for kind in ("log_records", "metric_points", "spans")
        ]

    panels = [
        graph(About("Taken in", "Records a second that the Collector accepted.", "cps", NOT_SCRAPED), kinds("receiver_accepted")),
        graph(
            About(
                "Turned away",
                "Refused (its memory is full) or failed, a second: the sender keeps them and tries again.",
                "cps",
                "None",
            ),
            [*kinds("receiver_refused", "refused"), *kinds("receiver_failed", "failed")],
            colours={".+ refused": ORANGE, ".+ failed": RED},
        ),
        graph(
            About("Sent on", "Records a second that the stores took.", "cps", NOT_SCRAPED),
            prom(
                f'sum by (exporter) (rate({{__name__=~"{SENT}",job="collector"}}{RATE}))',
                "{{exporter}}",
            ),
        ),
        graph(
            About("Queues", "How full each queue on disk is: it fills while its store is away.", "percentunit", NOT_SCRAPED),
            prom('otelcol_exporter_queue_size{job="collector"} / otelcol_exporter_queue_capacity{job="collector"}', "{{exporter}}"),
            most=1,
            limit=0.9,
            links=[explore("The Collector's trouble", LOKI, expr='{service_name="gamepulse"} |= "Collector"', queryType="range")],
        ),
        graph(
            About("Lost", "Given up by exporter: its queue was full, or the store refused for good.", "short", "None"),
            prom(f"sum by (exporter) ({lost('$__rate_interval')})", "{{exporter}}"),
            bars=True,
            colours={".+": RED},
        ),
        graph(
            About("Memory of the Collector", "Resident memory. Beyond its limit it refuses.", "bytes", NOT_SCRAPED),
            prom('otelcol_process_memory_rss_bytes{job="collector"}', "resident"),
        ),
    ]
    return Row("Collector", panels)


def stores() -> Row:
    panels = [
        states(
            About("Scraped", "Whether Prometheus reaches each of them.", "short", NOT_SCRAPED),
            prom(f"min by (job) (up{{{STORES}}})", "{{job}}"),
            {0: ("down", RED), 1: ("up", GREEN)},
            width=6,
        ),
        graph(
            About("Memory of the stores", "Resident memory.", "bytes", NOT_SCRAPED),
            [
                prom(f"process_resident_memory_bytes{{{STORES}}}", "{{job}}"),
                prom('otelcol_process_memory_rss{job="jaeger"}', "{{job}}"),
            ],
            width=6,
        ),
        graph(
            About("CPU of the stores", "Cores, by program.", "short", NOT_SCRAPED),
            [
                prom(f"rate(process_cpu_seconds_total{{{STORES}}}{RATE})", "{{job}}"),
                prom(f'rate(otelcol_process_cpu_seconds_total{{job="collector"}}{RATE})', "{{job}}"),
                prom(f'rate(otelcol_process_cpu_seconds{{job="jaeger"}}{RATE})', "{{job}}"),
            ],
            width=6,
        ),
        graph(
            About("On disk", "Prometheus' blocks and WAL, Jaeger's Badger.", "bytes", NOT_SCRAPED),
            [
                prom("max(prometheus_tsdb_storage_blocks_bytes)", "Prometheus blocks"),
                prom("max(prometheus_tsdb_wal_storage_size_bytes)", "Prometheus WAL"),
                prom("sum(jaeger_badger_size_bytes_lsm)", "Jaeger keys"),
                prom("sum(jaeger_badger_size_bytes_vlog)", "Jaeger values"),
                prom("max(prometheus_tsdb_retention_limit_bytes)", "Prometheus limit"),
            ],
            ceiling="Prometheus limit",
            width=6,
        ),
    ]
    return Row("Programs that watch", panels)


def prometheus() -> Row:
    of_file = 'label_replace(prometheus_rule_group_last_duration_seconds, "file", "$1", "rule_group", ".*/(.+);.*")'
    panels = [
        graph(
            About("Prometheus: series", "In memory. A jump is a label with too many values.", "short", NOT_SCRAPED),
            prom("prometheus_tsdb_head_series", "series"),
            width=8,
        ),
        graph(
            About("Prometheus: samples", "Appended a second: floats, and native histograms.", "cps", NOT_SCRAPED),
            prom(f"sum by (type) (rate(prometheus_tsdb_head_samples_appended_total{RATE}))", "{{type}}"),
            width=8,
        ),
        graph(
            About(
                "Prometheus: rules",
                "Time that the slowest group of each file takes; they run every 15 s or more.",
                "s",
                NOT_SCRAPED,
            ),
            prom(f"max by (file) ({of_file})", "{{file}}"),
            width=8,
        ),
        graph(
            About("Prometheus: refused samples", "Too old, out of bounds, or with another value for the same time.", "cps", "None"),
            [
                prom(f"sum(rate(prometheus_tsdb_too_old_samples_total{RATE}))", "too old"),
                prom(f"sum(rate(prometheus_tsdb_out_of_bound_samples_total{RATE}))", "out of bounds"),
            ],
            colours={".+": ORANGE},
            width=12,
        ),
        graph(
            About("Queries", "p95 of what Prometheus was asked.", "s", NOT_SCRAPED),
            prom(f"histogram_quantile(0.95, sum by (job) (rate(prometheus_http_request_duration_seconds{RATE})))", "{{job}}"),
            width=12,
            links=[go_to("Application", "application")],
        ),
    ]
    return Row("Prometheus", panels)


def loki_and_jaeger() -> Row:
    panels = [
        graph(
            About("Loki: lines", "Taken in a second.", "cps", NOT_SCRAPED),
            prom(f"sum(rate(loki_distributor_lines_received_total{RATE}))", "lines"),
            width=6,
        ),
        graph(
            About("Loki: latency", "p95 by route: otlp_v1_logs is writing.", "s", NOT_SCRAPED),
            prom(
                f"histogram_quantile(0.95, sum by (route) (rate({LOKI_LATENCY}{RATE})))",
                "{{route}}",
            ),
            width=6,
        ),
        graph(
            About("Loki: streams", "In memory: few is right.", "short", NOT_SCRAPED),
            prom("sum(loki_ingester_memory_streams)", "streams"),
            width=6,
        ),
        graph(
            About("Jaeger: spans", "Taken in, stored, failed a second.", "cps", NOT_SCRAPED),
            [
                prom(f'sum(rate(otelcol_receiver_accepted_spans{{job="jaeger"}}{RATE}))', "taken"),
                prom(f'sum(rate(otelcol_exporter_sent_spans{{job="jaeger"}}{RATE}))', "stored"),
                prom(f'sum(rate(otelcol_exporter_send_failed_spans{{job="jaeger"}}{RATE}))', "failed"),
            ],
            colours={"taken": BLUE, "stored": GREEN, "failed": RED},
            width=6,
        ),
    ]
    return Row("Loki and Jaeger", panels)


def alertmanager() -> Row:
    panels = [
        graph(
            About(
                "Alertmanager: alerts",
                "By state: active ones are told, suppressed ones silenced or inhibited.",
                "short",
                NOT_SCRAPED,
            ),
            prom("sum by (state) (alertmanager_alerts)", "{{state}}"),
            colours={"active": RED, "suppressed": YELLOW},
            width=12,
            links=[d.DashboardLink("Silences").url("/alerting/silences?alertmanager=Alertmanager")],
        ),
        graph(
            About("Alertmanager: messages", "Sent by integration, and those that failed.", "short", "Nothing sent"),
            [
                prom(f"sum by (integration) (increase(alertmanager_notifications_total{RATE})) > 0", "{{integration}}"),
                prom(f"sum(increase(alertmanager_notifications_failed_total{RATE}))", "failed"),
            ],
            bars=True,
            colours={"failed": RED},
            width=12,
        ),
    ]
    return Row("Alertmanager", panels)


def disks() -> Row:
    panels = [
        graph(
            About("Disks", "Share that is taken: where the data lies, and where Loki writes.", "percentunit", NO_RECEIVER),
            [
                prom("max by (mountpoint) (system_filesystem_utilization_ratio)", "{{mountpoint}}"),
                prom("max(loki_ingester_wal_disk_usage_percent)", "Loki"),
            ],
            most=1,
            limit=0.8,
            width=12,
        ),
        rows(
            About("Certificates", "Time until they expire, by address.", "dtdurations", "The Collector looks at no https address"),
            prom_table("min by (http_url) (httpcheck_tls_cert_remaining_seconds)", "A"),
            names={"http_url": "address", "Value": "expires in"},
            hidden=["Time"],
        ),
    ]
    return Row("Disks and certificates", panels)


def build() -> d.Dashboard:
    return assemble(
        "infrastructure",
        "GamePulse: infrastructure",
        "What the service stands on, and whether it watches itself well.",
        [environment()],
        at_a_glance(),
        postgres(),
        valkey(),
        collector(),
        stores(),
        prometheus(),
        loki_and_jaeger(),
        alertmanager(),
        disks(),
        aws.ecs(),
        aws.load_balancer(),
        aws.managed_databases(),
    )
