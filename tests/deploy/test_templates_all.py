"""What holds for all resources of all stacks."""

import json

from tests.deploy.templates import Stacks, tags

STACKS = {"images", "network", "data", "jobs", "services", "edge", "operations"}
# Kept when a stack goes or a change replaces them; what is not named holds nothing that is not made again.
KEPT = {
    "KMS::Key", "SecretsManager::Secret", "EFS::FileSystem", "S3::Bucket", "ECR::Repository", "Backup::BackupVault",
}  # fmt: skip
KEPT_IN_PRODUCTION = {"RDS::DBInstance", "Logs::LogGroup", "Cognito::UserPool"}
MADE_AGAIN = {"gamepulse/grafana/client"}
"""Cognito has it, too."""
# AWS has no tags for these, or CloudFormation does not set them.
WITHOUT_TAGS = {
    "ApplicationAutoScaling::ScalingPolicy", "Backup::BackupSelection", "CloudFront::CachePolicy",
    "CloudFront::OriginRequestPolicy", "Cognito::UserPoolClient", "Cognito::UserPoolDomain", "Cognito::UserPoolGroup",
    "EC2::NetworkAclEntry", "EC2::Route", "EC2::SecurityGroupEgress", "EC2::SecurityGroupIngress", "EC2::SubnetNetworkAclAssociation",
    "EC2::SubnetRouteTableAssociation", "EC2::VPCGatewayAttachment", "ECR::RegistryScanningConfiguration", "EFS::MountTarget",
    "IAM::Group", "IAM::ManagedPolicy", "IAM::Policy", "KMS::Alias", "Route53::RecordSet", "S3::BucketPolicy", "SNS::Subscription",
    "SNS::TopicPolicy", "Scheduler::Schedule",
}  # fmt: skip


def test_the_stacks_are_these(stacks: Stacks) -> None:
    assert set(stacks.templates) == STACKS
    for part, template in stacks.templates.items():
        assert template["Description"].startswith("GamePulse: "), part


def test_everything_says_whose_it_is_and_in_which_environment(stacks: Stacks) -> None:
    expected = {"application": "gamepulse", "environment": stacks.environment}
    without = {one.type.removeprefix("AWS::") for one in stacks.resources if not expected.items() <= tags(one).items()}
    assert without == WITHOUT_TAGS


def test_nothing_with_data_is_deleted_by_accident(stacks: Stacks) -> None:
    # But when the stack that makes it fails: what is left of that would be in the way of the next try.
    kept = KEPT | KEPT_IN_PRODUCTION if stacks.environment == "production" else KEPT
    for one in stacks.resources:
        if one.type.removeprefix("AWS::") in kept and one.properties.get("Name") not in MADE_AGAIN:
            policies = (one.attributes.get("DeletionPolicy"), one.attributes.get("UpdateReplacePolicy"))
            assert policies == ("RetainExceptOnCreate", "Retain"), one.id


def test_nothing_is_done_by_code_in_the_account(stacks: Stacks) -> None:
    """No Lambda function, no custom resource: CloudFormation does all."""
    assert {
        one.type
        for one in stacks.resources
        if not one.type.startswith("AWS::") or "Lambda" in one.type or "CustomResource" in one.type
    } == set()


def test_no_template_holds_a_secret(stacks: Stacks) -> None:
    for one in stacks.resources:
        for name in ("MasterUserPassword", "AuthToken", "SecretString"):
            value = one.properties.get(name)
            assert value is None or value == "SignInPoolGrafana.ClientSecret", one.id
    assert "BEGIN" not in json.dumps(stacks.templates)
