"""CloudWatch alarms: about what Prometheus cannot see, and about Prometheus. Each tells the topic `alarms`."""

from dataclasses import dataclass

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_rds as rds
from aws_cdk import aws_sns as sns
from constructs import Construct

from deploy.config import Config

GIB = 1024**3
FREE_STORAGE_GIB = 20
SILENCE_MINUTES = 15
"""Alertmanager sends its Watchdog every five minutes at the longest (observability/alertmanager/alertmanager.yml)."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A metric of AWS, and when it is wrong: in `periods` periods one after another, of `minutes` each."""

    name: str
    why: str
    metric: cloudwatch.Metric
    limit: float
    periods: int = 3
    below: bool = False
    missing: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING


def alarm(scope: Construct, config: Config, one: Watched) -> cloudwatch.Alarm:
    """Named, so that others can name it."""
    less, more = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD, cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
    return cloudwatch.Alarm(
        scope,
        one.name,
        alarm_name=config.stack_name(one.name),
        alarm_description=one.why,
        metric=one.metric,
        threshold=one.limit,
        comparison_operator=less if one.below else more,
        evaluation_periods=one.periods,
        datapoints_to_alarm=one.periods,
        treat_missing_data=one.missing,
    )


def of_answers(targets: elb.ApplicationTargetGroup) -> list[Watched]:
    """What takes a deployment back (deploy/stacks.py)."""
    return [
        Watched(
            name="answers-5xx",
            why="The service answers with errors. Runbook: docs/runbooks/HighErrorRate.md",
            metric=targets.metrics.http_code_target(
                elb.HttpCodeTarget.TARGET_5XX_COUNT, period=Duration.minutes(1), statistic="Sum"
            ),
            limit=50,
            periods=2,
        ),
        Watched(
            name="answers-slow",
            why="One in a hundred answers takes more than a second. Runbook: docs/runbooks/HighResponseTime.md",
            metric=targets.metrics.target_response_time(period=Duration.minutes(1), statistic="p99"),
            limit=1,
            periods=3,
        ),
    ]


class Alarms(Construct):
    """All but those of `of_answers`, which are there before the service is."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        config: Config,
        topic: sns.ITopic,
        alerts: sns.ITopic,
        cluster: ecs.ICluster,
        services: dict[str, int],
        balancer: elb.ApplicationLoadBalancer,
        targets: elb.ApplicationTargetGroup,
        database: rds.IDatabaseInstance,
        cache_node: str,
    ) -> None:
        """`alerts`: where Alertmanager sends. `services`: how many tasks each has at the least. `cache_node`: the primary's id."""
        super().__init__(scope, id)
        watched = [
            *_of_services(cluster, services),
            *_of_disks(config, cluster),
            *_of_balancer(balancer, targets),
            *_of_database(config, database),
            *_of_cache(cache_node),
            Watched(
                name="alerts-silent",
                why="Alertmanager has told nothing, not even that it is there. Runbook: docs/runbooks/Watchdog.md",
                metric=alerts.metric_number_of_messages_published(period=Duration.minutes(SILENCE_MINUTES), statistic="Sum"),
                limit=1,
                periods=1,
                below=True,
                missing=cloudwatch.TreatMissingData.BREACHING,
            ),
            Watched(
                name="jobs-not-started",
                why="A job was not started at its time and is not tried again: look at the schedule's role and network",
                metric=cloudwatch.Metric(
                    namespace="AWS/Scheduler",
                    metric_name="InvocationDroppedCount",
                    dimensions_map={"ScheduleGroup": "default"},
                    period=Duration.minutes(5),
                    statistic="Sum",
                ),
                limit=0,
                periods=1,
            ),
        ]
        tell = actions.SnsAction(topic)
        for one in watched:
            made = alarm(self, config, one)
            made.add_alarm_action(tell)
            made.add_ok_action(tell)
        _tell_of_jobs(self, config, cluster, topic)


def _of_ecs(name: str, cluster: ecs.ICluster, service: str, statistic: str) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace="ECS/ContainerInsights",
        metric_name=name,
        dimensions_map={"ClusterName": cluster.cluster_name, "ServiceName": service},
        period=Duration.minutes(1),
        statistic=statistic,
    )


def _of_services(cluster: ecs.ICluster, services: dict[str, int]) -> list[Watched]:
    return [
        Watched(
            name=f"{name}-tasks",
            why=f"{name} has fewer tasks than {least}. Runbook: docs/runbooks/TargetDown.md",
            metric=_of_ecs("RunningTaskCount", cluster, name, "Minimum"),
            limit=least,
            periods=10,
            below=True,
            missing=cloudwatch.TreatMissingData.BREACHING,
        )
        for name, least in services.items()
    ]


