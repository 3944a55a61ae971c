"""Who reaches whom, followed through templates: security groups, routes and network ACLs, there and back.

Only the rules decide: a process need not listen. DNS, time and the addresses 169.254.x.y of AWS pass all rules, and are not followed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise, product

from tests.deploy.templates import Json, Stacks, listed

CLOUDFRONT_LIST, S3_LIST = "pl-22a6434b", "pl-78a54011"
"""AWS's own lists of addresses in ap-northeast-2: com.amazonaws.global.cloudfront.origin-facing and com.amazonaws.ap-northeast-2.s3."""
INTERNET, CLOUDFRONT, S3 = "internet", "cloudfront", "s3"
PROTOCOLS = {"tcp": "6", "udp": "17", "icmp": "1"}
ANYWHERE = "0.0.0.0/0"
TOO_LARGE = (3, 4)
"""Type and code of ICMP, where others have ports."""
EPHEMERAL = (1024, 65535)
"""From which ports clients ask: those of load balancers and NAT gateways, which includes those of Linux."""
ALL_OUT = {"CidrIp": ANYWHERE, "IpProtocol": "-1"}
ICMP = {"icmp", "icmpv6", "1", "58"}


@dataclass(frozen=True)
class Place:
    """Something with addresses. Outside, it is in no subnet; `lists`: those of AWS in which its address is."""

    name: str
    subnets: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()
    public: bool = False
    outside: IPv4Address | None = None
    lists: frozenset[str] = frozenset()

    def address(self, subnet: str | None) -> IPv4Address:
        if self.outside:
            return self.outside
        assert subnet
        return IPv4Network(subnet)[10]


OUTSIDE = (
    Place(INTERNET, outside=IPv4Address("203.0.113.7")),
    Place(CLOUDFRONT, outside=IPv4Address("130.176.1.1"), lists=frozenset({CLOUDFRONT_LIST})),
    Place(S3, outside=IPv4Address("52.219.56.1"), lists=frozenset({S3_LIST})),
)


@dataclass(frozen=True)
class Rule:
    """Of a security group: with which peer, by which protocol ('-1' for all), at which ports."""

    peer: str
    protocol: str
    first: int
    last: int


@dataclass
class Group:
    ingress: list[Rule] = field(default_factory=list)
    egress: list[Rule] = field(default_factory=list)


