"""Templates as they will be when deployed: each reference replaced by a name as AWS gives them, so rules can be followed from stack to stack."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

ACCOUNT = "111122223333"
REGION = "ap-northeast-2"
PSEUDO = {"AWS::AccountId": ACCOUNT, "AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}

# What a resource is called (by a property, else by its logical id) and its ARN, where something refers to it.
NAMED_BY = {
    "CloudWatch::Alarm": "AlarmName",
    "EC2::SecurityGroup": "GroupDescription",
    "EC2::Subnet": "CidrBlock",
    "ECS::Cluster": "ClusterName",
    "ECS::Service": "ServiceName",
    "ECS::TaskDefinition": "Family",
    "ElastiCache::ReplicationGroup": "ReplicationGroupId",
    "IAM::Group": "GroupName",
    "IAM::Role": "RoleName",
    "Logs::LogGroup": "LogGroupName",
    "RDS::DBInstance": "DBInstanceIdentifier",
    "S3::Bucket": "BucketName",
    "SNS::Topic": "TopicName",
    "SecretsManager::Secret": "Name",
    "Backup::BackupVault": "BackupVaultName",
}
ARNS = {
    "CloudWatch::Alarm": "cloudwatch:{region}:{account}:alarm:{name}",
    "ECS::Cluster": "ecs:{region}:{account}:cluster/{name}",
    "ECS::TaskDefinition": "ecs:{region}:{account}:task-definition/{name}:1",
    "EFS::FileSystem": "elasticfilesystem:{region}:{account}:file-system/{name}",
    "IAM::Role": "iam::{account}:role/{name}",
    "KMS::Key": "kms:{region}:{account}:key/{name}",
    "Logs::LogGroup": "logs:{region}:{account}:log-group:{name}:*",
    "S3::Bucket": "s3:::{name}",
    "SNS::Topic": "sns:{region}:{account}:{name}",
    "SecretsManager::Secret": "secretsmanager:{region}:{account}:secret:{name}-AbCdEf",
}
REFERRED_TO_BY_ARN = {"ECS::TaskDefinition", "SNS::Topic", "SecretsManager::Secret"}

type Json = dict[str, Any]
type Templates = dict[str, Json]
"""By the stack's part: network, data …"""


@dataclass(frozen=True)
class Resource:
    """With its references resolved. `attributes`: what is beside the properties, such as DeletionPolicy."""

    stack: str
    id: str
    type: str
    properties: Json
    attributes: Json
    name: str
    arn: str


