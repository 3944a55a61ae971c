"""The walk itself, on small made-up templates: each rule decides, and only it."""

from typing import Any

import pytest

from tests.deploy.reach import CLOUDFRONT_LIST, INTERNET, S3, S3_LIST, Network
from tests.deploy.templates import Json, Stacks

NOTHING_OUT = {"CidrIp": "127.0.0.1/32", "IpProtocol": "icmp", "FromPort": 8, "ToPort": -1}
TASK = ("10.0.10.0/24", "10.0.20.0/24")


def ref(key: str) -> Json:
    return {"Ref": key}


def group(name: str, ingress: list[Json] | None = None, egress: list[Json] | None = None) -> Json:
    rules = {"SecurityGroupIngress": ingress or [], "SecurityGroupEgress": [NOTHING_OUT] if egress is None else egress}
    return {"Type": "AWS::EC2::SecurityGroup", "Properties": {"GroupDescription": f"GamePulse: {name}", **rules}}


def rule(port: int, to_port: int | None = None, **peer: Any) -> Json:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": to_port or port, **peer}


def service(name: str, subnets: list[str], public: str = "DISABLED") -> Json:
    where = {
        "Subnets": [ref(one) for one in subnets],
        "SecurityGroups": [{"Fn::GetAtt": [f"G{name}", "GroupId"]}],
        "AssignPublicIp": public,
    }
    return {
        "Type": "AWS::ECS::Service",
        "Properties": {"ServiceName": name, "NetworkConfiguration": {"AwsvpcConfiguration": where}},
    }


def entry(
    number: int, egress: bool, cidr: str, first: int, last: int, action: str = "allow", acl: str = "Acl", protocol: int = 6
) -> Json:
    ports = {"PortRange": {"From": first, "To": last}}
    return {
        "Type": "AWS::EC2::NetworkAclEntry",
        "Properties": {"NetworkAclId": ref(acl), "RuleNumber": number, "Egress": egress, "CidrBlock": cidr, "RuleAction": action, "Protocol": protocol, **ports},
    }  # fmt: skip


def base() -> Json:
    """Services `a` and `b` in a private subnet each, which NAT gateways in the public subnet lead out of. `a` may ask `b` at 80."""
    table = {"Type": "AWS::EC2::RouteTable"}
    associations = {
        f"Of{subnet}": {
            "Type": "AWS::EC2::SubnetRouteTableAssociation",
            "Properties": {"SubnetId": ref(subnet), "RouteTableId": ref(tables)},
        }
        for subnet, tables in {"Public": "PublicTable", "A": "PrivateTable", "B": "PrivateTable"}.items()
    }
    return {
        "Public": {"Type": "AWS::EC2::Subnet", "Properties": {"CidrBlock": "10.0.1.0/24"}},
        "A": {"Type": "AWS::EC2::Subnet", "Properties": {"CidrBlock": "10.0.10.0/24"}},
        "B": {"Type": "AWS::EC2::Subnet", "Properties": {"CidrBlock": "10.0.20.0/24"}},
        "Gateway": {"Type": "AWS::EC2::InternetGateway"},
        "Nat": {"Type": "AWS::EC2::NatGateway", "Properties": {"SubnetId": ref("Public")}},
        "PublicTable": table,
        "PrivateTable": table,
        **associations,
        "Out": {"Type": "AWS::EC2::Route", "Properties": {"RouteTableId": ref("PublicTable"), "DestinationCidrBlock": "0.0.0.0/0", "GatewayId": ref("Gateway")}},
        "ByNat": {"Type": "AWS::EC2::Route", "Properties": {"RouteTableId": ref("PrivateTable"), "DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": ref("Nat")}},
        "Ga": group("a", egress=[rule(80, DestinationSecurityGroupId={"Fn::GetAtt": ["Gb", "GroupId"]})]),
        "Gb": group("b", ingress=[rule(80, SourceSecurityGroupId={"Fn::GetAtt": ["Ga", "GroupId"]})]),
        "ServiceA": service("a", ["A"]),
        "ServiceB": service("b", ["B"]),
    }  # fmt: skip


def with_acl(resources: Json, subnet: str, entries: list[Json]) -> Json:
    resources["Acl"] = {"Type": "AWS::EC2::NetworkAcl", "Properties": {}}
    resources["Has"] = {
        "Type": "AWS::EC2::SubnetNetworkAclAssociation",
        "Properties": {"SubnetId": ref(subnet), "NetworkAclId": ref("Acl")},
    }
    return resources | {f"Entry{number}": one for number, one in enumerate(entries)}


