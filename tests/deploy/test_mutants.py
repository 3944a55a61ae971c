"""A mistake in the templates makes a test fail, and there is no test of theirs that no mistake makes fail."""

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import pytest

from tests.deploy import (
    mistakes,
    test_iam,
    test_iam_trust,
    test_reach,
    test_templates_all,
    test_templates_data,
    test_templates_edge,
    test_templates_network,
    test_templates_operations,
    test_templates_tasks,
)
from tests.deploy.emulated.lost import LOST
from tests.deploy.mutants import Change, another
from tests.deploy.templates import Stacks, Templates

type Check = Callable[..., None]

# Of each theme its mistakes, and the tests that have to notice them.
THEMES: dict[str, tuple[dict[str, Change], list[ModuleType]]] = {
    "network": (mistakes.NETWORK, [test_reach, test_templates_network]),
    "data": (mistakes.DATA, [test_templates_data]),
    "tasks": (mistakes.TASKS, [test_templates_tasks]),
    "operations": (mistakes.OPERATIONS, [test_templates_operations]),
    "edge": (mistakes.EDGE, [test_templates_edge]),
    "all": (mistakes.ALL, [test_templates_all]),
    "roles": (mistakes.ROLES, [test_iam, test_iam_trust]),
}
EACH = [(theme, name) for theme, (changes, _) in THEMES.items() for name in changes]
noticed: defaultdict[str, set[str]] = defaultdict(set)
"""Of each test, by which mistakes it fails."""


def checks(modules: list[ModuleType]) -> Iterator[tuple[str, Check]]:
    """The tests of modules that want templates and nothing else; with arguments of their own, each with all of those."""
    for module in modules:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            wants_templates = "stacks" in inspect.signature(function).parameters
            if not name.startswith("test_") or not wants_templates or function.__module__ != module.__name__:
                continue
            marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
            cases = [dict(zip(mark.args[0], case, strict=True)) for mark in marks for case in mark.args[1]] or [{}]
            yield from ((name, partial(function, **case)) for case in cases)


def failing(theme: str, templates: Templates) -> set[str]:
    """The tests of a theme that fail on templates."""
    stacks, found = Stacks("production", templates), set()
    for name, check in checks(THEMES[theme][1]):
        if name not in found:
            try:
                check(stacks=stacks)
            except Exception:  # noqa: BLE001 (as pytest sees it: whatever is raised, the test fails)
                found.add(name)
    return found


@pytest.mark.parametrize("theme", THEMES)
def test_without_a_mistake_nothing_fails(production: Templates, theme: str) -> None:
    assert failing(theme, production) == set()


@pytest.mark.parametrize(("theme", "mistake"), EACH, ids=[name for _, name in EACH])
def test_a_mistake_is_noticed(production: Templates, theme: str, mistake: str) -> None:
    spoilt = copy.deepcopy(production)
    THEMES[theme][0][mistake](spoilt)
    assert spoilt != production, "nothing was changed"
    tests = failing(theme, spoilt)
    assert tests, f"no test notices: {mistake}"
    for name in tests:
        noticed[name].add(mistake)


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in LOST.items() for path in paths])
def test_what_the_emulated_aws_loses_is_read_in_the_templates(production: Templates, kind: str, path: str) -> None:
    spoilt = copy.deepcopy(production)
    another(kind, path)(spoilt)
    assert spoilt != production, "nothing was changed"
    assert any(failing(theme, spoilt) for theme in THEMES if theme != "roles")


def test_each_test_notices_a_mistake() -> None:
    """Runs after the ones above, and needs all of them."""
    assert sum(map(len, noticed.values())) >= len(EACH), "run the whole file"
    every = {name for _, modules in THEMES.values() for name, _ in checks(modules)}
    assert every - set(noticed) == set(), "no mistake makes these tests fail"
