"""What `make deploy` does around CloudFormation, on an emulated account: moto stands for AWS, which cannot be had here."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import boto3
import httpx
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from deploy.__main__ import main
from deploy.account import Account, check, network_of, run_task, smoke
from deploy.config import APP, EDGE_REGION, JOB, PREFIX_LISTS, REGION, SIZES, Config, read_config
from deploy.environment import NAMES, read_environment
from deploy.release import deploy, destroy
from stack.settings import CHECKOUT, Problem
from tests.deploy.conftest import STAGING, Json

ACCOUNT = "123456789012"  # moto's own
PARTS = ["images", "network", "data", "jobs", "services", "edge", "operations"]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.Session(region_name=REGION)


@pytest.fixture
def account(session: Any) -> Account:
    """As an administrator leaves it: with a hosted zone, and AWS's own prefix lists."""
    zone = session.client("route53").create_hosted_zone(Name="gamepulse.example", CallerReference="1")["HostedZone"]["Id"]
    config = read_config(STAGING | {"AWS_ACCOUNT": ACCOUNT, "HOSTED_ZONE_ID": zone.rpartition("/")[2], "VERSION": "0.1.0-abc"})
    return Account(config, session)


@pytest.fixture
def prefix_lists(monkeypatch: pytest.MonkeyPatch, session: Any) -> None:
    """moto's lists have ids of its own: they are what the configuration knows here."""
    found = session.client("ec2").describe_managed_prefix_lists()["PrefixLists"]
    known = {one["PrefixListName"]: one["PrefixListId"] for one in found if one["PrefixListName"] in PREFIX_LISTS}
    for name in set(PREFIX_LISTS) - set(known):
        made = session.client("ec2").create_managed_prefix_list(PrefixListName=name, MaxEntries=1, AddressFamily="IPv4")
        known[name] = made["PrefixList"]["PrefixListId"]
    monkeypatch.setattr("deploy.account.PREFIX_LISTS", known)  # ids of AWS's lists are AWS's to give


def nothing(arguments: list[str]) -> None:
    pytest.fail(f"the CDK was called: {arguments}")


@pytest.mark.usefixtures("prefix_lists")
def test_account_that_is_right_is_deployed_to(account: Account) -> None:
    check(account)


@pytest.mark.usefixtures("prefix_lists")
def test_credentials_of_another_account_touch_nothing(account: Account) -> None:
    other = Account(replace(account.config, account="999999999999"), account.session)
    with pytest.raises(Problem, match="The credentials are of the account 123456789012; staging is in 999999999999"):
        deploy(other, nothing)
    with pytest.raises(Problem, match="The credentials are of the account 123456789012"):
        destroy(other, nothing)


@pytest.mark.usefixtures("prefix_lists")
def test_what_is_not_committed_or_of_another_zone_is_not_deployed(account: Account) -> None:
    with pytest.raises(Problem, match="not committed"):
        check(Account(replace(account.config, version="0.1.0-abc.changed"), account.session))
    with pytest.raises(Problem, match=r"is of gamepulse.example, not of other.example"):
        check(Account(replace(account.config, domain="other.example"), account.session))


def test_prefix_lists_that_are_not_those_of_the_configuration_are_told(account: Account) -> None:
    with pytest.raises(Problem, match="AWS's prefix lists are"):
        check(account)


@pytest.mark.usefixtures("prefix_lists")
def test_what_an_earlier_deployment_left_is_told_before_anything_is_made(account: Account) -> None:
    s3 = account.client("s3")
    for content in ("backups", "traffic-logs", "of-somebody-else"):
        s3.create_bucket(Bucket=f"gamepulse-{content}-{ACCOUNT}", CreateBucketConfiguration={"LocationConstraint": REGION})
    left = f"has left gamepulse-traffic-logs-{ACCOUNT}, gamepulse-backups-{ACCOUNT}: "
    with pytest.raises(Problem, match=left):
        deploy(account, nothing)
    for part in ("network", "data"):
        account.client("cloudformation").create_stack(StackName=f"gamepulse-staging-{part}", TemplateBody='{"Resources": {}}')
    check(account)