def _of_disks(config: Config, cluster: ecs.ICluster) -> list[Watched]:
    """Of the stores that write to their task's own; a Collector tells of the others' disks itself."""
    return [
        Watched(
            name=f"{name}-disk",
            why=f"Of the {disk_gib} GiB of disk that {name} has, a fifth is left. Runbook: docs/runbooks/DiskFilling.md",
            metric=_of_ecs("EphemeralStorageUtilized", cluster, name, "Maximum"),
            limit=0.8 * disk_gib,
            periods=5,
        )
        for name, disk_gib in {"prometheus": config.size.prometheus.disk_gib, "loki": config.size.loki.disk_gib}.items()
    ]


def _of_balancer(balancer: elb.ApplicationLoadBalancer, targets: elb.ApplicationTargetGroup) -> list[Watched]:
    return [
        Watched(
            name="balancer-5xx",
            why="The load balancer itself answers with errors: it reaches no task, or tasks close connections",
            metric=balancer.metrics.http_code_elb(elb.HttpCodeElb.ELB_5XX_COUNT, period=Duration.minutes(1), statistic="Sum"),
            limit=20,
        ),
        Watched(
            name="tasks-unhealthy",
            why="The load balancer sends nothing to a task of the service",
            metric=targets.metrics.unhealthy_host_count(period=Duration.minutes(1), statistic="Maximum"),
            limit=0,
            periods=5,
        ),
    ]


def _of_database(config: Config, database: rds.IDatabaseInstance) -> list[Watched]:
    every = Duration.minutes(1)
    return [
        Watched(
            name="database-cpu",
            why="PostgreSQL's CPU is nearly used up",
            metric=database.metric_cpu_utilization(period=every),
            limit=85,
            periods=10,
        ),
        Watched(
            name="database-storage",
            why=f"PostgreSQL has less than {FREE_STORAGE_GIB} GiB left; it grows by itself to {5 * config.size.database_gib} GiB",
            metric=database.metric_free_storage_space(period=every, statistic="Minimum"),
            limit=FREE_STORAGE_GIB * GIB,
            below=True,
        ),
        Watched(
            name="database-memory",
            why="PostgreSQL has less than 256 MiB of memory left",
            metric=database.metric_freeable_memory(period=every, statistic="Minimum"),
            limit=GIB / 4,
            periods=10,
            below=True,
        ),
    ]


def _of_cache(node: str) -> list[Watched]:
    def metric(name: str, statistic: str) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace="AWS/ElastiCache",
            metric_name=name,
            dimensions_map={"CacheClusterId": node},
            period=Duration.minutes(1),
            statistic=statistic,
        )

    return [
        Watched(
            name="cache-cpu",
            why="Valkey's CPU is nearly used up",
            metric=metric("EngineCPUUtilization", "Average"),
            limit=85,
            periods=10,
        ),
        Watched(
            name="cache-memory",
            why="Valkey's memory is nearly used up",
            metric=metric("DatabaseMemoryUsagePercentage", "Maximum"),
            limit=80,
            periods=5,
        ),
    ]


def _tell_of_jobs(scope: Construct, config: Config, cluster: ecs.ICluster, topic: sns.ITopic) -> None:
    """Jobs that failed, backups that failed, and what the database says of itself."""
    # By its name: else CDK would write into the policy of the topic, which is another stack's (topics.py lets events tell).
    target = targets.SnsTopic(sns.Topic.from_topic_arn(scope, "Told", topic.topic_arn))
    failed = events.EventPattern(
        source=["aws.ecs"],
        detail_type=["ECS Task State Change"],
        detail={
            "clusterArn": [cluster.cluster_arn],
            "lastStatus": ["STOPPED"],
            "group": [f"family:{name}" for name in ("migrate", "backup", "rotate")],
            # Where nothing was started, as without its image or a secret, nothing has an exit code.
            "$or": [{"containers": {"exitCode": [{"anything-but": [0]}]}}, {"stopCode": ["TaskFailedToStart"]}],
        },
    )
    events.Rule(scope, "JobFailed", rule_name=config.stack_name("job-failed"), event_pattern=failed, targets=[target])
    lost = events.EventPattern(
        source=["aws.backup"], detail_type=["Backup Job State Change"], detail={"state": ["FAILED", "EXPIRED", "ABORTED"]}
    )
    events.Rule(scope, "BackupFailed", rule_name=config.stack_name("backup-failed"), event_pattern=lost, targets=[target])
    moved = events.EventPattern(
        source=["aws.rds"],
        detail_type=["RDS DB Instance Event"],
        detail={"EventCategories": ["failover", "failure", "low storage"]},
    )
    events.Rule(scope, "DatabaseEvent", rule_name=config.stack_name("database-event"), event_pattern=moved, targets=[target])
