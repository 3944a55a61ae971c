"""What runs: containers of a task with the rules that all keep, its roles, its log, and the service that keeps it running."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aws_cdk import Duration, RemovalPolicy, Size
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_servicediscovery as servicediscovery
from constructs import Construct

from deploy.config import NAME, REGION, Config, Task
from deploy.network import PRIVATE
from deploy.people import of_account

type Started = dict[str, ecs.ContainerDependencyCondition]

STARTED = ecs.ContainerDependencyCondition.START
HEALTHY = ecs.ContainerDependencyCondition.HEALTHY
ENDED = ecs.ContainerDependencyCondition.SUCCESS

STOP_S = 60
"""From SIGTERM to SIGKILL. The service drains in less (docs/operations.md), and a snapshot of Prometheus is copied in it."""
STOP_LONGEST_S = 120
"""Fargate's limit."""
LOG_BUFFER_MIB = 8


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container. `mounts`: the volume of each path. `after`: which others it waits for. `memory_mib`: more is its end."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    entry_point: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, secretsmanager.ISecret] = field(default_factory=dict)
    json_secrets: Mapping[str, tuple[secretsmanager.ISecret, str]] = field(default_factory=dict)
    """Secrets that are JSON, and of which field the value is told."""
    user: str | None = None
    """Other than the image's."""
    ports: tuple[int, ...] = ()
    mounts: Mapping[str, str] = field(default_factory=dict)
    health: tuple[str, ...] = ()
    health_start_s: int = 60
    after: Started = field(default_factory=dict)
    essential: bool = True
    restart: bool = True
    """In place, when it has ended. Not for what is to end."""
    memory_mib: int | None = None
    stop_s: int = STOP_S
    read_only: bool = True


class Program(Construct):
    """A task definition with a role of its own, one for starting it, and a log."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        config: Config,
        key: kms.IKey,
        task: Task,
        containers: list[Container],
        files: Mapping[str, efs.IAccessPoint] | None = None,
    ) -> None:
        """`key`: with which the secrets are encrypted. `files`: volumes on EFS; the others are on the task's disk."""
        super().__init__(scope, id)
        self.family = id
        self._config = config
        self.definition = ecs.FargateTaskDefinition(
            self,
            "Task",
            family=id,
            cpu=task.cpu,
            memory_limit_mib=task.memory_mib,
            ephemeral_storage_gib=task.disk_gib,
            runtime_platform=ecs.RuntimePlatform(
                operating_system_family=ecs.OperatingSystemFamily.LINUX, cpu_architecture=ecs.CpuArchitecture.X86_64
            ),
            task_role=self._role("Role", f"What {id} may ask of AWS"),
            execution_role=self._role("Execution", f"What ECS needs to start {id}"),
        )
        self.role = self.definition.task_role
        self.execution_role = self.definition.obtain_execution_role()
        self.log = logs.LogGroup(
            self,
            "Log",
            log_group_name=f"/{NAME}/{config.environment}/{id}",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if config.is_production else RemovalPolicy.DESTROY,
        )
        self._add_volumes(containers, files or {})
        if any(one.secrets or one.json_secrets for one in containers):
            self.definition.add_to_execution_role_policy(decrypting(key, "secretsmanager"))
        self._made = {one.name: self._add(one) for one in containers}
        for one in containers:
            for other, condition in one.after.items():
                self._made[one.name].add_container_dependencies(
                    ecs.ContainerDependency(container=self._made[other], condition=condition)
                )

    def _role(self, id: str, description: str) -> iam.Role:
        return iam.Role(self, id, assumed_by=of_account(self._config, "ecs-tasks.amazonaws.com"), description=description)

    def _add_volumes(self, containers: list[Container], files: Mapping[str, efs.IAccessPoint]) -> None:
        for volume in dict.fromkeys(volume for one in containers for volume in one.mounts.values()):
            point = files.get(volume)
            self.definition.add_volume(
                name=volume,
                efs_volume_configuration=ecs.EfsVolumeConfiguration(
                    file_system_id=point.file_system.file_system_id,
                    transit_encryption="ENABLED",
                    authorization_config=ecs.AuthorizationConfig(access_point_id=point.access_point_id, iam="ENABLED"),
                )
                if point
                else None,
            )

    def _add(self, one: Container) -> ecs.ContainerDefinition:
        secrets = {name: ecs.Secret.from_secrets_manager(self._foreign(name, secret)) for name, secret in one.secrets.items()}
        secrets |= {
            name: ecs.Secret.from_secrets_manager(self._foreign(name, secret), field)
            for name, (secret, field) in one.json_secrets.items()
        }
        repository = ecr.Repository.from_repository_name(self, f"{one.name}Image", f"{NAME}/{one.image}")
        limits = ecs.LinuxParameters(self, f"{one.name}Linux", init_process_enabled=not one.read_only)
        limits.drop_capabilities(ecs.Capability.ALL)
        made = self.definition.add_container(
            one.name,
            container_name=one.name,
            image=ecs.ContainerImage.from_ecr_repository(repository, self._config.version),
            command=list(one.command) or None,
            entry_point=list(one.entry_point) or None,
            environment=dict(one.environment),
            secrets=secrets,
            user=one.user,
            memory_limit_mib=one.memory_mib,
            essential=one.essential,
            # Started again in place: with the task's disk, on which what was not sent yet lies.
            enable_restart_policy=one.restart,
            restart_attempt_period=Duration.seconds(60) if one.restart else None,
            readonly_root_filesystem=one.read_only,
            linux_parameters=limits,
            stop_timeout=Duration.seconds(one.stop_s),
            health_check=_health(one),
            port_mappings=[ecs.PortMapping(container_port=port, protocol=ecs.Protocol.TCP) for port in one.ports],
            logging=ecs.LogDriver.aws_logs(
                log_group=self.log,
                stream_prefix=one.name,
                # A log that cannot be written must not stop who writes it.
                mode=ecs.AwsLogDriverMode.NON_BLOCKING,
                max_buffer_size=Size.mebibytes(LOG_BUFFER_MIB),
            ),
        )
        made.add_mount_points(
            *(ecs.MountPoint(container_path=path, source_volume=volume, read_only=False) for path, volume in one.mounts.items())
        )
        return made

    def _foreign(self, name: str, secret: secretsmanager.ISecret) -> secretsmanager.ISecret:
        """The same, without its key: CDK would write this stack's roles into the key's policy, which is another stack's."""
        return secretsmanager.Secret.from_secret_complete_arn(self, f"{name}Secret", secret.secret_arn)


