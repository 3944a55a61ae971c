"""Who is told of what, what it may cost, what is tried, what is started at its time."""

import json
from typing import Any

import pytest

from tests.deploy.templates import Json, Stacks, listed, tags
from tests.deploy.test_templates_network import PRIVATE

TOPICS = "arn:aws:sns:ap-northeast-2:111122223333:gamepulse-{environment}-{name}"
EMAIL = "ops@gamepulse.example"
GIB = 1024**3

# By which dimensions together AWS publishes a metric (by others an alarm has no data), and which statistics mean something.
COUNTED, NOW = {"Sum"}, {"Minimum", "Maximum", "Average"}
PUBLISHED: dict[tuple[str, str], tuple[list[set[str]], set[str]]] = {
    ("AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count"): ([{"LoadBalancer"}, {"LoadBalancer", "AvailabilityZone"}], COUNTED),
    ("AWS/ApplicationELB", "HTTPCode_Target_5XX_Count"): ([{"LoadBalancer"}, {"LoadBalancer", "TargetGroup"}], COUNTED),
    ("AWS/ApplicationELB", "TargetResponseTime"): ([{"LoadBalancer"}, {"LoadBalancer", "TargetGroup"}], {"Average", "p99"}),
    ("AWS/ApplicationELB", "UnHealthyHostCount"): ([{"LoadBalancer", "TargetGroup"}], NOW),
    ("AWS/RDS", "CPUUtilization"): ([{"DBInstanceIdentifier"}], NOW),
    ("AWS/RDS", "FreeStorageSpace"): ([{"DBInstanceIdentifier"}], NOW),
    ("AWS/RDS", "FreeableMemory"): ([{"DBInstanceIdentifier"}], NOW),
    ("AWS/ElastiCache", "EngineCPUUtilization"): ([{"CacheClusterId"}, {"CacheClusterId", "CacheNodeId"}], NOW),
    ("AWS/ElastiCache", "DatabaseMemoryUsagePercentage"): ([{"CacheClusterId"}, {"CacheClusterId", "CacheNodeId"}], NOW),
    ("AWS/SNS", "NumberOfMessagesPublished"): ([{"TopicName"}], COUNTED),
    ("AWS/Scheduler", "InvocationDroppedCount"): ([{"ScheduleGroup"}, set()], COUNTED),
    ("ECS/ContainerInsights", "RunningTaskCount"): ([{"ClusterName"}, {"ClusterName", "ServiceName"}], NOW),
    ("ECS/ContainerInsights", "EphemeralStorageUtilized"): ([{"ClusterName"}, {"ClusterName", "ServiceName"}], NOW),
}
BALANCER = "BalancerHttps[1]/BalancerHttps[2]/BalancerHttps[3]"
"""Its part of its listener's ARN: app/name/id, as CloudWatch calls it."""
APP = {"LoadBalancer": BALANCER, "TargetGroup": "BalancerApp.TargetGroupFullName"}
LESS, MORE = "LessThanThreshold", "GreaterThanThreshold"
WRONG, FINE = "breaching", "notBreaching"
ONE_TASK = ("prometheus", "alertmanager", "loki", "jaeger", "grafana", "infrastructure")


def of_service(environment: str, name: str) -> dict[str, str]:
    return {"ClusterName": f"gamepulse-{environment}-cluster", "ServiceName": name}


def expected(environment: str) -> dict[str, tuple[Any, ...]]:
    """Of each alarm: metric, dimensions, statistic, seconds of a period, from when on it is wrong, for how many periods, and without data."""
    disk, tasks = {"staging": ((40, 30), 2), "production": ((60, 60), 3)}[environment]
    database = {"DBInstanceIdentifier": f"gamepulse-{environment}-database"}
    cache = {"CacheClusterId": f"gamepulse-{environment}-cache-001"}
    least = dict.fromkeys(ONE_TASK, 1) | {"gamepulse-app": tasks}
    return {
        **{
            f"{name}-tasks": ("RunningTaskCount", of_service(environment, name), "Minimum", 60, LESS, many, 10, WRONG)
            for name, many in least.items()
        },
        **{
            f"{name}-disk": ("EphemeralStorageUtilized", of_service(environment, name), "Maximum", 60, MORE, 0.8 * gib, 5, FINE)
            for name, gib in zip(("prometheus", "loki"), disk, strict=True)
        },
        "balancer-5xx": ("HTTPCode_ELB_5XX_Count", {"LoadBalancer": "Balancer.LoadBalancerFullName"}, "Sum", 60, MORE, 20, 3, FINE),
        "answers-5xx": ("HTTPCode_Target_5XX_Count", APP, "Sum", 60, MORE, 50, 2, FINE),
        "answers-slow": ("TargetResponseTime", APP, "p99", 60, MORE, 1, 3, FINE),
        "tasks-unhealthy": ("UnHealthyHostCount", APP, "Maximum", 60, MORE, 0, 5, FINE),
        "database-cpu": ("CPUUtilization", database, "Average", 60, MORE, 85, 10, FINE),
        "database-storage": ("FreeStorageSpace", database, "Minimum", 60, LESS, 20 * GIB, 3, FINE),
        "database-memory": ("FreeableMemory", database, "Minimum", 60, LESS, GIB / 4, 10, FINE),
        "cache-cpu": ("EngineCPUUtilization", cache, "Average", 60, MORE, 85, 10, FINE),
        "cache-memory": ("DatabaseMemoryUsagePercentage", cache, "Maximum", 60, MORE, 80, 5, FINE),
        # Alertmanager's Watchdog comes each five minutes.
        "alerts-silent": ("NumberOfMessagesPublished", {"TopicName": f"gamepulse-{environment}-alerts"}, "Sum", 900, LESS, 1, 1, WRONG),
        "jobs-not-started": ("InvocationDroppedCount", {"ScheduleGroup": "default"}, "Sum", 300, MORE, 0, 1, FINE),
    }  # fmt: skip


