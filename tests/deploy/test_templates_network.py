"""The network, as the requirements have it."""

from tests.deploy.templates import Json, Stacks

PUBLIC = {"10.0.1.0/24": "ap-northeast-2a", "10.0.2.0/24": "ap-northeast-2b", "10.0.3.0/24": "ap-northeast-2c"}
PRIVATE = {"10.0.10.0/24": "ap-northeast-2a", "10.0.20.0/24": "ap-northeast-2b", "10.0.30.0/24": "ap-northeast-2c"}
ALL, SOME, TOO_LARGE = [0, 65535], [1024, 65535], "ICMP 3, 4"


def by_subnet(stacks: Stacks, kind: str, value: str) -> dict[str, str]:
    """What an association gives to each subnet."""
    return {one.properties["SubnetId"]: one.properties[value] for one in stacks.all(f"EC2::{kind}")}


def routes(stacks: Stacks, subnet: str) -> dict[str, str]:
    """Where a subnet's routes lead, by their destination."""
    table = by_subnet(stacks, "SubnetRouteTableAssociation", "RouteTableId")[subnet]
    found = [one.properties for one in stacks.all("EC2::Route") if one.properties["RouteTableId"] == table]
    return {one["DestinationCidrBlock"]: one.get("NatGatewayId") or one["GatewayId"] for one in found}


def entries(stacks: Stacks, subnet: str, egress: bool) -> list[list[object]]:
    """[number, addresses, [first port, last port]] of a subnet's network ACL; of ICMP its type and code."""
    acl = by_subnet(stacks, "SubnetNetworkAclAssociation", "NetworkAclId")[subnet]
    found = [one.properties for one in stacks.all("EC2::NetworkAclEntry") if one.properties["NetworkAclId"] == acl]
    assert all(one["RuleAction"] == "allow" for one in found)

    def what(one: Json) -> object:
        if one["Protocol"] == 1:
            return f"ICMP {one['Icmp']['Type']}, {one['Icmp']['Code']}"
        assert one["Protocol"] == 6
        return [one["PortRange"]["From"], one["PortRange"]["To"]]

    found = sorted((one for one in found if one["Egress"] == egress), key=lambda one: int(one["RuleNumber"]))
    return [[one["RuleNumber"], one["CidrBlock"], what(one)] for one in found]


def test_the_vpc_is_10_0_0_0_16_with_names(stacks: Stacks) -> None:
    vpc = stacks.one("EC2::VPC")
    assert vpc["CidrBlock"] == "10.0.0.0/16"
    assert vpc["EnableDnsSupport"] is vpc["EnableDnsHostnames"] is True


def test_three_public_and_three_private_subnets_in_zones_a_b_c(stacks: Stacks) -> None:
    found = {one.properties["CidrBlock"]: one.properties["AvailabilityZone"] for one in stacks.all("EC2::Subnet")}
    assert found == PUBLIC | PRIVATE


def test_nothing_gets_a_public_address_by_itself(stacks: Stacks) -> None:
    assert [one.properties["MapPublicIpOnLaunch"] for one in stacks.all("EC2::Subnet")] == [False] * 6


def test_a_nat_gateway_in_each_zone(stacks: Stacks) -> None:
    assert sorted(one.properties["SubnetId"] for one in stacks.all("EC2::NatGateway")) == sorted(PUBLIC)


def test_public_subnets_lead_out_by_the_internet_gateway(stacks: Stacks) -> None:
    [gateway] = stacks.all("EC2::InternetGateway")
    assert {subnet: routes(stacks, subnet) for subnet in PUBLIC} == {subnet: {"0.0.0.0/0": gateway.name} for subnet in PUBLIC}


def test_private_subnets_lead_out_by_the_nat_gateway_of_their_own_zone(stacks: Stacks) -> None:
    """So a lost zone takes only its own way out."""
    zones = {one.name: PUBLIC[one.properties["SubnetId"]] for one in stacks.all("EC2::NatGateway")}
    for subnet, zone in PRIVATE.items():
        [(destination, gateway)] = routes(stacks, subnet).items()
        assert (destination, zones[gateway]) == ("0.0.0.0/0", zone)


