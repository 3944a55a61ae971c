"""Task definitions and services of the deployed environment, as ECS describes them."""

import json
from typing import Any

import pytest

from tests.deploy.emulated.account import Account, Json

# CPU, memory, disk
SIZES = {
    "gamepulse-app": (1024, 2048, 21),
    "prometheus": (1024, 4096, 40),
    "alertmanager": (256, 512, 21),
    "loki": (512, 2048, 30),
    "jaeger": (512, 2048, 21),
    "grafana": (512, 1024, 21),
    "infrastructure": (256, 512, 21),
    "migrate": (256, 512, 21),
    "backup": (256, 512, 21),
    "rotate": (256, 512, 21),
    "console": (256, 512, 21),
}
SERVICES = ("gamepulse-app", "prometheus", "alertmanager", "loki", "jaeger", "grafana", "infrastructure")
REGISTRY = "111122223333.dkr.ecr.ap-northeast-2.amazonaws.com"


@pytest.fixture(scope="module")
def ecs(deployed: Account) -> Any:
    return deployed.client("ecs")


@pytest.fixture(scope="module")
def tasks(ecs: Any) -> dict[str, Json]:
    """The newest definition of each family."""
    families = ecs.list_task_definition_families(status="ACTIVE")["families"]
    return {name: ecs.describe_task_definition(taskDefinition=name)["taskDefinition"] for name in families}


@pytest.fixture(scope="module")
def containers(tasks: dict[str, Json]) -> dict[tuple[str, str], Json]:
    return {(family, one["name"]): one for family, task in tasks.items() for one in task["containerDefinitions"]}


def environment(container: Json) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["environment"]}


def test_tasks_are_of_fargate_in_the_sizes_of_the_requirements(tasks: dict[str, Json]) -> None:
    assert {
        name: (int(one["cpu"]), int(one["memory"]), one["ephemeralStorage"]["sizeInGiB"]) for name, one in tasks.items()
    } == SIZES
    for one in tasks.values():
        assert (one["networkMode"], one["requiresCompatibilities"]) == ("awsvpc", ["FARGATE"])
        assert one["runtimePlatform"] == {"cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX"}