def reached(resources: Json, protocol: str = "tcp") -> set[tuple[str, str, int]]:
    return Network(Stacks("staging", {"network": {"Resources": resources}})).reached(protocol)


def test_a_reaches_b_at_its_port_only() -> None:
    assert reached(base()) == {("a", "b", 80)}
    assert reached(base(), "udp") == set()


@pytest.mark.parametrize(("key", "direction"), [("Ga", "SecurityGroupEgress"), ("Gb", "SecurityGroupIngress")])
def test_both_groups_must_agree(key: str, direction: str) -> None:
    resources = base()
    resources[key]["Properties"][direction] = [NOTHING_OUT]
    assert reached(resources) == set()


def test_rules_count_that_are_resources_of_their_own() -> None:
    resources = base()
    for key, kind, peer, other in [("Ga", "Egress", "Destination", "Gb"), ("Gb", "Ingress", "Source", "Ga")]:
        named = {"GroupId": {"Fn::GetAtt": [key, "GroupId"]}, f"{peer}SecurityGroupId": {"Fn::GetAtt": [other, "GroupId"]}}
        resources[f"More{key}"] = {"Type": f"AWS::EC2::SecurityGroup{kind}", "Properties": rule(8080, 8081, **named)}
    assert reached(resources) == {("a", "b", 80), ("a", "b", 8080)}, "8080 stands for 8081, too"


def test_without_an_egress_rule_everything_is_let_out() -> None:
    resources = base()
    resources["Ga"] = group("a", egress=[])
    assert {("a", "b", 80), ("a", INTERNET, 0), ("a", S3, 0)} <= reached(resources)


def test_blocks_and_lists_of_addresses_are_peers() -> None:
    resources = base()
    resources["Ga"] = group("a", egress=[rule(80, CidrIp="10.0.20.0/24"), rule(443, DestinationPrefixListId=S3_LIST)])
    assert reached(resources) == {("a", "b", 80), ("a", S3, 443)}
    resources["Ga"] = group("a", egress=[rule(80, CidrIp="10.0.30.0/24"), rule(443, DestinationPrefixListId=CLOUDFRONT_LIST)])
    assert reached(resources) == {("a", "cloudfront", 443)}


def test_the_internet_needs_a_route_a_nat_gateway_and_its_route() -> None:
    resources = base()
    resources["Ga"] = group("a", egress=[rule(443, CidrIp="0.0.0.0/0")])
    assert {one[1] for one in reached(resources)} == {INTERNET, "cloudfront", S3}
    for lost in ("ByNat", "Out"):
        assert reached({key: one for key, one in resources.items() if key != lost}) == set(), lost


def test_the_endpoint_of_s3_needs_no_nat_gateway() -> None:
    resources = base()
    resources["Ga"] = group("a", egress=[rule(443, CidrIp="0.0.0.0/0")])
    del resources["ByNat"]
    resources["Endpoint"] = {
        "Type": "AWS::EC2::VPCEndpoint",
        "Properties": {"VpcEndpointType": "Gateway", "RouteTableIds": [ref("PrivateTable")]},
    }
    assert reached(resources) == {("a", S3, 443)}


def test_from_outside_only_a_public_address_in_a_subnet_with_a_way_out_is_reached() -> None:
    def opened(subnet: str, public: str) -> set[tuple[str, str, int]]:
        resources = base() | {
            "Gb": group("b", ingress=[rule(80, CidrIp="203.0.113.0/24")]),
            "ServiceB": service("b", [subnet], public),
        }
        return reached(resources)

    assert opened("Public", "ENABLED") == {(INTERNET, "b", 80)}
    assert opened("Public", "DISABLED") == set()
    assert opened("B", "ENABLED") == set()


def test_what_may_leave_to_anywhere_reaches_a_public_address_of_our_own() -> None:
    resources = base()
    resources["Ga"] = group("a", egress=[rule(443, CidrIp="0.0.0.0/0")])
    resources["Gb"] = group("b", ingress=[rule(443, CidrIp="203.0.113.0/24")])
    resources["ServiceB"] = service("b", ["Public"], "ENABLED")
    assert ("a", "b", 443) in reached(resources)