class Network:
    """The rules of all stacks, and what is attached to them."""

    def __init__(self, stacks: Stacks) -> None:
        self._stacks = stacks
        self.groups = self._read_groups()
        self.places = {place.name: place for place in [*attached(stacks), *OUTSIDE]}
        self._acl_of = {
            one.properties["SubnetId"]: one.properties["NetworkAclId"] for one in stacks.all("EC2::SubnetNetworkAclAssociation")
        }
        self._entries = [one.properties for one in stacks.all("EC2::NetworkAclEntry")]
        self._gateways = [
            one.properties for one in stacks.all("EC2::VPCEndpoint") if one.properties["VpcEndpointType"] == "Gateway"
        ]
        self._entries.sort(key=lambda entry: int(entry["RuleNumber"]))
        self._table_of = {
            one.properties["SubnetId"]: one.properties["RouteTableId"] for one in stacks.all("EC2::SubnetRouteTableAssociation")
        }
        self._routes = [one.properties for one in stacks.all("EC2::Route")]
        self._nat_subnet = {one.name: one.properties["SubnetId"] for one in stacks.all("EC2::NatGateway")}

    def _read_groups(self) -> dict[str, Group]:
        found = {one.name: Group() for one in self._stacks.all("EC2::SecurityGroup")}
        for one in self._stacks.all("EC2::SecurityGroup"):
            found[one.name].ingress += map(_rule, one.properties.get("SecurityGroupIngress", []))
            # AWS makes a rule that lets all out; only rules of the group itself are sure to replace it.
            found[one.name].egress += map(_rule, one.properties.get("SecurityGroupEgress") or [ALL_OUT])
        for one in self._stacks.all("EC2::SecurityGroupIngress"):
            found[one.properties["GroupId"]].ingress.append(_rule(one.properties))
        for one in self._stacks.all("EC2::SecurityGroupEgress"):
            found[one.properties["GroupId"]].egress.append(_rule(one.properties))
        return found

    @cached_property
    def ports(self) -> list[int]:
        """One of each range in which no rule makes a difference: together they stand for all 65,536."""
        rules = [rule for group in self.groups.values() for rule in group.ingress + group.egress]
        bounds = {0, 65536} | {port for rule in rules for port in (rule.first, rule.last + 1)}
        bounds |= {port for one in self._entries for port in _bounds(one)}
        return [first for first, _ in pairwise(sorted(bounds))]

    def reached(self, protocol: str = "tcp") -> set[tuple[str, str, int]]:
        """(source, target, port) of all pairs and all ports, wherever one of source's subnets leads to one of target's."""
        return {
            (source.name, target.name, port)
            for source, target in product(self.places.values(), repeat=2)
            for port in self.ports
            if self.ways(source, target, port, protocol)
        }

    def ways(self, source: Place, target: Place, port: int, protocol: str = "tcp") -> list[tuple[str | None, str | None]]:
        """The subnets of source and target between which a connection can be made."""
        if source.outside and target.outside:
            return []
        if not self._groups_allow(source, target, port, protocol):
            return self._around(source, target, port, protocol)
        pairs = product(source.subnets or (None,), target.subnets or (None,))
        return [(a, b) for a, b in pairs if self._path_allows((source, a), (target, b), port, protocol)]

    def _around(self, source: Place, target: Place, port: int, protocol: str) -> list[tuple[str | None, str | None]]:
        """Out by a NAT gateway and in by the public address of the target."""
        if source.outside or not target.public:
            return []
        internet = self.places[INTERNET]
        there = self.ways(source, internet, port, protocol) and self.ways(internet, target, port, protocol)
        return [(source.subnets[0], target.subnets[0])] if there else []

    def _groups_allow(self, source: Place, target: Place, port: int, protocol: str) -> bool:
        leaves = source.outside or any(
            _matches(rule, target, port, protocol) for name in source.groups for rule in self.groups[name].egress
        )
        return bool(leaves) and bool(
            target.outside
            or any(_matches(rule, source, port, protocol) for name in target.groups for rule in self.groups[name].ingress)
        )

    def _path_allows(self, source: tuple[Place, str | None], target: tuple[Place, str | None], port: int, protocol: str) -> bool:
        """There, and back to whatever port was asked from."""
        hops = self._hops(source, target)
        if hops is None:
            return False
        there = all(self._passes(subnet, egress, peer, (port, port), protocol) for subnet, egress, peer in hops)
        return there and all(self._passes(subnet, not egress, peer, EPHEMERAL, protocol) for subnet, egress, peer in hops)

    def told_of_small_links(self, place: Place) -> bool:
        """Whether the word of a router outside that a packet was too large (ICMP 3, 4) comes in, and one of ours goes out."""
        internet = self.places[INTERNET]
        rules = [rule for name in place.groups for rule in self.groups[name].ingress if rule.protocol in ICMP]
        if not any((rule.peer, rule.first, rule.last) == (ANYWHERE, *TOO_LARGE) for rule in rules):
            return False
        ways = [self._hops((place, subnet), (internet, None)) for subnet in place.subnets]
        return all(
            hops is not None
            and all(self._passes(*hop, TOO_LARGE, "icmp") for one in hops for hop in (one, (one[0], not one[1], one[2])))
            for hops in ways
        )

    def _hops(
        self, source: tuple[Place, str | None], target: tuple[Place, str | None]
    ) -> list[tuple[str, bool, IPv4Address]] | None:
        """Each crossing of a subnet's edge (subnet, outwards, the address on the other side), or None where no route leads."""
        (one, start), (other, end) = source, target
        from_address, to_address = one.address(start), other.address(end)
        if start == end:
            return []
        if start and end:
            return [(start, True, to_address), (end, False, from_address)]
        inside, away = (start or end), (other if start else one)
        assert inside
        via = self._next_hop(inside, away)
        if end:  # from outside: only to a public address, and the answer must find its way
            return [(end, False, from_address)] if other.public and via == "igw" else None
        if via == "gateway endpoint" or (via == "igw" and one.public):
            return [(inside, True, to_address)]
        nat = self._nat_subnet.get(via or "")
        if nat is None or self._next_hop(nat, away) != "igw":
            return None
        return [(inside, True, to_address), (nat, False, from_address), (nat, True, to_address)]

    def _next_hop(self, subnet: str, away: Place) -> str | None:
        """'gateway endpoint', 'igw' or the name of a NAT gateway."""
        table = self._table_of[subnet]
        if S3_LIST in away.lists and any(table in one["RouteTableIds"] for one in self._gateways):
            return "gateway endpoint"
        fitting = [
            route
            for route in self._routes
            if route["RouteTableId"] == table and away.outside in IPv4Network(route["DestinationCidrBlock"])
        ]
        if not fitting:
            return None
        route = max(fitting, key=lambda one: IPv4Network(one["DestinationCidrBlock"]).prefixlen)
        return str(route.get("NatGatewayId", "igw"))

    def _passes(self, subnet: str, egress: bool, peer: IPv4Address, ports: tuple[int, int], protocol: str) -> bool:
        """By the network ACL of the subnet, where the first entry that fits decides. Of a range, all must pass."""
        acl = self._acl_of.get(subnet)
        if acl is None:
            return True  # the VPC's own lets all pass
        entries = [
            one
            for one in self._entries
            if one["NetworkAclId"] == acl
            and bool(one.get("Egress")) == egress
            and str(one["Protocol"]) in {"-1", PROTOCOLS[protocol]}
            and peer in IPv4Network(one["CidrBlock"])
        ]
        if protocol == "icmp":
            return next((one["RuleAction"] == "allow" for one in entries if _of_icmp(one, *ports)), False)
        first, last = ports
        bounds = {port for one in entries for bound in _bounds(one) for port in (bound - 1, bound)}
        asked = {first, last} | {port for port in bounds if first <= port <= last}
        return all(_decision(entries, port) for port in asked)


