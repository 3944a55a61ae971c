"""The network of the deployed environment, as EC2 describes it."""

from typing import Any

import pytest

from tests.deploy.emulated.account import Account, Json

ZONES = {"a", "b", "c"}
CIDRS = {
    "10.0.1.0/24": "ap-northeast-2a", "10.0.2.0/24": "ap-northeast-2b", "10.0.3.0/24": "ap-northeast-2c",
    "10.0.10.0/24": "ap-northeast-2a", "10.0.20.0/24": "ap-northeast-2b", "10.0.30.0/24": "ap-northeast-2c",
}  # fmt: skip
PUBLIC = {"10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"}


@pytest.fixture(scope="module")
def ec2(deployed: Account) -> Any:
    return deployed.client("ec2")


@pytest.fixture(scope="module")
def subnets(ec2: Any) -> Json:
    """By id."""
    return {one["SubnetId"]: one for one in ec2.describe_subnets()["Subnets"]}


def test_one_vpc_has_six_subnets_in_three_zones(ec2: Any, subnets: Json) -> None:
    [vpc] = ec2.describe_vpcs()["Vpcs"]
    assert vpc["CidrBlock"] == "10.0.0.0/16"
    for name in ("enableDnsSupport", "enableDnsHostnames"):
        answer = ec2.describe_vpc_attribute(VpcId=vpc["VpcId"], Attribute=name)
        assert answer[name[0].upper() + name[1:]] == {"Value": True}
    assert {one["CidrBlock"]: one["AvailabilityZone"] for one in subnets.values()} == CIDRS
    assert not any(one["MapPublicIpOnLaunch"] for one in subnets.values())


def test_public_subnets_lead_to_the_internet_and_private_ones_to_the_nat_gateway_of_their_zone(ec2: Any, subnets: Json) -> None:
    gateways = ec2.describe_nat_gateways()["NatGateways"]
    nat_in = {one["NatGatewayId"]: subnets[one["SubnetId"]] for one in gateways}
    assert len(gateways) == 3
    assert {one["CidrBlock"] for one in nat_in.values()} == PUBLIC
    assert all(one["NatGatewayAddresses"][0]["PublicIp"] for one in gateways)
    [internet] = ec2.describe_internet_gateways()["InternetGateways"]
    assert internet["Attachments"][0]["State"] == "available"
    leads = {}
    for table in ec2.describe_route_tables()["RouteTables"]:
        beyond = [one for one in table["Routes"] if one.get("GatewayId") != "local" and "DestinationCidrBlock" in one]
        for association in table["Associations"]:
            if "SubnetId" in association:
                [route] = beyond
                assert route["DestinationCidrBlock"] == "0.0.0.0/0"
                leads[association["SubnetId"]] = route
    assert leads.keys() == subnets.keys()
    for subnet, route in leads.items():
        if subnets[subnet]["CidrBlock"] in PUBLIC:
            assert route["GatewayId"] == internet["InternetGatewayId"]
        else:
            assert nat_in[route["NatGatewayId"]]["AvailabilityZone"] == subnets[subnet]["AvailabilityZone"]


def test_network_acls_let_through_what_the_two_kinds_of_subnets_need(ec2: Any, subnets: Json) -> None:
    rules: dict[str, list[tuple[str, int, int]]] = {}
    told: list[str] = []
    for acl in ec2.describe_network_acls()["NetworkAcls"]:
        # moto keeps the associations of subnets that are gone: those of the VPC that each account has at first.
        of = {subnets[one["SubnetId"]]["CidrBlock"] for one in acl["Associations"] if one["SubnetId"] in subnets}
        if acl["IsDefault"]:
            assert not of
            continue
        kind = "public" if of == PUBLIC else "private"
        assert of == (PUBLIC if kind == "public" else CIDRS.keys() - PUBLIC)
        for one in acl["Entries"]:
            if one["RuleNumber"] == 32767:
                assert one["RuleAction"] == "deny"
                continue
            way = "out" if one["Egress"] else "in"
            assert one["RuleAction"] == "allow"
            if one["Protocol"] == "1":  # a packet was too large
                assert one["CidrBlock"] == "0.0.0.0/0"
                told.append(f"{kind} {way}")
                continue
            assert one["Protocol"] == "6"
            ports = (one["PortRange"]["From"], one["PortRange"]["To"])
            rules.setdefault(f"{kind} {way}", []).append((one["CidrBlock"], *ports))
    inside, anywhere, answers = ("10.0.0.0/16", 0, 65535), "0.0.0.0/0", ("0.0.0.0/0", 1024, 65535)
    assert rules == {
        "public in": [(anywhere, 80, 80), (anywhere, 443, 443), answers],
        "public out": [inside, (anywhere, 443, 443), answers],
        "private in": [inside, answers],
        "private out": [inside, (anywhere, 443, 443)],
    }
    assert sorted(told) == sorted(rules)


