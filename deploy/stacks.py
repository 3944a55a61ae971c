"""The stacks, in the order in which they are deployed: they wire constructs together and grant, and do nothing else."""

from typing import Any

from aws_cdk import ArnFormat, RemovalPolicy, Stack
from aws_cdk import aws_backup as backup
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_route53_targets as targets
from aws_cdk import aws_servicediscovery as servicediscovery
from constructs import Construct

from deploy import files, programs
from deploy.alarms import Alarms, alarm, of_answers
from deploy.backups import Backups
from deploy.balancer import Balancer
from deploy.buckets import Buckets, LogBucket
from deploy.budget import Budget
from deploy.cache import Cache
from deploy.config import APP, INTERNAL_DOMAIN, JOB, ZONES, Config
from deploy.database import PORT, SERVICE, Database, KnownDatabase
from deploy.edge import Edge
from deploy.edges import SecurityGroups
from deploy.faults import LostZone
from deploy.files import Files
from deploy.images import Images
from deploy.network import Network
from deploy.people import Admins, Workflows
from deploy.scaling import scale
from deploy.schedules import Schedules
from deploy.secrets import Secrets
from deploy.signin import SignIn
from deploy.tasks import Program, Service, encrypting
from deploy.topics import Topics
from deploy.trail import Trail, let_in


class ImagesStack(Stack):
    def __init__(self, scope: Construct, id: str, **stack: Any) -> None:
        super().__init__(scope, id, description="GamePulse: images", **stack)
        Images(self, "Images")


class NetworkStack(Stack):
    """The VPC and every rule of who may reach whom."""

    def __init__(self, scope: Construct, id: str, *, config: Config, **stack: Any) -> None:
        super().__init__(scope, id, description="GamePulse: network", **stack)
        self.logs = LogBucket(self, "TrafficLogs", name=config.bucket_name("traffic-logs"), days=90)
        network = Network(self, "Network", flow_logs=self.logs)
        self.vpc = network.vpc
        self.groups = SecurityGroups(self, "Groups", vpc=self.vpc)
        network.add_endpoints(self.groups.of("endpoints"))

    @property
    def availability_zones(self) -> list[str]:
        """Told, not asked for: so it can be synthesised without an account."""
        return list(ZONES)


class DataStack(Stack):
    """All that must outlive tasks. It stays when the stack goes, but not when that cannot be made: else the next try fails."""

    def __init__(self, scope: Construct, id: str, *, config: Config, network: NetworkStack, **stack: Any) -> None:
        super().__init__(scope, id, description="GamePulse: data", termination_protection=config.is_production, **stack)
        groups, vpc = network.groups, network.vpc
        self._config = config
        self.key = kms.Key(
            self,
            "Key",
            alias=f"gamepulse/{config.environment}",
            description="GamePulse: what is stored",
            enable_key_rotation=True,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )
        self.secrets = Secrets(self, "Secrets", config=config, key=self.key)
        self.database = Database(self, "Database", config=config, vpc=vpc, group=groups.of("database"), key=self.key)
        self.cache = Cache(self, "Cache", config=config, vpc=vpc, group=groups.of("cache"), passwords=[*self.secrets.caches])
        # Exported even when no template names it any more: of those that are deployed, services still does, and comes later.
        self.export_value(self.secrets.caches[0].secret_arn)
        self.files = Files(self, "Files", config=config, vpc=vpc, group=groups.of("files"), key=self.key)
        self.buckets = Buckets(self, "Buckets", config=config, key=self.key, logs=network.logs)
        resources = [
            backup.BackupResource.from_rds_database_instance(self.database.instance),
            backup.BackupResource.from_efs_file_system(self.files.system),
        ]
        Backups(self, "Backups", config=config, key=self.key, resources=resources)
        topics = Topics(self, "Topics", config=config, key=self.key)
        let_in(self.key, config)
        self.alerts, self.alarms = topics.alerts, topics.alarms

    def addresses(self, stack: Stack) -> programs.Addresses:
        """For the programs of another stack."""
        return programs.Addresses(
            database=KnownDatabase(stack, "Database", config=self._config),
            cache_host=self.cache.host,
            backups_bucket=self.buckets.backups.bucket_name,
            loki_bucket=self.buckets.loki.bucket_name,
            topic_arn=self.alerts.topic_arn,
        )


