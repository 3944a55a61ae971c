"""Who may become which role, whom resources let in, and what admins can do without a second factor: enrol one."""

from functools import cache

import botocore.session
import pytest

from tests.deploy.iam import allowed
from tests.deploy.templates import ACCOUNT, REGION, Json, Stacks, statements

OURS = {"aws:SourceAccount": ACCOUNT}
GITHUB = "token.actions.githubusercontent.com"
# By name of the role: whom AWS must see there, and by which condition.
SERVICES = {
    "Role": "ecs-tasks.amazonaws.com",
    "Execution": "ecs-tasks.amazonaws.com",
    "role": "scheduler.amazonaws.com",
}
OF_AWS = {
    "LostZoneRole": "fis.amazonaws.com",
    "DatabaseMonitoring": "monitoring.rds.amazonaws.com",
    "BackupsRole": "backup.amazonaws.com",
}
OTHERS = ("lambda.amazonaws.com", "ec2.amazonaws.com", "arn:aws:iam::999999999999:root", "arn:aws:iam::111122223333:user/ann", "*")


def service_of(role: str) -> str:
    return OF_AWS.get(role) or next(service for end, service in SERVICES.items() if role.endswith(end))


def trust(stacks: Stacks) -> dict[str, Json]:
    return {one.name: one.properties["AssumeRolePolicyDocument"] for one in stacks.all("IAM::Role")}


def test_a_role_is_taken_by_its_service_only_and_only_for_our_account(stacks: Stacks) -> None:
    for role, policy in trust(stacks).items():
        if role == "gamepulse-deploy":
            continue
        service = service_of(role)
        assert allowed([policy], "sts:AssumeRole", role, OURS, principal=service), role
        assert not allowed([policy], "sts:AssumeRole", role, {"aws:SourceAccount": "999999999999"}, principal=service), role
        for other in OTHERS:
            assert not allowed([policy], "sts:AssumeRole", role, OURS, principal=other), (role, other)


@pytest.mark.parametrize(
    ("sub", "fits"),
    [
        ("repo:example/gamepulse:environment:{environment}", True),
        ("repo:example/gamepulse:environment:another", False),
        ("repo:example/gamepulse:ref:refs/heads/main", False),
        ("repo:example/gamepulse:pull_request", False),
        ("repo:example/gamepulse-of-others:environment:{environment}", False),
        ("repo:others/gamepulse:environment:{environment}", False),
    ],
)
def test_only_our_repository_in_this_environment_deploys(stacks: Stacks, sub: str, fits: bool) -> None:
    policy = trust(stacks)["gamepulse-deploy"]
    [provider] = [one.arn for one in stacks.all("IAM::OIDCProvider")]
    assert stacks.one("IAM::OIDCProvider")["Url"] == f"https://{GITHUB}"
    context = {f"{GITHUB}:aud": "sts.amazonaws.com", f"{GITHUB}:sub": sub.format(environment=stacks.environment)}
    assert allowed([policy], "sts:AssumeRoleWithWebIdentity", "gamepulse-deploy", context, principal=provider) is fits
    another = context | {f"{GITHUB}:aud": "another"}
    assert not allowed([policy], "sts:AssumeRoleWithWebIdentity", "gamepulse-deploy", another, principal=provider)
    assert not allowed([policy], "sts:AssumeRole", "gamepulse-deploy", context, principal=provider)


