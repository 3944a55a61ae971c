"""Alert rules: each is tried on made-up series and has a runbook; the rules of the objectives are those that Sloth makes."""

import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from gamepulse.receive import SHARDS
from stack.components import OBSERVABILITY
from stack.programs import ensure_program
from stack.settings import CHECKOUT, read_settings
from stack.slo import OBJECTIVES, RULES, generate

PROMETHEUS = OBSERVABILITY / "prometheus"
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOKS = CHECKOUT / "docs" / "runbooks"
SECTIONS = ["Meaning", "Impact", "First look", "Mend"]

type Json = dict[str, Any]


def promtool(*arguments: str) -> str:
    """What it says; fails with that when it finds something wrong."""
    command: list[str | Path] = [ensure_program(read_settings(), "prometheus") / "promtool", *arguments]
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[Json]:
    groups = [group for path in (PROMETHEUS / "rules").glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_do_on_made_up_series_what_they_should(path: Path) -> None:
    promtool("test", "rules", str(path))


def test_every_alert_is_shown_firing_and_silent() -> None:
    shown = defaultdict(set)
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", []):
                shown[case["alertname"]].add(bool(case.get("exp_alerts")))
    assert dict(shown) == {name: {True} if name == "Watchdog" else {False, True} for name in ALERTS}


@pytest.mark.timeout(3600)  # the first time it has to build Sloth
def test_rules_of_the_objectives_are_those_of_their_definition(tmp_path: Path) -> None:
    generate(tmp_path / "slo.yml")
    assert (tmp_path / "slo.yml").read_text() == RULES.read_text(), "run: python -m stack.slo"


def test_the_objectives_are_those_that_were_promised() -> None:
    promised = {"ingest-availability": 99.9, "answer-latency": 99, "freshness": 99, "durability": 99.99}
    assert {slo["name"]: slo["objective"] for slo in yaml.safe_load(OBJECTIVES.read_text())["slos"]} == promised
    periods = {rule["expr"] for rule in rules() if rule.get("record") == "slo:time_period:days"}
    assert periods == {"vector(28)"}


def test_the_objectives_know_how_often_rules_are_evaluated() -> None:
    interval = yaml.safe_load((OBSERVABILITY / "prometheus" / "prometheus.yml").read_text())["global"]["evaluation_interval"]
    groups = [group for path in RULES.parent.glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    seconds = {"15s": "15", "1m": "60"}
    recorded = {rule.get("record"): seconds[group.get("interval", interval)] for group in groups for rule in group["rules"]}
    summed = re.findall(r"sum_over_time\((\S+)\[\{\{.window\}\}\]\) \* (\d+) /", OBJECTIVES.read_text())
    assert len(summed) == 4
    assert [recorded[name] for name, _ in summed] == [counted for _, counted in summed]


def test_the_rules_know_how_many_shards_there_are() -> None:
    told = [
        re.findall(
            r"^(\d+) - \(count\(count by \(shard\) \(timestamp|or vector\(0\)\) / (\d+)$|count\(freshness:lag:seconds\) == (\d+)$",
            rule["expr"],
        )
        for rule in rules()
    ]
    assert [int("".join(number)) for numbers in told for number in numbers] == [SHARDS] * 3


def test_every_alert_has_a_severity_a_summary_and_its_runbook() -> None:
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in ("critical", "warning", "none"), name
        assert {"summary", "description"} < set(alert["annotations"]), name
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*ALERTS, "README"}


@pytest.mark.parametrize("name", ALERTS)
def test_runbook_is_complete(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    [first] = re.findall(
        r"^In Grafana \(\[where\]\(README\.md\)\): \[[^]]+\]\(http://127\.0\.0\.1:3000/([^)]+)\)", text, re.MULTILINE
    )
    assert ALERTS[name]["annotations"]["dashboard_url"] == first


def test_links_of_the_runbooks_lead_to_the_panels_that_they_name() -> None:
    panels = {}
    for path in (OBSERVABILITY / "grafana" / "provisioning" / "dashboards" / "json").glob("*.json"):
        dashboard = json.loads(path.read_text())
        rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
        for panel in [*dashboard["panels"], *(one for row in rows for one in row.get("panels") or [])]:
            panels[f"{dashboard['uid']}?viewPanel={panel['id']}"] = panel.get("title")
    linked = [
        link for path in RUNBOOKS.glob("*.md") for link in re.findall(r"\[([^]]+)\]\(http://[^/]+/d/([^)]+)\)", path.read_text())
    ]
    assert len(linked) > len(ALERTS)
    assert [title for title, link in linked if panels.get(link) != title] == []


def test_every_query_in_a_runbook_is_promql(tmp_path: Path) -> None:
    queries = [query for path in RUNBOOKS.glob("*.md") for query in re.findall(r"```promql\n(.*?)```", path.read_text(), re.DOTALL)]
    assert len(queries) == len(ALERTS)
    made_up = {"groups": [{"name": "runbooks", "rules": [{"record": f"q{n}", "expr": query} for n, query in enumerate(queries)]}]}
    (tmp_path / "runbooks.json").write_text(json.dumps(made_up))
    promtool("check", "rules", str(tmp_path / "runbooks.json"))
