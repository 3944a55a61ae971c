"""What runs: the cluster, the tasks with their containers, how they start and stop, and what keeps them running."""

from typing import Any

from gamepulse.run import KEEP_ALIVE_S
from tests.deploy.templates import Json, Stacks, pairs
from tests.deploy.test_templates_network import PRIVATE

SERVICES = {"gamepulse-app", "prometheus", "alertmanager", "loki", "jaeger", "grafana", "infrastructure"}
JOBS = {"migrate", "backup", "rotate", "console"}
ONE_WRITER = {"prometheus", "alertmanager", "loki", "jaeger", "infrastructure"}
# CPU units, MiB, GiB of disk
SIZES = {
    "staging": {
        "gamepulse-app": ("1024", "2048", 21), "prometheus": ("1024", "4096", 40), "alertmanager": ("256", "512", 21),
        "loki": ("512", "2048", 30), "jaeger": ("512", "2048", 21), "grafana": ("512", "1024", 21), "infrastructure": ("256", "512", 21),
        **dict.fromkeys(JOBS, ("256", "512", 21)),
    },
    "production": {
        "gamepulse-app": ("1024", "2048", 21), "prometheus": ("2048", "8192", 60), "alertmanager": ("256", "512", 21),
        "loki": ("2048", "4096", 60), "jaeger": ("1024", "4096", 21), "grafana": ("512", "1024", 21), "infrastructure": ("256", "512", 21),
        **dict.fromkeys(JOBS, ("256", "512", 21)),
    },
}  # fmt: skip
# Of each container: image, ports, is the task's end when it ends, seconds to stop
CONTAINERS = {
    ("gamepulse-app", "gamepulse-app"): ("gamepulse", [8080], True, 60),
    ("gamepulse-app", "otel-collector"): ("collector", [4317, 4318, 8888], True, 30),
    ("infrastructure", "otel-collector"): ("collector", [8888], True, 30),
    ("prometheus", "restore"): ("operations", [], False, 120),
    ("prometheus", "snapshots"): ("operations", [], True, 120),
    ("prometheus", "prometheus"): ("prometheus", [9090], True, 120),
    ("alertmanager", "alertmanager"): ("alertmanager", [9093], True, 60),
    ("loki", "loki"): ("loki", [3100], True, 120),
    ("jaeger", "jaeger"): ("jaeger", [16686, 4317, 8888], True, 60),
    ("grafana", "grafana"): ("grafana", [3000], True, 60),
    ("migrate", "migrate"): ("operations", [], True, 60),
    ("backup", "backup"): ("operations", [], True, 120),
    ("rotate", "rotate"): ("operations", [], True, 60),
    ("console", "console"): ("operations", [], True, 60),
}
REGISTRY = "111122223333.dkr.ecr.ap-northeast-2.amazonaws.com/gamepulse"


def containers(stacks: Stacks) -> dict[tuple[str, str], Json]:
    """By the names of task and container."""
    return {
        (one.name, container["Name"]): container
        for one in stacks.all("ECS::TaskDefinition")
        for container in one.properties["ContainerDefinitions"]
    }


def services(stacks: Stacks) -> dict[str, Json]:
    return {one.name: one.properties for one in stacks.all("ECS::Service")}


def environment(container: Json) -> dict[str, str]:
    return pairs(container.get("Environment", []), "Name")


def disks(stacks: Stacks, task: str, container: str) -> dict[str, str]:
    """Of each path what lies behind it: 'task', or the folder on EFS."""
    [definition] = [one.properties for one in stacks.all("ECS::TaskDefinition") if one.name == task]
    folders = {one.name: one.properties["RootDirectory"]["Path"] for one in stacks.all("EFS::AccessPoint")}
    volumes = {
        one["Name"]: folders[one["EFSVolumeConfiguration"]["AuthorizationConfig"]["AccessPointId"]]
        if "EFSVolumeConfiguration" in one
        else "task"
        for one in definition["Volumes"]
    }
    return {
        one["ContainerPath"]: volumes[one["SourceVolume"]] for one in containers(stacks)[task, container].get("MountPoints", [])
    }


# The cluster and the sizes


def test_the_cluster_tells_how_containers_are(stacks: Stacks) -> None:
    assert {"Name": "containerInsights", "Value": "enhanced"} in stacks.one("ECS::Cluster")["ClusterSettings"]


