"""Who is told of what, who may do what, and what is tried, as the deployed account has it."""

import json
from urllib.parse import unquote

import pytest

from tests.deploy.emulated.account import Account, Json


@pytest.fixture(scope="module")
def alarms(deployed: Account) -> dict[str, Json]:
    found = deployed.client("cloudwatch").describe_alarms(AlarmNames=[], MaxRecords=100)["MetricAlarms"]
    # Application Auto Scaling makes alarms of its own.
    return {one["AlarmName"]: one for one in found if not one["AlarmName"].startswith("TargetTracking")}


def topic(account: Account, name: str) -> str:
    return next(
        str(one["TopicArn"]) for one in account.client("sns").list_topics()["Topics"] if one["TopicArn"].endswith(f"-{name}")
    )


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


LESS, MORE = "LessThanThreshold", "GreaterThanThreshold"
ALARMS = {
    **{
        f"{name}-tasks": (LESS, 1, 10, "breaching")
        for name in ("prometheus", "alertmanager", "loki", "jaeger", "grafana", "infrastructure")
    },
    "gamepulse-app-tasks": (LESS, 2, 10, "breaching"),
    "balancer-5xx": (MORE, 20, 3, "notBreaching"),
    "tasks-unhealthy": (MORE, 0, 5, "notBreaching"),
    "database-cpu": (MORE, 85, 10, "notBreaching"),
    "database-storage": (LESS, 20 * 1024**3, 3, "notBreaching"),
    "database-memory": (LESS, 256 * 1024**2, 10, "notBreaching"),
    "cache-cpu": (MORE, 85, 10, "notBreaching"),
    "cache-memory": (MORE, 80, 5, "notBreaching"),
    "prometheus-disk": (MORE, 32, 5, "notBreaching"),
    "loki-disk": (MORE, 24, 5, "notBreaching"),
    "alerts-silent": (LESS, 1, 1, "breaching"),
    "jobs-not-started": (MORE, 0, 1, "notBreaching"),
    "answers-5xx": (MORE, 50, 2, "notBreaching"),
    "answers-slow": (MORE, 1, 3, "notBreaching"),
}


def test_alarms_are_these(alarms: dict[str, Json]) -> None:
    assert {
        name.removeprefix("gamepulse-staging-"): (
            one["ComparisonOperator"],
            one["Threshold"],
            one["EvaluationPeriods"],
            one["TreatMissingData"],
        )
        for name, one in alarms.items()
    } == ALARMS


def test_each_alarm_tells_people(deployed: Account, alarms: dict[str, Json]) -> None:
    told = {(*one["AlarmActions"], *one["OKActions"]) for one in alarms.values()}
    assert told == {(topic(deployed, "alarms"),) * 2}


def test_alarms_are_about_what_is_there(deployed: Account, alarms: dict[str, Json]) -> None:
    elb = deployed.client("elbv2")
    [balancer] = elb.describe_load_balancers()["LoadBalancers"]
    there = {
        "ClusterName": {"gamepulse-staging-cluster"},
        "ServiceName": {
            one.rpartition("/")[2]
            for one in deployed.client("ecs").list_services(cluster="gamepulse-staging-cluster")["serviceArns"]
        },
        "LoadBalancer": {balancer["LoadBalancerArn"].partition(":loadbalancer/")[2]},
        "TargetGroup": {one["TargetGroupArn"].rsplit(":", 1)[1] for one in elb.describe_target_groups()["TargetGroups"]},
        "DBInstanceIdentifier": {"gamepulse-staging-database"},
        "CacheClusterId": {"gamepulse-staging-cache-001"},
        "TopicName": {"gamepulse-staging-alerts"},
        "ScheduleGroup": {one["Name"] for one in deployed.client("scheduler").list_schedule_groups()["ScheduleGroups"]},
    }
    for name, one in alarms.items():
        assert one["Dimensions"], name
        for dimension in one["Dimensions"]:
            assert dimension["Value"] in there[dimension["Name"]], name


def test_failed_jobs_backups_and_a_database_that_moved_are_told(deployed: Account) -> None:
    events = deployed.client("events")
    found = {one["Name"].removeprefix("gamepulse-staging-"): one for one in events.list_rules()["Rules"]}
    assert found.keys() == {"job-failed", "backup-failed", "database-event"}
    for one in found.values():
        assert one["State"] == "ENABLED"
        [target] = events.list_targets_by_rule(Rule=one["Name"])["Targets"]
        assert target["Arn"] == topic(deployed, "alarms")
    job = json.loads(found["job-failed"]["EventPattern"])["detail"]
    [cluster] = deployed.client("ecs").describe_clusters(clusters=["gamepulse-staging-cluster"])["clusters"]
    assert job["clusterArn"] == [cluster["clusterArn"]]
    assert job["group"] == ["family:migrate", "family:backup", "family:rotate"]
    # With an exit code, or never started: then it has none.
    assert job["$or"] == [{"containers": {"exitCode": [{"anything-but": [0]}]}}, {"stopCode": ["TaskFailedToStart"]}]


