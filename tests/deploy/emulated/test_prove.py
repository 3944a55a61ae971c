"""The looks of `make prove` at an account, on the emulated one: as far as nothing has to run there."""

import pytest

from deploy import prove
from deploy.account import Account, network_of
from deploy.config import read_config
from tests.deploy.conftest import STAGING
from tests.deploy.emulated.account import Account as Emulated


@pytest.fixture
def ours(deployed: Emulated) -> Account:
    return Account(read_config(STAGING), deployed.session())


def test_the_database_is_looked_at(ours: Account) -> None:
    seen = prove.database_is_as_required(ours)
    assert (seen["multi_az"], seen["public"], seen["version"].partition(".")[0]) == (True, False, "18")
    ours.client("rds").modify_db_instance(
        DBInstanceIdentifier="gamepulse-staging-database", BackupRetentionPeriod=1, ApplyImmediately=True
    )
    try:
        with pytest.raises(prove.NotHeld, match=r"backup_days is 1, not 14"):
            prove.database_is_as_required(ours)
    finally:
        ours.client("rds").modify_db_instance(
            DBInstanceIdentifier="gamepulse-staging-database", BackupRetentionPeriod=14, ApplyImmediately=True
        )


def test_services_without_tasks_are_noticed(ours: Account) -> None:
    """Emulated services start none."""
    with pytest.raises(prove.NotHeld) as told:
        prove.services_run(ours)
    assert "short is" in str(told.value)
    assert "versions is" not in str(told.value)
    assert "services is" not in str(told.value)
    with pytest.raises(prove.NotHeld, match="the service's tasks are in"):
        prove.tasks_are_in_several_zones(ours)


def test_stores_are_looked_for_from_outside(ours: Account) -> None:
    assert prove.data_stores_are_unreachable(ours) == {"tried": 2, "reached": 0}


@pytest.mark.parametrize("group", ["migrate", "backup", "console", "rotate"])
def test_one_off_tasks_find_their_network(ours: Account, group: str) -> None:
    found = network_of(ours, group)
    assert len(found["subnets"]) == 3
    [described] = ours.client("ec2").describe_security_groups(GroupIds=found["securityGroups"])["SecurityGroups"]
    assert described["Description"] == f"GamePulse: {group}"


@pytest.mark.parametrize(("part", "region"), prove.PARTS.items())
def test_stacks_are_seen(ours: Account, part: str, region: str) -> None:
    assert ours.stack_exists(f"gamepulse-staging-{part}", region)
    assert not ours.stack_exists(f"gamepulse-production-{part}")