def test_each_program_is_a_task_of_its_own_on_fargate(stacks: Stacks) -> None:
    found = {one.name: one.properties for one in stacks.all("ECS::TaskDefinition")}
    assert set(found) == SERVICES | JOBS
    assert set(services(stacks)) == SERVICES
    for one in found.values():
        assert (one["NetworkMode"], one["RequiresCompatibilities"]) == ("awsvpc", ["FARGATE"])
        assert one["RuntimePlatform"] == {"OperatingSystemFamily": "LINUX", "CpuArchitecture": "X86_64"}
    for has in services(stacks).values():
        assert (has["LaunchType"], has["PlatformVersion"], has["Cluster"]) == (
            "FARGATE",
            "1.4.0",
            f"gamepulse-{stacks.environment}-cluster",
        )


def test_each_task_has_the_size_that_was_chosen(stacks: Stacks) -> None:
    found = {
        one.name: (one.properties["Cpu"], one.properties["Memory"], one.properties["EphemeralStorage"]["SizeInGiB"])
        for one in stacks.all("ECS::TaskDefinition")
    }
    assert found == SIZES[stacks.environment]


# The containers


def test_the_containers_are_these(stacks: Stacks) -> None:
    found = {
        name: (
            one["Image"].removeprefix(f"{REGISTRY}/").removesuffix(":0.1.0"),
            [port["ContainerPort"] for port in one.get("PortMappings", [])],
            one["Essential"],
            one["StopTimeout"],
        )
        for name, one in containers(stacks).items()
    }
    assert found == CONTAINERS


def test_images_come_from_our_registry_by_version(stacks: Stacks) -> None:
    for name, one in containers(stacks).items():
        image, _, tag = one["Image"].rpartition(":")
        assert image.startswith(f"{REGISTRY}/") and tag == "0.1.0", name


def test_containers_have_no_rights_in_linux(stacks: Stacks) -> None:
    for name, one in containers(stacks).items():
        assert one["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}, name
        assert not one.get("Privileged"), name
        # ECS Exec, by which an engineer gets to consoles, writes files of its own.
        assert one["ReadonlyRootFilesystem"] is (name != ("console", "console")), name


def test_no_secret_is_told_in_the_environment(stacks: Stacks) -> None:
    for name, one in containers(stacks).items():
        told = environment(one)
        assert [key for key in told if key.endswith(("PASSWORD", "SECRET", "TOKEN", "_KEY"))] == [], name
        assert [value for value in told.values() if "resolve:" in value or "PRIVATE KEY" in value] == [], name


def test_secrets_are_told_by_ecs(stacks: Stacks) -> None:
    arn = "arn:aws:secretsmanager:ap-northeast-2:111122223333:secret:"
    found = {
        name: {told["Name"]: told["ValueFrom"].removeprefix(arn).replace("-AbCdEf", "") for told in one["Secrets"]}
        for name, one in containers(stacks).items()
        if one.get("Secrets")
    }
    assert found == {
        ("gamepulse-app", "gamepulse-app"): {
            "GAMEPULSE_PLAYER_HASH_KEY": "gamepulse/player-hash-key",
            "GAMEPULSE_VALKEY_PASSWORD": "gamepulse/cache/1",
        },
        ("infrastructure", "otel-collector"): {
            "POSTGRES_MONITOR_PASSWORD": "gamepulse/database/monitor",
            "VALKEY_PASSWORD": "gamepulse/cache/1",
        },
        ("grafana", "grafana"): {
            "GF_DATABASE_PASSWORD": "gamepulse/database/grafana",
            "GF_SECURITY_SECRET_KEY": "gamepulse/grafana/key",
            "GF_AUTH_GENERIC_OAUTH_CLIENT_SECRET": "gamepulse/grafana/client",
            "POSTGRES_PASSWORD": "gamepulse/database/grafana-reader",
        },
        ("migrate", "migrate"): {
            "DATABASE_ADMIN_PASSWORD": "rds!db-master:password::",
            "MONITOR_PASSWORD": "gamepulse/database/monitor",
            "GRAFANA_READER_PASSWORD": "gamepulse/database/grafana-reader",
            "GRAFANA_PASSWORD": "gamepulse/database/grafana",
        },
    }


def test_health_checks_need_no_shell(stacks: Stacks) -> None:
    for name, one in containers(stacks).items():
        is_service = name[0] in SERVICES and name[1] not in {"restore", "snapshots"}  # nobody waits for these to be well
        assert ("HealthCheck" in one) is is_service, name
        if is_service:
            assert one["HealthCheck"]["Command"][0] == "CMD", name
            assert "sh" not in one["HealthCheck"]["Command"][1].split("/"), name
            assert (one["HealthCheck"]["Interval"], one["HealthCheck"]["Timeout"], one["HealthCheck"]["Retries"]) == (10, 5, 3), (
                name
            )


def test_what_ends_is_started_again_in_its_task_unless_it_is_to_end(stacks: Stacks) -> None:
    """With the task's disk, on which lies what was not sent yet."""
    for name, one in containers(stacks).items():
        again = name[0] in SERVICES and one["Essential"]
        assert one["RestartPolicy"].get("Enabled", False) is again, name


def test_a_log_that_cannot_be_written_stops_nobody(stacks: Stacks) -> None:
    groups = {
        one.name: one.properties["RetentionInDays"] for one in stacks.all("Logs::LogGroup") if one.name.startswith("/gamepulse/")
    }
    assert groups == {f"/gamepulse/{stacks.environment}/{name}": 30 for name in SERVICES | JOBS}
    for (task, _), one in containers(stacks).items():
        log = one["LogConfiguration"]
        assert (log["LogDriver"], log["Options"]["mode"], log["Options"]["max-buffer-size"]) == (
            "awslogs",
            "non-blocking",
            "8388608b",
        )
        assert log["Options"]["awslogs-group"] == f"/gamepulse/{stacks.environment}/{task}"


# The service and the Collector beside it


def test_the_service_has_the_environment_of_the_requirements(stacks: Stacks) -> None:
    told = environment(containers(stacks)["gamepulse-app", "gamepulse-app"])
    assert {
        name: told[name]
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "GAMEPULSE_ENVIRONMENT")
    } == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317",
        "OTEL_SERVICE_NAME": "gamepulse",
        "OTEL_RESOURCE_ATTRIBUTES": "service.version=0.1.0",
        "GAMEPULSE_ENVIRONMENT": stacks.environment,
    }