def alarms(stacks: Stacks) -> dict[str, Json]:
    prefix = f"gamepulse-{stacks.environment}-"
    return {one.properties["AlarmName"].removeprefix(prefix): one.properties for one in stacks.all("CloudWatch::Alarm")}


def topic(stacks: Stacks, name: str) -> str:
    return TOPICS.format(environment=stacks.environment, name=name)


# Alarms


def test_each_alarm_is_about_this_in_this_way(stacks: Stacks) -> None:
    found = {
        name: (
            one["MetricName"],
            {each["Name"]: each["Value"] for each in one["Dimensions"]},
            one.get("Statistic") or one["ExtendedStatistic"],
            one["Period"],
            one["ComparisonOperator"],
            one["Threshold"],
            one["EvaluationPeriods"],
            one["TreatMissingData"],
        )
        for name, one in alarms(stacks).items()
    }
    assert found == expected(stacks.environment)
    assert {one["EvaluationPeriods"] - one["DatapointsToAlarm"] for one in alarms(stacks).values()} == {0}


def test_aws_publishes_each_alarm_s_metric_by_these_dimensions(stacks: Stacks) -> None:
    for name, one in alarms(stacks).items():
        dimensions, statistics = PUBLISHED[one["Namespace"], one["MetricName"]]
        assert {each["Name"] for each in one["Dimensions"]} in dimensions, name
        assert (one.get("Statistic") or one["ExtendedStatistic"]) in statistics, name
        assert "Unit" not in one, f"{name}: with another unit than AWS's it has no data"


def test_alarms_tell_people_when_it_begins_and_when_it_is_over(stacks: Stacks) -> None:
    for name, one in alarms(stacks).items():
        assert one.get("ActionsEnabled", True) is True, name
        assert one["AlarmActions"] == one["OKActions"] == [topic(stacks, "alarms")], name
    subscribed = {one.properties["TopicArn"]: one.properties for one in stacks.all("SNS::Subscription")}
    assert {arn: (one["Protocol"], one["Endpoint"]) for arn, one in subscribed.items()} == dict.fromkeys(
        (topic(stacks, "alarms"), topic(stacks, "alerts")), ("email", EMAIL)
    )
    assert "FilterPolicy" not in subscribed[topic(stacks, "alarms")]
    # All but the Watchdog, which says each five minutes that all is well.
    assert subscribed[topic(stacks, "alerts")]["FilterPolicy"] == {"severity": [{"anything-but": ["none"]}]}


def test_alarms_say_why(stacks: Stacks) -> None:
    for name, one in alarms(stacks).items():
        assert len(one["AlarmDescription"]) > 20, name


# API calls


def test_api_calls_of_all_regions_are_logged_signed_and_with_our_key(stacks: Stacks) -> None:
    [trail] = stacks.all("CloudTrail::Trail")
    has = trail.properties
    assert (has["IsLogging"], has["IsMultiRegionTrail"], has["IncludeGlobalServiceEvents"]) == (True, True, True)
    assert has["EventSelectors"] == [{"IncludeManagementEvents": True, "ReadWriteType": "All"}]
    assert has["EnableLogFileValidation"] is True
    assert has["KMSKeyId"] == "arn:aws:kms:ap-northeast-2:111122223333:key/Key"
    assert has["S3BucketName"] == "gamepulse-api-calls-111122223333"
    [policy] = [one for one in stacks.all("S3::BucketPolicy") if one.properties["Bucket"] == has["S3BucketName"]]
    assert policy.id in listed(trail.attributes.get("DependsOn")), "CloudTrail tries whether it may write when it is made"


# Events


