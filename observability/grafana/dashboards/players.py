"""What players see: how many, how good, who drops; by region and country from Prometheus, by server and network from PostgreSQL."""

from grafana_foundation_sdk.builders import dashboard as d

from observability.grafana.dashboards.assembly import Row, assemble, environment, game, region
from observability.grafana.dashboards.panels import (
    GREEN,
    ORANGE,
    PERCENTILES,
    QUALITIES,
    RED,
    YELLOW,
    About,
    AnyPanel,
    glance,
    graph,
    heat,
    percentiles,
    prom,
    prom_heatmap,
    prom_table,
    rows,
    sql,
    world_map,
)

PLAYER = 'environment="$environment",game=~"$game",region=~"$region"'
NOBODY = "No reports of players in this time"
DROPS = "disconnected|connect_failed"
HOURS = "start >= date_trunc('hour', $__timeFrom()::timestamptz) AND start <= $__timeTo()::timestamptz"
GAMES = "slug IN (${game:sqlstring})"


def rate(metric: str, by: str = "", labels: str = "") -> str:
    selected = f"{PLAYER},{labels}" if labels else PLAYER
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{selected}}}[$__rate_interval]))"


def share(kind: str, by: str = "") -> str:
    """Of reports: with a quality word, or with more than so much loss."""
    return f"{rate('player_quality_total', by, f'quality=~"{kind}"')} / {rate('player_quality_total', by)}"


def at_a_glance() -> Row:
    drops = f"60 * ({rate('player_events_total', labels=f'kind=~"{DROPS}"')} or vector(0))"
    panels = [
        glance(
            About("Players", "Sessions that reported in the newest hour (HyperLogLog: within 3 %).", "short", NOBODY),
            sql(sessions_now("sessions")),
        ),
        glance(
            About(
                "Affected",
                "Of them, those that had a bad minute: a report beyond the game's limits of round trip, jitter or loss.",
                "percentunit",
                NOBODY,
            ),
            sql(sessions_now("bad_sessions", "sessions")),
            [(None, GREEN), (0.05, ORANGE), (0.15, RED)],
        ),
        glance(
            About("Player reports", "Reports a second.", "cps", NOBODY),
            prom(rate("player_reports_total"), "reports"),
        ),
        glance(
            About(
                "Good",
                "Share of reports that the client itself called good or excellent.",
                "percentunit",
                "No client sends its own word",
            ),
            prom(share("good|excellent"), "good"),
            [(None, RED), (0.8, ORANGE), (0.9, GREEN)],
        ),
        glance(
            About("p95 round trip", "95 of 100 round trips were at most this.", "s", NOBODY),
            prom(f"histogram_quantile(0.95, {rate('player_rtt_seconds')})", "p95"),
            [(None, GREEN), (0.1, YELLOW), (0.2, RED)],
        ),
        glance(
            About("p95 jitter", "95 of 100 measurements of jitter were at most this.", "s", "No client measures jitter"),
            prom(f"histogram_quantile(0.95, {rate('player_jitter_seconds')})", "p95"),
            [(None, GREEN), (0.02, YELLOW), (0.03, RED)],
        ),
        glance(
            About("Mean loss", "Share of packets that were lost.", "percentunit", "No client measures loss"),
            prom(f"histogram_avg({rate('player_loss')})", "loss"),
            [(None, GREEN), (0.01, YELLOW), (0.05, RED)],
        ),
        glance(
            About("Drops", "Players who lost their connection or got none, each minute.", "short", "0"),
            prom(drops, "drops"),
            [(None, GREEN), (10, ORANGE), (100, RED)],
        ),
    ]
    return Row("At a glance", panels)


def quality() -> Row:
    panels = [
        graph(
            About("Round trip", "Percentiles of all reports.", "s", NOBODY),
            percentiles(rate("player_rtt_seconds")),
            colours=PERCENTILES,
        ),
        graph(
            About("Jitter", "Percentiles of all reports that have one.", "s", "No client measures jitter"),
            percentiles(rate("player_jitter_seconds")),
            colours=PERCENTILES,
        ),
        graph(
            About("Loss", "Percentiles of all reports that have one.", "percentunit", "No client measures loss"),
            percentiles(rate("player_loss")),
            colours=PERCENTILES,
        ),
        heat(
            About("Round trips, all", "How many reports had which round trip.", "s", NOBODY),
            prom_heatmap(rate("player_rtt_seconds")),
        ),
        heat(About("Jitter, all", "How many reports had which jitter.", "s", NOBODY), prom_heatmap(rate("player_jitter_seconds"))),
        graph(
            About("Reports with loss", "Share of reports with more loss than this.", "percentunit", "No client measures loss"),
            [
                prom(f"1 - histogram_fraction(0, {above}, {rate('player_loss')})", name)
                for name, above in (("any", 1e-6), ("above 1 %", 0.01), ("above 5 %", 0.05), ("above 20 %", 0.2))
            ],
            colours={"any": "light-yellow", "above 1 %": YELLOW, "above 5 %": ORANGE, "above 20 %": RED},
        ),
        graph(
            About(
                "Quality words",
                "What clients themselves call their connection; reports a second.",
                "cps",
                "No client sends its own word",
            ),
            prom(rate("player_quality_total", "quality"), "{{quality}}"),
            stacked=True,
            colours=QUALITIES,
            width=12,
        ),
        graph(
            About("Events", "Players who connect, fail to, drop, come back, complain; each minute.", "short", "No events"),
            prom(f"60 * {rate('player_events_total', 'kind')}", "{{kind}}"),
            width=12,
            colours={
                "connected": GREEN,
                "reconnected": "light-green",
                "disconnected": ORANGE,
                "connect_failed": RED,
                "complaint": "purple",
            },
        ),
    ]
    return Row("Quality", panels)


