"""What dashboards are put together of: variables, annotations, rows of panels, links to the others."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard

from observability.grafana.dashboards.panels import BLUE, LOKI, PROMETHEUS, PURPLE, RED, SERVICE, AnyPanel, panel_id

# -- variables and annotations -----------------------------------------------------------------------------------------------------


def environment() -> d.QueryVariable:
    """Which environment: one at a time."""
    return _variable("environment", "Environment", "label_values(target_info, environment)")


def game() -> d.QueryVariable:
    asked = 'label_values(player_reports_total{environment="$environment"}, game)'
    return _variable("game", "Game", asked).multi(True).include_all(True).current(_all())


def region() -> d.QueryVariable:
    asked = 'label_values(player_reports_total{environment="$environment",game=~"$game"}, region)'
    return _variable("region", "Region", asked).multi(True).include_all(True).current(_all())


def run() -> d.QueryVariable:
    """Which of the load's runs."""
    asked = 'label_values(k6_vus_max{environment="$environment"}, instance)'
    return _variable("run", "Run", asked).multi(True).include_all(True).current(_all())


def _variable(name: str, label: str, asked: str) -> d.QueryVariable:
    made = d.QueryVariable(name).label(label).datasource(PROMETHEUS).query(asked).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    return made.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)


def log_label(name: str, label: str) -> d.QueryVariable:
    """The values of an index label of Loki."""
    asked: dict[str, object] = {"refId": name, "type": 1, "label": name, "stream": f"{{{SERVICE}}}"}
    made = d.QueryVariable(name).label(label).datasource(LOKI).query(asked).refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return made.multi(True).include_all(True).current(_all())


def _all() -> dashboard.VariableOption:
    return dashboard.VariableOption(selected=True, text=["All"], value=["$__all"])


class Annotation(dashboard.AnnotationQuery):
    """The SDK's model does not know what Prometheus and Loki make of an annotation's title and tags."""

    def __init__(self, name: str, source: dashboard.DataSourceRef, expr: str, colour: str, title: str, tags: str = "") -> None:
        super().__init__(name, source, enable=True, icon_color=colour, expr=expr, hide=False)
        self.title, self.tags = title, tags

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {"titleFormat": self.title, "tagKeys": self.tags}


class _Made(Builder[dashboard.AnnotationQuery]):
    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation

    def build(self) -> dashboard.AnnotationQuery:
        return self._annotation


_VERSIONS = 'target_info{job="gamepulse/gamepulse",environment="$environment"}'
_FIRING = 'ALERTS{alertstate="firing",alertname!="Watchdog"}'

ANNOTATIONS: Final = (
    Annotation(
        "New version",
        PROMETHEUS,
        f"count by (service_version) ({_VERSIONS}) unless count by (service_version) "
        f"(last_over_time({_VERSIONS}[5m] offset $__interval))",
        BLUE,
        "Version {{service_version}}",
    ),
    Annotation(
        "Alert", PROMETHEUS, f"{_FIRING} unless {_FIRING} offset $__interval", RED, "{{alertname}}", "severity,service_name"
    ),
    Annotation(
        "Shard taken", LOKI, f'{{{SERVICE}}} |= "shard taken"', PURPLE, "Another aggregator leads a shard", "service_instance_id"
    ),
)
"""On every dashboard: a version that was not there for five minutes, alerts when they begin, shards that were taken over.

Moments, no spans: an alert that fires for an hour would paint every graph red. `$__interval` is the annotation's own step."""

# -- dashboards --------------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """Panels under a title; a closed row asks nothing until somebody opens it."""

    title: str
    panels: Sequence[AnyPanel]
    is_closed: bool = False


def assemble(
    name: str,
    title: str,
    description: str,
    variables: Sequence[Builder[dashboard.VariableModel]],
    *content: Row,
    since: str = "now-1h",
) -> d.Dashboard:
    """The dashboard `gamepulse-<name>`, with links to the others that keep time range and variables."""
    made = d.Dashboard(title).uid(f"gamepulse-{name}").description(description).tags(["gamepulse"]).editable()
    made.time(since, "now").refresh("30s").tooltip(dashboard.DashboardCursorSync.CROSSHAIR).timezone(common.TimeZoneBrowser)
    for variable in variables:
        made.with_variable(variable)
    for annotation in ANNOTATIONS:
        made.annotation(_Made(annotation))
    link = d.DashboardLink("GamePulse").type(dashboard.DashboardLinkType.DASHBOARDS).tags(["gamepulse"]).as_dropdown(True)
    made.link(link.include_vars(True).keep_time(True))
    for row in content:
        head = d.Row(row.title).id(panel_id(f"row {row.title}"))
        if row.is_closed:
            for panel in row.panels:
                head.with_panel(panel)
            made.with_row(head)
        else:
            made.with_row(head)
            for panel in row.panels:
                made.with_panel(panel)
    return made