def test_all_traffic_is_logged_to_the_bucket(ec2: Any) -> None:
    [log] = ec2.describe_flow_logs()["FlowLogs"]
    [vpc] = ec2.describe_vpcs()["Vpcs"]
    assert (log["ResourceId"], log["TrafficType"], log["LogDestinationType"]) == (vpc["VpcId"], "ALL", "s3")
    assert log["LogDestination"].startswith("arn:aws:s3:::gamepulse-traffic-logs-111122223333")


def test_aws_is_reached_without_a_nat_gateway(ec2: Any, subnets: Json) -> None:
    private = {subnet for subnet, one in subnets.items() if one["CidrBlock"] not in PUBLIC}
    groups = {one["Description"]: one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]}
    found = set()
    for one in ec2.describe_vpc_endpoints()["VpcEndpoints"]:
        found.add(one["ServiceName"].removeprefix("com.amazonaws.ap-northeast-2."))
        if one["VpcEndpointType"] == "Interface":
            assert set(one["SubnetIds"]) == private
            assert [group["GroupId"] for group in one["Groups"]] == [groups["GamePulse: endpoints"]]
            assert one["PrivateDnsEnabled"]
        else:
            assert len(one["RouteTableIds"]) == 3
    assert found == {"s3", "ecr.api", "ecr.dkr", "logs", "monitoring", "secretsmanager", "kms", "sns", "ecs", "ssmmessages"}


RULES = """
internet > balancer 80
cloudfront > balancer 443
balancer > app 8080
balancer > grafana 3000
app > database 5432
app > cache 6379
app > prometheus 9090
app > loki 3100
app > jaeger 4317
app > internet 443
infrastructure > database 5432
infrastructure > cache 6379
infrastructure > prometheus 9090
infrastructure > internet 443
prometheus > app 8888
prometheus > infrastructure 8888
prometheus > alertmanager 9093
prometheus > loki 3100
prometheus > jaeger 8888
prometheus > files 2049
jaeger > prometheus 9090
jaeger > files 2049
grafana > prometheus 9090
grafana > loki 3100
grafana > jaeger 16686
grafana > alertmanager 9093
grafana > database 5432
grafana > files 2049
grafana > internet 443
migrate > database 5432
rotate > database 5432
backup > files 2049
console > prometheus 9090
console > alertmanager 9093
console > loki 3100
console > jaeger 16686
"""
TASKS = [
    "app",
    "infrastructure",
    "prometheus",
    "alertmanager",
    "loki",
    "jaeger",
    "grafana",
    "migrate",
    "backup",
    "rotate",
    "console",
]


def test_security_groups_have_these_rules_and_no_other(ec2: Any) -> None:
    groups = [one for one in ec2.describe_security_groups()["SecurityGroups"] if one["GroupName"] != "default"]
    names = {one["GroupId"]: one["Description"].removeprefix("GamePulse: ") for one in groups}
    names |= {"0.0.0.0/0": "internet", "pl-22a6434b": "cloudfront", "pl-78a54011": "s3"}
    assert len(groups) == 16
    ends: dict[str, set[str]] = {"from": set(), "to": set()}
    told: set[str] = set()
    for group in groups:
        mine = names[group["GroupId"]]
        for way, permissions in (("to", group["IpPermissions"]), ("from", group["IpPermissionsEgress"])):
            for one in permissions:
                if one["IpProtocol"] == "icmp":
                    # Each group's own rule, without which AWS's first one, that lets all out, may stay; and that a packet was too large.
                    seen = (way, one["FromPort"], one["ToPort"], [peer["CidrIp"] for peer in one["IpRanges"]])
                    assert seen in (("from", 8, -1, ["127.0.0.1/32"]), ("to", 3, 4, ["0.0.0.0/0"]))
                    told |= {mine} if way == "to" else set()
                    continue
                assert one["IpProtocol"] == "tcp"
                assert one["FromPort"] == one["ToPort"]
                assert not one["Ipv6Ranges"]
                peers = [peer["CidrIp"] for peer in one["IpRanges"]]
                peers += [peer["GroupId"] for peer in one["UserIdGroupPairs"]] + [
                    peer["PrefixListId"] for peer in one["PrefixListIds"]
                ]
                for peer in peers:
                    ends[way].add(
                        f"{names[peer]} > {mine} {one['ToPort']}" if way == "to" else f"{mine} > {names[peer]} {one['ToPort']}"
                    )
    wanted = set(RULES.strip().splitlines()) | {f"{task} > {target} 443" for task in TASKS for target in ("endpoints", "s3")}
    # Each rule is at both ends, if both are ours.
    assert ends["to"] == {one for one in wanted if not one.endswith(("internet 443", "s3 443"))}
    assert ends["from"] == {one for one in wanted if not one.startswith(("internet", "cloudfront"))}
    assert told == {"balancer", "app", "infrastructure", "grafana"}
