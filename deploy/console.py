"""A program's own page on this machine: through a task that is there only so long, by SSM's port forwarding."""

import json
import shutil
import subprocess
import time
from typing import Any

from deploy.account import Account, network_of, tell
from deploy.config import INTERNAL_DOMAIN, REGION
from stack.settings import Problem

PAGES = {"prometheus": 9090, "alertmanager": 9093, "loki": 3100, "jaeger": 16686}
DOCUMENT = "AWS-StartPortForwardingSessionToRemoteHost"
START_LIMIT_S = 300


def console(account: Account, name: str, port: int) -> None:
    """Forward 127.0.0.1:`port` to the program until Ctrl-C. Raises Problem."""
    plugin = shutil.which("session-manager-plugin")
    if plugin is None:
        raise Problem(
            "session-manager-plugin is needed, and is not on the PATH: AWS's pages on Session Manager say how to install it."
        )
    ecs, cluster = account.client("ecs"), account.config.stack_name("cluster")
    started = ecs.run_task(
        cluster=cluster,
        taskDefinition="console",
        launchType="FARGATE",
        enableExecuteCommand=True,
        networkConfiguration={"awsvpcConfiguration": {**network_of(account, "console"), "assignPublicIp": "DISABLED"}},
    )
    if started.get("failures"):
        raise Problem(f"console cannot be started: {started['failures']}")
    arn = started["tasks"][0]["taskArn"]
    try:
        target = {
            "Target": f"ecs:{cluster}_{arn.rpartition('/')[2]}_{_runtime_id(ecs, cluster, arn)}",
            "DocumentName": DOCUMENT,
            "Parameters": {
                "host": [f"{name}.{INTERNAL_DOMAIN}"],
                "portNumber": [str(PAGES[name])],
                "localPortNumber": [str(port)],
            },
        }
        session = account.client("ssm").start_session(**target)
        tell(f"{name}: http://127.0.0.1:{port} (Ctrl-C ends it)")
        given = json.dumps({key: session[key] for key in ("SessionId", "StreamUrl", "TokenValue")})
        endpoint = f"https://ssm.{REGION}.amazonaws.com"
        subprocess.run([plugin, given, REGION, "StartSession", "", json.dumps(target), endpoint], check=False)
    except KeyboardInterrupt:
        tell("Ending it")
    finally:
        ecs.stop_task(cluster=cluster, task=arn, reason="the engineer has left")


def _runtime_id(ecs: Any, cluster: str, arn: str) -> str:
    """Of the task's container, as soon as SSM's agent in it answers."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        [task] = ecs.describe_tasks(cluster=cluster, tasks=[arn])["tasks"]
        if task["lastStatus"] == "STOPPED":
            raise Problem(f"console ended at once: {task.get('stoppedReason', 'no reason was given')}")
        [container] = task["containers"]
        agents = {one["name"]: one["lastStatus"] for one in container.get("managedAgents", [])}
        if agents.get("ExecuteCommandAgent") == "RUNNING":
            return str(container["runtimeId"])
        time.sleep(3)
    raise Problem(f"console did not start within {START_LIMIT_S} s.")
