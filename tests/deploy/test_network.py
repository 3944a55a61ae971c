"""The network is the requirements'."""

from tests.deploy.conftest import Json, Templates


def of_type(template: Json, kind: str) -> list[Json]:
    """The properties of each resource of a type."""
    return [one.get("Properties", {}) for one in template["Resources"].values() if one["Type"] == kind]


def test_vpc_and_subnets_are_those_of_the_requirements(staging: Templates) -> None:
    [vpc] = of_type(staging["network"], "AWS::EC2::VPC")
    assert vpc["CidrBlock"] == "10.0.0.0/16"
    subnets = {one["CidrBlock"]: one["AvailabilityZone"] for one in of_type(staging["network"], "AWS::EC2::Subnet")}
    assert subnets == {
        "10.0.1.0/24": "ap-northeast-2a", "10.0.2.0/24": "ap-northeast-2b", "10.0.3.0/24": "ap-northeast-2c",
        "10.0.10.0/24": "ap-northeast-2a", "10.0.20.0/24": "ap-northeast-2b", "10.0.30.0/24": "ap-northeast-2c",
    }  # fmt: skip
    assert len(of_type(staging["network"], "AWS::EC2::NatGateway")) == 3