def places() -> Row:
    def by(label: str, width: int) -> list[AnyPanel]:
        return [
            graph(
                About(
                    f"Reports by {label}",
                    "Reports a second. One that ends: its players are gone, or are no longer heard.",
                    "cps",
                    NOBODY,
                ),
                prom(rate("player_reports_total", label), f"{{{{{label}}}}}"),
                stacked=True,
                width=width,
            ),
            graph(
                About(f"p95 round trip by {label}", "95 of 100 round trips were at most this.", "s", NOBODY),
                prom(f"histogram_quantile(0.95, {rate('player_rtt_seconds', label)})", f"{{{{{label}}}}}"),
                width=width,
            ),
            graph(
                About(
                    f"Poor by {label}",
                    "Share of reports that the client itself called poor.",
                    "percentunit",
                    "Nobody calls it poor",
                ),
                prom(share("poor", label), f"{{{{{label}}}}}"),
                width=width,
            ),
            graph(
                About(f"Drops by {label}", "Lost connections and failed connects, each minute.", "short", "Nobody drops"),
                prom(f"60 * {rate('player_events_total', label, f'kind=~"{DROPS}"')}", f"{{{{{label}}}}}"),
                width=width,
            ),
        ]

    p95 = f"histogram_quantile(0.95, sum by (country) (rate(player_rtt_seconds{{{PLAYER}}}[$__range])))"
    reports = f"sum by (country) (increase(player_reports_total{{{PLAYER}}}[$__range]))"
    table = rows(
        About("Countries", "The whole time range, most reports first.", "short", NOBODY),
        [prom_table(reports, "reports"), prom_table(p95, "p95")],
        names={"country": "country", "Value #reports": "reports", "Value #p95": "p95 round trip"},
        units={"p95 round trip": "s"},
        hidden=["Time"],
        sort="reports",
        height=12,
    )
    panels = [
        *by("game", 6),
        *by("region", 12),  # a dozen of them: beside each other their legend would be half of the panel
        world_map(
            About(
                "World",
                "Size: reports. Colour: p95 round trip. Countries come from the address, which is not kept.",
                "s",
                NOBODY,
            ),
            [prom_table(reports, "reports"), prom_table(p95, "p95")],
            "Value #reports",
            "Value #p95",
            [(None, GREEN), (0.1, YELLOW), (0.2, RED)],
        ),
        table,
    ]
    return Row("Games, regions, countries", panels)


# -- PostgreSQL: what would be too many series for Prometheus --------------------------------------------------------------------


def sessions_of(sketch: str) -> str:
    """How many sessions a sketch of docs/records.md holds: its coupons, or the estimate of its registers (Flajolet et al. 2007)."""
    estimate = f"""(SELECT CASE WHEN raw <= 20480 AND empty > 0 THEN 8192 * ln(8192.0::float / empty) ELSE raw END FROM (
        SELECT 0.7213 / (1 + 1.079 / 8192) * 8192::float ^ 2 / sum(2::float ^ -get_byte(bytes, register)) AS raw,
            count(*) FILTER (WHERE get_byte(bytes, register) = 0) AS empty
        FROM (SELECT {sketch} || ''::bytea AS bytes OFFSET 0) AS fetched_once, generate_series(0, 8191) AS register
    ) AS registers)"""
    return f"CASE WHEN length({sketch}) < 8192 THEN length({sketch}) / 4 ELSE {estimate} END"


def sessions_now(sketch: str, of: str = "") -> str:
    divided = f" / nullif(sum({sessions_of(of)}), 0)" if of else ""
    return f"""
SELECT sum({sessions_of(sketch)}){divided} AS value
FROM rollup_total JOIN game USING (studio_id, game_id)
WHERE dimension_set = 0 AND step = 'hour' AND {GAMES} AND start = date_trunc('hour', $__timeTo()::timestamptz - interval '1 minute')
"""