class JobsStack(Stack):
    """The cluster, and tasks that end: before a version starts, on a schedule, for an engineer."""

    def __init__(self, scope: Construct, id: str, *, config: Config, network: NetworkStack, data: DataStack, **stack: Any) -> None:
        super().__init__(scope, id, description="GamePulse: cluster and jobs", **stack)
        at, secrets, points = data.addresses(self), data.secrets, data.files.points
        self.cluster = ecs.Cluster(
            self,
            "Cluster",
            cluster_name=config.stack_name("cluster"),
            vpc=network.vpc,
            container_insights_v2=ecs.ContainerInsights.ENHANCED,
            execute_command_configuration=ecs.ExecuteCommandConfiguration(logging=ecs.ExecuteCommandLogging.DEFAULT),
        )
        self.namespace = servicediscovery.PrivateDnsNamespace(self, "Names", name=INTERNAL_DOMAIN, vpc=network.vpc)
        migrates = Program(self, "migrate", config=config, key=data.key, task=JOB, containers=programs.migrate(at, secrets))
        self._let_keep_secrets(migrates, config)
        saves = Program(
            self,
            "backup",
            config=config,
            key=data.key,
            task=JOB,
            containers=programs.backup(at),
            files={"prometheus-data": points[files.PROMETHEUS]},
        )
        data.files.grant(saves.role, files.PROMETHEUS)
        data.buckets.grant(saves.role, data.buckets.backups, folder="prometheus/")
        rotates = Program(
            self, "rotate", config=config, key=data.key, task=JOB, containers=programs.rotate(at, self.cluster.cluster_name)
        )
        self._let_change_passwords(rotates, data)
        looks = Program(self, "console", config=config, key=data.key, task=JOB, containers=programs.console())
        looks.role.add_to_principal_policy(
            iam.PolicyStatement(
                actions=[
                    f"ssmmessages:{action}"
                    for action in ("CreateControlChannel", "CreateDataChannel", "OpenControlChannel", "OpenDataChannel")
                ],
                resources=["*"],
            )
        )
        self.programs = [migrates, saves, rotates, looks]
        Schedules(
            self,
            "Schedules",
            config=config,
            cluster=self.cluster,
            vpc=network.vpc,
            jobs=[
                (saves, network.groups.of("backup"), "cron(30 19 * * ? *)"),
                (rotates, network.groups.of("rotate"), "cron(0 20 1 * ? *)"),
            ],
        )

    def _let_keep_secrets(self, program: Program, config: Config) -> None:
        """Where `operations game` puts keys and `operations admin` passwords; neither can be read there by who puts them."""
        program.role.add_to_principal_policy(
            iam.PolicyStatement(
                actions=["secretsmanager:CreateSecret", "secretsmanager:PutSecretValue"],
                resources=[
                    self.format_arn(
                        service="secretsmanager",
                        resource="secret",
                        resource_name=f"gamepulse/{config.environment}/{folder}/*",
                        arn_format=ArnFormat.COLON_RESOURCE_NAME,
                    )
                    for folder in ("key", "admin")
                ],
            )
        )

    def _let_change_passwords(self, program: Program, data: DataStack) -> None:
        """Of logins, and start anew those who sign in with them."""
        program.role.add_to_principal_policy(
            iam.PolicyStatement(
                actions=[
                    f"secretsmanager:{action}"
                    for action in ("DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage")
                ],
                resources=[
                    one.secret_arn for one in (data.secrets.monitor, data.secrets.grafana_reader, data.secrets.grafana_state)
                ],
            )
        )
        program.role.add_to_principal_policy(encrypting(data.key, "secretsmanager"))
        program.role.add_to_principal_policy(
            iam.PolicyStatement(
                actions=["ecs:UpdateService"],
                resources=[
                    self.format_arn(service="ecs", resource="service", resource_name=f"{self.cluster.cluster_name}/{name}")
                    for name in ("infrastructure", "grafana")
                ],
            )
        )


