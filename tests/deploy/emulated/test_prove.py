"""The looks of `make prove` at an account, on the emulated one: as far as nothing has to run there."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy import prove, trial
from deploy.account import Account, network_of
from deploy.config import read_config
from deploy.release import STACKS
from tests.conftest import Service, serve
from tests.deploy.conftest import STAGING
from tests.deploy.emulated.account import Account as Emulated
from tests.operations.conftest import PASSWORDS, Server, migrated, operate, server

__all__ = ["migrated", "server"]  # fixtures


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


@pytest.mark.parametrize(("part", "region"), STACKS.items())
def test_stacks_are_seen(ours: Account, part: str, region: str) -> None:
    assert ours.stack_exists(f"gamepulse-staging-{part}", region)
    assert not ours.stack_exists(f"gamepulse-production-{part}")


@pytest.fixture
def service(migrated: Server, valkey_url: str, tmp_path: Path) -> Iterator[Service]:
    with serve(f"postgresql://gamepulse_service@127.0.0.1:{migrated.port}/gamepulse", valkey_url, tmp_path / "log") as running:
        yield running


@pytest.fixture
def tasks(served: Emulated, migrated: Server, service: Service, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Any]]:
    """The commands and addresses of the tasks that were run: here, on the real PostgreSQL. Emulated tasks run nothing."""
    assert served
    ran: list[tuple[list[str], Any]] = []
    said: list[str] = []

    def run_task(_: Account, family: str, group: str, *, command: list[str], environment: dict[str, str] | None = None) -> str:
        assert (family, group) == ("migrate", "migrate")
        ran.append((command, (environment or {}).get("DATABASE_ADMIN_URL")))
        done = operate(*command, **PASSWORDS, DATABASE_ADMIN_URL=migrated.url)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        return "arn"

    post = httpx.post
    monkeypatch.setattr(trial, "run_task", run_task)
    monkeypatch.setattr(trial, "log_of", lambda *_: said[-1])
    monkeypatch.setattr(
        "deploy.trial.httpx.post", lambda url, **told: post(url.replace("https://play.gamepulse.example", service.url), **told)
    )
    return ran


def test_database_is_restored_with_what_was_sent(ours: Account, tasks: list[tuple[list[str], Any]]) -> None:
    seen = prove.database_can_be_restored(ours)
    assert (seen["sent"], seen["stored"], seen["restored"]) == (10, 10, 10)
    made, live, restored = tasks
    assert made == (["game", "prove", "--secret", "gamepulse/staging/key/prove"], None)
    assert live == (["stored", "prove"], None)
    assert restored[0] == live[0]
    assert "@gamepulse-staging-database-proof." in restored[1]
    assert "sslmode=verify-full" in restored[1]
    assert [one["DBInstanceIdentifier"] for one in ours.client("rds").describe_db_instances()["DBInstances"]] == [
        "gamepulse-staging-database"
    ]
    assert prove.database_can_be_restored(ours)["restored"] == 20  # the key is there by now
    assert len([one for one, _ in tasks if one[0] == "game"]) == 1


@pytest.mark.usefixtures("tasks")
def test_restored_database_without_what_was_sent_is_noticed(ours: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = trial.stored
    monkeypatch.setattr(trial, "stored", lambda account, host="": stored(account, host) - bool(host))
    with pytest.raises(prove.NotHeld, match=r"^restored is \d+, not \d+$"):
        prove.database_can_be_restored(ours)
    assert len(ours.client("rds").describe_db_instances()["DBInstances"]) == 1


def test_database_that_keeps_no_log_is_noticed(ours: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "RESTORABLE_LIMIT_S", 0)
    with pytest.raises(prove.NotHeld, match="it can be restored to"):
        prove._restorable_after(ours.client("rds"), "gamepulse-staging-database", datetime.max.replace(tzinfo=UTC))
