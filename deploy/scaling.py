"""How many tasks the service has: by CPU, by memory, by requests."""

from aws_cdk import Duration
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb

from deploy.config import Size

CPU_PERCENT = 60
MEMORY_PERCENT = 75
REQUESTS_PER_MINUTE = 18_000
"""Of one task: 300 a second, for which the slowest machine that `make bench` measured uses CPU_PERCENT of its CPU."""


def scale(service: ecs.FargateService, targets: elb.ApplicationTargetGroup, size: Size) -> None:
    """More at once, fewer slowly: a task that goes takes its queue of telemetry with it."""
    tasks = service.auto_scale_task_count(min_capacity=size.app_tasks_min, max_capacity=size.app_tasks_max)
    more, less = Duration.seconds(60), Duration.minutes(5)
    tasks.scale_on_cpu_utilization("Cpu", target_utilization_percent=CPU_PERCENT, scale_out_cooldown=more, scale_in_cooldown=less)
    tasks.scale_on_memory_utilization(
        "Memory", target_utilization_percent=MEMORY_PERCENT, scale_out_cooldown=more, scale_in_cooldown=less
    )
    tasks.scale_on_request_count(
        "Requests", requests_per_target=REQUESTS_PER_MINUTE, target_group=targets, scale_out_cooldown=more, scale_in_cooldown=less
    )
