"""ElastiCache for Valkey in two zones: TLS, one user with a password. It holds the only copy of nothing."""

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticache as elasticache
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from deploy.config import Config
from deploy.network import PRIVATE

USER = "gamepulse"
PORT = 6379


class Cache(Construct):
    """`host`, where the primary answers."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        config: Config,
        vpc: ec2.IVpc,
        group: ec2.ISecurityGroup,
        passwords: list[secretsmanager.ISecret],
    ) -> None:
        """`passwords`: each of them opens (ElastiCache takes two)."""
        super().__init__(scope, id)
        name = config.stack_name("cache")
        subnets = elasticache.CfnSubnetGroup(
            self,
            "Subnets",
            cache_subnet_group_name=name,
            description="GamePulse: private",
            subnet_ids=vpc.select_subnets(subnet_type=PRIVATE.subnet_type).subnet_ids,
        )
        secret = {"Type": "password", "Passwords": [one.secret_value.unsafe_unwrap() for one in passwords]}
        # Who gives no name is `default`: this one can do nothing. ElastiCache takes no user of Valkey without a password.
        nobody = elasticache.CfnUser(
            self,
            "Nobody",
            engine="valkey",
            user_id=f"{name}-nobody",
            user_name="default",
            access_string="off -@all",
            authentication_mode=secret,
        )
        user = elasticache.CfnUser(
            self,
            "User",
            engine="valkey",
            user_id=f"{name}-{USER}",
            user_name=USER,
            # Not: administration, keys of other programs, whatever is slow in a large store.
            access_string="on ~* &* +@all -@admin -@dangerous +info",
            authentication_mode=secret,
        )
        users = elasticache.CfnUserGroup(
            self, "Users", engine="valkey", user_group_id=name, user_ids=[nobody.user_id, user.user_id]
        )
        users.add_resource_dependency(nobody)
        users.add_resource_dependency(user)
        self._group = elasticache.CfnReplicationGroup(
            self,
            "Group",
            replication_group_id=name,
            replication_group_description="GamePulse: news for live pages",
            engine="valkey",
            engine_version="8.1",
            cache_node_type=config.size.cache_class,
            num_cache_clusters=2,
            automatic_failover_enabled=True,
            multi_az_enabled=True,
            transit_encryption_enabled=True,
            transit_encryption_mode="required",
            at_rest_encryption_enabled=True,
            user_group_ids=[users.user_group_id],
            cache_subnet_group_name=subnets.cache_subnet_group_name,
            security_group_ids=[group.security_group_id],
            auto_minor_version_upgrade=True,
            snapshot_retention_limit=0,  # nothing in it is worth a copy
            port=PORT,
        )
        self._group.add_resource_dependency(subnets)
        self._group.add_resource_dependency(users)

    @property
    def host(self) -> str:
        return self._group.attr_primary_end_point_address
