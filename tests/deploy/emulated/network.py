"""EC2: the network of a stack."""

import re
from typing import Any, ClassVar

from tests.deploy.emulated.account import Json
from tests.deploy.emulated.stacks import Resource, Unsupported


class Ec2(Resource, service="ec2"):
    """What EC2 makes, describes and deletes under one name, and tags like all else."""

    thing: ClassVar[str]
    """As in create_<thing> and describe_<thing>s."""
    id_name: ClassVar[str]
    elsewhere: ClassVar[tuple[str, ...]] = ()
    """Properties that are not told on making it."""

    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name not in {"Tags", *self.elsewhere}}
        self.made(self.call(f"create_{self.thing}", told | self.tags(wanted)))

    def tags(self, wanted: Json) -> Json:
        return (
            {"TagSpecifications": [{"ResourceType": self.thing.replace("_", "-"), "Tags": wanted["Tags"]}]}
            if "Tags" in wanted
            else {}
        )

    def made(self, answer: Json) -> None:
        [content] = [one for one in answer.values() if isinstance(one, dict) and self.id_name in one]
        self.physical_resource_id = content[self.id_name]

    def read(self) -> Any:
        answer = self.call(f"describe_{self.thing}s", {f"{self.id_name}s": [self.physical_resource_id]})
        [[found]] = [one for one in answer.values() if isinstance(one, list)]
        return dict(found)

    def delete(self) -> None:
        self.call(f"delete_{self.thing}", {self.id_name: self.physical_resource_id})


class Vpc(Ec2, kind="AWS::EC2::VPC"):
    thing, id_name = "vpc", "VpcId"
    elsewhere = ("EnableDnsHostnames", "EnableDnsSupport")

    def create(self, wanted: Json) -> None:
        super().create(wanted)
        for name in self.elsewhere:
            self.call("modify_vpc_attribute", {"VpcId": self.physical_resource_id, name: {"Value": wanted[name]}})

    def read(self) -> Any:
        asked = {
            name: self.call("describe_vpc_attribute", VpcId=self.physical_resource_id, Attribute=name) for name in self.elsewhere
        }
        return super().read() | {name: answer[name]["Value"] for name, answer in asked.items()}


class Subnet(Ec2, kind="AWS::EC2::Subnet"):
    thing, id_name, elsewhere = "subnet", "SubnetId", ("MapPublicIpOnLaunch",)

    def create(self, wanted: Json) -> None:
        super().create(wanted)
        public = {"Value": wanted["MapPublicIpOnLaunch"]}
        self.call("modify_subnet_attribute", SubnetId=self.physical_resource_id, MapPublicIpOnLaunch=public)


class InternetGateway(Ec2, kind="AWS::EC2::InternetGateway"):
    thing, id_name = "internet_gateway", "InternetGatewayId"


class VpcGatewayAttachment(Resource, kind="AWS::EC2::VPCGatewayAttachment", service="ec2"):
    def create(self, wanted: Json) -> None:
        self.call("attach_internet_gateway", wanted)
        self.physical_resource_id = f"IGW|{wanted['VpcId']}"

    def read(self) -> Any:
        own_id = self.properties["InternetGatewayId"]
        [found] = self.call("describe_internet_gateways", InternetGatewayIds=[own_id])["InternetGateways"]
        return found | found["Attachments"][0]

    def delete(self) -> None:
        self.call("detach_internet_gateway", self.properties)


class Eip(Ec2, kind="AWS::EC2::EIP"):
    id_name = "AllocationId"

    def create(self, wanted: Json) -> None:
        tags = [{"ResourceType": "elastic-ip", "Tags": wanted["Tags"]}]
        found = self.call("allocate_address", Domain=wanted["Domain"], TagSpecifications=tags)
        self.physical_resource_id = found["PublicIp"]
        self.attributes = {"AllocationId": found["AllocationId"], "PublicIp": found["PublicIp"]}

    def read(self) -> Any:
        return dict(self.call("describe_addresses", AllocationIds=[self.attributes["AllocationId"]])["Addresses"][0])

    def delete(self) -> None:
        self.call("release_address", AllocationId=self.attributes["AllocationId"])


class NatGateway(Ec2, kind="AWS::EC2::NatGateway"):
    thing, id_name = "nat_gateway", "NatGatewayId"

    def tags(self, wanted: Json) -> Json:
        return {"TagSpecifications": [{"ResourceType": "natgateway", "Tags": wanted["Tags"]}]}

    def read(self) -> Any:
        found = super().read()
        return found | found["NatGatewayAddresses"][0]


class RouteTable(Ec2, kind="AWS::EC2::RouteTable"):
    thing, id_name = "route_table", "RouteTableId"


