"""The VPC: the requirements' subnets in three zones, a NAT gateway in each, network ACLs, flow logs, endpoints."""

from typing import cast

import jsii
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_s3 as s3
from constructs import Construct

from deploy.config import PRIVATE_CIDRS, PUBLIC_CIDRS, VPC_CIDR, ZONES

PUBLIC = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC)
PRIVATE = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)

# What tasks ask of AWS without going through a NAT gateway.
ENDPOINTS = {
    "EcrApi": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Monitoring": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_MONITORING,
    "SecretsManager": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
    "Kms": ec2.InterfaceVpcEndpointAwsService.KMS,
    "Sns": ec2.InterfaceVpcEndpointAwsService.SNS,
    "Ecs": ec2.InterfaceVpcEndpointAwsService.ECS,
    "SsmMessages": ec2.InterfaceVpcEndpointAwsService.SSM_MESSAGES,
}

# By which the sender learns that a link on the way takes only smaller packets: AWS wants it let through where somebody speaks with
# the internet ("Path MTU Discovery"), since packets inside the VPC have 9001 bytes and ACLs remember nothing.
TOO_LARGE = ec2.AclTraffic.icmp(type=3, code=4)


@jsii.implements(ec2.IIpAddresses)
class ExactAddresses:
    """The subnets that the requirements name, instead of a division by CDK."""

    @jsii.member(jsii_name="allocateVpcCidr")
    def allocate_vpc_cidr(self) -> ec2.VpcIpamOptions:
        return ec2.VpcIpamOptions(cidr_block=VPC_CIDR)

    @jsii.member(jsii_name="allocateSubnetsCidr")
    def allocate_subnets_cidr(self, input: ec2.AllocateCidrRequest) -> ec2.SubnetIpamOptions:
        cidrs = {"public": iter(PUBLIC_CIDRS), "private": iter(PRIVATE_CIDRS)}
        return ec2.SubnetIpamOptions(
            allocated_subnets=[ec2.AllocatedSubnet(cidr=next(cidrs[one.configuration.name])) for one in input.requested_subnets]
        )


class Network(Construct):
    """`vpc`, with public subnets for the load balancer and NAT gateways, and private ones for all else."""

    def __init__(self, scope: Construct, id: str, *, flow_logs: s3.IBucket) -> None:
        super().__init__(scope, id)
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=cast(ec2.IIpAddresses, ExactAddresses()),
            availability_zones=list(ZONES),
            nat_gateways=len(ZONES),
            subnet_configuration=[
                ec2.SubnetConfiguration(name="public", subnet_type=ec2.SubnetType.PUBLIC, map_public_ip_on_launch=False),
                ec2.SubnetConfiguration(name="private", subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS),
            ],
        )
        self.vpc.add_flow_log(
            "FlowLog",
            destination=ec2.FlowLogDestination.to_s3(flow_logs, "flow"),
            traffic_type=ec2.FlowLogTrafficType.ALL,
            max_aggregation_interval=ec2.FlowLogMaxAggregationInterval.TEN_MINUTES,
        )
        self._limit_public()
        self._limit_private()
        self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3, subnets=[PRIVATE])

    def add_endpoints(self, group: ec2.ISecurityGroup) -> None:
        """`group` lets in who may use them."""
        for name, service in ENDPOINTS.items():
            self.vpc.add_interface_endpoint(
                name, service=service, subnets=PRIVATE, security_groups=[group], open=False, private_dns_enabled=True
            )

    def _limit_public(self) -> None:
        acl = ec2.NetworkAcl(self, "PublicAcl", vpc=self.vpc, subnet_selection=PUBLIC)
        anywhere, inside = ec2.AclCidr.any_ipv4(), ec2.AclCidr.ipv4(VPC_CIDR)
        answers = ec2.AclTraffic.tcp_port_range(1024, 65535)
        inbound, outbound = ec2.TrafficDirection.INGRESS, ec2.TrafficDirection.EGRESS
        http, https = ec2.AclTraffic.tcp_port(80), ec2.AclTraffic.tcp_port(443)
        _allow(acl, inbound, [(anywhere, http), (anywhere, https), (anywhere, answers), (anywhere, TOO_LARGE)])
        all_tcp = ec2.AclTraffic.tcp_port_range(0, 65535)
        _allow(acl, outbound, [(inside, all_tcp), (anywhere, https), (anywhere, answers), (anywhere, TOO_LARGE)])

    def _limit_private(self) -> None:
        acl = ec2.NetworkAcl(self, "PrivateAcl", vpc=self.vpc, subnet_selection=PRIVATE)
        anywhere, inside = ec2.AclCidr.any_ipv4(), ec2.AclCidr.ipv4(VPC_CIDR)
        answers = ec2.AclTraffic.tcp_port_range(1024, 65535)
        inbound, outbound = ec2.TrafficDirection.INGRESS, ec2.TrafficDirection.EGRESS
        all_tcp, https = ec2.AclTraffic.tcp_port_range(0, 65535), ec2.AclTraffic.tcp_port(443)
        _allow(acl, inbound, [(inside, all_tcp), (anywhere, answers), (anywhere, TOO_LARGE)])
        _allow(acl, outbound, [(inside, all_tcp), (anywhere, https), (anywhere, TOO_LARGE)])


def _allow(acl: ec2.NetworkAcl, direction: ec2.TrafficDirection, rules: list[tuple[ec2.AclCidr, ec2.AclTraffic]]) -> None:
    for number, (cidr, traffic) in enumerate(rules, 1):
        acl.add_entry(
            f"{direction.name.capitalize()}{number}", direction=direction, rule_number=100 * number, cidr=cidr, traffic=traffic
        )