def sessions_by_hour() -> str:
    return f"""
SELECT start AS time, sum({sessions_of("sessions")}) AS players, sum({sessions_of("bad_sessions")}) AS affected
FROM rollup_total JOIN game USING (studio_id, game_id)
WHERE dimension_set = 0 AND step = 'hour' AND {GAMES} AND {HOURS}
GROUP BY start ORDER BY start
"""


MEASURES = ("reports", "sessions", "affected", "p95", "loss", "poor", "dropped", "connect_failed")


def groups(number: int, columns: str, limit: int = 50) -> str:
    """The groups of a dimension set with the most reports; p95 from the histograms' buckets, sessions of the busiest hour."""
    return f"""
WITH hour AS (
    SELECT {columns}, start, rtt, reports, loss_ppm_sum, loss_count, connect_failed, disconnected, poor,
        estimating + poor + fair + good + excellent AS rated,
        {sessions_of("sessions")} AS sessions, {sessions_of("bad_sessions")} AS affected
    FROM rollup_hour JOIN dimension USING (studio_id, game_id, dimension_set, dimension_id) JOIN game USING (studio_id, game_id)
    WHERE dimension_set = {number} AND {GAMES} AND {HOURS}{"" if number == 4 else " AND region IN (${region:sqlstring})"}
), hourly AS (
    SELECT {columns}, sum(reports) AS reports, sum(sessions) AS sessions, sum(affected) AS affected,
        sum(loss_ppm_sum) AS loss_ppm_sum, sum(loss_count) AS loss_count, sum(poor) AS poor, sum(rated) AS rated,
        sum(disconnected) AS dropped, sum(connect_failed) AS connect_failed
    FROM hour GROUP BY {columns}, start
), most AS (
    SELECT {columns}, sum(reports) AS reports, max(sessions) AS sessions, max(affected) AS affected,
        sum(loss_ppm_sum) / 1e6 / nullif(sum(loss_count), 0) AS loss, sum(poor)::float / nullif(sum(rated), 0) AS poor,
        sum(dropped) AS dropped, sum(connect_failed) AS connect_failed
    FROM hourly GROUP BY {columns} ORDER BY reports DESC LIMIT {limit}
), bucket AS (
    SELECT {columns}, (get_byte(rtt, 8 * n) + (get_byte(rtt, 8 * n + 1) << 8) + 32768) % 65536 - 32768 AS index,
        sum((SELECT sum(get_byte(rtt, 8 * n + 2 + byte)::bigint << (8 * byte)) FROM generate_series(0, 5) AS byte)) AS count
    FROM hour CROSS JOIN LATERAL generate_series(0, length(rtt) / 8 - 1) AS n
    WHERE ({columns}) IN (SELECT {columns} FROM most) GROUP BY {columns}, index
), ranked AS (
    SELECT *, sum(count) OVER (PARTITION BY {columns} ORDER BY index) AS up_to, sum(count) OVER (PARTITION BY {columns}) AS total
    FROM bucket
), p95 AS (
    SELECT {columns},
        min(CASE WHEN index = -32768 THEN 0 ELSE 2 ^ ((index + 0.5) / 32) END) FILTER (WHERE up_to >= 0.95 * total) AS p95
    FROM ranked GROUP BY {columns}
)
SELECT {columns}, {", ".join(MEASURES)}
FROM most LEFT JOIN p95 USING ({columns})
ORDER BY reports DESC
"""


def details() -> Row:
    units = {"p95": "s", "loss": "percentunit", "poor": "percentunit"}

    def of(title: str, what: str, number: int, columns: str) -> AnyPanel:
        meaning = f"By {what}, whole hours of the time range, most reports first. Sessions and affected: of the busiest hour."
        shown = dict.fromkeys([*columns.split(", "), *MEASURES], "") | {"connect_failed": "failed connects"}
        return rows(About(title, meaning, "short", NOBODY), sql(groups(number, columns)), units=units, names=shown, width=24)

    panels = [
        graph(
            About("Players by hour", "Sessions that reported in an hour, and those that had a bad minute in it.", "short", NOBODY),
            sql(sessions_by_hour(), is_series=True),
            width=24,
            colours={"players": GREEN, "affected": RED},
        ),
        of("Servers", "region and server", 3, "region, server"),
        of("Networks", "country and network (AS number)", 4, "country, network"),
        of("Builds", "platform and build", 1, "platform, build"),
        of("Connections of players", "kind of connection", 1, "connection"),
    ]
    return Row("Servers, networks, builds, connections", panels)


def build() -> d.Dashboard:
    return assemble(
        "players",
        "GamePulse: players",
        "How many players there are, how good their connections are, who is affected.",
        [environment(), game(), region()],
        at_a_glance(),
        quality(),
        places(),
        details(),
        since="now-3h",
    )