ASK, ANSWER = (80, 80), (1024, 65535)


def test_an_acl_lets_pass_only_what_it_says_there_and_back() -> None:
    there, back = entry(100, False, "10.0.10.0/24", *ASK), entry(100, True, "10.0.10.0/24", *ANSWER)
    assert reached(with_acl(base(), "B", [there, back])) == {("a", "b", 80)}
    assert reached(with_acl(base(), "B", [there])) == set()
    assert reached(with_acl(base(), "B", [back])) == set()
    assert reached(with_acl(base(), "B", [there, entry(100, True, "10.0.10.0/24", 1024, 60000)])) == set(), "not all answers"
    assert reached(with_acl(base(), "B", [there, back, entry(50, False, "10.0.10.0/24", *ASK, "deny")])) == set(), (
        "the lower number decides"
    )
    assert reached(with_acl(base(), "B", [there, back, entry(150, False, "10.0.10.0/24", *ASK, "deny")])) == {("a", "b", 80)}
    assert reached(with_acl(base(), "B", [there, back, entry(50, True, "10.0.10.0/24", 5000, 5000, "deny")])) == set(), (
        "one answer in many"
    )
    assert reached(with_acl(base(), "B", [entry(100, False, "10.0.10.0/24", *ASK, protocol=17), back])) == set(), "of UDP"
    assert reached(with_acl(base(), "B", [entry(100, False, "10.0.30.0/24", *ASK), back])) == set(), "of others"


def test_within_a_subnet_its_acl_does_not_matter() -> None:
    assert reached(with_acl(base() | {"ServiceB": service("b", ["A"])}, "A", [])) == {("a", "b", 80)}


def test_the_acl_of_the_nat_gateway_s_subnet_is_crossed_twice() -> None:
    resources = base() | {"Ga": group("a", egress=[rule(443, CidrIp="203.0.113.0/24")])}
    crossed = [
        entry(1, False, "10.0.0.0/16", 443, 443), entry(2, True, "10.0.0.0/16", *ANSWER),
        entry(3, True, "0.0.0.0/0", 443, 443), entry(4, False, "0.0.0.0/0", *ANSWER),
    ]  # fmt: skip
    assert reached(with_acl(resources, "Public", crossed)) == {("a", INTERNET, 443)}
    for lost in range(4):
        assert reached(with_acl(dict(resources), "Public", [one for at, one in enumerate(crossed) if at != lost])) == set(), lost


def told(resources: Json) -> bool:
    network = Network(Stacks("staging", {"network": {"Resources": resources}}))
    return network.told_of_small_links(network.places["a"])


def icmp(number: int, egress: bool, kind: int = 3, code: int = 4, action: str = "allow") -> Json:
    one = entry(number, egress, "0.0.0.0/0", 0, 0, action, protocol=1)
    del one["Properties"]["PortRange"]
    one["Properties"]["Icmp"] = {"Type": kind, "Code": code}
    return one


def test_that_a_packet_was_too_large_is_told_if_group_acl_and_way_let_it() -> None:
    rule_of = {"IpProtocol": "icmp", "FromPort": 3, "ToPort": 4, "CidrIp": "0.0.0.0/0"}
    resources = base() | {"Ga": group("a", ingress=[rule_of])}
    both = [icmp(1, False), icmp(1, True)]
    assert told(resources)
    assert not told(base()), "by no rule of the group"
    assert not told(base() | {"Ga": group("a", ingress=[rule_of | {"FromPort": 8, "ToPort": -1}])}), "that is ping's"
    assert not told({key: one for key, one in resources.items() if key != "ByNat"})
    for subnet in ("A", "Public"):
        assert told(with_acl(dict(resources), subnet, both))
        assert told(with_acl(dict(resources), subnet, [icmp(1, False, -1, -1), icmp(1, True, 3, -1)]))
        for one in both:
            assert not told(with_acl(dict(resources), subnet, [one])), "in one direction"
        assert not told(with_acl(dict(resources), subnet, [*both, icmp(0, False, action="deny")]))
        assert not told(with_acl(dict(resources), subnet, [icmp(1, False, 11, 0), icmp(1, True)]))
        assert not told(with_acl(dict(resources), subnet, [entry(1, way, "0.0.0.0/0", 0, 65535) for way in (False, True)])), "TCP's"
