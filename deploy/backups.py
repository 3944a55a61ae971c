"""AWS Backup: database and files, each night. Not for longer than RDS goes back: raw batches are in the copies, too."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_backup as backup
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from deploy.config import Config
from deploy.database import BACKUP_DAYS
from deploy.people import of_account


class Backups(Construct):
    """The vault and the plan of `resources`."""

    def __init__(self, scope: Construct, id: str, *, config: Config, key: kms.IKey, resources: list[backup.BackupResource]) -> None:
        super().__init__(scope, id)
        vault = backup.BackupVault(
            self,
            "Vault",
            backup_vault_name=config.stack_name("vault"),
            encryption_key=key,
            block_recovery_point_deletion=config.is_production,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )
        plan = backup.BackupPlan(self, "Plan", backup_plan_name=config.stack_name("backups"), backup_vault=vault)
        plan.add_rule(_rule("nightly", events.Schedule.cron(hour="19", minute="0"), BACKUP_DAYS))
        role = iam.Role(
            self, "Role", description="AWS Backup, at night", assumed_by=of_account(config, "backup.amazonaws.com")
        )  # the plan gives it AWS's own policy for backups
        plan.add_selection("All", resources=resources, role=role, allow_restores=False)


def _rule(name: str, schedule: events.Schedule, days: int) -> backup.BackupPlanRule:
    return backup.BackupPlanRule(
        rule_name=name,
        schedule_expression=schedule,
        start_window=Duration.hours(1),
        completion_window=Duration.hours(4),
        delete_after=Duration.days(days),
    )
