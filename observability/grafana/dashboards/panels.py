"""What dashboards show: data sources, queries, links, panels that must say their unit and meaning."""

import json
import zlib
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from grafana_foundation_sdk.builders import (
    cloudwatch,
    geomap,
    heatmap,
    logs,
    loki,
    nodegraph,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import common as c
from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import cloudwatch as cloudwatch_model
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import geomap as geomap_model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

# -- data sources, as provisioning/datasources/gamepulse.yaml names them -----------------------------------------------------------

PROMETHEUS: Final = dashboard.DataSourceRef("prometheus", "prometheus")
LOKI: Final = dashboard.DataSourceRef("loki", "loki")
JAEGER: Final = dashboard.DataSourceRef("jaeger", "jaeger")
POSTGRES: Final = dashboard.DataSourceRef("grafana-postgresql-datasource", "postgres")
CLOUDWATCH: Final = dashboard.DataSourceRef("cloudwatch", "cloudwatch")

SERVICE: Final = 'service_name="gamepulse",environment="$environment"'
"""Of whatever the service itself emits."""

# -- colours by meaning ------------------------------------------------------------------------------------------------------------

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "text"

PERCENTILES: Final = {"p50": "light-blue", "p95": BLUE, "p99": PURPLE}
STATUSES: Final = {"2..": GREEN, "3..": BLUE, "4..": YELLOW, "5..": RED}
LEVELS: Final = {"trace": GREY, "debug": BLUE, "info": GREEN, "warn": YELLOW, "error": RED, "fatal": PURPLE, "unknown": GREY}
ROUTES: Final = {"(POST )?/v1/reports": BLUE}
"""The one that has nearly all requests: Grafana's own palette would give it red in one panel and green in another."""

OUTCOMES: Final = {"accepted": GREEN, "duplicate": BLUE, "ok": GREEN, "dropped_by_client": ORANGE, "rejected": ORANGE}
QUALITIES: Final = {"excellent": "dark-green", "good": GREEN, "fair": YELLOW, "poor": RED, "estimating": GREY}
BREAKERS: Final = {"closed": GREEN, "half_open": YELLOW, "open": RED}

type Steps = Sequence[tuple[float | None, str]]
"""Thresholds: from this value on (None: from the lowest) this colour."""

# -- queries -----------------------------------------------------------------------------------------------------------------------


def prom(expr: str, legend: str, *, exemplars: bool = False) -> Builder[Dataquery]:
    """A PromQL query over the time range."""
    return prometheus.Dataquery().datasource(PROMETHEUS).expr(expr).legend_format(legend).range().exemplar(exemplars)


def prom_now(expr: str, legend: str) -> Builder[Dataquery]:
    """A PromQL query of the end of the time range."""
    return prometheus.Dataquery().datasource(PROMETHEUS).expr(expr).legend_format(legend).instant()


def prom_table(expr: str, ref: str) -> Builder[Dataquery]:
    """The same as rows of a table: a column for each label, and `Value #ref`."""
    made = prometheus.Dataquery().datasource(PROMETHEUS).expr(expr).legend_format("__auto").instant()
    return made.format(PromQueryFormat.TABLE).ref_id(ref)


def prom_heatmap(expr: str, legend: str = "__auto", *, exemplars: bool = False) -> Builder[Dataquery]:
    """A native histogram's rate, or classic buckets by `le` (legend `{{le}}`)."""
    made = prometheus.Dataquery().datasource(PROMETHEUS).expr(expr).legend_format(legend).range()
    return made.format(PromQueryFormat.HEATMAP).exemplar(exemplars)


def percentiles(rate: str, *, exemplars: bool = False) -> list[Builder[Dataquery]]:
    """p50, p95 and p99 of a native histogram's summed rate. All have the same exemplars: those of one are drawn."""
    return [
        prom(f"histogram_quantile({q}, {rate})", name, exemplars=exemplars and name == "p99")
        for name, q in (("p99", 0.99), ("p95", 0.95), ("p50", 0.5))
    ]


def by_process(expr: str, legend: str = "") -> Builder[Dataquery]:
    """A line for each process; `web-1f0c2a9b` is enough of its `instance`."""
    short = f'label_replace({expr}, "process", "$1", "instance", "([a-z]+-[0-9a-f]{{8}}).*")'
    return prom(short, f"{legend} {{{{process}}}}".strip())


def logql(expr: str, legend: str) -> Builder[Dataquery]:
    """A metric of log lines over the time range."""
    return loki.Dataquery().datasource(LOKI).expr(expr).legend_format(legend).query_type("range")


def logql_now(expr: str, legend: str) -> Builder[Dataquery]:
    """A metric of log lines at the end of the time range."""
    return loki.Dataquery().datasource(LOKI).expr(expr).legend_format(legend).query_type("instant")


def log_lines(expr: str, lines_max: int) -> Builder[Dataquery]:
    return loki.Dataquery().datasource(LOKI).expr(expr).query_type("range").max_lines(lines_max)


class _Plain(Builder[Dataquery]):
    """A query to a data source for which the SDK has no type."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = dict(fields)

    def build(self) -> Dataquery:
        return UnknownDataquery(self._fields)


def sql(text: str, *, is_series: bool = False) -> Builder[Dataquery]:
    """A question to PostgreSQL; a series has the column `time`."""
    shown = "time_series" if is_series else "table"
    fields = {"refId": "A", "rawQuery": True, "editorMode": "code", "format": shown, "rawSql": text.strip()}
    return _Plain({"datasource": POSTGRES.to_json()} | fields)


def jaeger(kind: str, **fields: Any) -> Builder[Dataquery]:
    """A search for traces, or the dependency graph."""
    return _Plain({"datasource": JAEGER.to_json(), "refId": "A", "queryType": kind, **fields})


class Metric(NamedTuple):
    """A metric of CloudWatch, for every value of its dimensions."""

    namespace: str
    name: str
    statistic: str
    dimensions: tuple[str, ...]


def cloud(metric: Metric, legend: str, ref: str = "A") -> Builder[Dataquery]:
    """`legend` may hold ${PROP('Dim.Name')}, CloudWatch's dynamic label."""
    made = cloudwatch.CloudWatchMetricsQuery().datasource(CLOUDWATCH).region("default").ref_id(ref).id(ref.lower())
    made = made.query_mode(cloudwatch_model.CloudWatchQueryMode.METRICS).query_type("timeSeriesQuery").period("60")
    made = made.metric_query_type(cloudwatch_model.MetricQueryType.SEARCH).metric_editor_mode(
        cloudwatch_model.MetricEditorMode.BUILDER
    )
    made = made.namespace(metric.namespace).metric_name(metric.name).statistic(metric.statistic).match_exact(True)
    return made.dimensions(dict.fromkeys(metric.dimensions, "*")).label(legend)


# -- links -------------------------------------------------------------------------------------------------------------------------


def explore(title: str, source: dashboard.DataSourceRef, **query: Any) -> d.DashboardLink:
    """A link to Grafana's Explore with this query and the panel's time range. Variables and fields (`${…}`) stay as they are."""
    asked = {"refId": "A", "datasource": source.to_json(), **query}
    pane = {"datasource": source.uid, "queries": [asked], "range": {"from": "${__from}", "to": "${__to}"}}
    panes = quote(json.dumps({"a": pane}, separators=(",", ":")), safe="${}:.")
    return d.DashboardLink(title).url(f"/explore?schemaVersion=1&orgId=1&panes={panes}").target_blank(True)


def go_to(title: str, name: str, *variables: str) -> d.DashboardLink:
    """A link to another dashboard, with the time range and some variables."""
    with_variables = "".join(f"&${{{variable}:queryparam}}" for variable in ("environment", *variables))
    return d.DashboardLink(title).url(f"/d/gamepulse-{name}?${{__url_time_range}}{with_variables}")


def to_failed_traces() -> d.DashboardLink:
    return explore("Failed traces", JAEGER, queryType="search", service="gamepulse", tags="error=true", limit=50)


def to_slow_traces(duration: str = "250ms") -> d.DashboardLink:
    return explore("Slow traces", JAEGER, queryType="search", service="gamepulse", minDuration=duration, limit=50)


def to_logs(title: str = "Log lines", matching: str = "") -> d.DashboardLink:
    return explore(title, LOKI, expr=f"{{{SERVICE}}}{matching}", queryType="range")


# -- panels ------------------------------------------------------------------------------------------------------------------------


type AnyPanel = (
    geomap.Panel | heatmap.Panel | logs.Panel | nodegraph.Panel | stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel
)


class About(NamedTuple):
    """What every panel says of itself."""

    title: str
    description: str
    unit: str
    """Grafana's id of a unit: s, reqps, percentunit, bytes, short …"""
    empty: str
    """Shown when there is no data: what that means."""


type Targets = Builder[Dataquery] | Sequence[Builder[Dataquery]]


def _begin[P: AnyPanel](panel: P, about: About, targets: Targets, width: int, height: int, links: Sequence[d.DashboardLink]) -> P:
    panel.id(panel_id(about.title)).title(about.title).description(about.description).unit(about.unit).no_value(about.empty)
    panel.span(width).height(height)
    for letter, target in zip(ascii_uppercase, [targets] if isinstance(targets, Builder) else targets, strict=False):
        query: Any = target.build()
        if isinstance(query, UnknownDataquery):
            panel.datasource(dashboard.DataSourceRef.from_json(query.data["datasource"]))
        else:
            query.ref_id = query.ref_id or letter
            panel.datasource(query.datasource)
        panel.with_target(target)
    if links:
        panel.data_links(list(links))
    return panel


def panel_id(title: str) -> int:
    """Of the title, so that links to a panel outlive changes beside it."""
    return zlib.crc32(title.encode()) % 1_000_000 + 1


def _steps(steps: Steps) -> d.ThresholdsConfig:
    made = [dashboard.Threshold(value, colour) for value, colour in steps]
    return d.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def _paint[P: AnyPanel](panel: P, colours: Mapping[str, str]) -> P:
    """A colour for each series whose name is as a regular expression says; shades of it where several may be so."""
    for name, colour in colours.items():
        mode = "shades" if "." in name else "fixed"
        panel.override_by_regexp(f"/^{name}$/", [dashboard.DynamicConfigValue("color", {"mode": mode, "fixedColor": colour})])
    return panel


def glance(about: About, targets: Targets, steps: Steps = (), *, width: int = 3, links: Sequence[d.DashboardLink] = ()) -> AnyPanel:
    """The answer as one number, on a ground coloured by what it means; without `steps` nothing judges it."""
    panel = _begin(stat.Panel(), about, targets, width, 4, links)
    panel.thresholds(_steps(steps or [(None, BLUE)])).color_scheme(d.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel.color_mode(common.BigValueColorMode.BACKGROUND if steps else common.BigValueColorMode.VALUE)
    panel.graph_mode(common.BigValueGraphMode.AREA)
    return panel.reduce_options(c.ReduceDataOptions().calcs(["lastNotNull"]))


LEAST_TOP: Final = {"short": 1, "cps": 0.1, "ops": 0.1, "reqps": 0.1, "percentunit": 0.01}
"""By unit: an axis reaches at least so high. Grafana would draw nothing but zeros on one that reaches 100."""


def graph(
    about: About,
    targets: Targets,
    *,
    width: int = 8,
    stacked: bool = False,
    bars: bool = False,
    least: float | None = 0,
    most: float | None = None,
    limit: float | None = None,
    ceiling: str = "",
    height: int = 8,
    colours: Mapping[str, str] | None = None,
    links: Sequence[d.DashboardLink] = (),
) -> AnyPanel:
    """Lines over time from `least` to `most`, each with a colour by meaning when it has one.

    Drawn in red and dashed: `limit`, and the series named `ceiling`, a limit that is measured.
    """
    panel = _paint(_begin(timeseries.Panel(), about, targets, width, height, links), colours or {})
    panel.legend(
        c.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).placement(common.LegendPlacement.BOTTOM).show_legend(True)
    )
    panel.tooltip(c.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    panel.line_width(1).fill_opacity(60 if bars or stacked else 10).show_points(common.VisibilityMode.AUTO)
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    elif limit is not None:
        panel.axis_soft_max(limit)
    elif about.unit in LEAST_TOP and not ceiling:
        panel.axis_soft_max(LEAST_TOP[about.unit])
    if ceiling:
        drawn = {"color": {"mode": "fixed", "fixedColor": RED}, "custom.fillOpacity": 0}
        drawn["custom.lineStyle"] = {"fill": "dash", "dash": [10, 10]}
        panel.override_by_name(ceiling, [dashboard.DynamicConfigValue(key, value) for key, value in drawn.items()])
    if bars:
        panel.draw_style(common.GraphDrawStyle.BARS)
    if stacked or bars:
        panel.stacking(c.StackingConfig().mode(common.StackingMode.NORMAL))
    if limit is not None:
        panel.thresholds(_steps([(None, GREEN), (limit, RED)]))
        panel.thresholds_style(c.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    return panel


def heat(
    about: About, target: Builder[Dataquery], *, width: int = 8, height: int = 8, links: Sequence[d.DashboardLink] = ()
) -> AnyPanel:
    """How many measurements had which value when."""
    panel = _begin(heatmap.Panel(), about, target, width, height, links)
    colours = heatmap.HeatmapColorOptions().mode(heatmap_model.HeatmapColorMode.SCHEME).scheme("Turbo")
    panel.color(colours.scale(heatmap_model.HeatmapColorScale.EXPONENTIAL).exponent(0.5).steps(64)).calculate(False)
    panel.cell_gap(0)  # cells are but a few pixels: gaps would darken them
    panel.y_axis(heatmap.YAxisConfig().unit(about.unit)).cell_values(heatmap.CellValues().unit("short"))
    panel.scale_distribution(c.ScaleDistributionConfig().type(common.ScaleDistribution.LINEAR))
    return panel.mode(common.TooltipDisplayMode.SINGLE).show_y_histogram().exemplars_color("rgba(255,0,255,0.7)")


def rows(
    about: About,
    targets: Targets,
    *,
    units: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    hidden: Sequence[str] = (),
    widths: Mapping[str, int] | None = None,
    decimals: int | None = None,
    sort: str = "",
    linked: str = "",
    width: int = 12,
    height: int = 8,
    links: Sequence[d.DashboardLink] = (),
) -> AnyPanel:
    """A table; several queries become one, with a row for each set of labels.

    `names` of columns that are better than the query's, in their order; `units` of columns that have another than the
    panel's; `linked`: the column that has the links.
    """
    panel = _begin(table.Panel(), about, targets, width, height, () if linked else links).filterable(True).min_width(60)
    if decimals is not None:
        panel.decimals(decimals)
    if not isinstance(targets, Builder):
        _merge(panel)  # first: what was renamed before is not the same column
    if names or hidden:
        order = {column: place for place, column in enumerate(names or {})}
        options = {"excludeByName": dict.fromkeys(hidden, True), "renameByName": dict(names or {}), "indexByName": order}
        panel.with_transformation(dashboard.DataTransformerConfig("organize", options=options))
    for column, unit in (units or {}).items():
        empty = dashboard.DynamicConfigValue("noValue", "–")  # the panel's own text is one for the whole table
        panel.override_by_name(column, [dashboard.DynamicConfigValue("unit", unit), empty])
    for column, pixels in (widths or {}).items():
        panel.override_by_name(column, [dashboard.DynamicConfigValue("custom.width", pixels)])
    if linked:
        panel.override_by_name(linked, [dashboard.DynamicConfigValue("links", [link.build() for link in links])])
    if sort:
        panel.sort_by([c.TableSortByFieldState().display_name(sort).desc(True)])
    return panel


def _merge(panel: table.Panel | geomap.Panel) -> None:
    panel.with_transformation(dashboard.DataTransformerConfig("merge", options={}))


def lines(about: About, target: Builder[Dataquery], *, width: int = 24, height: int = 10) -> AnyPanel:
    """Log lines, newest first. The data source gives each a link to its trace."""
    panel = _begin(logs.Panel(), about, target, width, height, [])
    panel.show_time(True).enable_log_details(True).wrap_log_message(False).show_labels(False)
    return panel.sort_order(common.LogsSortOrder.DESCENDING).dedup_strategy(common.LogsDedupStrategy.NONE)


def states(about: About, target: Builder[Dataquery], named: Mapping[int, tuple[str, str]], *, width: int = 8) -> AnyPanel:
    """What state each was in over time; `named`: the text and colour of each value."""
    panel = _begin(statetimeline.Panel(), about, target, width, 8, [])
    options = {str(value): dashboard.ValueMappingResult(text, colour) for value, (text, colour) in named.items()}
    panel.mappings([dashboard.ValueMap(options=options)])
    panel.color_scheme(d.FieldColor().mode(dashboard.FieldColorModeId.FIXED))
    return panel.show_value(common.VisibilityMode.AUTO).line_width(0).fill_opacity(80)


def service_map(about: About, targets: Targets, *, width: int = 12, stats: Sequence[str] = ()) -> AnyPanel:
    """Who talks to whom; frames have the fields of Grafana's node graph. `stats`: the fields whose value is written there."""
    panel = _begin(nodegraph.Panel(), about, targets, width, 12, [])
    for field in stats:  # the node graph wants a field of this name; renaming gives one only another title
        binary = {"left": field, "operator": "*", "right": "1"}
        options = {"mode": "binary", "binary": binary, "alias": "mainstat", "timeSeries": False}  # else nodes and edges are joined
        panel.with_transformation(dashboard.DataTransformerConfig("calculateField", options=options))
    if stats:  # here a unit is what is written behind the number, no id
        panel.nodes(nodegraph.NodeOptions().main_stat_unit("req/s")).edges(nodegraph.EdgeOptions().main_stat_unit("req/s"))
    return panel


def world_map(about: About, targets: Targets, size: str, colour: str, steps: Steps, *, width: int = 12) -> AnyPanel:
    """A circle for each `country` (ISO 3166-1 alpha-2); its size and colour are fields of the query's table."""
    panel = _begin(geomap.Panel(), about, targets, width, 12, [])
    _merge(panel)
    place = c.FrameGeometrySource().mode(common.FrameGeometrySourceMode.LOOKUP).lookup("country")
    style = {
        "size": {"field": size, "min": 4, "max": 24},
        "color": {"field": colour, "fixed": GREEN},
        "opacity": 0.7,
        "symbol": {"mode": "fixed", "fixed": "img/icons/marker/circle.svg"},
    }
    circles = c.MapLayerOptions().type("markers").name("players").location(place.gazetteer("public/gazetteer/countries.json"))
    panel.layers([circles.config({"style": style, "showLegend": True}).tooltip(True)])
    panel.basemap(c.MapLayerOptions().type("default").name("map")).view(geomap.MapViewConfig().id("zero").lat(20).lon(10).zoom(1))
    panel.controls(geomap.ControlsOptions().show_zoom(True).mouse_wheel_zoom(False).show_attribution(True))
    panel.tooltip(geomap.TooltipOptions().mode(geomap_model.TooltipMode.DETAILS))
    return panel.thresholds(_steps(steps)).color_scheme(d.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
