"""The infrastructure dashboard's rows of AWS. They are closed at first, because outside AWS every query is an error."""

from observability.grafana.dashboards.assembly import Row
from observability.grafana.dashboards.panels import About, AnyPanel, Metric, cloud, graph, prom

NO_CLOUDWATCH = "Nothing from CloudWatch: outside AWS, or no such resource"
NO_ECS = "Only in AWS: the Collector's ECS receiver"
SERVICE_DIMENSIONS = ("ClusterName", "ServiceName")
BALANCER, TARGETS = ("LoadBalancer",), ("LoadBalancer", "TargetGroup")
INSTANCE, NODE = ("DBInstanceIdentifier",), ("CacheClusterId",)


def _cloud(title: str, meaning: str, unit: str, *metrics: Metric, width: int = 6) -> AnyPanel:
    """A line for each metric and resource."""
    asked = []
    for ref, metric in zip("ABCDEF", metrics, strict=False):
        names = " ".join(f"${{PROP('Dim.{name}')}}" for name in metric.dimensions if name not in ("ClusterName", "LoadBalancer"))
        asked.append(cloud(metric, f"{metric.name} {names}".strip(), ref))
    return graph(About(title, meaning, unit, NO_CLOUDWATCH), asked, width=width)


def ecs() -> Row:
    def task(title: str, meaning: str, unit: str, expr: str, legend: str) -> AnyPanel:
        return graph(About(title, meaning, unit, NO_ECS), prom(expr, legend), width=6)

    of = "{{aws_ecs_service_name}} {{aws_ecs_task_id}}"
    by = "by (aws_ecs_service_name, aws_ecs_task_id)"
    insights = "ECS/ContainerInsights"
    panels = [
        _cloud(
            "Tasks",
            "Wanted, running and waiting to start, by service.",
            "short",
            *(
                Metric(insights, name, "Average", SERVICE_DIMENSIONS)
                for name in ("DesiredTaskCount", "RunningTaskCount", "PendingTaskCount")
            ),
        ),
        _cloud(
            "Service CPU and memory",
            "Share of what the service's tasks have reserved.",
            "percent",
            *(Metric("AWS/ECS", name, "Average", SERVICE_DIMENSIONS) for name in ("CPUUtilization", "MemoryUtilization")),
        ),
        task("Task CPU", "vCPU in use, by task.", "short", f"sum {by} (ecs_task_cpu_utilized_None) / 1024", of),
        task(
            "Task memory",
            "Share of a task's memory that is in use.",
            "percentunit",
            f"sum {by} (ecs_task_memory_utilized_Megabytes) / sum {by} (ecs_task_memory_reserved_Megabytes)",
            of,
        ),
    ]
    return Row("AWS: tasks", panels, is_closed=True)


def load_balancer() -> Row:
    space = "AWS/ApplicationELB"
    panels = [
        _cloud("Balancer: requests", "Each minute.", "short", Metric(space, "RequestCount", "Sum", BALANCER)),
        _cloud(
            "Balancer: answers",
            "Each minute: 5xx of the service's, and of the balancer's own.",
            "short",
            *(
                Metric(space, name, "Sum", BALANCER)
                for name in (
                    "HTTPCode_Target_2XX_Count",
                    "HTTPCode_Target_4XX_Count",
                    "HTTPCode_Target_5XX_Count",
                    "HTTPCode_ELB_5XX_Count",
                )
            ),
        ),
        _cloud(
            "Balancer: latency",
            "Until a target's answer begins.",
            "s",
            Metric(space, "TargetResponseTime", "p95", BALANCER),
            Metric(space, "TargetResponseTime", "p99", BALANCER),
        ),
        _cloud(
            "Balancer: targets",
            "Healthy and unhealthy.",
            "short",
            *(Metric(space, name, "Average", TARGETS) for name in ("HealthyHostCount", "UnHealthyHostCount")),
        ),
        _cloud(
            "Balancer: connections",
            "Open; new each minute; refused each minute because the balancer was full.",
            "short",
            *(
                Metric(space, name, "Sum", BALANCER)
                for name in ("ActiveConnectionCount", "NewConnectionCount", "RejectedConnectionCount")
            ),
            width=12,
        ),
        _cloud(
            "Balancer: connection errors",
            "Each minute: targets that did not accept a connection.",
            "short",
            Metric(space, "TargetConnectionErrorCount", "Sum", BALANCER),
            width=12,
        ),
    ]
    return Row("AWS: load balancer", panels, is_closed=True)


def managed_databases() -> Row:
    rds, cache = "AWS/RDS", "AWS/ElastiCache"

    def of(space: str, dimensions: tuple[str, ...], *names: str) -> list[Metric]:
        return [Metric(space, name, "Average", dimensions) for name in names]

    panels = [
        _cloud("RDS: CPU", "Of the instance.", "percent", *of(rds, INSTANCE, "CPUUtilization")),
        _cloud("RDS: connections", "Open connections.", "short", *of(rds, INSTANCE, "DatabaseConnections")),
        _cloud(
            "RDS: free storage", "When it is used up, batches are answered 503.", "bytes", *of(rds, INSTANCE, "FreeStorageSpace")
        ),
        _cloud("RDS: free memory", "Of the instance.", "bytes", *of(rds, INSTANCE, "FreeableMemory")),
        _cloud(
            "RDS: latency",
            "Of one read or write of the disk: a commit waits for a write.",
            "s",
            *of(rds, INSTANCE, "ReadLatency", "WriteLatency"),
        ),
        _cloud("RDS: operations", "Reads and writes of the disk a second.", "iops", *of(rds, INSTANCE, "ReadIOPS", "WriteIOPS")),
        _cloud("RDS: disk queue", "Reads and writes that wait for the disk.", "short", *of(rds, INSTANCE, "DiskQueueDepth")),
        _cloud(
            "RDS: oldest transaction ids",
            "Transaction ids in use since the last vacuum: at 2 billion PostgreSQL stops.",
            "short",
            *of(rds, INSTANCE, "MaximumUsedTransactionIDs"),
        ),
        _cloud("ElastiCache: CPU", "Of the engine's one thread.", "percent", *of(cache, NODE, "EngineCPUUtilization")),
        _cloud(
            "ElastiCache: memory",
            "Share of the memory for data that is in use.",
            "percent",
            *of(cache, NODE, "DatabaseMemoryUsagePercentage"),
        ),
        _cloud("ElastiCache: connections", "Open connections.", "short", *of(cache, NODE, "CurrConnections")),
        _cloud(
            "ElastiCache: evictions",
            "Keys removed for want of memory, each minute.",
            "short",
            Metric(cache, "Evictions", "Sum", NODE),
        ),
    ]
    return Row("AWS: RDS and ElastiCache", panels, is_closed=True)