def test_cloudwatch_is_not_paid_for_the_access_log(stacks: Stacks) -> None:
    """Loki has it. deploy/bill.py counts on that."""
    assert environment(containers(stacks)["gamepulse-app", "gamepulse-app"])["GAMEPULSE_STDOUT_LEVEL"] == "warning"


def test_the_service_starts_after_the_collector_and_stops_before_it(stacks: Stacks) -> None:
    """So that what it says at its end is sent."""
    service, collector = containers(stacks)["gamepulse-app", "gamepulse-app"], containers(stacks)["gamepulse-app", "otel-collector"]
    assert service["DependsOn"] == [{"ContainerName": "otel-collector", "Condition": "START"}]
    assert "DependsOn" not in collector


def test_the_collector_listens_inside_the_task_only(stacks: Stacks) -> None:
    for (_, container), one in containers(stacks).items():
        if container == "otel-collector":
            told = environment(one)
            assert (told["COLLECTOR_OTLP_GRPC"], told["COLLECTOR_OTLP_HTTP"]) == ("127.0.0.1:4317", "127.0.0.1:4318")


def test_the_collector_reads_the_file_of_the_requirements(stacks: Stacks) -> None:
    files = "/etc/otelcol-contrib"
    assert containers(stacks)["gamepulse-app", "otel-collector"]["Command"] == ["--config", f"{files}/otel-collector-config.yaml"]
    assert containers(stacks)["infrastructure", "otel-collector"]["Command"] == [
        "--config", f"{files}/otel-collector-config.yaml", "--config", f"{files}/infrastructure.yaml", "--config", f"{files}/certificates.yaml",
    ]  # fmt: skip


def test_service_and_collector_share_the_task_s_memory(stacks: Stacks) -> None:
    memory = {name: one["Memory"] for (task, name), one in containers(stacks).items() if task == "gamepulse-app"}
    assert memory == {"gamepulse-app": 1536, "otel-collector": 512}


def test_the_collector_s_queue_is_on_the_task_s_disk(stacks: Stacks) -> None:
    assert disks(stacks, "gamepulse-app", "otel-collector") == {"/var/lib/otelcol/queue": "task"}


def test_postgresql_and_valkey_are_asked_over_verified_tls(stacks: Stacks) -> None:
    told = environment(containers(stacks)["gamepulse-app", "gamepulse-app"])
    assert told["GAMEPULSE_DATABASE_URL"] == (
        f"postgresql://gamepulse_service@gamepulse-{stacks.environment}-database.Endpoint.Address:5432/gamepulse"
        "?sslmode=verify-full&sslrootcert=/etc/ssl/rds-roots.pem"
    )
    assert told["GAMEPULSE_DATABASE_AUTH"] == "aws-iam"
    assert told["GAMEPULSE_VALKEY_URL"].startswith("rediss://gamepulse@")
    grafana = environment(containers(stacks)["grafana", "grafana"])
    assert grafana["GF_DATABASE_SSL_MODE"] == grafana["POSTGRES_TLS"] == "verify-full"
    assert "sslmode=verify-full" in environment(containers(stacks)["migrate", "migrate"])["DATABASE_ADMIN_URL"]
    assert "sslmode=verify-full" in environment(containers(stacks)["rotate", "rotate"])["DATABASE_URL"]