def rules(stacks: Stacks) -> dict[str, Json]:
    prefix = f"gamepulse-{stacks.environment}-"
    return {one.properties["Name"].removeprefix(prefix): one.properties for one in stacks.all("Events::Rule")}


def fits(pattern: Any, event: Any) -> bool:
    """As far as our patterns go (EventBridge, "Comparison operators"): values, anything-but, $or, and any element of a list."""
    if isinstance(event, list):
        return any(fits(pattern, one) for one in event)
    if isinstance(pattern, list):
        return any((event not in one["anything-but"] if isinstance(one, dict) else event == one) for one in pattern)
    others = {name: one for name, one in pattern.items() if name != "$or"}
    return all(name in event and fits(one, event[name]) for name, one in others.items()) and (
        "$or" not in pattern or any(fits(one, event) for one in pattern["$or"])
    )


def ended(family: str, codes: list[int], **more: str) -> tuple[str, str, Json]:
    cluster = "arn:aws:ecs:ap-northeast-2:111122223333:cluster/gamepulse-{environment}-cluster"
    detail = {"clusterArn": cluster, "group": f"family:{family}", "lastStatus": "STOPPED", "stopCode": "EssentialContainerExited"}
    return "aws.ecs", "ECS Task State Change", {**detail, "containers": [{"exitCode": code} for code in codes], **more}


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        (ended("backup", [1]), "job-failed"),
        (ended("migrate", [0, 137]), "job-failed"),
        (ended("rotate", [], stopCode="TaskFailedToStart"), "job-failed"),
        (ended("backup", [0]), None),
        (ended("backup", [1], lastStatus="STOPPING"), None),
        (ended("console", [1]), None),
        (ended("backup", [1], clusterArn="another"), None),
        (("aws.backup", "Backup Job State Change", {"state": "FAILED"}), "backup-failed"),
        (("aws.backup", "Backup Job State Change", {"state": "EXPIRED"}), "backup-failed"),
        (("aws.backup", "Backup Job State Change", {"state": "ABORTED"}), "backup-failed"),
        (("aws.backup", "Backup Job State Change", {"state": "COMPLETED"}), None),
        (("aws.rds", "RDS DB Instance Event", {"EventCategories": ["failover"]}), "database-event"),
        (("aws.rds", "RDS DB Instance Event", {"EventCategories": ["failure"]}), "database-event"),
        (("aws.rds", "RDS DB Instance Event", {"EventCategories": ["low storage"]}), "database-event"),
        (("aws.rds", "RDS DB Instance Event", {"EventCategories": ["backup"]}), None),
    ],
)
def test_what_failed_is_told_and_nothing_else(stacks: Stacks, event: tuple[str, str, Json], rule: str | None) -> None:
    source, kind, detail = event
    happened = json.loads(
        json.dumps({"source": source, "detail-type": kind, "detail": detail}).replace("{environment}", stacks.environment)
    )
    assert [name for name, one in rules(stacks).items() if fits(one["EventPattern"], happened)] == ([rule] if rule else [])


def test_events_are_told_to_people(stacks: Stacks) -> None:
    assert set(rules(stacks)) == {"job-failed", "backup-failed", "database-event"}
    for name, one in rules(stacks).items():
        assert (one["State"], [each["Arn"] for each in one["Targets"]]) == ("ENABLED", [topic(stacks, "alarms")]), name


# What it may cost


