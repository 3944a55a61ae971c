"""How to spoil templates: what the lines of tests/deploy/mistakes.py are made of."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.deploy.templates import Json, Templates, listed, statements

type Change = Callable[[Templates], object]

ANYWHERE = "0.0.0.0/0"
ALLOW_ALL = {"Effect": "Allow", "Action": "*", "Resource": "*"}


def find(templates: Templates, kind: str, **has: Any) -> list[Json]:
    """The properties of all of a type that have such properties."""
    found = [
        one.setdefault("Properties", {})
        for template in templates.values()
        for one in template["Resources"].values()
        if one["Type"] == f"AWS::{kind}" and has.items() <= one.get("Properties", {}).items()
    ]
    assert found, f"no {kind} with {has}"
    return found


def put(kind: str, at: Json | None = None, /, **changed: Any) -> Change:
    """Other properties; None takes one away."""

    def change(templates: Templates) -> None:
        for one in find(templates, kind, **(at or {})):
            for name, value in changed.items():
                assert one.get(name) != value, f"{name} is {value} anyway"
                if value is None:
                    del one[name]
                else:
                    one[name] = value

    return change


def edit(kind: str, what: Callable[[Json], object], /, **at: Any) -> Change:
    """Something deeper inside."""

    def change(templates: Templates) -> None:
        for one in find(templates, kind, **at):
            what(one)

    return change


def drop(kind: str, **at: Any) -> Change:
    def change(templates: Templates) -> None:
        gone = find(templates, kind, **at)
        for template in templates.values():
            template["Resources"] = {
                key: one for key, one in template["Resources"].items() if not any(one.get("Properties") is each for each in gone)
            }

    return change


def beside(kind: str, **attributes: Any) -> Change:
    """Attributes beside the properties."""

    def change(templates: Templates) -> None:
        for template in templates.values():
            for one in template["Resources"].values():
                if one["Type"] == f"AWS::{kind}":
                    one.update(attributes)

    return change


def add(stack: str, kind: str, **properties: Any) -> Change:
    return lambda templates: templates[stack]["Resources"].update(Mutant={"Type": f"AWS::{kind}", "Properties": properties})


def container(task: str, name: str, what: Callable[[Json], object]) -> Change:
    def change(templates: Templates) -> None:
        [definition] = find(templates, "ECS::TaskDefinition", Family=task)
        what(next(one for one in definition["ContainerDefinitions"] if one["Name"] == name))

    return change


def tell(task: str, name: str, variable: str, value: str) -> Change:
    """Another value in the environment of a container."""

    def change(one: Json) -> None:
        one["Environment"] = [each for each in one["Environment"] if each["Name"] != variable] + [
            {"Name": variable, "Value": value}
        ]

    return container(task, name, change)


def allow(role: str, statement: Json) -> Change:
    """One more statement in the policy of a role, which is known by the beginning of its id."""
    return partial(_of_role, role=role, what=lambda policy: policy.append(statement))


def widen(role: str, action: str, **changed: Any) -> Change:
    """Something else in the statement of a role that allows an action; None takes it away."""

    def change(policy: list[Json]) -> None:
        one = next(each for each in policy if action in listed(each.get("Action")))
        for name, value in changed.items():
            if value is None:
                del one[name]
            else:
                one[name] = value

    return partial(_of_role, role=role, what=change)


def _of_role(templates: Templates, role: str, what: Callable[[list[Json]], object]) -> None:
    [policy] = [
        one["Properties"]["PolicyDocument"]["Statement"]
        for template in templates.values()
        for key, one in template["Resources"].items()
        if one["Type"] in {"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"} and key.startswith(role)
    ]
    what(policy)


def trust(role: str, what: Callable[[Json], object]) -> Change:
    def change(templates: Templates) -> None:
        [document] = [
            one["Properties"]["AssumeRolePolicyDocument"]
            for template in templates.values()
            for key, one in template["Resources"].items()
            if one["Type"] == "AWS::IAM::Role" and key.startswith(role)
        ]
        what(document["Statement"][0])

    return change


def setting(kind: str, name: str, value: str) -> Change:
    """One of the attributes of a load balancer or of its targets."""

    def change(one: Json) -> None:
        attributes = one["LoadBalancerAttributes" if kind == "LoadBalancer" else "TargetGroupAttributes"]
        next(each for each in attributes if each["Key"] == name)["Value"] = value

    return edit(f"ElasticLoadBalancingV2::{kind}", change)


def distribution(what: Callable[[Json], object]) -> Change:
    return edit("CloudFront::Distribution", lambda one: what(one["DistributionConfig"]))


def acl(what: Callable[[dict[str, Json]], object]) -> Change:
    return edit("WAFv2::WebACL", lambda one: what({rule["Name"]: rule for rule in one["Rules"]}))


def service(name: str, what: Callable[[Json], object]) -> Change:
    return edit("ECS::Service", what, ServiceName=name)


def watch(name: str, **changed: Any) -> Change:
    """An alarm, by the end of its name."""

    def change(templates: Templates) -> None:
        [one] = [each for each in find(templates, "CloudWatch::Alarm") if each["AlarmName"].endswith(f"-{name}")]
        one.update(changed)

    return change


def rule(name: str, what: Callable[[Json], object]) -> Change:
    """What a rule of EventBridge is about."""

    def change(templates: Templates) -> None:
        [one] = [each for each in find(templates, "Events::Rule") if each["Name"].endswith(f"-{name}")]
        what(one["EventPattern"])

    return change


def starts(what: Callable[[Json], object]) -> Change:
    """What a schedule starts."""
    return edit("Scheduler::Schedule", lambda one: what(one["Target"]))


def where(target: Json) -> Json:
    """A schedule starts it."""
    found: Json = target["EcsParameters"]["NetworkConfiguration"]["AwsvpcConfiguration"]
    return found


def exchanged(name: str) -> Change:
    """Two schedules have what is the other's."""

    def change(templates: Templates) -> None:
        one, other = (each["Target"] for each in find(templates, "Scheduler::Schedule"))
        if name not in one:
            one, other = one["EcsParameters"], other["EcsParameters"]
        one[name], other[name] = other[name], one[name]

    return change