# Of each kind of resource: whom its policy lets do what (beside denials).
LET_IN = {
    ("KMS::Key", f"arn:aws:iam::{ACCOUNT}:root", "kms:*"): "so that the account's own policies decide",
    ("KMS::Key", f"arn:aws:iam::{ACCOUNT}:root", "by secretsmanager"): "as above, of CDK",
    ("KMS::Key", "cloudwatch.amazonaws.com", "kms:Decrypt kms:GenerateDataKey*"): "alarms tell an encrypted topic",
    ("KMS::Key", "events.amazonaws.com", "kms:Decrypt kms:GenerateDataKey*"): "events tell an encrypted topic",
    ("KMS::Key", "cloudtrail.amazonaws.com", "kms:DescribeKey kms:GenerateDataKey*"): "the log of API calls",
    ("S3::BucketPolicy", "cloudtrail.amazonaws.com", "s3:GetBucketAcl"): "as above",
    ("S3::BucketPolicy", "cloudtrail.amazonaws.com", "s3:PutObject"): "as above",
    ("SNS::TopicPolicy", "cloudwatch.amazonaws.com", "sns:Publish"): "alarms",
    ("SNS::TopicPolicy", "events.amazonaws.com", "sns:Publish"): "jobs that failed",
    ("S3::BucketPolicy", "logging.s3.amazonaws.com", "s3:PutObject"): "access logs of buckets",
    ("S3::BucketPolicy", "delivery.logs.amazonaws.com", "s3:PutObject"): "access logs of the load balancer, flow logs",
    ("S3::BucketPolicy", "delivery.logs.amazonaws.com", "s3:GetBucketAcl"): "as above",
    ("S3::BucketPolicy", "delivery.logs.amazonaws.com", "s3:GetBucketAcl s3:ListBucket"): "as above",
    ("S3::BucketPolicy", "arn:aws:iam::600734575887:root", "s3:PutObject"): "AWS's account for load balancers in ap-northeast-2",
}


def test_resources_let_in_whom_the_table_says(stacks: Stacks) -> None:
    found = set()
    for kind, document in (("KMS::Key", "KeyPolicy"), ("SNS::TopicPolicy", "PolicyDocument"), ("S3::BucketPolicy", "PolicyDocument"), ("EFS::FileSystem", "FileSystemPolicy")):  # fmt: skip
        for one in stacks.all(kind):
            for statement in statements(one.properties[document]):
                if statement["Effect"] == "Allow":
                    via = statement.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService", "").split(".")[0]
                    actions = statement["Action"] if isinstance(statement["Action"], str) else " ".join(statement["Action"])
                    principals = [
                        name for names in statement["Principal"].values() for name in ([names] if isinstance(names, str) else names)
                    ]
                    found |= {(kind, principal, f"by {via}" if via else actions) for principal in principals}
    assert found == set(LET_IN)


def test_alarms_of_our_account_and_events_can_tell_people(stacks: Stacks) -> None:
    """EventBridge names no account to SNS or KMS ("You can't use Condition blocks in Amazon SNS topic policies for EventBridge")."""
    [key] = [one.properties["KeyPolicy"] for one in stacks.all("KMS::Key")]
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:gamepulse-{stacks.environment}-alarms"
    policies = [one.properties["PolicyDocument"] for one in stacks.all("SNS::TopicPolicy")]
    for context, service, fits in (
        (OURS, "cloudwatch.amazonaws.com", True),
        ({"aws:SourceAccount": "999999999999"}, "cloudwatch.amazonaws.com", False),
        ({}, "events.amazonaws.com", True),
        (OURS, "lambda.amazonaws.com", False),
    ):
        assert allowed(policies, "sns:Publish", topic, context | {"aws:SecureTransport": "true"}, principal=service) is fits, (
            service
        )
        for action in ("kms:Decrypt", "kms:GenerateDataKey"):
            assert allowed([key], action, "*", context, principal=service) is fits, (service, action)


LOGS = f"arn:aws:s3:::gamepulse-traffic-logs-{ACCOUNT}"
BY_DELIVERY = {"aws:SecureTransport": "true", "s3:TlsVersion": "1.3", "s3:x-amz-acl": "bucket-owner-full-control"}


@pytest.mark.parametrize(
    ("who", "folder"),
    [
        ("delivery.logs.amazonaws.com", f"flow/AWSLogs/{ACCOUNT}"),
        ("arn:aws:iam::600734575887:root", f"balancer/AWSLogs/{ACCOUNT}"),
        ("logging.s3.amazonaws.com", "s3/loki"),
        ("logging.s3.amazonaws.com", "s3/backups"),
    ],
)
def test_aws_can_write_its_logs_where_they_belong(stacks: Stacks, who: str, folder: str) -> None:
    policy = stacks.one("S3::BucketPolicy", Bucket=f"gamepulse-traffic-logs-{ACCOUNT}")["PolicyDocument"]
    context = BY_DELIVERY | OURS | {"aws:SourceArn": f"arn:aws:logs:{REGION}:{ACCOUNT}:one"}
    assert allowed([policy], "s3:PutObject", f"{LOGS}/{folder}/one", context, principal=who)
    assert not allowed([policy], "s3:PutObject", f"{LOGS}/elsewhere/one", context, principal=who)
    assert not allowed([policy], "s3:GetObject", f"{LOGS}/{folder}/one", context, principal=who)


