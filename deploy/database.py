"""RDS for PostgreSQL in two zones."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from deploy.config import NAME, REGION, Config
from deploy.network import PRIVATE
from deploy.people import of_account

ENGINE = rds.DatabaseInstanceEngine.postgres(version=rds.PostgresEngineVersion.of("18.3", "18"))
MASTER = "gamepulse_admin"
OWNER = "gamepulse"
"""Whose the tables are; `migrate` becomes it."""
SERVICE = "gamepulse_service"
"""The service's login: by IAM, without a password."""
PORT = 5432
ROOTS = "/etc/ssl/rds-roots.pem"
"""In the images: whom RDS' certificate is from (docker/rds-roots.pem)."""
BACKUP_DAYS = 14
LOGS = ("postgresql", "upgrade")
HOST, RESOURCE_ID, MASTER_SECRET = "host", "resource-id", "master-secret"

PARAMETERS = {
    "rds.force_ssl": "1",
    # The server's own log shows no values of ours (ARCHITECTURE.md, invariant 6).
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_lock_waits": "1",
    # What the service refuses to run without.
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "60000",
    "wal_compression": "lz4",
    "password_encryption": "scram-sha-256",
}


class Database(Construct):
    """`instance`: empty at first, or what a snapshot holds. Other stacks know it as a KnownDatabase."""

    def __init__(
        self, scope: Construct, id: str, *, config: Config, vpc: ec2.IVpc, group: ec2.ISecurityGroup, key: kms.IKey
    ) -> None:
        super().__init__(scope, id)
        self.instance = rds.DatabaseInstance(
            self,
            "Instance",
            engine=ENGINE,
            instance_identifier=config.database_name,
            instance_type=ec2.InstanceType(config.size.database_class),
            vpc=vpc,
            vpc_subnets=PRIVATE,
            security_groups=[group],
            multi_az=True,
            publicly_accessible=False,
            credentials=rds.Credentials.from_username(MASTER),
            manage_master_user_password=True,
            iam_authentication=True,
            storage_type=rds.StorageType.GP3,
            allocated_storage=config.size.database_gib,
            max_allocated_storage=5 * config.size.database_gib,
            storage_encrypted=True,
            storage_encryption_key=key,
            ca_certificate=rds.CaCertificate.RDS_CA_RSA2048_G1,
            parameter_group=rds.ParameterGroup(self, "Parameters", engine=ENGINE, description="GamePulse", parameters=PARAMETERS),
            backup_retention=Duration.days(BACKUP_DAYS),
            preferred_backup_window="18:00-19:00",  # UTC: three in the morning in Korea
            preferred_maintenance_window="tue:19:30-tue:20:30",
            delete_automated_backups=False,
            copy_tags_to_snapshot=True,
            auto_minor_version_upgrade=True,
            database_insights_mode=rds.DatabaseInsightsMode.STANDARD,
            enable_performance_insights=True,
            performance_insight_encryption_key=key,
            performance_insight_retention=rds.PerformanceInsightRetention.DEFAULT,
            monitoring_interval=Duration.seconds(60),
            monitoring_role=iam.Role(
                self,
                "Monitoring",
                description="RDS, when it says how its machine is",
                assumed_by=of_account(config, "monitoring.rds.amazonaws.com"),
                managed_policies=[iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonRDSEnhancedMonitoringRole")],
            ),
            cloudwatch_logs_exports=list(LOGS),
            deletion_protection=config.is_production,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if config.is_production else RemovalPolicy.SNAPSHOT,
        )
        cfn = self.instance.node.default_child
        assert isinstance(cfn, rds.CfnDBInstance)
        cfn.master_user_secret = rds.CfnDBInstance.MasterUserSecretProperty(kms_key_id=key.key_arn)
        if config.database_snapshot:
            cfn.db_snapshot_identifier = config.database_snapshot
            # These come with it, and CloudFormation takes no others: it may have grown since, and been given a newer minor version.
            cfn.engine_version = cfn.allocated_storage = cfn.master_username = cfn.kms_key_id = cfn.storage_encrypted = None
        for log in self._logs(config):
            cfn.node.add_dependency(log)
        self._tell(config, cfn)

    def _tell(self, config: Config, cfn: rds.CfnDBInstance) -> None:
        """To other stacks, what another database has otherwise."""
        told = {
            HOST: cfn.attr_endpoint_address,
            RESOURCE_ID: cfn.attr_dbi_resource_id,
            MASTER_SECRET: cfn.attr_master_user_secret_secret_arn,
        }
        for name, value in told.items():
            ssm.StringParameter(self, name.title().replace("-", ""), parameter_name=_parameter(config, name), string_value=value)

    def _logs(self, config: Config) -> list[logs.LogGroup]:
        """Where RDS writes its logs: there before the instance, since what RDS makes itself keeps them for ever."""
        return [
            logs.LogGroup(
                self,
                f"{log.capitalize()}Log",
                log_group_name=f"/aws/rds/instance/{config.database_name}/{log}",
                retention=logs.RetentionDays.ONE_MONTH,
                removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if config.is_production else RemovalPolicy.DESTROY,
            )
            for log in LOGS
        ]


class KnownDatabase(Construct):
    """The database, as another stack knows it: by parameters, which each deployment of that stack reads anew.

    CloudFormation changes no export that is in use: so a database that was restored could not take the other's place.
    """

    def __init__(self, scope: Construct, id: str, *, config: Config) -> None:
        super().__init__(scope, id)
        self._config = config

    @property
    def host(self) -> str:
        return self._told(HOST)

    @property
    def address(self) -> str:
        return f"{self.host}:{PORT}"

    @property
    def master(self) -> secretsmanager.ISecret:
        """The secret that RDS makes and rotates."""
        return secretsmanager.Secret.from_secret_complete_arn(self, "Master", self._told(MASTER_SECRET))

    def url(self, user: str, database: str = "gamepulse") -> str:
        """For asyncpg, without a password; the server's certificate is verified against RDS's roots, which the images have."""
        return f"postgresql://{user and f'{user}@'}{self.address}/{database}?sslmode=verify-full&sslrootcert={ROOTS}"

    def connecting(self, user: str) -> iam.PolicyStatement:
        """By IAM, as one user of the database."""
        users = f"arn:aws:rds-db:{REGION}:{self._config.account}:dbuser:{self._told(RESOURCE_ID)}"
        return iam.PolicyStatement(actions=["rds-db:connect"], resources=[f"{users}/{user}"])

    def _told(self, name: str) -> str:
        return ssm.StringParameter.value_for_string_parameter(self, _parameter(self._config, name))


def _parameter(config: Config, name: str) -> str:
    return f"/{NAME}/{config.environment}/database/{name}"
