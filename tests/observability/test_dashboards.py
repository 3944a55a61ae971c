"""Grafana's dashboards: current, whole, and about what there is. Their queries are run in tests/stack/test_dashboards.py."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import numpy as np
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from gamepulse import sketch
from gamepulse.metrics import REGISTRY, Instrument
from observability.grafana.dashboards.__main__ import FOLDER, generate
from observability.grafana.dashboards.players import sessions_of
from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import CHECKOUT, read_settings
from tests.dashboards import (
    DASHBOARDS,
    ONLY_SOMETIMES,
    PROVISIONING,
    SOURCES,
    Json,
    Query,
    expand,
    metrics_in,
    panels,
    queries,
    variables_in,
)
from tests.observability import programs

RULES = [
    rule
    for path in (OBSERVABILITY / "prometheus" / "rules").glob("*.yml")
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
CLOUDWATCH: Json = yaml.safe_load(Path(__file__).with_name("cloudwatch.yaml").read_text())
ANY = {"environment": "local", "game": ["demo"], "region": ["eu"], "level": ["info"], "search": "", "run": ["load-smoke"]}
USED_ELSEWHERE: dict[str, str] = {}
"""Metrics of the service that neither a dashboard nor an alert needs, and who does."""

# Made by the Collector of spans, and by Prometheus.
MADE = {"traces_service_graph_request_total", "traces_service_graph_request_client_seconds_bucket", "target_info", "up"}

# What the SDK's model of an annotation does not know (observability/grafana/dashboards/assembly.py).
NOT_IN_THE_MODEL = {"titleFormat", "tagKeys"}


def prometheus_name(instrument: Instrument) -> str:
    """As Prometheus translates it (UnderscoreEscapingWithSuffixes); the signal matrix shows that it does."""
    name = instrument.name.replace(".", "_")
    unit = {"s": "seconds", "By": "bytes"}.get(instrument.unit, "")
    name += f"_{unit}" if unit else ""
    return name + {"counter": "_total", "bucketed": "_bucket"}.get(instrument.kind, "")


def emitted() -> set[str]:
    """Every metric that there is: the service's, the rules', the programs'."""
    of_programs = {name for names in json.loads(programs.FILE.read_text()).values() for name in names}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    return {prometheus_name(one) for one in REGISTRY.values()} | recorded | of_programs | MADE


def promql() -> list[Query]:
    return [query for query in queries() if query.source == "prometheus"]


def test_json_is_current() -> None:
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == generate(), "run `make dashboards`"


def test_provisioning_finds_them() -> None:
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "gamepulse.yaml").read_text())["providers"]
    assert Path(provider["options"]["path"].replace("$GF_PATHS_PROVISIONING", str(PROVISIONING))) == FOLDER


@pytest.mark.parametrize("name", DASHBOARDS)
def test_round_trip_through_the_model(name: str) -> None:
    plugins.register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(DASHBOARDS[name]), cls=JSONEncoder))
    before = json.loads(json.dumps(DASHBOARDS[name]))
    for annotation in before["annotations"]["list"]:
        for key in NOT_IN_THE_MODEL:
            annotation.pop(key)
    assert again == before


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_says_what_it_shows(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        defaults = panel["fieldConfig"]["defaults"]
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"], panel["title"]
        assert defaults["noValue"], panel["title"]
        assert 0 < len(panel["title"]) <= 40, panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert all(refs), panel["title"]
        assert len(set(refs)) == len(refs), panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_nothing_is_there_twice(name: str) -> None:
    rows = [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] == "row"]
    every = [*rows, *panels(DASHBOARDS[name])]
    for key in ("id", "title"):
        values = [panel[key] for panel in (every if key == "id" else list(panels(DASHBOARDS[name])))]
        assert sorted(values) == sorted(set(values)), key


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_beside_each_other(name: str) -> None:
    for row in [DASHBOARDS[name]["panels"], *(one["panels"] for one in DASHBOARDS[name]["panels"] if one["type"] == "row")]:
        taken: set[tuple[int, int]] = set()
        for panel in row:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert max(x for x, _ in cells) < 24, panel["title"]
            assert not cells & taken, panel["title"]
            taken |= cells


