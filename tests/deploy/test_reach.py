"""Who may reach whom: the table, and the proof that the templates allow it and nothing else. Over all places, all ports and both protocols."""

from functools import lru_cache

from tests.deploy.reach import CLOUDFRONT, CLOUDFRONT_LIST, INTERNET, S3, S3_LIST, Network, Rule, attached
from tests.deploy.templates import Stacks

AWS = {"endpoints", S3}
"""What every task needs of AWS: images, logs, secrets, its APIs."""
TASKS = {
    "gamepulse-app", "infrastructure", "prometheus", "alertmanager", "loki", "jaeger", "grafana",
    "migrate", "backup", "rotate", "console",
}  # fmt: skip

# Not written from deploy/edges.py: from the requirements, and ADRs where those are looser.
ALLOWED = {
    # people and games
    (INTERNET, "balancer", 80),
    (CLOUDFRONT, "balancer", 443),
    ("balancer", "gamepulse-app", 8080),
    ("balancer", "grafana", 3000),
    # what the service keeps
    ("gamepulse-app", "database", 5432),
    ("gamepulse-app", "cache", 6379),
    ("migrate", "database", 5432),
    ("rotate", "database", 5432),
    # telemetry of the service: OTLP itself only inside its task
    ("gamepulse-app", "prometheus", 9090),
    ("gamepulse-app", "loki", 3100),
    ("gamepulse-app", "jaeger", 4317),
    # how databases, programs, certificates are
    ("infrastructure", "database", 5432),
    ("infrastructure", "cache", 6379),
    ("infrastructure", "prometheus", 9090),
    ("prometheus", "gamepulse-app", 8888),
    ("prometheus", "infrastructure", 8888),
    ("prometheus", "alertmanager", 9093),
    ("prometheus", "loki", 3100),
    ("prometheus", "jaeger", 8888),
    ("jaeger", "prometheus", 9090),
    # who looks at it
    ("grafana", "prometheus", 9090),
    ("grafana", "loki", 3100),
    ("grafana", "jaeger", 16686),
    ("grafana", "alertmanager", 9093),
    ("grafana", "database", 5432),
    ("console", "prometheus", 9090),
    ("console", "alertmanager", 9093),
    ("console", "loki", 3100),
    ("console", "jaeger", 16686),
    # files
    ("prometheus", "files", 2049),
    ("jaeger", "files", 2049),
    ("grafana", "files", 2049),
    ("backup", "files", 2049),
    # out: webhooks, certificates, Cognito
    ("gamepulse-app", INTERNET, 443),
    ("infrastructure", INTERNET, 443),
    ("grafana", INTERNET, 443),
    *((task, target, 443) for task in TASKS for target in AWS),
}  # fmt: skip
OUTSIDE = {INTERNET, CLOUDFRONT, S3}

# Of each place, its security groups and its subnets.
PUBLIC = {"10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"}
PRIVATE = {"10.0.10.0/24", "10.0.20.0/24", "10.0.30.0/24"}
ATTACHED = {
    "balancer": ({"balancer"}, PUBLIC),
    "gamepulse-app": ({"app"}, PRIVATE),
    **{name: ({name}, PRIVATE) for name in (TASKS - {"gamepulse-app"}) | {"database", "cache", "files", "endpoints"}},
}
BY_HAND = {"migrate", "console"}
"""`make deploy` and `make console` start them, with the group of this name."""


def allowed() -> set[tuple[str, str, int]]:
    """CloudFront's and S3's addresses are of the internet, too."""
    from_outside = {(place, target, port) for source, target, port in ALLOWED if source == INTERNET for place in OUTSIDE}
    to_outside = {(source, place, port) for source, target, port in ALLOWED if target == INTERNET for place in OUTSIDE}
    return ALLOWED | from_outside | to_outside


@lru_cache(maxsize=2)
def reached(stacks: Stacks) -> set[tuple[str, str, int]]:
    """Walked once for all tests here."""
    return Network(stacks).reached()


def test_exactly_the_allowed_edges_can_be_reached(stacks: Stacks) -> None:
    found = reached(stacks)
    assert found - allowed() == set(), "can be reached, and must not be"
    assert allowed() - found == set(), "must be reached, and cannot be"


def test_nothing_can_be_reached_by_udp(stacks: Stacks) -> None:
    assert Network(stacks).reached("udp") == set()


def test_an_edge_leads_from_each_zone_to_each(stacks: Stacks) -> None:
    network = Network(stacks)
    for source, target, port in ALLOWED:
        one, other = network.places[source], network.places[target]
        assert len(network.ways(one, other, port)) == len(one.subnets or [1]) * len(other.subnets or [1]), (source, target, port)


def test_the_internet_reaches_only_the_balancer(stacks: Stacks) -> None:
    found = {(target, port) for source, target, port in reached(stacks) if source == INTERNET}
    assert found == {("balancer", 80)}