def test_production_is_not_destroyed_by_a_command(account: Account) -> None:
    with pytest.raises(Problem, match="Production is not destroyed"):
        destroy(Account(replace(account.config, environment="production"), account.session), nothing)


def test_stacks_are_destroyed_in_reverse_order(account: Account) -> None:
    called: list[list[str]] = []
    destroy(account, called.append)
    assert [one[1] for one in called] == [f"gamepulse-staging-{part}" for part in reversed(PARTS)]
    assert all(one[0] == "destroy" for one in called)


@pytest.fixture
def network(account: Account) -> None:
    """The private subnets and a group, as the network's stack leaves them."""
    ec2 = account.client("ec2")
    tags = [{"Key": "environment", "Value": "staging"}]
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    for cidr in ("10.0.10.0/24", "10.0.20.0/24", "10.0.30.0/24", "10.0.1.0/24"):
        ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, TagSpecifications=[{"ResourceType": "subnet", "Tags": tags}])
    ec2.create_security_group(
        GroupName="migrate",
        Description="GamePulse: migrate",
        VpcId=vpc,
        TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
    )


TASK = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/gamepulse-staging-cluster/0123456789abcdef"


@dataclass(frozen=True)
class Told(Account):
    """An account in which some services say what they are told to: moto's tasks never end, and its scans are always the same."""

    answers: dict[str, Any] = field(default_factory=dict)

    def client(self, name: str, region: str = REGION) -> Any:
        return self.answers.get(name) or super().client(name, region)


def running(account: Account, *codes: int | None, **told: Any) -> Told:
    """An account in which the task `migrate` is seen to run (None) and to end with a code."""
    ecs = account.client("ecs")
    stubber = Stubber(ecs)
    wanted = {
        "cluster": "gamepulse-staging-cluster",
        "taskDefinition": "migrate",
        "launchType": "FARGATE",
        "overrides": {"containerOverrides": [{"name": "migrate", **told}]} if told else {},
        "networkConfiguration": {"awsvpcConfiguration": {**network_of(account, "migrate"), "assignPublicIp": "DISABLED"}},
    }
    stubber.add_response("run_task", {"tasks": [{"taskArn": TASK}]}, wanted)
    for code in codes:
        task: Json = {"lastStatus": "RUNNING" if code is None else "STOPPED", "containers": [{"name": "migrate"}]}
        if code is not None:
            task["containers"] = [{"name": "migrate", "exitCode": code}]
        stubber.add_response("describe_tasks", {"tasks": [task]}, {"cluster": "gamepulse-staging-cluster", "tasks": [TASK]})
    stubber.activate()
    return Told(account.config, account.session, {"ecs": ecs})


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.account.time.sleep", lambda _: None)  # nothing happens meanwhile in an emulated account


@pytest.mark.usefixtures("network")
def test_one_off_task_runs_in_the_private_subnets_until_it_has_ended(account: Account) -> None:
    assert len(network_of(account, "migrate")["subnets"]) == 3
    assert run_task(running(account, None, None, 0), "migrate", "migrate") == TASK
    told = running(account, 0, command=["stored", "prove"], environment=[{"name": "X", "value": "1"}])
    assert run_task(told, "migrate", "migrate", command=["stored", "prove"], environment={"X": "1"}) == TASK


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("run", "command"),
    [
        (("job", "staging", "migrate", "--", "migrate", "--help"), ["migrate", "--help"]),
        (
            ("admin", "staging", "mina", "--studio", "Mina's"),
            ["admin", "create", "mina", "--studio", "Mina's", "--secret", "gamepulse/staging/admin/mina"],
        ),
    ],
)
def test_what_an_engineer_runs_says_what_it_wrote(
    account: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: tuple[str, ...], command: list[str]
) -> None:
    told = running(account, None, 0, command=command)
    monkeypatch.setattr("deploy.__main__.read_environment", lambda _: {})
    monkeypatch.setattr("deploy.__main__.read_config", lambda _: account.config)
    monkeypatch.setattr("deploy.__main__.open_account", lambda _: told)
    main(list(run), standalone_mode=False)
    assert "(it wrote nothing)" in capsys.readouterr().out