def test_network_acl_of_public_subnets(stacks: Stacks) -> None:
    for subnet in PUBLIC:
        assert entries(stacks, subnet, egress=False) == [
            [100, "0.0.0.0/0", [80, 80]],
            [200, "0.0.0.0/0", [443, 443]],
            [300, "0.0.0.0/0", SOME],
            [400, "0.0.0.0/0", TOO_LARGE],
        ]
        assert entries(stacks, subnet, egress=True) == [
            [100, "10.0.0.0/16", ALL],
            [200, "0.0.0.0/0", [443, 443]],
            [300, "0.0.0.0/0", SOME],
            [400, "0.0.0.0/0", TOO_LARGE],
        ]


def test_network_acl_of_private_subnets(stacks: Stacks) -> None:
    for subnet in PRIVATE:
        assert entries(stacks, subnet, egress=False) == [
            [100, "10.0.0.0/16", ALL],
            [200, "0.0.0.0/0", SOME],
            [300, "0.0.0.0/0", TOO_LARGE],
        ]
        assert entries(stacks, subnet, egress=True) == [
            [100, "10.0.0.0/16", ALL],
            [200, "0.0.0.0/0", [443, 443]],
            [300, "0.0.0.0/0", TOO_LARGE],
        ]


def test_flow_logs_of_all_traffic_go_to_a_bucket(stacks: Stacks) -> None:
    log = stacks.one("EC2::FlowLog")
    assert (log["ResourceType"], log["TrafficType"], log["LogDestinationType"]) == ("VPC", "ALL", "s3")
    assert log["LogDestination"] == "arn:aws:s3:::gamepulse-traffic-logs-111122223333/flow"


def test_aws_is_asked_through_endpoints_of_the_vpc(stacks: Stacks) -> None:
    found: dict[str, list[Json]] = {"Gateway": [], "Interface": []}
    for one in stacks.all("EC2::VPCEndpoint"):
        found[one.properties["VpcEndpointType"]].append(one.properties)
    assert {one["ServiceName"].removeprefix("com.amazonaws.ap-northeast-2.") for one in found["Interface"]} == {
        "ecr.api", "ecr.dkr", "logs", "monitoring", "secretsmanager", "kms", "sns", "ecs", "ssmmessages",
    }  # fmt: skip
    assert [one["ServiceName"] for one in found["Gateway"]] == ["com.amazonaws.ap-northeast-2.s3"]
    assert all(one["PrivateDnsEnabled"] for one in found["Interface"])
    assert all(set(one["SubnetIds"]) == set(PRIVATE) for one in found["Interface"]), "one in each zone"


def test_the_load_balancer_takes_443_from_cloudfront_s_addresses_only(stacks: Stacks) -> None:
    rules = [one.properties for one in stacks.all("EC2::SecurityGroupIngress") if one.properties["GroupId"] == "balancer"]
    [group] = [one.properties for one in stacks.all("EC2::SecurityGroup") if one.name == "balancer"]
    rules += [one for one in group["SecurityGroupIngress"] if one["IpProtocol"] == "tcp"]
    by_port = {one["FromPort"]: one.get("SourcePrefixListId") or one["CidrIp"] for one in rules}
    assert by_port == {80: "0.0.0.0/0", 443: "pl-22a6434b"}


def test_no_group_is_near_the_limit_of_60_rules(stacks: Stacks) -> None:
    """CloudFront's list counts as 55."""
    for one in stacks.all("EC2::SecurityGroup"):
        for kind in ("Ingress", "Egress"):
            apart = [rule.properties for rule in stacks.all(f"EC2::SecurityGroup{kind}") if rule.properties["GroupId"] == one.name]
            rules = apart + one.properties.get(f"SecurityGroup{kind}", [])
            assert sum(55 if "SourcePrefixListId" in rule else 1 for rule in rules) <= 60, one.name
