"""What the docs say of the code is so: links, tests, limits, settings, errors, modules."""

import importlib
import re
from datetime import timedelta
from operator import attrgetter
from pathlib import Path

import msgspec
import pytest

from gamepulse import errors
from gamepulse.games import PROFILES
from gamepulse.settings import PREFIX, Settings, variable

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "data/README.md", ROOT / "bench/README.md"])
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text):
        path, _, anchor = "".join(target).partition("#")
        if "://" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), path
        if anchor:
            assert anchor in [_anchor(heading) for heading in re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)], anchor


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_named_tests_exist() -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", ARCHITECTURE)
    assert len({test for _, test in named}) > 30
    for path, test in named:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{test}"


def test_limits_are_those_of_the_code() -> None:
    rows = re.findall(r'^\| `([a-z.]+)\.((?:_\w+\.)?[A-Z_]+)(?:\["(\w+)"\])?` \| ([\d.,]+)', ARCHITECTURE, re.MULTILINE)
    assert len(rows) > 50
    for module, name, key, told in rows:
        value = attrgetter(name)(importlib.import_module(module if module.startswith("stack.") else f"gamepulse.{module}"))
        value = value[key] if key else value
        value = value.days if isinstance(value, timedelta) else value
        assert float(told.replace(",", "")) == value, f"{module}.{name}"


def test_thresholds_are_those_of_the_code() -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)` \| ([\d,]+) \| (\d+) \| (\d+) % \|", (ROOT / "docs/thresholds.md").read_text(), re.MULTILINE
    )
    told = {profile: (float(rtt.replace(",", "")), float(jitter), int(loss) / 100) for profile, rtt, jitter, loss in rows}
    assert told == {profile: tuple(bad) for profile, bad in PROFILES.items()}


def test_every_module_is_described() -> None:
    for module in (ROOT / "src/gamepulse").glob("*.py"):
        assert module.name == "__init__.py" or f"`{module.name}`" in ARCHITECTURE, module.name


def test_defaults_are_those_of_the_code() -> None:
    told = re.findall(rf"^\| `{PREFIX}([A-Z_]+)` \| `([^`]+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    fields = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    shown = {name: value for name, value in told if name.lower() in fields}
    assert len(shown) > 5
    for name, value in shown.items():
        assert value == str(fields[name.lower()]), name


def test_every_setting_is_described_and_no_other() -> None:
    said = set(re.findall(rf"`((?:{PREFIX}|OTEL_|AWS_)[A-Z_]+)`", (ROOT / "docs/operations.md").read_text()))
    variables = {variable(field.name) for field in msgspec.structs.fields(Settings)}
    assert said - {"GAMEPULSE_HOME", "GAMEPULSE_PORT_OFFSET"} == variables


def test_every_error_is_described_with_its_status_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d*) ?\| ", (ROOT / "docs/api.md").read_text().partition("\n## Errors")[2], re.MULTILINE)
    only_in_rejected = {"too_old": "", "in_the_future": ""}
    assert dict(rows) == {kind.code: str(kind.status) for kind in errors.KINDS.values()} | only_in_rejected


def test_every_answer_to_a_batch_is_described() -> None:
    way = ARCHITECTURE.partition("### From the request to the commit")[2].partition("\n### ")[0]
    sources = [(ROOT / f"src/gamepulse/{name}.py").read_text() for name in re.findall(r"`(\w+)\.py`", way)]
    names = {name for source in sources for name in re.findall(r"errors\.([A-Z_]+)\b", source)}
    declared = {kind.code for name in names if isinstance(kind := getattr(errors, name), errors.Kind)}
    codes = declared | {word for source in sources for word in re.findall(r'"(\w+)"', source) if word in errors.KINDS}
    assert len(codes) > 30
    table = (ROOT / "docs/api.md").read_text().partition("### What is wrong, and what happens")[2].partition("\n## ")[0]
    assert codes - set(re.findall(r"`(\w+)`", table)) == set()