class Route(Resource, kind="AWS::EC2::Route", service="ec2"):
    def create(self, wanted: Json) -> None:
        self.call("create_route", wanted)
        self.physical_resource_id = f"{wanted['RouteTableId']}|{wanted['DestinationCidrBlock']}"

    def read(self) -> Any:
        table = self.properties["RouteTableId"]
        [found] = self.call("describe_route_tables", RouteTableIds=[table])["RouteTables"]
        destination = self.properties["DestinationCidrBlock"]
        [route] = [one for one in found["Routes"] if one.get("DestinationCidrBlock") == destination]
        return {"RouteTableId": table, **route}

    def delete(self) -> None:
        table, destination = self.properties["RouteTableId"], self.properties["DestinationCidrBlock"]
        self.call("delete_route", RouteTableId=table, DestinationCidrBlock=destination)


class SubnetRouteTableAssociation(Resource, kind="AWS::EC2::SubnetRouteTableAssociation", service="ec2"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.call("associate_route_table", wanted)["AssociationId"]

    def read(self) -> Any:
        [table] = self.call("describe_route_tables", RouteTableIds=[self.properties["RouteTableId"]])["RouteTables"]
        [found] = [one for one in table["Associations"] if one["RouteTableAssociationId"] == self.physical_resource_id]
        return dict(found)

    def delete(self) -> None:
        self.call("disassociate_route_table", AssociationId=self.physical_resource_id)


class NetworkAcl(Ec2, kind="AWS::EC2::NetworkAcl"):
    thing, id_name = "network_acl", "NetworkAclId"


class NetworkAclEntry(Resource, kind="AWS::EC2::NetworkAclEntry", service="ec2"):
    def create(self, wanted: Json) -> None:
        self.call("create_network_acl_entry", {"IcmpTypeCode" if name == "Icmp" else name: one for name, one in wanted.items()})
        self.physical_resource_id = f"{wanted['NetworkAclId']}|{wanted['RuleNumber']}|{wanted['Egress']}"

    def read(self) -> Any:
        own_id, number, egress = (self.properties[name] for name in ("NetworkAclId", "RuleNumber", "Egress"))
        [acl] = self.call("describe_network_acls", NetworkAclIds=[own_id])["NetworkAcls"]
        [found] = [one for one in acl["Entries"] if (one["RuleNumber"], one["Egress"]) == (number, egress)]
        return {"NetworkAclId": own_id, **found}

    def delete(self) -> None:
        self.call("delete_network_acl_entry", {name: self.properties[name] for name in ("NetworkAclId", "RuleNumber", "Egress")})


class SubnetNetworkAclAssociation(Resource, kind="AWS::EC2::SubnetNetworkAclAssociation", service="ec2"):
    """A subnet always has a list: it is another one's from now on, and its VPC's own when this ends."""

    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self._associate(wanted["NetworkAclId"], wanted["SubnetId"])

    def _associate(self, acl: str, subnet: str) -> str:
        found = self._associations("association.subnet-id", subnet)
        [now] = [one for one in found if one["SubnetId"] == subnet]
        answer = self.call("replace_network_acl_association", AssociationId=now["NetworkAclAssociationId"], NetworkAclId=acl)
        return str(answer["NewAssociationId"])

    def _associations(self, name: str, value: str) -> list[Json]:
        found = self.call("describe_network_acls", Filters=[{"Name": name, "Values": [value]}])["NetworkAcls"]
        return [one for acl in found for one in acl["Associations"]]

    def read(self) -> Any:
        found = self._associations("association.subnet-id", self.properties["SubnetId"])
        [association] = [one for one in found if one["SubnetId"] == self.properties["SubnetId"]]
        return association

    def delete(self) -> None:
        [subnet] = self.call("describe_subnets", SubnetIds=[self.properties["SubnetId"]])["Subnets"]
        mine = [{"Name": "vpc-id", "Values": [subnet["VpcId"]]}, {"Name": "default", "Values": ["true"]}]
        [default] = self.call("describe_network_acls", Filters=mine)["NetworkAcls"]
        self._associate(default["NetworkAclId"], subnet["SubnetId"])


class FlowLog(Resource, kind="AWS::EC2::FlowLog", service="ec2"):
    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name not in {"Tags", "ResourceId"}}
        told["LogDestination"] = told["LogDestination"].partition("/")[0]  # moto takes the folder for a part of the bucket's name
        tags = [{"ResourceType": "vpc-flow-log", "Tags": wanted["Tags"]}]
        answer = self.call("create_flow_logs", told, ResourceIds=[wanted["ResourceId"]], TagSpecifications=tags)
        assert not answer.get("Unsuccessful"), answer
        [self.physical_resource_id] = answer["FlowLogIds"]

    def read(self) -> Any:
        [found] = self.call("describe_flow_logs", FlowLogIds=[self.physical_resource_id])["FlowLogs"]
        # The type of what is logged is told by its id.
        return {"ResourceType": "VPC" if found["ResourceId"].startswith("vpc-") else "", **found}

    def delete(self) -> None:
        self.call("delete_flow_logs", FlowLogIds=[self.physical_resource_id])


