"""Our own programs on the deployed account: what its task definitions tell them is what they need."""

from pathlib import Path

from bench import database
from operations import rotate
from operations.snapshots import new_name
from tests.deploy.emulated.account import Account
from tests.operations.conftest import Server, migrated, operate, server

__all__ = ["migrated", "server"]  # fixtures


def environment(account: Account, family: str) -> dict[str, str]:
    """What the task's only container is told."""
    [container] = account.client("ecs").describe_task_definition(taskDefinition=family)["taskDefinition"]["containerDefinitions"]
    return {one["name"]: one["value"] for one in container["environment"]}


def test_a_backup_goes_to_the_bucket_and_comes_back(served: Account, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / new_name()
    copy.mkdir(parents=True)
    (copy / "chunk").write_bytes(b"metrics")
    told = environment(served, "backup")
    done = operate("backup", f"--copies={copy.parent}", **told)
    assert done.returncode == 0, done.stderr
    [found] = served.client("s3").list_objects_v2(Bucket="gamepulse-backups-111122223333", Prefix="prometheus/")["Contents"]
    assert copy.name in found["Key"]
    (tmp_path / "back").mkdir()
    done = operate("fetch", f"--copies={tmp_path / 'back'}", **told)
    assert done.returncode == 0, done.stderr
    [back] = (tmp_path / "back").iterdir()
    assert (back / "chunk").read_bytes() == b"metrics"


async def test_the_secrets_open_logins_and_are_rotated(served: Account, migrated: Server) -> None:
    secrets = served.client("secretsmanager")
    logins = {name: login for its in rotate.SERVICES.values() for name, login in its.items()}

    def value(name: str) -> str:
        return str(secrets.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")["SecretString"])

    first = {name: value(name) for name in logins}
    for name, login in logins.items():  # as `migrate` does, with what its task is given
        database.query(migrated.port, f"ALTER ROLE {login} PASSWORD '{first[name]}'")
    told = environment(served, "rotate")
    assert told["ECS_CLUSTER"] == "gamepulse-staging-cluster"
    here = {"DATABASE_URL": f"postgresql://127.0.0.1:{migrated.port}/gamepulse"}  # RDS is not here
    done = operate("rotate", **(told | here))
    assert done.returncode == 0, done.stderr
    for name, login in logins.items():
        assert value(name) != first[name]
        where = "grafana" if login == "grafana" else "gamepulse"
        assert await migrated.ask(login, value(name), "SELECT 1", where) == 1
