"""The AWS account that is deployed to, by boto3: what must be so before, one-off tasks, and what people see afterwards."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
import httpx

from deploy.config import EDGE_REGION, PREFIX_LISTS, PRIVATE_CIDRS, REGION, Config
from stack.settings import Problem

TASK_LIMIT_S = 900
SMOKE_LIMIT_S = 600

type Session = Any
"""boto3.Session; boto3 has no types of its own."""


def tell(text: str) -> None:
    print(f"== {text}", flush=True)


@dataclass(frozen=True)
class Account:
    """One environment's account, and whose credentials are used."""

    config: Config
    session: Session

    def client(self, name: str, region: str = REGION) -> Any:
        return self.session.client(name, region_name=region)

    def stack_exists(self, name: str, region: str = REGION) -> bool:
        cloudformation = self.client("cloudformation", region)
        try:
            stacks = cloudformation.describe_stacks(StackName=name)["Stacks"]
        except cloudformation.exceptions.ClientError as error:
            if "does not exist" in str(error):
                return False
            raise
        return bool(stacks) and not stacks[0]["StackStatus"].startswith("DELETE_COMPLETE")


def check(account: Account) -> None:
    """Raises Problem, with all that is wrong, before anything is touched."""
    config, wrong = account.config, []
    found = account.client("sts").get_caller_identity()["Account"]
    if found != config.account:
        raise Problem(f"The credentials are of the account {found}; {config.environment} is in {config.account}.")
    if config.version.endswith((".changed", "unknown")):
        wrong.append("Something is not committed: a version is what others can find. Commit it first.")
    zone = account.client("route53").get_hosted_zone(Id=config.hosted_zone_id)["HostedZone"]["Name"].rstrip(".")
    if zone != config.domain:
        wrong.append(f"The hosted zone {config.hosted_zone_id} is of {zone}, not of {config.domain}.")
    lists = account.client("ec2").describe_managed_prefix_lists(
        Filters=[{"Name": "prefix-list-name", "Values": list(PREFIX_LISTS)}]
    )["PrefixLists"]
    if (ids := {one["PrefixListName"]: one["PrefixListId"] for one in lists}) != PREFIX_LISTS:
        wrong.append(f"AWS's prefix lists are {ids}; deploy/config.py has {PREFIX_LISTS}.")
    if left := left_by_an_earlier_deployment(account):
        wrong.append(
            f"An earlier deployment has left {', '.join(left)}: CloudFormation makes nothing under a name that is taken. "
            f"`make purge ENV={config.environment}` takes it away."
        )
    if wrong:
        raise Problem("\n".join(wrong))


def left_by_an_earlier_deployment(account: Account) -> list[str]:
    """Buckets whose stack is not there: it was destroyed, and they have data. What else it had stands beside them."""
    name, bucket = account.config.stack_name, account.config.bucket_name
    made = {
        (REGION, "network"): "traffic-logs",
        (REGION, "data"): "backups",
        (EDGE_REGION, "edge"): "edge-logs",
        (REGION, "operations"): "api-calls",
    }
    missing = [bucket(content) for (region, part), content in made.items() if not account.stack_exists(name(part), region)]
    if not missing:
        return []
    there = {one["Name"] for one in account.client("s3").list_buckets()["Buckets"]}
    return [one for one in missing if one in there]