def decrypting(key: kms.IKey, service: str) -> iam.PolicyStatement:
    """With `key`, and only by asking `service`."""
    return iam.PolicyStatement(
        actions=["kms:Decrypt"],
        resources=[key.key_arn],
        conditions={"StringEquals": {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"}},
    )


def encrypting(key: kms.IKey, service: str) -> iam.PolicyStatement:
    """As `decrypting`, and new things too."""
    statement = decrypting(key, service)
    statement.add_actions("kms:GenerateDataKey")
    return statement


def _health(one: Container) -> ecs.HealthCheck | None:
    if not one.health:
        return None
    return ecs.HealthCheck(
        command=["CMD", *one.health],  # no shell: most images have none
        interval=Duration.seconds(10),
        timeout=Duration.seconds(5),
        retries=3,
        start_period=Duration.seconds(one.health_start_s),
    )


class Service(Construct):
    """Keeps tasks of a program running, under a name in Cloud Map that is the program's own."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        program: Program,
        cluster: ecs.ICluster,
        group: ec2.ISecurityGroup,
        namespace: servicediscovery.IPrivateDnsNamespace,
        tasks: int | None = 1,
        grace_s: int | None = None,
        one_writer: bool = False,
        rollback_alarms: list[str] | None = None,
    ) -> None:
        """`tasks`: None leaves it to scaling.py. `rollback_alarms`: by name; one of them takes a deployment back."""
        super().__init__(scope, id)
        self.service = ecs.FargateService(
            self,
            "Service",
            service_name=program.family,
            cluster=cluster,
            task_definition=program.definition,
            desired_count=tasks,
            assign_public_ip=False,
            vpc_subnets=PRIVATE,
            security_groups=[group],
            platform_version=ecs.FargatePlatformVersion.VERSION1_4,
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
            deployment_alarms=ecs.DeploymentAlarmConfig(alarm_names=rollback_alarms, behavior=ecs.AlarmBehavior.ROLLBACK_ON_ALARM)
            if rollback_alarms
            else None,
            min_healthy_percent=0 if one_writer else 100,
            max_healthy_percent=100 if one_writer else 200,
            availability_zone_rebalancing=(
                ecs.AvailabilityZoneRebalancing.DISABLED if one_writer else ecs.AvailabilityZoneRebalancing.ENABLED
            ),
            health_check_grace_period=Duration.seconds(grace_s) if grace_s else None,
            enable_execute_command=False,
            enable_ecs_managed_tags=True,
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
            cloud_map_options=ecs.CloudMapOptions(
                cloud_map_namespace=namespace,
                name=program.family,
                dns_record_type=servicediscovery.DnsRecordType.A,
                dns_ttl=Duration.seconds(10),
            ),
        )
