"""RDS for PostgreSQL in two zones."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from deploy.config import Config
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
    """`instance`, and `master`, the secret that RDS makes and rotates."""

    def __init__(
        self, scope: Construct, id: str, *, config: Config, vpc: ec2.IVpc, group: ec2.ISecurityGroup, key: kms.IKey
    ) -> None:
        super().__init__(scope, id)
        self.instance = rds.DatabaseInstance(
            self,
            "Instance",
            engine=ENGINE,
            instance_identifier=config.stack_name("database"),
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
        for log in self._logs(config):
            cfn.node.add_dependency(log)
        cfn.master_user_secret = rds.CfnDBInstance.MasterUserSecretProperty(kms_key_id=key.key_arn)
        self.master = secretsmanager.Secret.from_secret_attributes(
            self, "Master", secret_complete_arn=cfn.attr_master_user_secret_secret_arn, encryption_key=key
        )

    def _logs(self, config: Config) -> list[logs.LogGroup]:
        """Where RDS writes its logs: there before the instance, since what RDS makes itself keeps them for ever."""
        return [
            logs.LogGroup(
                self,
                f"{log.capitalize()}Log",
                log_group_name=f"/aws/rds/instance/{config.stack_name('database')}/{log}",
                retention=logs.RetentionDays.ONE_MONTH,
                removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if config.is_production else RemovalPolicy.DESTROY,
            )
            for log in LOGS
        ]

    def url(self, user: str, database: str = "gamepulse") -> str:
        """For asyncpg, without a password; the server's certificate is verified against RDS's roots, which the images have."""
        host = self.instance.db_instance_endpoint_address
        return f"postgresql://{user and f'{user}@'}{host}:{PORT}/{database}?sslmode=verify-full&sslrootcert={ROOTS}"

    def grant_connect(self, grantee: iam.IGrantable, user: str) -> None:
        """By IAM, as one user of the database."""
        self.instance.grant_connect(grantee, user)