def another(kind: str, path: str) -> Change:
    """Another value at a path, as in tests/deploy/emulated/lost.py, wherever there is one."""
    *way, last = path.split(".")

    def change(templates: Templates) -> None:
        places = find(templates, kind.removeprefix("AWS::"))
        for name in way:
            found = [one[name.removesuffix("[]")] for one in places if name.removesuffix("[]") in one]
            places = [each for one in found for each in (one if name.endswith("[]") else [one])]
        for one in places:
            if last in one:
                one[last] = _other(one[last])

    return change


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case list():
            return []
    return "another"


def without_denials(one: Json, document: str = "PolicyDocument") -> None:
    one[document]["Statement"] = [each for each in statements(one[document]) if each["Effect"] != "Deny"]


def group(name: str) -> Json:
    """What is said of a security group, by which it is known."""
    return {"GroupDescription": f"GamePulse: {name}"}


def open_to_all(name: str, port: int) -> Change:
    rule = {"CidrIp": ANYWHERE, "IpProtocol": "tcp", "FromPort": port, "ToPort": port}
    return edit("EC2::SecurityGroup", lambda one: one.setdefault("SecurityGroupIngress", []).append(rule), **group(name))


def by_one_gateway(templates: Templates) -> None:
    """All private subnets go out by the NAT gateway of the first zone."""
    routes = [one for one in find(templates, "EC2::Route") if "NatGatewayId" in one]
    for one in routes:
        one["NatGatewayId"] = routes[0]["NatGatewayId"]


def in_the_wrong_group(templates: Templates) -> None:
    """The service's tasks with the group of Prometheus."""
    groups = {one["ServiceName"]: one["NetworkConfiguration"]["AwsvpcConfiguration"] for one in find(templates, "ECS::Service")}
    groups["gamepulse-app"]["SecurityGroups"] = groups["prometheus"]["SecurityGroups"]


def rule_elsewhere(templates: Templates) -> None:
    """A rule that another stack brings along."""
    network = templates["network"]["Resources"]
    key = next(key for key, one in network.items() if one["Type"] == "AWS::EC2::SecurityGroupIngress")
    templates["services"]["Resources"][key] = {
        "Type": "AWS::EC2::NetworkAclEntry",
        "Properties": {"NetworkAclId": "none", "RuleNumber": 1},
    }


def widest(one: Json) -> None:
    """All ports instead of one."""
    one["FromPort"], one["ToPort"] = 0, 65535


def by_udp(templates: Templates) -> None:
    """OTLP's metrics, by UDP as well: groups and network ACLs."""
    rules = find(templates, "EC2::SecurityGroupIngress", FromPort=8888) + find(templates, "EC2::SecurityGroupEgress", FromPort=8888)
    for one in rules + find(templates, "EC2::NetworkAclEntry"):
        one["IpProtocol" if "IpProtocol" in one else "Protocol"] = "-1"


def no_answers(templates: Templates) -> None:
    """A network ACL that forgets the ports to which answers go."""
    for one in find(templates, "EC2::NetworkAclEntry"):
        if one.get("PortRange", {}).get("From") == 1024 and not one["Egress"]:
            one["PortRange"] = {"From": 32768, "To": 61000}


def denied_zone(templates: Templates) -> None:
    """A rule of low number that takes one zone's private subnet away."""
    acls = [one["NetworkAclId"] for one in find(templates, "EC2::NetworkAclEntry", CidrBlock="10.0.0.0/16", Egress=False)]
    entry = {
        "NetworkAclId": acls[0],
        "RuleNumber": 50,
        "Egress": False,
        "CidrBlock": "10.0.30.0/24",
        "Protocol": 6,
        "RuleAction": "deny",
    }
    templates["network"]["Resources"]["Mutant"] = {
        "Type": "AWS::EC2::NetworkAclEntry",
        "Properties": {**entry, "PortRange": {"From": 0, "To": 65535}},
    }


def tsdb_on_efs(templates: Templates) -> None:
    def change(one: Json) -> None:
        next(each for each in one["MountPoints"] if each["ContainerPath"] == "/prometheus")["SourceVolume"] = "prometheus-data"

    container("prometheus", "prometheus", change)(templates)


def jaeger_in_memory(templates: Templates) -> None:
    container("jaeger", "jaeger", lambda one: one["MountPoints"][0].update(SourceVolume="temporary"))(templates)


def same_roles(templates: Templates) -> None:
    """Loki with the role of Prometheus."""
    [prometheus], [loki] = (find(templates, "ECS::TaskDefinition", Family=name) for name in ("prometheus", "loki"))
    loki["TaskRoleArn"] = prometheus["TaskRoleArn"]


def database_exported(templates: Templates) -> None:
    [key] = [key for key, one in templates["data"]["Resources"].items() if one["Type"] == "AWS::RDS::DBInstance"]
    templates["data"]["Outputs"]["Mutant"] = {"Value": {"Fn::GetAtt": [key, "Endpoint.Address"]}, "Export": {"Name": "mutant"}}


def password_in_template(templates: Templates) -> None:
    find(templates, "RDS::DBInstance")[0].update(MasterUserPassword="correct horse battery staple")