def test_only_this_accounts_alarms_and_aws_s_events_may_tell(deployed: Account) -> None:
    attributes = deployed.client("sns").get_topic_attributes(TopicArn=topic(deployed, "alarms"))["Attributes"]
    allowed = [one for one in json.loads(attributes["Policy"])["Statement"] if one["Effect"] == "Allow"]
    found = {name: one.get("Condition") for one in allowed for name in as_list(one["Principal"]["Service"])}
    assert found == {
        "cloudwatch.amazonaws.com": {"StringEquals": {"aws:SourceAccount": "111122223333"}},
        "events.amazonaws.com": None,  # it names no account to SNS
    }


def test_api_calls_are_logged(deployed: Account) -> None:
    cloudtrail = deployed.client("cloudtrail")
    [trail] = cloudtrail.describe_trails()["trailList"]
    assert (trail["Name"], trail["S3BucketName"]) == ("gamepulse-staging-api-calls", "gamepulse-api-calls-111122223333")
    assert (trail["IsMultiRegionTrail"], trail["LogFileValidationEnabled"]) == (True, True)
    assert cloudtrail.get_trail_status(Name=trail["Name"])["IsLogging"] is True
    [selector] = cloudtrail.get_event_selectors(TrailName=trail["Name"])["EventSelectors"]
    assert (selector["ReadWriteType"], selector["IncludeManagementEvents"]) == ("All", True)


def test_the_month_has_a_budget(deployed: Account) -> None:
    budgets = deployed.client("budgets")
    [budget] = budgets.describe_budgets(AccountId="111122223333")["Budgets"]
    assert (budget["BudgetType"], budget["TimeUnit"], budget["BudgetLimit"]["Unit"]) == ("COST", "MONTHLY", "USD")
    told = budgets.describe_notifications_for_budget(AccountId="111122223333", BudgetName=budget["BudgetName"])["Notifications"]
    limits = sorted((one["NotificationType"], one["Threshold"]) for one in told if one["ThresholdType"] == "PERCENTAGE")
    assert ("ACTUAL", 50) in limits
    assert ("FORECASTED", 100) in limits


def test_admins_can_do_nothing_without_a_second_factor(deployed: Account) -> None:
    iam = deployed.client("iam")
    attached = {
        one["PolicyName"]: one["PolicyArn"]
        for one in iam.list_attached_group_policies(GroupName="gamepulse-admins")["AttachedPolicies"]
    }
    assert attached.keys() == {"gamepulse-admins", "ReadOnlyAccess"}
    version = iam.get_policy(PolicyArn=attached["gamepulse-admins"])["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=attached["gamepulse-admins"], VersionId=version)["PolicyVersion"]["Document"]
    statements = (json.loads(unquote(document)) if isinstance(document, str) else document)["Statement"]
    [deny] = [one for one in statements if one["Effect"] == "Deny"]
    assert deny["Resource"] == "*"
    assert deny["Condition"] == {"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}}
    assert all(one.startswith(("iam:", "sts:GetSessionToken")) for one in deny["NotAction"])


def test_only_githubs_workflows_of_this_repository_and_environment_deploy(deployed: Account) -> None:
    iam = deployed.client("iam")
    [provider] = iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]
    assert provider["Arn"].endswith("token.actions.githubusercontent.com")
    role = iam.get_role(RoleName="gamepulse-deploy")["Role"]
    [statement] = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Federated": provider["Arn"]}
    assert statement["Condition"] == {
        "StringEquals": {
            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
            "token.actions.githubusercontent.com:sub": "repo:example/gamepulse:environment:staging",
        }
    }


def test_a_lost_zone_can_be_tried_and_is_stopped_by_the_alarm(deployed: Account, alarms: dict[str, Json]) -> None:
    fis = deployed.client("fis")
    [listed] = fis.list_experiment_templates()["experimentTemplates"]
    template = fis.get_experiment_template(id=listed["id"])["experimentTemplate"]
    assert {one["actionId"] for one in template["actions"].values()} == {
        "aws:network:disrupt-connectivity",
        "aws:ecs:stop-task",
        "aws:rds:reboot-db-instances",
    }
    [stop] = template["stopConditions"]
    assert stop == {"source": "aws:cloudwatch:alarm", "value": alarms["gamepulse-staging-answers-5xx"]["AlarmArn"]}
    assert template["targets"]["subnets"]["parameters"] == {"availabilityZoneIdentifier": "ap-northeast-2a"}
    [database] = deployed.client("rds").describe_db_instances()["DBInstances"]
    assert template["targets"]["database"]["resourceArns"] == [database["DBInstanceArn"]]
