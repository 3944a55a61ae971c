"""The stacks of both environments, synthesised once: tests read the templates as plain JSON."""

import json
from pathlib import Path

import pytest

from deploy.synth import synthesise
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


def synthesised(variables: dict[str, str], folder: Path) -> Templates:
    """All templates of an environment; `folder` is then what `cdk deploy` takes."""
    synthesise(variables, folder)
    prefix = f"gamepulse-{variables['ENV']}-"
    return {path.name.removeprefix(prefix).split(".")[0]: json.loads(path.read_text()) for path in folder.glob("*.template.json")}


@pytest.fixture(scope="session")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of staging's templates."""
    return tmp_path_factory.mktemp("staging")


@pytest.fixture(scope="session")
def staging(assembly: Path) -> Templates:
    return synthesised(STAGING, assembly)


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return synthesised(PRODUCTION, tmp_path_factory.mktemp("production"))


@pytest.fixture(scope="session", params=["staging", "production"])
def stacks(request: pytest.FixtureRequest) -> Stacks:
    """Those of each environment, with references resolved."""
    return Stacks(request.param, request.getfixturevalue(request.param))
