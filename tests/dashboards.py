"""How the tests read Grafana's dashboards and data sources: panels, queries, links, and variables put in as Grafana does."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from stack.settings import CHECKOUT

type Json = dict[str, Any]
type Values = Mapping[str, str | Sequence[str]]
"""What is chosen: one value, or several of a variable that takes several."""

PROVISIONING = CHECKOUT / "observability" / "grafana" / "provisioning"
DASHBOARDS: dict[str, Json] = {
    path.stem: json.loads(path.read_text()) for path in sorted((PROVISIONING / "dashboards" / "json").glob("*.json"))
}
SOURCES: dict[str, Json] = {
    source["uid"]: source for source in yaml.safe_load((PROVISIONING / "datasources" / "gamepulse.yaml").read_text())["datasources"]
}

ONLY_SOMETIMES = {
    r"ecs_task_\w+": "only in AWS: the Collector's awsecscontainermetrics receiver",
    r"httpcheck_tls_cert_remaining_seconds": "only where the Collector looks at an https address",
    r"otelcol_exporter_enqueue_failed_\w+": "only after a queue of the Collector was full",
    r"k6_batches_retried_total": "only when the load was refused",
    r"k6_batches_lost_total": "only when the load was refused for long",
    r"k6_dropped_iterations_total": "only when k6 could not keep up",
    r"rate_limit_checks_total": "only when somebody asks from another machine",
    r"account_sign_ins_total": "only when somebody signs in",
    r"ALERTS": "made by Prometheus while an alert is pending or fires",
}


class Query(NamedTuple):
    """One query of a panel, or of an annotation."""

    dashboard: str
    panel: str
    source: str
    """The data source's uid."""
    target: Json

    @property
    def name(self) -> str:
        return f"{self.dashboard} · {self.panel} · {self.target.get('refId', '')}"

    @property
    def text(self) -> str:
        """PromQL, LogQL or SQL; empty for others."""
        text: str = self.target.get("expr") or self.target.get("rawSql") or ""
        return text


def panels(dashboard: Json) -> Iterator[Json]:
    """All but the rows themselves."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def queries() -> list[Query]:
    """Of all panels and annotations."""
    found = []
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            found += [Query(name, panel["title"], target["datasource"]["uid"], target) for target in panel["targets"]]
        for annotation in dashboard["annotations"]["list"]:
            found.append(Query(name, f"annotation {annotation['name']}", annotation["datasource"]["uid"], annotation))
    return found


_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?::(\w+))?\}")


def variables_in(text: str) -> set[str]:
    """The dashboard's own variables that a text names; not Grafana's (`__…`)."""
    names = {found[1] or found[2] for found in _VARIABLE.finditer(text)}
    return {name for name in names if not name.startswith("__") and not name.isdigit()}


def expand(text: str, values: Values, *, interval: str = "15s", rate_interval: str = "1m", window: str = "1h") -> str:
    """Put variables in as Grafana does: several values as a regular expression, or as strings of SQL."""

    def put(found: "re.Match[str]") -> str:
        name = found[1] or found[2]
        builtin = {"__interval": interval, "__auto": interval, "__rate_interval": rate_interval, "__range": window}
        if name in builtin:
            return builtin[name]
        if name not in values:
            return found[0]
        value = values[name]
        chosen = [value] if isinstance(value, str) else list(value)
        if found[3] == "sqlstring":
            return ",".join("'" + one.replace("'", "''") + "'" for one in chosen)
        assert found[3] is None, f"a format that this does not know: {found[0]}"
        return value if isinstance(value, str) else "(" + "|".join(map(escape, chosen)) + ")"

    return _VARIABLE.sub(put, text)


def escape(value: str) -> str:
    """One of several values, in a regular expression in quotes."""
    return re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\\\g<0>", value)


_NAMED = re.compile(r'__name__=~"([^"]+)"')
_NOT_NAMES = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)')
_WORDS = {"by", "without", "on", "ignoring", "or", "and", "unless", "offset", "bool", "inf", "nan", "group_left", "group_right"}


def metrics_in(expr: str, known: set[str]) -> set[str]:
    """The metrics that a PromQL query asks for; a pattern of names stands for those that are `known`, or for itself."""
    found = set()
    for pattern in _NAMED.findall(expr):
        found |= {name for name in known if re.fullmatch(pattern, name)} or {pattern}
    bare = _NOT_NAMES.sub(" ", expr)
    for word in re.finditer(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?!\w|\s*\()", bare):
        if word[0].lower() not in _WORDS and not re.fullmatch(r"\d+[smhdwy]", word[0]):
            found.add(word[0])
    return found


# -- links from one signal to another, as the data sources' settings give them -----------------------------------------------------


class Link(NamedTuple):
    """What is asked of which data source (its uid), and from when to when (s)."""

    source: str
    query: str
    start: float = 0
    end: float = 0


def links_of_exemplar(labels: Mapping[str, str]) -> list[Link]:
    found = SOURCES["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    return [Link(one["datasourceUid"], labels[one["name"]]) for one in found if one["name"] in labels]


def links_of_line(labels: Mapping[str, str]) -> list[Link]:
    """`labels`: the stream's, and the line's structured metadata."""
    found = []
    for field in SOURCES["loki"]["jsonData"]["derivedFields"]:
        assert field["matcherType"] == "label", "the others are of a line's text"
        values = [value for name, value in labels.items() if re.search(field["matcherRegex"], name)]
        found += [Link(field["datasourceUid"], _put_in(field["url"], {"__value.raw": value})) for value in values[:1]]
    return found


def links_of_span(span: Json) -> dict[str, list[Link]]:
    """By setting; `span` is Jaeger's, with its `process`."""
    settings = SOURCES["jaeger"]["jsonData"]
    logs, metrics = settings["tracesToLogsV2"], settings["tracesToMetrics"]
    assert logs["customQuery"], "Grafana's own query is another in each version"
    return {
        "tracesToLogsV2": [_link_of_span(span, logs, logs["query"])],
        "tracesToMetrics": [_link_of_span(span, metrics, one["query"]) for one in metrics["queries"]],
    }


def _link_of_span(span: Json, setting: Json, query: str) -> Link:
    names = {tag["key"]: tag.get("value", tag["key"]) for tag in setting["tags"]}
    tags = [f'{names[tag["key"]]}="{tag["value"]}"' for tag in span["process"]["tags"] + span["tags"] if tag["key"] in names]
    values = {"__tags": ", ".join(tags), "__span.traceId": span["traceID"], "__span.name": span["operationName"]}
    start, end = span["startTime"] / 1e6, (span["startTime"] + span["duration"]) / 1e6
    return Link(
        setting["datasourceUid"],
        _put_in(query, values),
        start + _shift_s(setting["spanStartTimeShift"]),
        end + _shift_s(setting["spanEndTimeShift"]),
    )


def _put_in(text: str, values: Mapping[str, str]) -> str:
    """Provisioning makes one dollar of two. A variable without a value is a KeyError: Grafana shows no link then."""
    return re.sub(r"\$\{([\w.]+)\}", lambda found: values[found[1]], text.replace("$$", "$"))


def _shift_s(text: str) -> int:
    found = re.fullmatch(r"(-?\d+)m", text)
    assert found, text
    return int(found[1]) * 60