# Telemetry's stores


def test_prometheus_s_database_is_on_its_own_disk_and_only_snapshots_are_on_efs(stacks: Stacks) -> None:
    """Prometheus does not support NFS."""
    assert disks(stacks, "prometheus", "prometheus") == {"/prometheus": "task"}
    assert disks(stacks, "prometheus", "snapshots")["/prometheus-data"] == "/prometheus-data"
    command = containers(stacks)["prometheus", "prometheus"]["Command"]
    assert {"--storage.tsdb.path=/prometheus", "--web.enable-otlp-receiver", "--web.enable-admin-api"} <= set(command)


def test_prometheus_starts_from_its_newest_snapshot_and_ends_before_the_last_is_taken(stacks: Stacks) -> None:
    after = {
        name: {one["ContainerName"]: one["Condition"] for one in container.get("DependsOn", [])}
        for (task, name), container in containers(stacks).items()
        if task == "prometheus"
    }
    assert after == {"restore": {}, "snapshots": {"restore": "SUCCESS"}, "prometheus": {"restore": "SUCCESS", "snapshots": "START"}}


def test_jaeger_keeps_traces_and_grafana_what_operators_add_on_efs(stacks: Stacks) -> None:
    assert disks(stacks, "jaeger", "jaeger")["/jaeger-data"] == "/jaeger-data"
    assert environment(containers(stacks)["jaeger", "jaeger"])["JAEGER_DATA"] == "/jaeger-data"
    assert disks(stacks, "grafana", "grafana")["/grafana-config"] == "/grafana-config"


def test_files_are_mounted_over_tls_by_the_task_s_role(stacks: Stacks) -> None:
    mounted = [
        volume["EFSVolumeConfiguration"]
        for one in stacks.all("ECS::TaskDefinition")
        for volume in one.properties.get("Volumes", [])
        if "EFSVolumeConfiguration" in volume
    ]
    assert len(mounted) == 4
    for one in mounted:
        assert (one["TransitEncryption"], one["AuthorizationConfig"]["IAM"]) == ("ENABLED", "ENABLED")


def test_loki_keeps_logs_in_its_bucket(stacks: Stacks) -> None:
    told = environment(containers(stacks)["loki", "loki"])
    assert (told["LOKI_STORE"], told["LOKI_BUCKET"]) == ("s3", "gamepulse-loki-logs-111122223333")


def test_grafana_s_state_is_in_postgresql(stacks: Stacks) -> None:
    """SQLite on EFS ends in "database is locked"."""
    told = environment(containers(stacks)["grafana", "grafana"])
    assert (told["GF_DATABASE_TYPE"], told["GF_DATABASE_NAME"], told["GF_DATABASE_USER"]) == ("postgres", "grafana", "grafana")


def test_grafana_asks_the_stores_by_their_names(stacks: Stacks) -> None:
    told = environment(containers(stacks)["grafana", "grafana"])
    assert {name: told[name] for name in ("PROMETHEUS_URL", "LOKI_URL", "JAEGER_URL", "ALERTMANAGER_URL")} == {
        "PROMETHEUS_URL": "http://prometheus.gamepulse.internal:9090",
        "LOKI_URL": "http://loki.gamepulse.internal:3100",
        "JAEGER_URL": "http://jaeger.gamepulse.internal:16686",
        "ALERTMANAGER_URL": "http://alertmanager.gamepulse.internal:9093",
    }
    names = {one.properties["Name"]: one.properties["DnsConfig"]["DnsRecords"] for one in stacks.all("ServiceDiscovery::Service")}
    assert names == {name: [{"Type": "A", "TTL": 10}] for name in SERVICES}
    namespace = stacks.one("ServiceDiscovery::PrivateDnsNamespace")
    assert (namespace["Name"], namespace["Vpc"]) == ("gamepulse.internal", stacks.all("EC2::VPC")[0].name)
    registered = {one["ServiceRegistries"][0]["RegistryArn"] for one in services(stacks).values()}
    assert len(registered) == len(SERVICES)


# What keeps them running


def test_services_run_in_private_subnets_of_all_zones(stacks: Stacks) -> None:
    for name, one in services(stacks).items():
        where = one["NetworkConfiguration"]["AwsvpcConfiguration"]
        assert (where["AssignPublicIp"], set(where["Subnets"])) == ("DISABLED", set(PRIVATE)), name


