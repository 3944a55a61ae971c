"""The stacks of both environments, synthesised once: tests read the templates as plain JSON. What takes long is begun beside the tests."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deploy.synth import synthesise
from tests.deploy import checkers
from tests.deploy.templates import ACCOUNT, Json, Stacks, Templates

__all__ = ["Json", "Templates"]

STAGING = {
    "ENV": "staging",
    "SIZE": "small",
    "AWS_ACCOUNT": ACCOUNT,
    "DOMAIN": "gamepulse.example",
    "HOSTED_ZONE_ID": "Z0123456789",
    "VERSION": "0.1.0",
    "EMAIL": "ops@gamepulse.example",
    "REPOSITORY": "example/gamepulse",
}
PRODUCTION = STAGING | {"ENV": "production", "SIZE": "large"}
NEXT = STAGING | {"VERSION": "0.2.0", "SIZE": "large"}
LATER = NEXT | {"DATABASE_SNAPSHOT": "before-the-mistake", "SECRETS": "2"}
AT_ONCE = 2


def synthesised(variables: dict[str, str], folder: Path) -> Templates:
    """All templates of an environment; `folder` is then what `cdk deploy` takes."""
    synthesise(variables, folder)
    prefix = f"gamepulse-{variables['ENV']}-"
    return {path.name.removeprefix(prefix).split(".")[0]: json.loads(path.read_text()) for path in folder.glob("*.template.json")}


class Beside:
    """Programs that take long, by the names of the fixtures that wait for them."""

    def __init__(self, pool: ThreadPoolExecutor, make: Callable[[str], Path]) -> None:
        self._pool, self._make = pool, make
        self._begun: dict[str, Future[Any]] = {}
        self.folders: dict[str, Path] = {}

    def begin(self, wanted: set[str]) -> None:
        """In this order: the first are waited for by the others."""
        if wanted & {"stacks", *checkers.CHECKERS}:
            wanted = wanted | set(checkers.ENVIRONMENTS)
        for name, variables in (("staging", STAGING), ("production", PRODUCTION), ("next_assembly", NEXT), ("later", LATER)):
            if name in wanted:
                self.folders[name] = self._make(name)
                self._begun[name] = self._pool.submit(synthesised, variables, self.folders[name])
        for name, check in checkers.CHECKERS.items():
            if name in wanted:
                self._begun[name] = self._pool.submit(check, self.folder, self._make(name))

    def of(self, name: str) -> Any:
        """What came of it, as soon as it has ended."""
        return self._begun[name].result()

    def folder(self, name: str) -> Path:
        self.of(name)
        return self.folders[name]


@pytest.fixture(scope="session")
def beside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    """All programs that some test of this run waits for, while tests run that do not."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        programs = Beside(pool, tmp_path_factory.mktemp)
        programs.begin(wanted)
        yield programs


@pytest.fixture(scope="session")
def staging(beside: Beside) -> Templates:
    found: Templates = beside.of("staging")
    return found


@pytest.fixture(scope="session")
def production(beside: Beside) -> Templates:
    found: Templates = beside.of("production")
    return found


@pytest.fixture(scope="session")
def assembly(beside: Beside, staging: Templates) -> Path:
    """The folder of staging's templates."""
    assert staging
    return beside.folder("staging")


@pytest.fixture(scope="session")
def next_assembly(beside: Beside) -> Path:
    """The same environment's next version, and large."""
    return beside.folder("next_assembly")


@pytest.fixture(scope="session")
def later(beside: Beside) -> Templates:
    """The next version, whose database is made of a snapshot, with new secrets."""
    found: Templates = beside.of("later")
    return found


@pytest.fixture(scope="session")
def later_assembly(beside: Beside, later: Templates) -> Path:
    assert later
    return beside.folder("later")


@pytest.fixture(scope="session", params=["staging", "production"])
def stacks(request: pytest.FixtureRequest) -> Stacks:
    """Those of each environment, with references resolved."""
    return Stacks(request.param, request.getfixturevalue(request.param))
