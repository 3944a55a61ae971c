"""EFS: snapshots of Prometheus, Jaeger's traces, what operators add to Grafana. One access point for each."""

from dataclasses import dataclass

from aws_cdk import RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from deploy.config import Config
from deploy.network import PRIVATE


@dataclass(frozen=True)
class Folder:
    """A folder of the file system, and the user of the image that it belongs to."""

    path: str
    uid: int


PROMETHEUS = Folder("/prometheus-data", 65534)
JAEGER = Folder("/jaeger-data", 10001)
GRAFANA = Folder("/grafana-config", 472)


class Files(Construct):
    """`system`, and `points` by folder."""

    def __init__(
        self, scope: Construct, id: str, *, config: Config, vpc: ec2.IVpc, group: ec2.ISecurityGroup, key: kms.IKey
    ) -> None:
        super().__init__(scope, id)
        self.system = efs.FileSystem(
            self,
            "System",
            file_system_name=config.stack_name("files"),
            vpc=vpc,
            vpc_subnets=PRIVATE,
            security_group=group,
            encrypted=True,
            kms_key=key,
            performance_mode=efs.PerformanceMode.GENERAL_PURPOSE,
            throughput_mode=efs.ThroughputMode.ELASTIC,
            lifecycle_policy=efs.LifecyclePolicy.AFTER_30_DAYS,
            out_of_infrequent_access_policy=efs.OutOfInfrequentAccessPolicy.AFTER_1_ACCESS,
            enable_automatic_backups=False,  # the plan is in backups.py
            # Else CDK lets everyone write who may mount. With the policy below, which allows nothing, nobody is anonymous.
            allow_anonymous_access=True,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )
        # Over TLS, by a role that may: nobody else.
        self.system.add_to_resource_policy(
            iam.PolicyStatement(
                sid="OnlyOverTls",
                effect=iam.Effect.DENY,
                principals=[iam.AnyPrincipal()],
                actions=["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite", "elasticfilesystem:ClientRootAccess"],
                conditions={"Bool": {"aws:SecureTransport": "false"}},
            )
        )
        self.points = {folder: self._point(folder) for folder in (PROMETHEUS, JAEGER, GRAFANA)}

    def _point(self, folder: Folder) -> efs.AccessPoint:
        user = str(folder.uid)
        return self.system.add_access_point(
            folder.path.strip("/").title().replace("-", ""),
            path=folder.path,
            create_acl=efs.Acl(owner_uid=user, owner_gid=user, permissions="0750"),
            posix_user=efs.PosixUser(uid=user, gid=user),
        )

    def grant(self, role: iam.IRole, folder: Folder, *, write: bool = True) -> None:
        """Mount, read and perhaps write through the folder's access point."""
        actions = ["elasticfilesystem:ClientMount", *(["elasticfilesystem:ClientWrite"] if write else [])]
        role.add_to_principal_policy(
            iam.PolicyStatement(
                actions=actions,
                resources=[self.system.file_system_arn],
                conditions={"StringEquals": {"elasticfilesystem:AccessPointArn": self.points[folder].access_point_arn}},
            )
        )
