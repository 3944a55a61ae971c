"""New passwords for the logins of telemetry, in PostgreSQL and Secrets Manager, and new tasks that use them.

Each login changes its own password, so this needs no other right in PostgreSQL. The steps are those of Secrets Manager's own
rotation: a pending version, the password set, the version made current. Whatever ends this in between, the next run goes on.
"""

import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import asyncpg
from botocore.exceptions import BotoCoreError, ClientError

from gamepulse import database
from operations import aws, logins
from operations.snapshots import Failed, Say

SERVICES: Mapping[str, Mapping[str, str]] = {
    "infrastructure": {"gamepulse/database/monitor": logins.MONITOR},
    "grafana": {"gamepulse/database/grafana-reader": logins.READER, "gamepulse/database/grafana": logins.GRAFANA},
}
"""The login of each secret, by the service whose tasks are given it when they start."""
PENDING, CURRENT = "AWSPENDING", "AWSCURRENT"


async def rotate(url: str, cluster: str, say: Say) -> None:
    """For all of them. Raises Failed; what was done until then holds, and has reached the tasks."""
    manager, ecs = aws.client("secretsmanager"), aws.client("ecs")
    try:
        for service, its in SERVICES.items():
            try:
                for name, login in its.items():
                    await _rotate(manager, name, login, url)
                    say(f"{name}: {login} has a new password")
            finally:
                ecs.update_service(cluster=cluster, service=service, forceNewDeployment=True)
                say(f"{service}: new tasks start")
    except (BotoCoreError, ClientError) as error:
        raise Failed(str(error)) from error
    except (*database.UNREACHABLE, asyncpg.PostgresError) as error:
        raise Failed(f"PostgreSQL: {error or type(error).__name__}") from error


async def _rotate(manager: Any, name: str, login: str, url: str) -> None:
    versions: dict[str, list[str]] = manager.describe_secret(SecretId=name)["VersionIdsToStages"]
    current = next(version for version, stages in versions.items() if CURRENT in stages)
    pending = next((version for version, stages in versions.items() if PENDING in stages and CURRENT not in stages), None)
    if pending is None:
        made = manager.put_secret_value(SecretId=name, SecretString=secrets.token_hex(24), VersionStages=[PENDING])
        pending = str(made["VersionId"])
    old, new = (str(manager.get_secret_value(SecretId=name, VersionId=version)["SecretString"]) for version in (current, pending))
    await _set_password(url, login, old, new)
    manager.update_secret_version_stage(SecretId=name, VersionStage=CURRENT, MoveToVersionId=pending, RemoveFromVersionId=current)
    manager.update_secret_version_stage(SecretId=name, VersionStage=PENDING, RemoveFromVersionId=pending)


async def _set_password(url: str, login: str, old: str, new: str) -> None:
    """Afterwards `new` opens. If it did before, the run before this one ended after this step."""
    with suppress(asyncpg.InvalidPasswordError):
        await logins.set_own_password({"dsn": url, "user": login, "password": old}, new)
    try:
        await logins.sign_in({"dsn": url, "user": login, "password": new})
    except asyncpg.InvalidPasswordError:
        raise Failed(
            f"{login} opens neither with its current password nor with the pending one: run `migrate`, then this"
        ) from None