def run_task(
    account: Account, family: str, group: str, *, command: list[str] | None = None, environment: dict[str, str] | None = None
) -> str:
    """Start a one-off task and wait for its end. Its ARN. Raises Problem when it fails, with the last lines of its log.

    `group`: the security group that it runs in, by the name in deploy/edges.py. `environment`: what it is told otherwise.
    """
    ecs, config = account.client("ecs"), account.config
    cluster = config.stack_name("cluster")
    told: dict[str, Any] = {"command": command} if command else {}
    told |= {"environment": [{"name": name, "value": value} for name, value in environment.items()]} if environment else {}
    overrides = {"containerOverrides": [{"name": family, **told}]} if told else {}
    started = ecs.run_task(
        cluster=cluster,
        taskDefinition=family,
        launchType="FARGATE",
        overrides=overrides,
        networkConfiguration={"awsvpcConfiguration": {**network_of(account, group), "assignPublicIp": "DISABLED"}},
    )
    if started.get("failures"):
        raise Problem(f"{family} cannot be started: {started['failures']}")
    arn = str(started["tasks"][0]["taskArn"])
    deadline = time.monotonic() + TASK_LIMIT_S
    while True:
        [task] = ecs.describe_tasks(cluster=cluster, tasks=[arn])["tasks"]
        if task["lastStatus"] == "STOPPED":
            break
        if time.monotonic() > deadline:
            ecs.stop_task(cluster=cluster, task=arn, reason="took too long")
            raise Problem(f"{family} did not end within {TASK_LIMIT_S} s, and was stopped.\n{log_of(account, family, arn)}")
        time.sleep(3)
    codes = {one["name"]: one.get("exitCode") for one in task["containers"]}
    if any(code != 0 for code in codes.values()):
        raise Problem(f"{family} failed ({codes}, {task.get('stoppedReason', '')}):\n{log_of(account, family, arn)}")
    return arn


def network_of(account: Account, group: str) -> dict[str, list[str]]:
    """The private subnets, and the security group of a component."""
    ec2 = account.client("ec2")
    ours = {"Name": "tag:environment", "Values": [account.config.environment]}
    subnets = ec2.describe_subnets(Filters=[ours, {"Name": "cidr-block", "Values": list(PRIVATE_CIDRS)}])["Subnets"]
    groups = ec2.describe_security_groups(Filters=[ours, {"Name": "description", "Values": [f"GamePulse: {group}"]}])[
        "SecurityGroups"
    ]
    if len(subnets) != len(PRIVATE_CIDRS) or len(groups) != 1:
        raise Problem(f"The network of {account.config.environment} is not there: deploy it first.")
    return {"subnets": [one["SubnetId"] for one in subnets], "securityGroups": [groups[0]["GroupId"]]}


def log_of(account: Account, family: str, arn: str, lines: int = 30) -> str:
    """The last lines that a task wrote."""
    logs = account.client("logs")
    try:
        events = logs.get_log_events(
            logGroupName=f"/gamepulse/{account.config.environment}/{family}",
            logStreamName=f"{family}/{family}/{arn.rpartition('/')[2]}",
            limit=lines,
        )["events"]
    except logs.exceptions.ResourceNotFoundException:
        return "(it wrote nothing)"
    return "\n".join(event["message"] for event in events)


def smoke(config: Config, get: Callable[[str], httpx.Response] | None = None, limit_s: float = SMOKE_LIMIT_S) -> None:
    """The service answers, in this version, and Grafana does. Raises Problem when it is not so in time."""
    get = get or (lambda url: httpx.get(url, timeout=10))
    wanted: dict[str, Callable[[httpx.Response], bool]] = {
        f"https://{config.play}/health/ready": lambda answer: answer.status_code == 200,
        f"https://{config.play}/v1/meta": lambda answer: (
            f"{answer.json()['version']}-{answer.json()['revision']}" == config.version
        ),
        f"https://{config.play}/": lambda answer: answer.status_code == 200 and "GamePulse" in answer.text,
        f"https://{config.grafana}/api/health": lambda answer: answer.json()["database"] == "ok",
    }
    deadline = time.monotonic() + limit_s
    for url, is_right in wanted.items():
        while True:
            said = ""
            try:
                answer = get(url)
                if is_right(answer):
                    break
                said = f"{answer.status_code} {answer.text[:200]}"
            except (httpx.HTTPError, ValueError, KeyError) as error:
                said = f"{type(error).__name__}: {error}"
            if time.monotonic() > deadline:
                raise Problem(f"{url} does not answer as it should: {said}")
            time.sleep(min(5, limit_s / 10))
        tell(f"{url} is right")


def open_account(config: Config) -> Account:
    """With the credentials that boto3 finds."""
    return Account(config, boto3.Session(region_name=REGION))


REGIONS = (REGION, EDGE_REGION)
