"""The game with which `make prove` sends something: its key, and what of it is stored. Nobody needs an account for it."""

import json
import time
import uuid
from urllib.parse import urlsplit

import httpx

from deploy.account import Account, log_of, run_task
from deploy.config import NAME
from stack.settings import Problem

GAME = "prove"
LOG_TRIES = 10
"""A line may be in the log only some seconds after its task has ended."""
BATCH = 10
"""Reports."""


def ingest_key(account: Account) -> str:
    """The game's, which is made if it is not there. Raises Problem."""
    secrets, name = account.client("secretsmanager"), f"{NAME}/{account.config.environment}/key/{GAME}"
    try:
        found = secrets.get_secret_value(SecretId=name)
    except secrets.exceptions.ResourceNotFoundException:
        run_task(account, "migrate", "migrate", command=["game", GAME, "--secret", name])
        found = secrets.get_secret_value(SecretId=name)
    return str(found["SecretString"])


def send(account: Account, reports: int = BATCH) -> int:
    """One batch. How many reports the service has answered as accepted. Raises Problem, httpx.HTTPError."""
    now = time.time_ns() // 1_000_000
    batch = {
        "batch_id": str(uuid.uuid4()),
        "game": GAME,
        "session": str(uuid.uuid4()),
        "sent_at": now,
        "reports": [{"seq": seq, "at": now, "region": "ap-northeast-2", "rtt_ms": 30.0} for seq in range(reports)],
    }
    headers = {"authorization": f"Bearer {ingest_key(account)}"}
    answer = httpx.post(f"https://{account.config.play}/v1/reports", json=batch, headers=headers, timeout=20)
    if answer.status_code != 202:
        raise Problem(f"a batch is answered {answer.status_code} {answer.text[:200]}")
    return int(answer.json()["accepted"])


def stored(account: Account, host: str = "") -> int:
    """How many of the game's reports PostgreSQL has; `host`: another than the deployed one. Raises Problem."""
    told = {}
    if host:
        [container] = account.client("ecs").describe_task_definition(taskDefinition="migrate")["taskDefinition"][
            "containerDefinitions"
        ]
        [own] = [one["value"] for one in container["environment"] if one["name"] == "DATABASE_ADMIN_URL"]
        told = {"DATABASE_ADMIN_URL": own.replace(str(urlsplit(own).hostname), host)}
    arn = run_task(account, "migrate", "migrate", command=["stored", GAME], environment=told)
    for _ in range(LOG_TRIES):
        said = log_of(account, "migrate", arn)
        try:
            return int(json.loads(said.splitlines()[-1])["stored"])
        except (ValueError, KeyError, IndexError):
            time.sleep(3)
    raise Problem(f"`stored` does not say how many: {said}")