def test_our_trail_and_no_other_writes_api_calls_with_our_key(stacks: Stacks) -> None:
    bucket = f"arn:aws:s3:::gamepulse-api-calls-{ACCOUNT}"
    policy = stacks.one("S3::BucketPolicy", Bucket=f"gamepulse-api-calls-{ACCOUNT}")["PolicyDocument"]
    key = stacks.one("KMS::Key")["KeyPolicy"]
    trail = f"arn:aws:cloudtrail:{REGION}:{ACCOUNT}:trail/gamepulse-{stacks.environment}-api-calls"
    for source, fits in ((trail, True), (f"{trail}-2", False), (f"arn:aws:cloudtrail:{REGION}:999999999999:trail/one", False)):
        for asked, action, resource in (
            (policy, "s3:GetBucketAcl", bucket),
            (policy, "s3:PutObject", f"{bucket}/AWSLogs/{ACCOUNT}/one"),
            (key, "kms:GenerateDataKey", "*"),
            (key, "kms:DescribeKey", "*"),
        ):
            context = BY_DELIVERY | {"aws:SourceArn": source}
            assert allowed([asked], action, resource, context, principal="cloudtrail.amazonaws.com") is fits, (source, action)
    context = BY_DELIVERY | {"aws:SourceArn": trail}
    assert not allowed([policy], "s3:PutObject", f"{bucket}/elsewhere/one", context, principal="cloudtrail.amazonaws.com")
    assert not allowed([policy], "s3:GetObject", f"{bucket}/AWSLogs/{ACCOUNT}/one", context, principal="cloudtrail.amazonaws.com")


# Admins

ENROL = {
    "iam:GetUser", "iam:ChangePassword", "iam:ListMFADevices", "iam:ListVirtualMFADevices", "iam:CreateVirtualMFADevice",
    "iam:EnableMFADevice", "iam:ResyncMFADevice", "sts:GetSessionToken",
}  # fmt: skip
ALL = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
ANN, BOB = f"arn:aws:iam::{ACCOUNT}:user/ann", f"arn:aws:iam::{ACCOUNT}:user/bob"
WITH = {"aws:username": "ann", "aws:MultiFactorAuthPresent": "true"}
WITHOUT = ({"aws:username": "ann", "aws:MultiFactorAuthPresent": "false"}, {"aws:username": "ann"})
"""With a password alone; with long-term keys, of which AWS does not even say that they are without."""


def of_admins(stacks: Stacks) -> Json:
    [group] = stacks.all("IAM::Group")
    assert group.name == "gamepulse-admins"
    policy: Json = stacks.one("IAM::ManagedPolicy", Groups=[group.name])
    document: Json = policy["PolicyDocument"]
    return document


@cache
def every_action() -> list[str]:
    """All operations of services that could do harm, as botocore knows them."""
    session = botocore.session.get_session()
    models = ("iam", "sts", "ecs", "s3", "kms", "secretsmanager", "cognito-idp", "ssm", "fis", "cloudformation", "organizations")
    return [f"{name}:{operation}" for name in models for operation in session.get_service_model(name).operation_names]


def test_without_a_second_factor_admins_can_only_enrol_one_whatever_else_they_are_given(stacks: Stacks) -> None:
    policies = [of_admins(stacks), ALL]
    for context in WITHOUT:
        left = {action for action in every_action() if allowed(policies, action, "*", context)}
        assert left == ENROL


def test_without_a_second_factor_admins_enrol_their_own(stacks: Stacks) -> None:
    for context in (*WITHOUT, WITH):
        for action in ENROL - {"iam:ListVirtualMFADevices", "sts:GetSessionToken", "iam:CreateVirtualMFADevice"}:
            assert allowed([of_admins(stacks)], action, ANN, context), action
            assert not allowed([of_admins(stacks)], action, BOB, context), action
        assert allowed([of_admins(stacks)], "iam:CreateVirtualMFADevice", f"arn:aws:iam::{ACCOUNT}:mfa/ann", context)
        for action in ("iam:ListVirtualMFADevices", "sts:GetSessionToken"):
            assert allowed([of_admins(stacks)], action, "*", context)


