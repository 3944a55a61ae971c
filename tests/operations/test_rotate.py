"""`operations rotate`: new passwords on a real PostgreSQL; moto stands for Secrets Manager and ECS. Ended in between, the next run heals."""

import asyncio
from typing import Any

import asyncpg
import boto3
import pytest

from bench import database
from operations import aws, logins, rotate
from operations.snapshots import Failed
from tests.operations.conftest import PASSWORDS, Server, operate

FIRST = {
    "gamepulse/database/monitor": PASSWORDS["MONITOR_PASSWORD"],
    "gamepulse/database/grafana-reader": PASSWORDS["GRAFANA_READER_PASSWORD"],
    "gamepulse/database/grafana": PASSWORDS["GRAFANA_PASSWORD"],
}
LOGINS = {name: login for its in rotate.SERVICES.values() for name, login in its.items()}


class Killed(BaseException):
    """As if the task had been."""


class Deployment:
    """Secrets, logins, and the services of a cluster named `gamepulse`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._manager, self._ecs = boto3.client("secretsmanager"), boto3.client("ecs")
        self.url = f"postgresql://127.0.0.1:{server.port}/gamepulse"
        for name, login in LOGINS.items():  # as `migrate` would
            database.query(server.port, f"ALTER ROLE {login} PASSWORD '{FIRST[name]}'")
        self._ecs.create_cluster(clusterName="gamepulse")
        self._ecs.register_task_definition(family="x", containerDefinitions=[{"name": "x", "image": "x", "memory": 16}])
        for service in rotate.SERVICES:
            self._ecs.create_service(cluster="gamepulse", serviceName=service, taskDefinition="x", desiredCount=0)
        for name, password in FIRST.items():
            self._manager.create_secret(Name=name, SecretString=password)

    def secret(self, name: str) -> str:
        value: str = self._manager.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")["SecretString"]
        return value

    def stages(self, name: str) -> list[str]:
        versions = self._manager.describe_secret(SecretId=name)["VersionIdsToStages"].values()
        return sorted(stage for stages in versions for stage in stages)

    async def agrees(self) -> bool:
        """Each secret opens its login."""
        for name, login in LOGINS.items():
            try:
                await self._server.ask(login, self.secret(name), "SELECT 1")
            except asyncpg.InvalidPasswordError:
                return False
        return True


@pytest.fixture
def deployment(migrated: Server, aws_is_there: None) -> Deployment:
    return Deployment(migrated)


async def test_every_login_gets_a_new_password_and_its_tasks_start_anew(deployment: Deployment) -> None:
    assert await deployment.agrees()
    done = operate("rotate", DATABASE_URL=deployment.url, ECS_CLUSTER="gamepulse")
    assert done.returncode == 0, done.stderr
    assert await deployment.agrees()
    for name, password in FIRST.items():
        assert deployment.secret(name) != password
        assert deployment.secret(name) not in done.stdout
        assert deployment.stages(name) == ["AWSCURRENT", "AWSPREVIOUS"]
    assert done.stdout.count("new tasks start") == len(rotate.SERVICES)


class Watched:
    """A client whose calls are counted, and which ends this process, so to say, after one."""

    calls: int
    kill_at: int
    deployed: list[str]

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        def call(**arguments: Any) -> Any:
            Watched.calls += 1
            answer = getattr(self._client, name)(**arguments)
            if name == "update_service":
                Watched.deployed.append(arguments["service"])
            if Watched.calls == Watched.kill_at:
                raise Killed
            return answer

        return call


async def run(deployment: Deployment) -> None:
    await rotate.rotate(deployment.url, "gamepulse", print)


# After each: of the first secret describe, put, two gets, (the password,) current, pending; then the service.
@pytest.mark.parametrize("at", range(1, 8))
async def test_whatever_ends_it_the_next_run_heals(at: int, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    real = aws.client
    monkeypatch.setattr(aws, "client", lambda name: Watched(real(name)))
    Watched.calls, Watched.kill_at, Watched.deployed = 0, at, []
    with pytest.raises(Killed):
        await run(deployment)
    Watched.kill_at, Watched.deployed = 0, []
    await run(deployment)
    assert await deployment.agrees()
    assert Watched.deployed == list(rotate.SERVICES)
    assert all(deployment.stages(name) == ["AWSCURRENT", "AWSPREVIOUS"] for name in LOGINS)


async def test_ended_after_the_password_was_set_it_goes_on(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    real = logins.sign_in

    async def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(logins, "sign_in", killed)
    with pytest.raises(Killed):
        await run(deployment)
    assert not await deployment.agrees()  # PostgreSQL has the pending one
    monkeypatch.setattr(logins, "sign_in", real)
    await run(deployment)
    assert await deployment.agrees()


async def test_a_password_that_is_neither_is_told(deployment: Deployment, server: Server) -> None:
    server.migrate(MONITOR_PASSWORD="set by hand")
    done = await asyncio.to_thread(operate, "rotate", DATABASE_URL=deployment.url, ECS_CLUSTER="gamepulse")
    assert done.returncode == 1
    assert "gamepulse_monitor opens neither" in done.stderr
    assert "Traceback" not in done.stderr
    server.migrate()  # as it says
    await run(deployment)
    assert await deployment.agrees()


async def test_what_is_away_is_told(deployment: Deployment) -> None:
    with pytest.raises(Failed, match="PostgreSQL"):
        await rotate.rotate("postgresql://127.0.0.1:1/gamepulse", "gamepulse", print)
    with pytest.raises(Failed, match="ClusterNotFound"):
        await rotate.rotate(deployment.url, "another", print)