@pytest.mark.parametrize("name", DASHBOARDS)
def test_first_row_is_the_answer_at_a_glance(name: str) -> None:
    first, *others = DASHBOARDS[name]["panels"]
    assert (first["type"], first["title"]) == ("row", "At a glance")
    glance = [panel for panel in others if panel["gridPos"]["y"] == 1]
    assert {panel["type"] for panel in glance} == {"stat"}
    assert all(len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) >= 1 for panel in glance)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_are_defined_and_used(name: str) -> None:
    dashboard = DASHBOARDS[name]
    defined = [variable["name"] for variable in dashboard["templating"]["list"]]
    asked = json.dumps([dashboard["panels"], dashboard["annotations"]])
    for before, variable in enumerate(dashboard["templating"]["list"]):  # one may only ask for those before it
        assert variables_in(json.dumps(variable.get("query", ""))) <= set(defined[:before])
    assert variables_in(asked) == set(defined)


def test_data_sources_are_provisioned_and_used() -> None:
    used = {query.source for query in queries()}
    for query in queries():
        assert SOURCES[query.source]["type"] == query.target["datasource"]["type"], query.name
    for dashboard in DASHBOARDS.values():
        used |= {variable["datasource"]["uid"] for variable in dashboard["templating"]["list"] if "datasource" in variable}
        used |= {uid for uid, source in SOURCES.items() if f"alertmanager={source['name']}" in json.dumps(dashboard)}
    assert used == set(SOURCES)