def _decision(entries: Iterable[Json], port: int) -> bool:
    for one in entries:
        first, end = _bounds(one)
        if first <= port < end:
            return bool(one["RuleAction"] == "allow")
    return False


def _of_icmp(entry: Json, kind: int, code: int) -> bool:
    """-1 are all."""
    has = entry.get("Icmp", {"Type": -1, "Code": -1})
    return has["Type"] in {-1, kind} and has["Code"] in {-1, code}


def _bounds(entry: Json) -> tuple[int, int]:
    ports = entry.get("PortRange", {"From": 0, "To": 65535})
    return int(ports["From"]), int(ports["To"]) + 1


def _rule(properties: Json) -> Rule:
    peers = (
        "SourceSecurityGroupId",
        "DestinationSecurityGroupId",
        "SourcePrefixListId",
        "DestinationPrefixListId",
        "CidrIp",
        "CidrIpv6",
    )
    [peer] = [properties[name] for name in peers if name in properties]
    protocol = str(properties["IpProtocol"])
    everything = protocol == "-1"
    return Rule(
        peer, protocol, 0 if everything else int(properties["FromPort"]), 65535 if everything else int(properties["ToPort"])
    )


def _matches(rule: Rule, peer: Place, port: int, protocol: str) -> bool:
    if rule.protocol in ICMP or rule.protocol not in {"-1", protocol, PROTOCOLS[protocol]} or not rule.first <= port <= rule.last:
        return False
    if "/" not in rule.peer:
        return rule.peer in peer.groups or rule.peer in peer.lists
    if ":" in rule.peer:
        return False  # the VPC has no IPv6
    block = IPv4Network(rule.peer)
    return any(peer.address(subnet) in block for subnet in peer.subnets or (None,))


def attached(stacks: Stacks) -> list[Place]:
    """All that has a security group, by the names that the requirements use; a group that nothing has stands for tasks started by hand."""
    places = [
        *(_task(one.name, one.properties["NetworkConfiguration"]) for one in stacks.all("ECS::Service")),
        *(
            _task(one.properties["Name"].split("-")[-1], one.properties["Target"]["EcsParameters"]["NetworkConfiguration"])
            for one in stacks.all("Scheduler::Schedule")
        ),
    ]
    for one in stacks.all("ElasticLoadBalancingV2::LoadBalancer"):
        has = one.properties
        places.append(_place("balancer", has["Subnets"], has["SecurityGroups"], has["Scheme"] == "internet-facing"))
    subnets = {one.name: one.properties["SubnetIds"] for one in stacks.all("RDS::DBSubnetGroup")}
    for one in stacks.all("RDS::DBInstance"):
        has = one.properties
        places.append(_place("database", subnets[has["DBSubnetGroupName"]], has["VPCSecurityGroups"], has["PubliclyAccessible"]))
    subnets = {
        one.properties["CacheSubnetGroupName"]: one.properties["SubnetIds"] for one in stacks.all("ElastiCache::SubnetGroup")
    }
    places.extend(
        _place("cache", subnets[one.properties["CacheSubnetGroupName"]], one.properties["SecurityGroupIds"])
        for one in stacks.all("ElastiCache::ReplicationGroup")
    )
    mounts = [one.properties for one in stacks.all("EFS::MountTarget")]
    if mounts:
        places.append(
            _place("files", [one["SubnetId"] for one in mounts], [name for one in mounts for name in one["SecurityGroups"]])
        )
    asked = [one.properties for one in stacks.all("EC2::VPCEndpoint") if one.properties["VpcEndpointType"] == "Interface"]
    if asked:
        groups = [name for one in asked for name in one["SecurityGroupIds"]]
        places.append(_place("endpoints", [name for one in asked for name in one["SubnetIds"]], groups))
    private = sorted({name for one in places for name in one.subnets if not one.public})
    used = {name for one in places for name in one.groups}
    return places + [_place(one.name, private, [one.name]) for one in stacks.all("EC2::SecurityGroup") if one.name not in used]


def _task(name: str, configuration: Json) -> Place:
    has = configuration["AwsvpcConfiguration"]
    return _place(name, has["Subnets"], has["SecurityGroups"], has["AssignPublicIp"] == "ENABLED")


def _place(name: str, subnets: Iterable[str], groups: Iterable[str], public: bool = False) -> Place:
    return Place(name, tuple(dict.fromkeys(listed(subnets))), frozenset(groups), public)