@pytest.mark.usefixtures("network")
def test_one_off_task_that_fails_is_told_with_its_log(account: Account) -> None:
    with pytest.raises(Problem, match=r"migrate failed \(\{'migrate': 3\}.*\n\(it wrote nothing\)"):
        run_task(running(account, None, 3), "migrate", "migrate")
    logs = account.client("logs")
    logs.create_log_group(logGroupName="/gamepulse/staging/migrate")
    where = {"logGroupName": "/gamepulse/staging/migrate", "logStreamName": "migrate/migrate/0123456789abcdef"}
    logs.create_log_stream(**where)
    logs.put_log_events(**where, logEvents=[{"timestamp": int(time.time() * 1000), "message": "no such table"}])
    with pytest.raises(Problem, match="no such table"):
        run_task(running(account, 3), "migrate", "migrate")


def test_without_a_network_nothing_is_started(account: Account) -> None:
    with pytest.raises(Problem, match="The network of staging is not there"):
        network_of(account, "migrate")


def answering(**changed: httpx.Response) -> Any:
    answers = {
        "https://play.gamepulse.example/health/ready": httpx.Response(200, text="ready"),
        "https://play.gamepulse.example/v1/meta": httpx.Response(200, json={"version": "0.1.0", "revision": "abc"}),
        "https://play.gamepulse.example/": httpx.Response(200, text="<title>GamePulse</title>"),
        "https://grafana.gamepulse.example/api/health": httpx.Response(200, json={"database": "ok"}),
    }
    return (
        answers | {url: changed[name] for url in answers for name in changed if url.endswith(name.replace("_", "/"))}
    ).__getitem__


def test_smoke_test_asks_the_service_its_page_and_grafana(account: Account) -> None:
    smoke(account.config, answering())


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("health_ready", httpx.Response(503, text="no")),
        ("v1_meta", httpx.Response(200, json={"version": "0.0.9", "revision": "abc"})),
        ("v1_meta", httpx.Response(200, json={"version": "0.1.0", "revision": "of before"})),
        ("v1_meta", httpx.Response(200, json={"version": "0.1.0"})),
        ("v1_meta", httpx.Response(200, text="<html>")),
        ("api_health", httpx.Response(200, json={"database": "failing"})),
    ],
)
def test_smoke_test_fails_on(account: Account, name: str, answer: httpx.Response) -> None:
    with pytest.raises(Problem, match="does not answer as it should"):
        smoke(account.config, answering(**{name: answer}), limit_s=0)


@pytest.mark.parametrize("name", NAMES)
def test_environment_is_described_completely(name: str) -> None:
    config = read_config(read_environment(name, "0.1.0-abc"))
    assert isinstance(config, Config)
    assert config.environment == name
    assert (EDGE_REGION, REGION) == ("us-east-1", "ap-northeast-2")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"AWS_ACCOUNT": "1234"}, "account is '1234'"),
        ({"ENV": "testing"}, "environment is 'testing'"),
        ({"SIZE": "huge"}, "SIZE is 'huge', and must be one of small, large"),
        ({"EMAIL": ""}, "missing: EMAIL"),
        ({"VERSION": "-x"}, "version is '-x'"),
    ],
)
def test_environment_that_is_wrong_says_what(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(STAGING | changed)


def test_unknown_environment_is_told() -> None:
    with pytest.raises(Problem, match="ENV is 'testing', and must be one of production, staging"):
        read_environment("testing")


@pytest.mark.parametrize("size", SIZES)
def test_the_quota_of_fargate_that_docs_name_is_enough(size: str) -> None:
    """All services, the service's and Grafana's tasks twice while a version takes over from the other, and a job."""
    has = SIZES[size]
    others = (has.prometheus, has.alertmanager, has.loki, has.jaeger, has.infrastructure, has.grafana, has.grafana, JOB)
    needed = math.ceil((sum(one.cpu for one in others) + 2 * has.app_tasks_max * APP.cpu) / 1024)
    assert f"{needed} (`{size}`)" in (CHECKOUT / "docs/deploy.md").read_text()