def test_the_month_has_a_limit_of_which_people_are_told(stacks: Stacks) -> None:
    budget = stacks.one("Budgets::Budget")
    assert budget["Budget"] == {
        "BudgetName": f"gamepulse-{stacks.environment}-month",
        "BudgetType": "COST",
        "TimeUnit": "MONTHLY",
        "BudgetLimit": {"Amount": {"staging": 5_000, "production": 20_000}[stacks.environment], "Unit": "USD"},
    }, "of all that the account costs: no filter"
    told = {
        (one["Notification"]["NotificationType"], one["Notification"]["Threshold"]): one
        for one in budget["NotificationsWithSubscribers"]
    }
    assert set(told) == {("ACTUAL", 50), ("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100)}
    for one in told.values():
        assert (one["Notification"]["ComparisonOperator"], one["Notification"]["ThresholdType"]) == ("GREATER_THAN", "PERCENTAGE")
        assert one["Subscribers"] == [{"SubscriptionType": "EMAIL", "Address": EMAIL}]


# What is tried

# Of each action of FIS: what its target is called, of which type it must be, and its own parameters.
ACTIONS = {
    "aws:network:disrupt-connectivity": ("Subnets", "aws:ec2:subnet", {"duration": "PT10M", "scope": "all"}),
    "aws:ecs:stop-task": ("Tasks", "aws:ecs:task", {}),
    "aws:rds:reboot-db-instances": ("DBInstances", "aws:rds:db", {"forceFailover": "true"}),
}
ZONE = "ap-northeast-2a"


def experiment(stacks: Stacks) -> Json:
    return stacks.one("FIS::ExperimentTemplate")


def test_losing_a_zone_takes_its_network_its_tasks_and_the_database_there(stacks: Stacks) -> None:
    has = experiment(stacks)
    found = {}
    for one in has["Actions"].values():
        [(name, target)] = one["Targets"].items()
        found[one["ActionId"]] = (name, has["Targets"][target]["ResourceType"], one.get("Parameters", {}))
        assert "StartAfter" not in one, "all at once"
    assert found == ACTIONS
    assert "not run" in has["Description"]


def test_an_experiment_hits_nothing_but_this_environment_s_one_zone(stacks: Stacks) -> None:
    targets = {one["ResourceType"]: one for one in experiment(stacks)["Targets"].values()}
    assert {one["SelectionMode"] for one in targets.values()} == {"ALL"}
    subnets = targets["aws:ec2:subnet"]
    assert subnets["ResourceTags"] == {"application": "gamepulse", "environment": stacks.environment}
    assert subnets["Parameters"] == {"availabilityZoneIdentifier": ZONE}
    ours = [one for one in stacks.all("EC2::Subnet") if subnets["ResourceTags"].items() <= tags(one).items()]
    assert [one.properties["AvailabilityZone"] for one in ours].count(ZONE) == 2, "the public and the private one"
    tasks = targets["aws:ecs:task"]
    assert tasks["Parameters"] == {"cluster": f"gamepulse-{stacks.environment}-cluster", "service": "gamepulse-app"}
    assert tasks["Filters"] == [{"Path": "AvailabilityZone", "Values": [ZONE]}]
    database = f"arn:aws:rds:ap-northeast-2:111122223333:db:gamepulse-{stacks.environment}-database"
    assert targets["aws:rds:db"]["ResourceArns"] == [database]


def test_answers_that_fail_end_an_experiment(stacks: Stacks) -> None:
    alarm = f"arn:aws:cloudwatch:ap-northeast-2:111122223333:alarm:gamepulse-{stacks.environment}-answers-5xx"
    assert experiment(stacks)["StopConditions"] == [{"Source": "aws:cloudwatch:alarm", "Value": alarm}]


def test_an_experiment_has_a_role_of_its_own(stacks: Stacks) -> None:
    assert experiment(stacks)["RoleArn"] == "arn:aws:iam::111122223333:role/LostZoneRole"


# What is started at its time


def test_jobs_run_at_their_times(stacks: Stacks) -> None:
    definitions = {one.arn: one.name for one in stacks.all("ECS::TaskDefinition")}
    found = {
        definitions[one.properties["Target"]["EcsParameters"]["TaskDefinitionArn"]]: one.properties
        for one in stacks.all("Scheduler::Schedule")
    }
    # Half an hour after AWS Backup has begun; at half past four and five in the morning in Seoul.
    assert {name: one["ScheduleExpression"] for name, one in found.items()} == {
        "backup": "cron(30 19 * * ? *)",
        "rotate": "cron(0 20 1 * ? *)",
    }
    for name, one in found.items():
        assert one["Name"] == f"gamepulse-{stacks.environment}-{name}"
        assert one.get("ScheduleExpressionTimezone", "UTC") == "UTC"
        assert one.get("State", "ENABLED") == "ENABLED"
        assert one["FlexibleTimeWindow"] == {"Mode": "OFF"}
        # The alarm `jobs-not-started` looks at this group.
        assert one.get("GroupName", "default") == "default"


def test_a_job_is_started_once_in_its_place_and_again_when_that_fails(stacks: Stacks) -> None:
    for one in stacks.all("Scheduler::Schedule"):
        target = one.properties["Target"]
        asked, name = target["EcsParameters"], one.properties["Name"].rsplit("-", 1)[1]
        assert target["Arn"] == f"arn:aws:ecs:ap-northeast-2:111122223333:cluster/gamepulse-{stacks.environment}-cluster"
        assert target["RoleArn"] == f"arn:aws:iam::111122223333:role/Schedules{name}role", "whose rights test_iam.py has"
        assert (asked["LaunchType"], asked["PlatformVersion"], asked["TaskCount"]) == ("FARGATE", "1.4.0", 1)
        assert asked["PropagateTags"] == "TASK_DEFINITION"
        where = asked["NetworkConfiguration"]["AwsvpcConfiguration"]
        assert (where["AssignPublicIp"], where["SecurityGroups"], set(where["Subnets"])) == ("DISABLED", [name], set(PRIVATE))
        assert target["RetryPolicy"] == {"MaximumEventAgeInSeconds": 3600, "MaximumRetryAttempts": 3}