def test_a_version_that_does_not_start_is_taken_back(stacks: Stacks) -> None:
    for name, one in services(stacks).items():
        assert one["DeploymentConfiguration"]["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}, name
        assert one["DeploymentController"] == {"Type": "ECS"}, name
    alarms = services(stacks)["gamepulse-app"]["DeploymentConfiguration"]["Alarms"]
    names = [f"gamepulse-{stacks.environment}-{name}" for name in ("answers-5xx", "answers-slow")]
    assert alarms == {"AlarmNames": names, "Enable": True, "Rollback": True}
    assert set(names) <= {one.properties["AlarmName"] for one in stacks.all("CloudWatch::Alarm")}


def test_tasks_are_replaced_without_a_gap_unless_two_would_write_to_one_place(stacks: Stacks) -> None:
    for name, one in services(stacks).items():
        rolls, alone = (
            (one["DeploymentConfiguration"][key] for key in ("MinimumHealthyPercent", "MaximumPercent")),
            name in ONE_WRITER,
        )
        assert tuple(rolls) == ((0, 100) if alone else (100, 200)), name
        assert one["AvailabilityZoneRebalancing"] == ("DISABLED" if alone else "ENABLED"), name
        assert one.get("DesiredCount") == (None if name == "gamepulse-app" else 1), name


def test_a_deployment_leaves_the_number_of_tasks_to_scaling(stacks: Stacks) -> None:
    """CloudFormation would set its own at each new version, at the peak too; the first time ECS makes one, and scaling the rest."""
    assert "DesiredCount" not in services(stacks)["gamepulse-app"]


def test_tasks_say_whose_they_are(stacks: Stacks) -> None:
    """For the bill, and for who looks at them."""
    for name, one in services(stacks).items():
        assert (one["PropagateTags"], one["EnableECSManagedTags"]) == ("SERVICE", True), name


def test_nobody_gets_a_shell_in_a_service(stacks: Stacks) -> None:
    assert {one["EnableExecuteCommand"] for one in services(stacks).values()} == {False}


def test_the_service_ends_its_requests_before_it_is_killed(stacks: Stacks) -> None:
    """It gets new ones for the delay of deregistration at the longest, then ends those that it has."""
    delays = {
        int(pairs(one.properties["TargetGroupAttributes"])["deregistration_delay.timeout_seconds"])
        for one in stacks.all("ElasticLoadBalancingV2::TargetGroup")
    }
    assert delays == {15}
    assert containers(stacks)["gamepulse-app", "gamepulse-app"]["StopTimeout"] == 60


def test_the_service_keeps_connections_longer_than_the_load_balancer(stacks: Stacks) -> None:
    """Else the load balancer asks on one that is being closed, and answers 502. CloudFront ends them before both."""
    idle = int(pairs(stacks.one("ElasticLoadBalancingV2::LoadBalancer")["LoadBalancerAttributes"])["idle_timeout.timeout_seconds"])
    assert idle == 60 < KEEP_ALIVE_S
    for one in stacks.all("CloudFront::Distribution"):
        [origin] = one.properties["DistributionConfig"]["Origins"]
        assert origin["CustomOriginConfig"]["OriginKeepaliveTimeout"] == 55


def test_the_service_grows_by_cpu_memory_and_requests(stacks: Stacks) -> None:
    target = stacks.one("ApplicationAutoScaling::ScalableTarget")
    assert (target["MinCapacity"], target["MaxCapacity"]) == {"staging": (2, 6), "production": (3, 70)}[stacks.environment]
    assert target["ResourceId"] == f"service/gamepulse-{stacks.environment}-cluster/gamepulse-app"
    found: dict[str, Any] = {}
    for one in stacks.all("ApplicationAutoScaling::ScalingPolicy"):
        how = one.properties["TargetTrackingScalingPolicyConfiguration"]
        found[how["PredefinedMetricSpecification"]["PredefinedMetricType"]] = (
            how["TargetValue"],
            how["ScaleOutCooldown"],
            how["ScaleInCooldown"],
        )
    assert found == {
        "ECSServiceAverageCPUUtilization": (60, 60, 300),
        "ECSServiceAverageMemoryUtilization": (75, 60, 300),
        "ALBRequestCountPerTarget": (18_000, 60, 300),
    }


# Jobs


def test_the_newest_snapshot_goes_to_the_bucket_of_backups(stacks: Stacks) -> None:
    one = containers(stacks)["backup", "backup"]
    assert (one["Command"], environment(one)["BACKUP_BUCKET"]) == (["backup"], "gamepulse-backups-111122223333")
    assert disks(stacks, "backup", "backup")["/prometheus-data"] == "/prometheus-data"
