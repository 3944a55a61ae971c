"""Nothing that the templates say is lost on the way."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.deploy.emulated.account import Account
from tests.deploy.emulated.lost import LOST
from tests.deploy.emulated.stacks import Resource, lacking, resources_of, stacks_of

pytestmark = pytest.mark.timeout(600)  # the first of these tests waits until the stacks are synthesised


def gaps_of(resources: Iterable[Resource]) -> set[tuple[str, str]]:
    return {(one.kind, path) for one in resources for path in lacking(one.properties, one.read())}


def test_each_resource_was_made(deployed: Account, assembly: Path) -> None:
    for name, region, template in stacks_of(assembly):
        client = deployed.client("cloudformation", region)
        [stack] = client.describe_stacks(StackName=name)["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        found = {one["LogicalResourceId"]: one for one in client.describe_stack_resources(StackName=name)["StackResources"]}
        assert {key: one["ResourceType"] for key, one in found.items()} == {
            key: one["Type"] for key, one in template["Resources"].items()
        }
        assert all(one["PhysicalResourceId"] for one in found.values())


def test_each_property_is_read_back_but_for_those_that_are_listed(deployed: Account, assembly: Path) -> None:
    assert gaps_of(resources_of(deployed, assembly)) == {(kind, path) for kind, paths in LOST.items() for path in paths}