def test_who_speaks_with_the_internet_hears_of_links_that_take_only_smaller_packets(stacks: Stacks) -> None:
    network = Network(stacks)
    speaks = {one for edge in ALLOWED if INTERNET in edge[:2] for one in edge[:2]} - OUTSIDE
    assert {name for name, place in network.places.items() if network.told_of_small_links(place)} == speaks


def test_everything_has_the_group_and_the_subnets_that_it_should(stacks: Stacks) -> None:
    assert {one.name: (set(one.groups), set(one.subnets)) for one in attached(stacks)} == ATTACHED


def test_only_the_balancer_has_a_public_address(stacks: Stacks) -> None:
    assert [one.name for one in attached(stacks) if one.public] == ["balancer"]


def test_every_task_of_a_definition_is_a_place(stacks: Stacks) -> None:
    started = {one.name for one in attached(stacks)}
    assert {one.name for one in stacks.all("ECS::TaskDefinition")} <= started
    services = {one.properties["TaskDefinition"] for one in stacks.all("ECS::Service")}
    scheduled = {one.properties["Target"]["EcsParameters"]["TaskDefinitionArn"] for one in stacks.all("Scheduler::Schedule")}
    assert {one.name for one in stacks.all("ECS::TaskDefinition") if one.arn not in services | scheduled} == BY_HAND


def test_rules_are_in_the_stack_network_only(stacks: Stacks) -> None:
    kinds = (
        "SecurityGroup",
        "SecurityGroupIngress",
        "SecurityGroupEgress",
        "NetworkAcl",
        "NetworkAclEntry",
        "Route",
        "VPCEndpoint",
    )
    assert {one.stack for kind in kinds for one in stacks.all(f"EC2::{kind}")} == {"network"}


def test_security_groups_have_rules_of_tcp_for_single_ports_only(stacks: Stacks) -> None:
    network = Network(stacks)
    rules = [rule for group in network.groups.values() for rule in group.ingress + group.egress if rule.protocol != "icmp"]
    assert {(rule.protocol, rule.last - rule.first) for rule in rules} == {("tcp", 0)}
    icmp = {rule for group in network.groups.values() for rule in group.ingress + group.egress} - set(rules)
    assert icmp == {Rule("0.0.0.0/0", "icmp", 3, 4), Rule("127.0.0.1/32", "icmp", 8, -1)}, "and that a packet was too large"


def test_no_group_has_a_rule_that_no_edge_needs(stacks: Stacks) -> None:
    """Also not one that leads nowhere today."""
    names = {INTERNET: "0.0.0.0/0", CLOUDFRONT: CLOUDFRONT_LIST, S3: S3_LIST, "gamepulse-app": "app"}
    edges = {(names.get(source, source), names.get(target, target), port) for source, target, port in ALLOWED}
    groups = Network(stacks).groups
    inwards = {(rule.peer, name, rule.first) for name, group in groups.items() for rule in group.ingress if rule.protocol != "icmp"}
    outwards = {(name, rule.peer, rule.first) for name, group in groups.items() for rule in group.egress if rule.protocol != "icmp"}
    assert inwards == {edge for edge in edges if edge[1] in groups}
    assert outwards == {edge for edge in edges if edge[0] in groups}


def test_each_rule_says_with_whom_and_why(stacks: Stacks) -> None:
    """As "app: logs by OTLP": the other end as deploy/edges.py calls it."""
    named = {
        CLOUDFRONT_LIST: "com.amazonaws.global.cloudfront.origin-facing",
        S3_LIST: "com.amazonaws.ap-northeast-2.s3",
        "0.0.0.0/0": "internet",
    }
    for one in stacks.all("EC2::SecurityGroup"):
        for way, end in (("Ingress", "Source"), ("Egress", "Destination")):
            apart = [each.properties for each in stacks.all(f"EC2::SecurityGroup{way}") if each.properties["GroupId"] == one.name]
            for rule in apart + one.properties.get(f"SecurityGroup{way}", []):
                if rule["IpProtocol"] == "tcp":
                    peer = rule.get(f"{end}SecurityGroupId") or rule.get(f"{end}PrefixListId") or rule["CidrIp"]
                    other, _, why = rule["Description"].partition(": ")
                    assert other == named.get(peer, peer) and len(why) > 3, (one.name, rule)


def test_each_group_has_an_egress_rule_of_its_own(stacks: Stacks) -> None:
    """Else it is not certain that AWS's first one, which lets everything out, is replaced."""
    without = [one.name for one in stacks.all("EC2::SecurityGroup") if not one.properties.get("SecurityGroupEgress")]
    assert without == []


def test_no_console_database_or_otlp_is_open_to_the_outside(stacks: Stacks) -> None:
    ports = {22, 3306, 4317, 4318, 8888, 9090, 9093, 3100, 16686, 3000, 5432, 6379, 2049}
    assert {one for one in reached(stacks) if one[0] in OUTSIDE and one[2] in ports} == set()