class ServicesStack(Stack):
    """What always runs, and the load balancer."""

    def __init__(
        self, scope: Construct, id: str, *, config: Config, network: NetworkStack, data: DataStack, jobs: JobsStack, **stack: Any
    ) -> None:
        super().__init__(scope, id, description="GamePulse: services", termination_protection=config.is_production, **stack)
        self._config, self._network, self._data, self._jobs, self._key = config, network, data, jobs, data.key
        self._at, self._secrets, self._points, self._size = data.addresses(self), data.secrets, data.files.points, config.size
        balancer = self._balancer()
        self._stores()
        self._grafana(balancer)
        self._service(
            self._program("infrastructure", self._size.infrastructure, programs.infrastructure(config, self._at, self._secrets)),
            one_writer=True,
        )
        self.balancer, self.targets = balancer.balancer, self._app(balancer)

    def _balancer(self) -> Balancer:
        """With a certificate, and the name by which CloudFront asks it."""
        config, network = self._config, self._network
        zone = route53.HostedZone.from_hosted_zone_attributes(
            self, "Zone", hosted_zone_id=config.hosted_zone_id, zone_name=config.domain
        )
        certificate = acm.Certificate(
            self,
            "Certificate",
            domain_name=config.origin,
            # CloudFront asks for the name that people use.
            subject_alternative_names=[config.play, config.grafana],
            validation=acm.CertificateValidation.from_dns(zone),
        )
        balancer = Balancer(
            self,
            "Balancer",
            config=config,
            vpc=network.vpc,
            group=network.groups.of("balancer"),
            certificate=certificate,
            access_logs=network.logs,
        )
        route53.ARecord(
            self,
            "Origin",
            zone=zone,
            record_name=config.origin,
            target=route53.RecordTarget.from_alias(targets.LoadBalancerTarget(balancer.balancer)),
        )
        return balancer

    def _stores(self) -> None:
        """Of telemetry; each writes its files alone."""
        config, data, size, points = self._config, self._data, self._size, self._points
        prometheus = self._program(
            "prometheus", size.prometheus, programs.prometheus(config), {"prometheus-data": points[files.PROMETHEUS]}
        )
        data.files.grant(prometheus.role, files.PROMETHEUS)
        self._service(prometheus, one_writer=True)

        alertmanager = self._program("alertmanager", size.alertmanager, programs.alertmanager(config, self._at))
        alertmanager.role.add_to_principal_policy(iam.PolicyStatement(actions=["sns:Publish"], resources=[data.alerts.topic_arn]))
        alertmanager.role.add_to_principal_policy(encrypting(data.key, "sns"))
        self._service(alertmanager, one_writer=True)

        loki = self._program("loki", size.loki, programs.loki(self._at))
        data.buckets.grant(loki.role, data.buckets.loki, delete=True)
        self._service(loki, one_writer=True)

        jaeger = self._program("jaeger", size.jaeger, programs.jaeger(), {"jaeger-data": points[files.JAEGER]})
        data.files.grant(jaeger.role, files.JAEGER)
        self._service(jaeger, one_writer=True)

    def _grafana(self, balancer: Balancer) -> None:
        config, data = self._config, self._data
        signs_in = SignIn(self, "SignIn", config=config, key=data.key)
        grafana = self._program(
            "grafana",
            self._size.grafana,
            programs.grafana(config, self._at, self._secrets, signs_in),
            {"grafana-config": self._points[files.GRAFANA]},
        )
        data.files.grant(grafana.role, files.GRAFANA, write=False)
        grafana.role.add_to_principal_policy(
            iam.PolicyStatement(actions=["cloudwatch:GetMetricData", "cloudwatch:ListMetrics"], resources=["*"])
        )
        seen = self._service(grafana, grace_s=180)
        seen.service.attach_to_application_target_group(
            balancer.add("Grafana", host=config.grafana, port=3000, health="/api/health", priority=20)
        )

    def _app(self, balancer: Balancer) -> elb.ApplicationTargetGroup:
        """The service; where the load balancer reaches it."""
        config, data = self._config, self._data
        app = self._program("gamepulse-app", APP, programs.app(config, self._at, self._secrets))
        app.role.add_to_principal_policy(self._at.database.connecting(SERVICE))
        reached = balancer.add("App", host=config.play, port=8080, health="/health/ready", priority=10)
        self.rollback = [alarm(self, config, one) for one in of_answers(reached)]
        served = self._service(
            app,
            tasks=None,  # a number here is set at each deployment, whatever the load is
            grace_s=90,
            group="app",
            rollback_alarms=[config.stack_name(one.node.id) for one in self.rollback],
        )
        served.service.attach_to_application_target_group(reached)
        for one in self.rollback:
            served.service.node.add_dependency(one)
            one.add_alarm_action(actions.SnsAction(data.alarms))
            one.add_ok_action(actions.SnsAction(data.alarms))
        scale(served.service, reached, config.size)
        return reached

    def _program(self, name: str, task: Any, containers: Any, mounted: Any = None) -> Program:
        return Program(self, name, config=self._config, key=self._key, task=task, containers=containers, files=mounted)

    def _service(
        self,
        program: Program,
        *,
        tasks: int | None = 1,
        grace_s: int | None = None,
        one_writer: bool = False,
        group: str = "",
        rollback_alarms: list[str] | None = None,
    ) -> Service:
        return Service(
            self,
            f"{program.family}-service",
            program=program,
            cluster=self._jobs.cluster,
            group=self._network.groups.of(group or program.family),
            namespace=self._jobs.namespace,
            tasks=tasks,
            grace_s=grace_s,
            one_writer=one_writer,
            rollback_alarms=rollback_alarms,
        )


