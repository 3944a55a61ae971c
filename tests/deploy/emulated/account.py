"""An emulated AWS account: moto inside this process, with what every account has before the first stack."""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import boto3
from moto import mock_aws
from moto.ec2.models import ec2_backends
from moto.route53.models import route53_backends

from deploy.config import EDGE_REGION, PREFIX_LISTS, REGION

type Json = dict[str, Any]

# moto has no API for these: what botocore has checked and would send is kept, and given back when asked for.
KEPT = {
    "elasticache": {"UserGroup": "UserGroupId"},
    "cloudfront": {"CachePolicy": "Id", "OriginRequestPolicy": "Id"},
    "backup": {"BackupSelection": "SelectionId"},
}


@dataclass
class Account:
    """`client` and `session` are boto3's; what they do stays in this process."""

    id: str
    credentials: Json
    kept: dict[tuple[str, str], Json] = field(default_factory=dict)
    _sessions: dict[str, boto3.Session] = field(default_factory=dict)
    _clients: dict[tuple[str, str], Any] = field(default_factory=dict)

    def session(self, region: str = REGION) -> boto3.Session:
        if region not in self._sessions:
            session = boto3.Session(
                self.credentials["AccessKeyId"],
                self.credentials["SecretAccessKey"],
                self.credentials["SessionToken"],
                region_name=region,
            )
            for service in KEPT:
                session.events.register(f"before-parameter-build.{service}", _remember)
                session.events.register(f"before-call.{service}", self._answer)
            self._sessions[region] = session
        return self._sessions[region]

    def client(self, service: str, region: str = REGION) -> Any:
        """Made once: making one takes longer than all that it is asked."""
        if (service, region) not in self._clients:
            self._clients[service, region] = self.session(region).client(service)
        return self._clients[service, region]

    def _answer(self, model: Any, context: Json, **_: Any) -> tuple[Any, Json] | None:
        """For the operations of KEPT: an answer, instead of asking moto."""
        verb, kind, own_id = re.fullmatch(r"(Create|Get|Describe|Update|Delete)?(.*?)s?", model.name), "", ""
        assert verb
        for one, name in KEPT[model.service_model.service_name].items():
            if verb[2] in {one, one.removesuffix("y") + "ie"}:
                kind, own_id = one, name
        if not kind:
            return None
        given = context["given"]
        if verb[1] == "Create":
            given = {own_id: str(uuid.uuid4())} | given
            self.kept[kind, given[own_id]] = given
        found = self.kept.get((kind, given[own_id]))
        if found is None:
            return SimpleNamespace(status_code=404), {"Error": {"Code": "NotFound", "Message": f"{kind} {given[own_id]}"}}
        if verb[1] == "Delete":
            del self.kept[kind, given[own_id]]
        return SimpleNamespace(status_code=200), {kind: found, f"{kind}s": [found], "ETag": "kept", **found}


def _remember(params: Json, context: Json, **_: Any) -> None:
    context["given"] = dict(params)


@contextmanager
def emulated_account(own_id: str, *, domain: str, hosted_zone_id: str) -> Iterator[Account]:
    """Empty, but for what `cdk bootstrap` and buying a domain leave there, and AWS's own managed policies."""
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        role = boto3.client("sts", region_name=REGION).assume_role(
            RoleArn=f"arn:aws:iam::{own_id}:role/deployer", RoleSessionName="tests"
        )
        account = Account(own_id, role["Credentials"])
        for region in (REGION, EDGE_REGION):
            account.client("ssm", region).put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String")
            _have_no_default_network(account.client("ec2", region))
        _own_domain(account, domain, hosted_zone_id)
        _have_prefix_lists(account)
        yield account


def _have_no_default_network(ec2: Any) -> None:
    """Then what is read back is what the stacks made, and nothing else."""
    for vpc in ec2.describe_vpcs()["Vpcs"]:
        for subnet in ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["Subnets"]:
            ec2.delete_subnet(SubnetId=subnet["SubnetId"])
        ec2.delete_vpc(VpcId=vpc["VpcId"])


def _own_domain(account: Account, domain: str, hosted_zone_id: str) -> None:
    """The zone's id is AWS's to choose: it is made the one that the templates were synthesised for."""
    made = account.client("route53").create_hosted_zone(Name=domain, CallerReference="owned")["HostedZone"]["Id"]
    zones = route53_backends[account.id]["aws"].zones
    zone = zones.pop(made.removeprefix("/hostedzone/"))
    zone.resource_id = hosted_zone_id
    zones[hosted_zone_id] = zone


def _have_prefix_lists(account: Account) -> None:
    """AWS's own, by the ids that they have in this region."""
    lists = ec2_backends[account.id][REGION].managed_prefix_lists
    for known in [one for one in lists.values() if one.prefix_list_name in PREFIX_LISTS]:
        del lists[known.id]
    for name, own_id in PREFIX_LISTS.items():
        given = {"PrefixListName": name, "MaxEntries": 55, "AddressFamily": "IPv4"}
        made = account.client("ec2").create_managed_prefix_list(**given)["PrefixList"]["PrefixListId"]
        lists[own_id] = lists.pop(made)
        lists[own_id].id = own_id


def text(value: Any) -> str:
    """As templates and AWS's answers both may write it: true, 5, "5"."""
    return value if isinstance(value, str) else json.dumps(value)