def links(value: Any) -> Iterator[Json]:
    """All links, wherever they are."""
    if isinstance(value, dict):
        if "url" in value and "title" in value:
            yield value
        for inner in value.values():
            yield from links(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from links(inner)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_links_lead_somewhere(name: str) -> None:
    uids = {dashboard["uid"] for dashboard in DASHBOARDS.values()}
    for link in links(DASHBOARDS[name]["panels"]):
        url = urlsplit(link["url"])
        if url.path == "/explore":
            [panes] = parse_qs(url.query)["panes"]
            pane = json.loads(panes)["a"]
            assert SOURCES[pane["datasource"]]["type"] == pane["queries"][0]["datasource"]["type"]
        elif url.path.startswith("/d/"):
            assert url.path.removeprefix("/d/") in uids
        else:
            assert url.path in ("/alerting/groups", "/alerting/silences")


WITH_EXEMPLARS = "http_server_request_duration_seconds"
OF_REQUESTS = re.compile(rf"histogram_quantile\(.*({WITH_EXEMPLARS}|traces_span_metrics_duration)")


def test_latencies_lead_to_traces() -> None:
    found = 0
    for dashboard in DASHBOARDS.values():
        for panel in panels(dashboard):
            if panel["type"] == "timeseries" and any(OF_REQUESTS.search(target.get("expr", "")) for target in panel["targets"]):
                found += 1
                marked = [target for target in panel["targets"] if target["exemplar"]]
                assert len(marked) == (WITH_EXEMPLARS in panel["targets"][0]["expr"]), panel["title"]
                assert any("/explore" in link["url"] for link in panel["fieldConfig"]["defaults"]["links"]), panel["title"]
    assert found >= 5


def test_traces_lead_to_lines_and_metrics() -> None:
    tables = [
        panel
        for dashboard in DASHBOARDS.values()
        for panel in panels(dashboard)
        if any(target.get("queryType") == "search" for target in panel["targets"])
    ]
    assert len(tables) >= 2
    for panel in tables:
        urls = [link["url"] for link in links(panel["fieldConfig"])]
        assert any("/explore" in url and "loki" in url for url in urls), panel["title"]
        assert any(url.startswith("/d/gamepulse-application?") for url in urls), panel["title"]


def test_tables_of_several_queries_are_merged_before_they_are_renamed() -> None:
    """Grafana finds a column by the name that it has then."""
    several = [
        panel for one in DASHBOARDS.values() for panel in panels(one) if panel["type"] == "table" and len(panel["targets"]) > 1
    ]
    assert several
    for panel in several:
        assert [step["id"] for step in panel["transformations"]] == ["merge", "organize"], panel["title"]
        asked = {f"Value #{target['refId']}" for target in panel["targets"]}
        assert asked <= set(panel["transformations"][1]["options"]["renameByName"]), panel["title"]


def test_the_service_map_has_numbers() -> None:
    """The node graph looks for a field `mainstat`; a field that is renamed keeps its name, and gets a title."""
    [panel] = [panel for panel in panels(DASHBOARDS["traces"]) if panel["title"] == "Service map"]
    made = {step["options"]["binary"]["left"] for step in panel["transformations"] if step["options"]["alias"] == "mainstat"}
    assert made == {f"Value #{target['refId']}" for target in panel["targets"]}


def test_annotations_of_metrics_are_moments() -> None:
    """What is there for an hour would paint every graph."""
    for query in queries():
        if query.panel.startswith("annotation") and query.source == "prometheus":
            assert re.search(r" unless .* offset \$__interval", query.text), query.name


def test_unwrapped_fields_are_grouped() -> None:
    """Else each line is a series of its own, by its trace id, and Loki gives up."""
    for query in queries():
        if "unwrap" in query.text:
            assert re.search(r"\]\) by \(", query.text), query.name


@pytest.mark.parametrize("name", DASHBOARDS)
def test_series_have_names(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        if panel["type"] in ("timeseries", "bargauge", "statetimeline"):
            for target in panel["targets"]:
                if "expr" in target:
                    assert target["legendFormat"] not in ("", "__auto"), panel["title"]
                    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                        assert label in target["expr"] or "sum" not in target["expr"], (panel["title"], label)


@pytest.mark.timeout(3600)  # the first time it may have to build promtool
def test_promql_parses(tmp_path: Path) -> None:
    rules = [{"record": f"query:{n}", "expr": expand(query.text, ANY)} for n, query in enumerate(promql())]
    assert len(rules) > 150
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    promtool = ensure_program(read_settings(), "prometheus") / "promtool"
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_variables_are_all_expanded() -> None:
    for query in queries():
        assert not variables_in(expand(query.text, ANY)), query.name


def matching(name: str, reasons: dict[str, str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in reasons)


def test_every_metric_that_is_used_is_emitted() -> None:
    known = emitted()
    for query in promql():
        for name in metrics_in(query.text, known):
            assert name in known or matching(name, ONLY_SOMETIMES), f"{query.name}: {name}"


def test_every_metric_of_the_service_is_used() -> None:
    known = emitted()
    asked = [query.text for query in promql()] + [rule["expr"] for rule in RULES]
    used = {name for text in asked for name in metrics_in(text, known)}
    unused = {name for name, one in REGISTRY.items() if prometheus_name(one) not in used}
    assert unused == set(USED_ELSEWHERE)


def test_cloudwatch_is_asked_for_what_aws_documents() -> None:
    used = set()
    for query in queries():
        if query.source == "cloudwatch":
            target = query.target
            documented = CLOUDWATCH[target["namespace"]]["metrics"][target["metricName"]]
            assert sorted(target["dimensions"]) in [sorted(one) for one in documented["dimensions"]], query.name
            assert target["statistic"] in documented["statistics"], query.name
            used.add((target["namespace"], target["metricName"]))
    assert used == {(space, metric) for space, listed in CLOUDWATCH.items() for metric in listed["metrics"]}
    assert all(listed["source"].startswith("AWS documentation, https://docs.aws.amazon.com/") for listed in CLOUDWATCH.values())


def test_aws_is_not_asked_until_somebody_opens_its_rows() -> None:
    for dashboard in DASHBOARDS.values():
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                assert panel["datasource"]["uid"] != "cloudwatch", panel["title"]
            elif panel["panels"]:
                assert panel["collapsed"]


async def test_sessions_are_counted_as_the_service_counts_them(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for number in (0, 1, 2_000, 2_100, 10_000, 25_000, 300_000):
        entry = sketch.coupons(np.random.default_rng(number).bytes(16 * number))
        owner, entry = sketch.union(entry * 0, entry, 1)
        [told] = sketch.count(owner, entry, 1).tolist()
        shown = await connection.fetchval(f"SELECT {sessions_of('x')} FROM (SELECT $1::bytea AS x) AS one", sketch.encode(entry))
        assert shown == pytest.approx(told, rel=0.02), number


def test_runbooks_lead_to_panels() -> None:
    shown = {(dashboard["uid"], str(panel["id"])) for dashboard in DASHBOARDS.values() for panel in panels(dashboard)}
    text = "".join(path.read_text() for path in (CHECKOUT / "docs" / "runbooks").glob("*.md"))
    linked = set(re.findall(r"/d/([\w-]+)\?viewPanel=(\d+)", text))
    assert len(linked) > 20
    assert linked - shown == set()
