"""A zone is lost, by AWS FIS: what `make prove` does, and an engineer on a quiet day. Not run without an account."""

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_fis as fis
from aws_cdk import aws_iam as iam
from constructs import Construct

from deploy.config import REGION, ZONES, Config
from deploy.people import of_account

MINUTES = 10


class LostZone(Construct):
    """The first zone's subnets reach nobody, its tasks end, the database fails over; answers that fail end the experiment."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        config: Config,
        cluster: ecs.ICluster,
        database: str,
        stop: cloudwatch.IAlarm,
    ) -> None:
        super().__init__(scope, id)
        role = iam.Role(
            self,
            "Role",
            description="AWS FIS, when it takes a zone away",
            assumed_by=of_account(config, "fis.amazonaws.com"),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name(f"service-role/AWSFaultInjectionSimulator{part}Access")
                for part in ("Network", "ECS", "RDS")
            ],
        )
        tags = {"application": "gamepulse", "environment": config.environment}
        fis.CfnExperimentTemplate(
            self,
            "Template",
            description="A zone is lost (not run yet)",
            role_arn=role.role_arn,
            stop_conditions=[
                fis.CfnExperimentTemplate.ExperimentTemplateStopConditionProperty(
                    source="aws:cloudwatch:alarm", value=stop.alarm_arn
                )
            ],
            tags={"Name": config.stack_name("lost-zone")},
            targets={
                "subnets": fis.CfnExperimentTemplate.ExperimentTemplateTargetProperty(
                    resource_type="aws:ec2:subnet",
                    resource_tags=tags,
                    selection_mode="ALL",
                    parameters={"availabilityZoneIdentifier": ZONES[0]},
                ),
                "tasks": fis.CfnExperimentTemplate.ExperimentTemplateTargetProperty(
                    resource_type="aws:ecs:task",
                    selection_mode="ALL",
                    parameters={"cluster": cluster.cluster_name, "service": "gamepulse-app"},
                    filters=[
                        fis.CfnExperimentTemplate.ExperimentTemplateTargetFilterProperty(path="AvailabilityZone", values=[ZONES[0]])
                    ],
                ),
                "database": fis.CfnExperimentTemplate.ExperimentTemplateTargetProperty(
                    resource_type="aws:rds:db",
                    resource_arns=[f"arn:aws:rds:{REGION}:{config.account}:db:{database}"],
                    selection_mode="ALL",
                ),
            },
            actions={
                "cut": fis.CfnExperimentTemplate.ExperimentTemplateActionProperty(
                    action_id="aws:network:disrupt-connectivity",
                    parameters={"duration": f"PT{MINUTES}M", "scope": "all"},
                    targets={"Subnets": "subnets"},
                ),
                "stop": fis.CfnExperimentTemplate.ExperimentTemplateActionProperty(
                    action_id="aws:ecs:stop-task", targets={"Tasks": "tasks"}
                ),
                "failover": fis.CfnExperimentTemplate.ExperimentTemplateActionProperty(
                    action_id="aws:rds:reboot-db-instances",
                    parameters={"forceFailover": "true"},
                    targets={"DBInstances": "database"},
                ),
            },
        )