AT = f"{REGION}:{ACCOUNT}"
TASK = f"arn:aws:ecs:{AT}:task/gamepulse-{{environment}}-cluster/1"
ECS_TASKS = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}


@pytest.mark.parametrize(
    ("action", "resource", "context", "fits"),
    [
        ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-deploy-role-{ACCOUNT}-{REGION}", {}, True),
        ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-cfn-exec-role-{ACCOUNT}-{REGION}", {}, False),
        ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/administrator", {}, False),
        ("ecs:RunTask", f"arn:aws:ecs:{AT}:task-definition/console:3", {}, True),
        ("ecs:RunTask", f"arn:aws:ecs:{AT}:task-definition/migrate:3", {}, True),
        ("ecs:RunTask", f"arn:aws:ecs:{AT}:task-definition/gamepulse-app:3", {}, False),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/consoleRole", ECS_TASKS, True),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/consoleRole", {"iam:PassedToService": "ec2.amazonaws.com"}, False),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/gamepulseappRole", ECS_TASKS, False),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/LostZoneRole", ECS_TASKS, False),
        ("ecs:UpdateService", f"arn:aws:ecs:{AT}:service/gamepulse-{{environment}}-cluster/loki", {}, True),
        ("ecs:UpdateService", f"arn:aws:ecs:{AT}:service/another/loki", {}, False),
        ("ecs:StopTask", TASK, {}, True),
        ("ecs:ExecuteCommand", TASK, {}, False),
        ("ssm:StartSession", TASK, {}, True),
        ("ssm:StartSession", f"arn:aws:ssm:{REGION}::document/AWS-StartPortForwardingSessionToRemoteHost", {}, True),
        ("ssm:StartSession", f"arn:aws:ssm:{AT}:document/SSM-SessionManagerRunShell", {}, False),
        ("ssm:StartSession", f"arn:aws:ec2:{AT}:instance/i-1", {}, False),
        ("ssm:TerminateSession", f"arn:aws:ssm:{AT}:session/ann-1", {}, True),
        ("ssm:TerminateSession", f"arn:aws:ssm:{AT}:session/bob-1", {}, False),
        ("cognito-idp:AdminCreateUser", f"arn:aws:cognito-idp:{AT}:userpool/{REGION}_1", {}, True),
        ("cognito-idp:AdminSetUserPassword", f"arn:aws:cognito-idp:{AT}:userpool/{REGION}_1", {}, False),
        ("fis:StartExperiment", f"arn:aws:fis:{AT}:experiment-template/1", {}, True),
        ("fis:CreateExperimentTemplate", f"arn:aws:fis:{AT}:experiment-template/1", {}, False),
        ("iam:CreateUser", BOB, {}, False),
        ("iam:CreateAccessKey", ANN, {}, False),
        ("iam:AddUserToGroup", f"arn:aws:iam::{ACCOUNT}:group/gamepulse-admins", {}, False),
        ("iam:DeactivateMFADevice", ANN, {}, False),
        ("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{AT}:secret:gamepulse/cache/1-AbCdEf", {}, False),
        ("kms:Decrypt", f"arn:aws:kms:{AT}:key/Key", {}, False),
        ("s3:DeleteObject", f"arn:aws:s3:::gamepulse-backups-{ACCOUNT}/one", {}, False),
        ("rds:DeleteDBInstance", "*", {}, False),
    ],
)  # fmt: skip
def test_what_admins_can_do_with_a_second_factor_and_never_without(
    stacks: Stacks, action: str, resource: str, context: dict[str, str], fits: bool
) -> None:
    policy, resource = of_admins(stacks), resource.format(environment=stacks.environment)
    assert allowed([policy], action, resource, WITH | context) is fits
    for missing in WITHOUT:
        assert not allowed([policy], action, resource, missing | context)


def test_admins_may_read_and_have_nothing_else_of_aws_s_policies(stacks: Stacks) -> None:
    [group] = stacks.all("IAM::Group")
    assert group.properties["ManagedPolicyArns"] == ["arn:aws:iam::aws:policy/ReadOnlyAccess"]
    assert "Policies" not in group.properties