class EdgeStack(Stack):
    """In us-east-1."""

    def __init__(self, scope: Construct, id: str, *, config: Config, **stack: Any) -> None:
        super().__init__(scope, id, description="GamePulse: edge", **stack)
        logs = LogBucket(self, "EdgeLogs", name=config.bucket_name("edge-logs"), days=90, for_cloudfront=True)
        zone = route53.HostedZone.from_hosted_zone_attributes(
            self, "Zone", hosted_zone_id=config.hosted_zone_id, zone_name=config.domain
        )
        Edge(self, "Edge", config=config, zone=zone, access_logs=logs)


class OperationsStack(Stack):
    """Who is told, who may do what and who did, what it may cost, what is tried out."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        config: Config,
        network: NetworkStack,
        data: DataStack,
        jobs: JobsStack,
        services: ServicesStack,
        **stack: Any,
    ) -> None:
        super().__init__(scope, id, description="GamePulse: operations", **stack)
        one_task = ("prometheus", "alertmanager", "loki", "jaeger", "grafana", "infrastructure")
        Alarms(
            self,
            "Alarms",
            config=config,
            topic=data.alarms,
            alerts=data.alerts,
            cluster=jobs.cluster,
            services=dict.fromkeys(one_task, 1) | {"gamepulse-app": config.size.app_tasks_min},
            balancer=services.balancer,
            targets=services.targets,
            database=rds.DatabaseInstance.from_database_instance_attributes(
                self,
                "Database",
                instance_identifier=config.database_name,
                instance_endpoint_address="",  # alarms need only the name
                port=PORT,
                security_groups=[],
            ),
            cache_node=f"{config.stack_name('cache')}-001",
        )
        Budget(self, "Budget", config=config)
        Trail(self, "ApiCalls", config=config, key=data.key, access_logs=network.logs)
        roles = {one.family: [one.role, one.execution_role] for one in jobs.programs}
        cluster = jobs.cluster.cluster_name
        Admins(self, "Admins", config=config, cluster=cluster, jobs=[role for both in roles.values() for role in both])
        Workflows(self, "Workflows", config=config, cluster=cluster, migrate=roles["migrate"])
        LostZone(self, "LostZone", config=config, cluster=jobs.cluster, database=config.database_name, stop=services.rollback[0])
