"""Jobs at their times, in UTC, by EventBridge Scheduler."""

from aws_cdk import Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_scheduler as scheduler
from constructs import Construct

from deploy.config import Config
from deploy.network import PRIVATE
from deploy.people import of_account
from deploy.tasks import Program

type Job = tuple[Program, ec2.ISecurityGroup, str]


class Schedules(Construct):
    """`jobs`: what is run, with which security group, and when (a cron expression of AWS)."""

    def __init__(self, scope: Construct, id: str, *, config: Config, cluster: ecs.ICluster, vpc: ec2.IVpc, jobs: list[Job]) -> None:
        super().__init__(scope, id)
        who = of_account(config, "scheduler.amazonaws.com")
        for program, group, when in jobs:
            role = iam.Role(self, f"{program.family}-role", assumed_by=who, description=f"Starts {program.family} on its schedule")
            program.definition.grant_run(role)
            # Without it AWS refuses to start a task with tags.
            role.add_to_principal_policy(
                iam.PolicyStatement(
                    actions=["ecs:TagResource"],
                    resources=[
                        Stack.of(self).format_arn(service="ecs", resource="task", resource_name=f"{cluster.cluster_name}/*")
                    ],
                    conditions={"StringEquals": {"ecs:CreateAction": "RunTask"}},
                )
            )
            scheduler.CfnSchedule(
                self,
                program.family,
                name=config.stack_name(program.family),
                schedule_expression=when,
                flexible_time_window={"mode": "OFF"},
                target=scheduler.CfnSchedule.TargetProperty(
                    arn=cluster.cluster_arn,
                    role_arn=role.role_arn,
                    ecs_parameters=scheduler.CfnSchedule.EcsParametersProperty(
                        task_definition_arn=program.definition.task_definition_arn,
                        launch_type="FARGATE",
                        platform_version="1.4.0",
                        task_count=1,
                        propagate_tags="TASK_DEFINITION",
                        network_configuration=scheduler.CfnSchedule.NetworkConfigurationProperty(
                            awsvpc_configuration=scheduler.CfnSchedule.AwsVpcConfigurationProperty(
                                assign_public_ip="DISABLED",
                                subnets=vpc.select_subnets(subnet_type=PRIVATE.subnet_type).subnet_ids,
                                security_groups=[group.security_group_id],
                            )
                        ),
                    ),
                    retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                        maximum_event_age_in_seconds=3600, maximum_retry_attempts=3
                    ),
                ),
            )
