"""The emulation says so when it does not know something; what it says of properties, updates and ends is so."""

import json

import pytest
from botocore.exceptions import ParamValidationError

from tests.deploy.emulated.account import Account, Json
from tests.deploy.emulated.stacks import Unsupported, lacking, replaced

KEY = {"Type": "AWS::KMS::Alias", "Properties": {"AliasName": "alias/one", "TargetKeyId": "none"}}


def create(account: Account, **resources: Json) -> None:
    template = json.dumps({"Resources": resources})
    account.client("cloudformation").create_stack(StackName="small", TemplateBody=template)


@pytest.fixture(autouse=True)
def gone(account: Account) -> None:
    """What an earlier test could not make."""
    for one in account.client("cloudformation").list_stacks()["StackSummaries"]:
        if one["StackName"] == "small" and one["StackStatus"] != "DELETE_COMPLETE":
            account.client("cloudformation").delete_stack(StackName="small")


def test_an_unknown_type_is_refused_though_moto_would_make_it(account: Account) -> None:
    with pytest.raises(Unsupported, match="AWS::SQS::Queue"):
        create(account, Queue={"Type": "AWS::SQS::Queue"})


def test_an_unknown_property_is_refused(account: Account) -> None:
    group = {"LogGroupName": "one", "RetentionInDays": 1, "Tags": []}
    role = {"RoleName": "one", "AssumeRolePolicyDocument": {}, "MaxSession": 1}
    create(account, Group={"Type": "AWS::Logs::LogGroup", "Properties": group})
    account.client("cloudformation").delete_stack(StackName="small")
    with pytest.raises(Unsupported, match="MaxSession"):
        create(account, Role={"Type": "AWS::IAM::Role", "Properties": role})


def test_a_value_that_botocore_refuses_is_refused(account: Account) -> None:
    user = {"GroupName": "", "UserPoolId": ""}
    with pytest.raises(ParamValidationError, match="length"):
        create(account, Group={"Type": "AWS::Cognito::UserPoolGroup", "Properties": user})


def test_a_dynamic_reference_that_is_not_known_is_refused(account: Account) -> None:
    with pytest.raises(Unsupported, match="ssm-secure"):
        create(account, Alias=KEY | {"Properties": {"AliasName": "{{resolve:ssm-secure:one:1}}", "TargetKeyId": "none"}})


def test_a_description_that_ec2_refuses_is_refused(account: Account) -> None:
    rule = {"CidrIp": "10.0.0.0/8", "IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "Description": "it's"}
    vpc = account.client("ec2").create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = {"GroupDescription": "one", "VpcId": vpc, "SecurityGroupIngress": [rule]}
    with pytest.raises(Unsupported, match="it's"):
        create(account, Group={"Type": "AWS::EC2::SecurityGroup", "Properties": group})
    groups = account.client("ec2").describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["SecurityGroups"]
    for one in groups:
        if one["GroupName"] != "default":
            account.client("ec2").delete_security_group(GroupId=one["GroupId"])
    account.client("ec2").delete_vpc(VpcId=vpc)


def test_an_export_that_is_in_use_cannot_be_changed(account: Account) -> None:
    def exporting(value: str) -> str:
        group = {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "one", "RetentionInDays": 1, "Tags": []}}
        return json.dumps({"Resources": {"Group": group}, "Outputs": {"One": {"Value": value, "Export": {"Name": "one"}}}})

    cloudformation = account.client("cloudformation")
    cloudformation.create_stack(StackName="exports", TemplateBody=exporting("a"))
    cloudformation.update_stack(StackName="exports", TemplateBody=exporting("b"))  # nobody uses it yet
    group = {"LogGroupName": {"Fn::ImportValue": "one"}, "RetentionInDays": 1, "Tags": []}
    create(account, Group={"Type": "AWS::Logs::LogGroup", "Properties": group})
    with pytest.raises(Unsupported, match="in use: one"):
        cloudformation.update_stack(StackName="exports", TemplateBody=exporting("c"))
    for name in ("small", "exports"):
        cloudformation.delete_stack(StackName=name)


@pytest.mark.parametrize(
    ("wanted", "found", "gaps"),
    [
        ({"Port": "80"}, {"port": 80, "more": 1}, []),
        ({"Port": 80}, {"Port": 81}, ["Port"]),
        ({"On": "true", "Limit": 5}, {"On": True, "Limit": 5.0}, []),
        ({"On": True}, {"On": 1}, ["On"]),
        ({"A": {"B": {"C": 1}}}, {"A": {"B": {}}}, ["A.B.C"]),
        ({"A": {}}, {}, ["A"]),
        ({"Rules": [{"Id": 2}, {"Id": 1}]}, {"Rules": [{"Id": 1}, {"Id": 2}]}, []),
        ({"Rules": [{"Id": 1}, {"Id": 1}]}, {"Rules": [{"Id": 1}]}, ["Rules[]"]),
        ({"Rules": [{"Id": 1, "To": 2}]}, {"Rules": [{"Id": 1}, {"Id": 3, "To": 3}]}, ["Rules[].To"]),
        ({"Policy": {"Sid": "a"}}, {"Policy": '{"Sid": "a"}'}, []),
        ({"Tags": ["a"]}, {"Tags": None}, ["Tags"]),
    ],
)
def test_what_is_lacking_is_named(wanted: Json, found: Json, gaps: list[str]) -> None:
    assert lacking(wanted, found) == gaps


@pytest.mark.parametrize(
    ("kind", "changed", "new"),
    [
        ("AWS::ECS::TaskDefinition", {"ContainerDefinitions"}, True),
        ("AWS::ECS::Service", {"TaskDefinition", "DesiredCount"}, False),
        ("AWS::ECS::Service", {"ServiceName"}, True),
        ("AWS::RDS::DBInstance", {"DBInstanceClass", "AllocatedStorage"}, False),
        ("AWS::RDS::DBInstance", {"KmsKeyId"}, True),
        ("AWS::S3::Bucket", {"LifecycleConfiguration"}, False),
    ],
)
def test_what_is_replaced_is_as_aws_has_it(kind: str, changed: set[str], new: bool) -> None:
    assert bool(replaced(kind, changed)) is new
