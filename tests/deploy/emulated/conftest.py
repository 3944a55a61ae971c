"""The emulated account with staging's stacks in it. Files here are run in the order of their names: test_update.py is the last, and changes it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from deploy.config import REGION
from tests.deploy.conftest import STAGING
from tests.deploy.emulated.account import Account
from tests.deploy.emulated.emulation import emulation
from tests.deploy.emulated.stacks import deploy
from tests.deploy.templates import ACCOUNT, Templates


@pytest.fixture(scope="package")
def account() -> Iterator[Account]:
    with emulation(ACCOUNT, domain=STAGING["DOMAIN"], hosted_zone_id=STAGING["HOSTED_ZONE_ID"]) as account:
        yield account


@pytest.fixture(scope="package")
def deployed(account: Account, staging: Templates, assembly: Path) -> Account:
    """Version 0.1.0, small."""
    assert staging
    deploy(account, assembly)
    return account


@pytest.fixture
def served(deployed: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """The same account, also for programs that are started: with the environment that a task has."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    own = deployed.credentials
    told = {
        "AWS_ACCESS_KEY_ID": own["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": own["SecretAccessKey"],
        "AWS_SESSION_TOKEN": own["SessionToken"],
    }
    told |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield deployed
    server.stop()