def test_each_task_has_two_roles_of_its_own_that_only_ecs_of_this_account_takes(deployed: Account, tasks: dict[str, Json]) -> None:
    roles = [one[kind] for one in tasks.values() for kind in ("taskRoleArn", "executionRoleArn")]
    assert len(set(roles)) == 2 * len(SIZES)
    for arn in roles:
        trust = deployed.client("iam").get_role(RoleName=arn.rsplit("/", 1)[1])["Role"]["AssumeRolePolicyDocument"]
        [statement] = trust["Statement"]
        assert statement["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "111122223333"}}


def test_the_service_has_the_environment_of_the_requirements(containers: dict[tuple[str, str], Json]) -> None:
    told = environment(containers["gamepulse-app", "gamepulse-app"])
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://localhost:4317"
    assert told["OTEL_SERVICE_NAME"] == "gamepulse"
    assert told["OTEL_RESOURCE_ATTRIBUTES"] == "service.version=0.1.0"
    assert told["GAMEPULSE_ENVIRONMENT"] == "staging"


def test_the_service_is_told_where_the_deployed_database_and_cache_are(
    deployed: Account, containers: dict[tuple[str, str], Json]
) -> None:
    told = environment(containers["gamepulse-app", "gamepulse-app"])
    [database] = deployed.client("rds").describe_db_instances()["DBInstances"]
    [cache] = deployed.client("elasticache").describe_replication_groups()["ReplicationGroups"]
    at = database["Endpoint"]["Address"]
    assert told["GAMEPULSE_DATABASE_URL"].startswith(f"postgresql://gamepulse_service@{at}:5432/gamepulse?sslmode=verify-full&")
    assert told["GAMEPULSE_DATABASE_AUTH"] == "aws-iam"
    assert told["GAMEPULSE_VALKEY_URL"] == f"rediss://gamepulse@{cache['NodeGroups'][0]['PrimaryEndpoint']['Address']}:6379/0"


def test_secrets_are_named_and_exist_and_no_value_is_in_a_definition(deployed: Account, tasks: dict[str, Json]) -> None:
    secrets = deployed.client("secretsmanager")
    values = [secrets.get_secret_value(SecretId=one["ARN"])["SecretString"] for one in secrets.list_secrets()["SecretList"]]
    for name, task in tasks.items():
        text = json.dumps(task, default=str)
        assert not [one for one in values if one in text], name
        for container in task["containerDefinitions"]:
            for one in container.get("secrets", []):
                arn, _, field = one["valueFrom"].partition(":password:")
                assert secrets.describe_secret(SecretId=arn)["ARN"] == arn, (name, one)
                assert bool(field or one["valueFrom"].endswith(":password::")) is (one["name"] == "DATABASE_ADMIN_PASSWORD")


def test_images_are_those_of_the_version_in_repositories_that_are_there(deployed: Account, tasks: dict[str, Json]) -> None:
    repositories = {one["repositoryUri"] for one in deployed.client("ecr").describe_repositories()["repositories"]}
    for task in tasks.values():
        for one in task["containerDefinitions"]:
            repository, _, tag = one["image"].rpartition(":")
            assert tag == "0.1.0"
            assert repository.startswith(REGISTRY)
            assert repository in repositories


def test_the_collector_starts_before_the_service_and_prometheus_has_its_data_before_it_starts(
    containers: dict[tuple[str, str], Json],
) -> None:
    after = {
        key: {one["containerName"]: one["condition"] for one in container.get("dependsOn", [])}
        for key, container in containers.items()
    }
    assert {key: value for key, value in after.items() if value} == {
        ("gamepulse-app", "gamepulse-app"): {"otel-collector": "START"},
        ("prometheus", "snapshots"): {"restore": "SUCCESS"},
        ("prometheus", "prometheus"): {"restore": "SUCCESS", "snapshots": "START"},
    }


def test_containers_end_in_time_and_are_started_again_in_place(containers: dict[tuple[str, str], Json]) -> None:
    for key, one in containers.items():
        longest = key[0] in {"loki", "backup"} or key[0] == "prometheus"
        wanted = 120 if longest else 30 if key[1] == "otel-collector" else 60
        assert one["stopTimeout"] == wanted, key
        assert one["essential"] is (key != ("prometheus", "restore"))
        again = key[0] in SERVICES and one["essential"]
        assert one["restartPolicy"] == ({"enabled": True, "restartAttemptPeriod": 60} if again else {"enabled": False}), key


def test_containers_write_nothing_but_to_volumes_and_have_no_capabilities(containers: dict[tuple[str, str], Json]) -> None:
    for key, one in containers.items():
        assert one["readonlyRootFilesystem"] is (key[0] != "console"), key
        assert one["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
        assert not one.get("privileged")


def test_services_have_health_checks_without_a_shell(containers: dict[tuple[str, str], Json]) -> None:
    without = {key for key, one in containers.items() if "healthCheck" not in one}
    assert without == {
        ("prometheus", "restore"),
        ("prometheus", "snapshots"),
        *((name, name) for name in ("migrate", "backup", "rotate", "console")),
    }
    for key, one in containers.items():
        if key not in without:
            check = one["healthCheck"]
            assert check["command"][0] == "CMD"
            assert check["command"][1].startswith(("/", "wget"))
            assert (check["interval"], check["timeout"], check["retries"]) == (10, 5, 3)


def test_ports_are_those_of_the_requirements(containers: dict[tuple[str, str], Json]) -> None:
    ports = {key: [one["containerPort"] for one in container.get("portMappings", [])] for key, container in containers.items()}
    assert {key: value for key, value in ports.items() if value} == {
        ("gamepulse-app", "gamepulse-app"): [8080],
        ("gamepulse-app", "otel-collector"): [4317, 4318, 8888],
        ("infrastructure", "otel-collector"): [8888],
        ("prometheus", "prometheus"): [9090],
        ("alertmanager", "alertmanager"): [9093],
        ("loki", "loki"): [3100],
        ("jaeger", "jaeger"): [16686, 4317, 8888],
        ("grafana", "grafana"): [3000],
    }


def test_logs_never_hold_up_a_container(deployed: Account, containers: dict[tuple[str, str], Json]) -> None:
    groups = {one["logGroupName"]: one for one in deployed.client("logs").describe_log_groups()["logGroups"]}
    assert {name for name in groups if name.startswith("/gamepulse/")} == {f"/gamepulse/staging/{family}" for family in SIZES}
    for (family, name), one in containers.items():
        log = one["logConfiguration"]
        assert log["logDriver"] == "awslogs"
        assert log["options"] == {
            "awslogs-group": f"/gamepulse/staging/{family}",
            "awslogs-stream-prefix": name,
            "awslogs-region": "ap-northeast-2",
            "mode": "non-blocking",
            "max-buffer-size": "8388608b",
        }
        assert groups[f"/gamepulse/staging/{family}"]["retentionInDays"] == 30


def test_files_are_mounted_over_tls_with_the_role_through_the_folders_access_point(
    deployed: Account, tasks: dict[str, Json]
) -> None:
    points = {
        one["AccessPointId"]: one["RootDirectory"]["Path"]
        for one in deployed.client("efs").describe_access_points()["AccessPoints"]
    }
    mounted = {}
    for family, task in tasks.items():
        for volume in task.get("volumes", []):
            if efs := volume.get("efsVolumeConfiguration"):
                assert efs["transitEncryption"] == "ENABLED"
                assert efs["authorizationConfig"]["iam"] == "ENABLED"
                mounted[family] = points[efs["authorizationConfig"]["accessPointId"]]
    assert mounted == {
        "prometheus": "/prometheus-data",
        "backup": "/prometheus-data",
        "jaeger": "/jaeger-data",
        "grafana": "/grafana-config",
    }


def test_prometheus_keeps_its_live_data_on_the_tasks_own_disk(
    containers: dict[tuple[str, str], Json], tasks: dict[str, Json]
) -> None:
    mounts = {one["containerPath"]: one["sourceVolume"] for one in containers["prometheus", "prometheus"]["mountPoints"]}
    assert mounts == {"/prometheus": "tsdb"}
    assert "--storage.tsdb.path=/prometheus" in containers["prometheus", "prometheus"]["command"]
    [tsdb] = [one for one in tasks["prometheus"]["volumes"] if one["name"] == "tsdb"]
    assert "efsVolumeConfiguration" not in tsdb


@pytest.fixture(scope="module")
def services(ecs: Any) -> dict[str, Json]:
    found = ecs.describe_services(cluster="gamepulse-staging-cluster", services=list(SERVICES), include=["TAGS"])
    assert not found["failures"]
    return {one["serviceName"]: one for one in found["services"]}


def test_the_cluster_has_container_insights(ecs: Any) -> None:
    [cluster] = ecs.describe_clusters(clusters=["gamepulse-staging-cluster"], include=["SETTINGS", "CONFIGURATIONS"])["clusters"]
    assert cluster["settings"] == [{"name": "containerInsights", "value": "enhanced"}]
    services = ecs.list_services(cluster="gamepulse-staging-cluster")["serviceArns"]
    assert {one.rpartition("/")[2] for one in services} == set(SERVICES)


def test_services_run_the_newest_definitions_in_private_subnets(
    deployed: Account, services: dict[str, Json], tasks: dict[str, Json]
) -> None:
    ec2 = deployed.client("ec2")
    private = {
        one["SubnetId"]
        for one in ec2.describe_subnets()["Subnets"]
        if one["CidrBlock"].removeprefix("10.0.")[:2] in {"10", "20", "30"}
    }
    groups = {
        one["GroupId"]: one["Description"].removeprefix("GamePulse: ") for one in ec2.describe_security_groups()["SecurityGroups"]
    }
    for name, one in services.items():
        assert one["taskDefinition"] == tasks[name]["taskDefinitionArn"]
        assert (one["launchType"], one["platformVersion"]) == ("FARGATE", "1.4.0")
        assert one["desiredCount"] == 1  # of the service too: scaling, which is not emulated, makes it two
        network = one["networkConfiguration"]["awsvpcConfiguration"]
        assert network["assignPublicIp"] == "DISABLED"
        assert set(network["subnets"]) == private
        assert [groups[group] for group in network["securityGroups"]] == [name.removeprefix("gamepulse-")]
        assert {tag["key"]: tag["value"] for tag in one["tags"]} == {"application": "gamepulse", "environment": "staging"}


def test_services_have_names_in_cloud_map(deployed: Account, services: dict[str, Json]) -> None:
    cloud_map = deployed.client("servicediscovery")
    [namespace] = cloud_map.list_namespaces()["Namespaces"]
    assert (namespace["Name"], namespace["Type"]) == ("gamepulse.internal", "DNS_PRIVATE")
    names = {one["Arn"]: one for one in cloud_map.list_services()["Services"]}
    assert {one["Name"] for one in names.values()} == set(SERVICES)
    for name, one in services.items():
        [registry] = one["serviceRegistries"]
        found = names[registry["registryArn"]]
        assert found["Name"] == name
        assert found["DnsConfig"]["DnsRecords"] == [{"Type": "A", "TTL": 10}]


def test_jobs_run_at_their_times(deployed: Account, tasks: dict[str, Json]) -> None:
    scheduler = deployed.client("scheduler")
    found = {one["Name"]: scheduler.get_schedule(Name=one["Name"]) for one in scheduler.list_schedules()["Schedules"]}
    assert {name.removeprefix("gamepulse-staging-"): one["ScheduleExpression"] for name, one in found.items()} == {
        "backup": "cron(30 19 * * ? *)",
        "rotate": "cron(0 20 1 * ? *)",
    }
    for name, one in found.items():
        assert one["State"] == "ENABLED"
        target = one["Target"]["EcsParameters"]
        assert target["TaskDefinitionArn"] == tasks[name.removeprefix("gamepulse-staging-")]["taskDefinitionArn"]
        assert target["LaunchType"] == "FARGATE"
        assert target["NetworkConfiguration"]["awsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
        assert one["Target"]["RetryPolicy"] == {"MaximumEventAgeInSeconds": 3600, "MaximumRetryAttempts": 3}


def test_the_service_grows_by_cpu_memory_and_requests(deployed: Account) -> None:
    scaling = deployed.client("application-autoscaling")
    [target] = scaling.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"]
    assert target["ResourceId"] == "service/gamepulse-staging-cluster/gamepulse-app"
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 6)
    found = {}
    for one in scaling.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"]:
        told = one["TargetTrackingScalingPolicyConfiguration"]
        metric = told["PredefinedMetricSpecification"]
        found[metric["PredefinedMetricType"]] = told["TargetValue"]
        assert (told["ScaleOutCooldown"], told["ScaleInCooldown"]) == (60, 300)
        if metric["PredefinedMetricType"] == "ALBRequestCountPerTarget":
            balancer, group = metric["ResourceLabel"].split("/targetgroup/")
            elb = deployed.client("elbv2")
            [there] = elb.describe_load_balancers()["LoadBalancers"]
            assert there["LoadBalancerArn"].endswith(f"loadbalancer/{balancer}")
            assert any(
                one["TargetGroupArn"].endswith(f"targetgroup/{group}") for one in elb.describe_target_groups()["TargetGroups"]
            )
    assert found == {
        "ECSServiceAverageCPUUtilization": 60,
        "ECSServiceAverageMemoryUtilization": 75,
        "ALBRequestCountPerTarget": 18_000,
    }