class Stacks:
    """All stacks of one environment."""

    def __init__(self, environment: str, templates: Templates) -> None:
        self.environment, self.templates = environment, templates
        self._exports: dict[str, tuple[str, Any]] = {
            output["Export"]["Name"]: (stack, output["Value"])
            for stack, template in templates.items()
            for output in template.get("Outputs", {}).values()
            if "Export" in output
        }

    @cached_property
    def resources(self) -> list[Resource]:
        return [
            Resource(
                stack,
                key,
                one["Type"],
                self._resolve(stack, one.get("Properties", {})),
                {name: value for name, value in one.items() if name not in {"Type", "Properties", "Metadata"}},
                self._name(stack, key),
                self._arn(stack, key),
            )
            for stack, template in self.templates.items()
            for key, one in template["Resources"].items()
        ]

    def all(self, kind: str) -> list[Resource]:
        """Of one type, such as `EC2::Subnet`."""
        return [one for one in self.resources if one.type == f"AWS::{kind}"]

    def one(self, kind: str, **properties: Any) -> Json:
        """The properties of the only resource of a type, or of the only one with such properties."""
        found = [one.properties for one in self.all(kind) if properties.items() <= one.properties.items()]
        assert len(found) == 1, f"{len(found)} of {kind} with {properties}"
        return found[0]

    def _resolve(self, stack: str, value: Any) -> Any:  # noqa: PLR0911 (one for each function)
        match value:
            case {"Ref": "AWS::Region"}:
                return _region(stack)
            case {"Ref": key}:
                return PSEUDO[key] if key in PSEUDO else self._referred(stack, key)
            case {"Fn::GetAtt": [key, attribute]}:
                return self._attribute(stack, key, attribute)
            case {"Fn::ImportValue": name}:
                return self._resolve(*self._exports[name])
            case {"Fn::Join": [separator, parts]}:
                return separator.join(str(self._resolve(stack, part)) for part in parts)
            case {"Fn::Select": [number, parts]}:
                return self._resolve(stack, parts)[int(number)]
            case {"Fn::Split": [separator, text]}:
                # Only of a listener's ARN, whose parts are not known before it is there.
                return [f"{self._resolve(stack, text)}[{number}]" for number in range(4)]
            case {"Fn::FindInMap": [table, key, field]}:
                return self.templates[stack]["Mappings"][table][self._resolve(stack, key)][field]
            case dict():
                assert not any(key.startswith("Fn::") for key in value), f"not known here: {value}"
                return {key: self._resolve(stack, item) for key, item in value.items()}
            case list():
                return [self._resolve(stack, item) for item in value]
        return value

    def _attribute(self, stack: str, key: str, attribute: str) -> str:
        if attribute == "Arn":
            return self._arn(stack, key)
        if attribute in {"GroupId", "Name", "BackupVaultName", "TopicName"}:
            return self._name(stack, key)
        if attribute == "MasterUserSecret.SecretArn":
            return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:rds!db-master-AbCdEf"
        return f"{self._name(stack, key)}.{attribute}"

    def _referred(self, stack: str, key: str) -> str:
        if parameter := self.templates[stack].get("Parameters", {}).get(key):
            return self._parameter(parameter["Default"])
        kind = self._find(stack, key)["Type"].removeprefix("AWS::")
        return self._arn(stack, key) if kind in REFERRED_TO_BY_ARN else self._name(stack, key)

    def _parameter(self, name: str) -> str:
        """What a stack has put under a name into the Parameter Store."""
        [value] = [
            str(self._resolve(stack, one["Properties"]["Value"]))
            for stack, template in self.templates.items()
            for one in template["Resources"].values()
            if one["Type"] == "AWS::SSM::Parameter" and one["Properties"]["Name"] == name
        ]
        return value

    def _name(self, stack: str, key: str) -> str:
        one = self._find(stack, key)
        given = one.get("Properties", {}).get(NAMED_BY.get(one["Type"].removeprefix("AWS::"), ""))
        if given:
            return str(self._resolve(stack, given)).removeprefix("GamePulse: ")
        return re.sub(r"[0-9A-F]{8}$", "", key)  # CDK's hash

    def _arn(self, stack: str, key: str) -> str:
        kind = self._find(stack, key)["Type"].removeprefix("AWS::")
        pattern: str = ARNS.get(kind, kind.replace("::", ":").lower() + ":{region}:{account}:{name}")
        return "arn:aws:" + pattern.format(region=_region(stack), account=ACCOUNT, name=self._name(stack, key))

    def _find(self, stack: str, key: str) -> Json:
        found: Json = self.templates[stack]["Resources"][key]
        return found


def _region(stack: str) -> str:
    return "us-east-1" if stack == "edge" else REGION


def statements(document: Json) -> Iterator[Json]:
    """Of a policy; what may be one or many is many."""
    found = document["Statement"]
    yield from found if isinstance(found, list) else [found]


def listed(value: Any) -> list[Any]:
    """What may be one or many, as many."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def tags(one: Resource) -> dict[str, str]:
    """However a type calls them."""
    for name in ("Tags", "FileSystemTags", "AccessPointTags", "BackupVaultTags", "BackupPlanTags", "UserPoolTags", "ResourceTags"):
        found = one.properties.get(name)
        if isinstance(found, dict):
            return found
        if found:
            return {tag["Key"]: tag["Value"] for tag in found}
    return {}


def pairs(listed: list[Json], key: str = "Key", value: str = "Value") -> dict[str, Any]:
    """[{"Key": a, "Value": b}] as {a: b}."""
    found = {one[key]: one[value] for one in listed}
    assert len(found) == len(listed), listed
    return found