class VpcEndpoint(Ec2, kind="AWS::EC2::VPCEndpoint"):
    thing, id_name = "vpc_endpoint", "VpcEndpointId"

    def read(self) -> Any:
        found = super().read()
        return found | {"SecurityGroupIds": [one["GroupId"] for one in found.get("Groups", [])]}

    def delete(self) -> None:
        self.call("delete_vpc_endpoints", VpcEndpointIds=[self.physical_resource_id])


ANYWHERE = {"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}


class SecurityGroup(Ec2, kind="AWS::EC2::SecurityGroup"):
    """With the rule that lets all out, unless the group's own rules (not those of other resources) say something else."""

    thing, id_name = "security_group", "GroupId"

    def create(self, wanted: Json) -> None:
        tags = self.tags(wanted)
        answer = self.call(
            "create_security_group",
            {"GroupName": self.name, "Description": wanted["GroupDescription"], "VpcId": wanted["VpcId"], **tags},
        )
        self.physical_resource_id = own_id = answer["GroupId"]
        self.attributes = {"GroupId": own_id}
        if rules := wanted.get("SecurityGroupEgress"):
            self.call("revoke_security_group_egress", GroupId=own_id, IpPermissions=[permission(ANYWHERE)])
            self.call("authorize_security_group_egress", GroupId=own_id, IpPermissions=[permission(one) for one in rules])
        if rules := wanted.get("SecurityGroupIngress"):
            self.call("authorize_security_group_ingress", GroupId=own_id, IpPermissions=[permission(one) for one in rules])

    def read(self) -> Any:
        found = super().read()
        return {
            "GroupDescription": found["Description"],
            "SecurityGroupIngress": rules_of(found["IpPermissions"]),
            "SecurityGroupEgress": rules_of(found["IpPermissionsEgress"]),
            **found,
        }


class _Rule(Resource, service="ec2"):
    way: ClassVar[str]

    def create(self, wanted: Json) -> None:
        answer = self.call(f"authorize_security_group_{self.way}", GroupId=wanted["GroupId"], IpPermissions=[permission(wanted)])
        [rule] = answer["SecurityGroupRules"]
        self.physical_resource_id = rule["SecurityGroupRuleId"]

    def read(self) -> Any:
        """As the group has it: moto's own list of rules has no descriptions."""
        [group] = self.call("describe_security_groups", GroupIds=[self.properties["GroupId"]])["SecurityGroups"]
        egress = self.way == "egress"
        end = "Destination" if egress else "Source"
        names = {"GroupId": f"{end}SecurityGroupId", "PrefixListId": f"{end}PrefixListId"}
        rules = rules_of(group["IpPermissionsEgress" if egress else "IpPermissions"])
        found = [{names.get(name, name): one for name, one in rule.items()} for rule in rules]
        peer_and_ports = self.properties.keys() - {"Description", "GroupId"}
        [mine] = [one for one in found if all(one.get(name) == self.properties[name] for name in peer_and_ports)]
        return mine | {"GroupId": group["GroupId"]}

    def delete(self) -> None:
        group, rule = self.properties["GroupId"], self.physical_resource_id
        self.call(f"revoke_security_group_{self.way}", GroupId=group, SecurityGroupRuleIds=[rule])


class Ingress(_Rule, kind="AWS::EC2::SecurityGroupIngress"):
    way = "ingress"


class Egress(_Rule, kind="AWS::EC2::SecurityGroupEgress"):
    way = "egress"


def permission(rule: Json) -> Json:
    """A rule as the API has it. EC2 refuses descriptions that moto takes."""
    if not re.fullmatch(r"[A-Za-z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{0,255}", rule.get("Description", "")):
        raise Unsupported(f"EC2 takes no description like: {rule['Description']}")
    described = {"Description": rule["Description"]} if "Description" in rule else {}
    peers: Json = {}
    for name, one in rule.items():
        if name.endswith("SecurityGroupId"):
            peers["UserIdGroupPairs"] = [{"GroupId": one, **described}]
        elif name.endswith("PrefixListId"):
            peers["PrefixListIds"] = [{"PrefixListId": one, **described}]
        elif name == "CidrIp":
            peers["IpRanges"] = [{"CidrIp": one, **described}]
        elif name not in {"Description", "FromPort", "ToPort", "IpProtocol", "GroupId"}:
            raise LookupError(f"a rule with {name}")
    assert len(peers) == 1, rule
    return {name: rule[name] for name in ("IpProtocol", "FromPort", "ToPort") if name in rule} | peers


def rules_of(permissions: list[Json]) -> list[Json]:
    """A rule for each peer, as templates have them."""
    found: list[Json] = []
    for one in permissions:
        ports: dict[str, Any] = {name: one[name] for name in ("IpProtocol", "FromPort", "ToPort") if name in one}
        found += [ports | peer for peers in ("IpRanges", "UserIdGroupPairs", "PrefixListIds") for peer in one.get(peers, [])]
    return found
