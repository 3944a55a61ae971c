"""Takes away what `destroy` leaves because it has data. Afterwards the environment can be deployed again."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from deploy.account import Account, tell
from deploy.config import EDGE_REGION, IMAGES, NAME, REGION
from deploy.release import STACKS, check_is_ours
from stack.settings import Problem

EVER = datetime.min.replace(tzinfo=UTC)
KEY_DAYS = 7
"""AWS's least: until then a key can still be had back."""
LIMIT_S = 900


@dataclass(frozen=True)
class Retained:
    """One thing that was left, and how it goes."""

    name: str
    take: Callable[[], object]


def purge(account: Account, ask: Callable[[str], str], *, snapshots: bool) -> None:
    """Take all of it away when the environment's name is typed. `snapshots`: those of the database, too. Raises Problem."""
    config = account.config
    if config.is_production:
        raise Problem("Production's data is not taken away by a command.")
    check_is_ours(account)
    if standing := [name for part, region in STACKS.items() if account.stack_exists(name := config.stack_name(part), region)]:
        raise Problem(f"{', '.join(standing)} still stand: `make destroy ENV={config.environment}` first.")
    found = retained(account, snapshots=snapshots)
    if not found:
        tell("Nothing is left")
        return
    for one in found:
        print(one.name, flush=True)
    if ask(f"All this goes for ever. Type {config.environment} to take it away").strip() != config.environment:
        raise Problem("Nothing was taken away.")
    take(found)


def take(found: list[Retained]) -> None:
    for one in found:
        tell(f"Taking away: {one.name}")
        one.take()


def retained(account: Account, *, snapshots: bool, since: datetime = EVER) -> list[Retained]:
    """What is left, in the order in which it goes. `snapshots`: also those that the database leaves, if made after `since`."""
    backups = list(_backups(account))
    going = [one for one in backups if snapshots and one.made > since]
    needed = {one.key for one in backups if one not in going}
    return [
        *_buckets(account),
        *_images(account),
        *_vault(account),
        *_files(account),
        *_secrets(account),
        *_logs(account),
        *(Retained(one.name, one.take) for one in going),
        *_keys(account, needed),
    ]


def _buckets(account: Account) -> Iterator[Retained]:
    contents = {"traffic-logs": REGION, "loki-logs": REGION, "backups": REGION, "api-calls": REGION, "edge-logs": EDGE_REGION}
    there = {one["Name"] for one in account.client("s3").list_buckets()["Buckets"]}
    for content, region in contents.items():
        if (name := account.config.bucket_name(content)) in there:
            yield Retained(
                f"bucket {name}", partial(_empty_and_delete, account.session.resource("s3", region_name=region).Bucket(name))
            )


def _empty_and_delete(bucket: Any) -> None:
    """AWS may still bring logs for a while."""

    def delete() -> None:
        bucket.object_versions.delete()
        bucket.delete()

    _again_while(delete, bucket.meta.client.exceptions.ClientError, "BucketNotEmpty")


def _images(account: Account) -> Iterator[Retained]:
    ecr = account.client("ecr")
    there = {one["repositoryName"] for page in _pages(ecr, "describe_repositories") for one in page["repositories"]}
    for name in sorted({f"{NAME}/{image}" for image in IMAGES} & there):
        yield Retained(f"images {name}", partial(ecr.delete_repository, repositoryName=name, force=True))


def _vault(account: Account) -> Iterator[Retained]:
    backup, name = account.client("backup"), account.config.stack_name("vault")
    if name in {one["BackupVaultName"] for page in _pages(backup, "list_backup_vaults") for one in page["BackupVaultList"]}:
        count = backup.describe_backup_vault(BackupVaultName=name).get("NumberOfRecoveryPoints", 0)
        yield Retained(f"vault {name} with {count} backups", partial(_delete_vault, backup, name))


def _delete_vault(backup: Any, name: str) -> None:
    if backup.describe_backup_vault(BackupVaultName=name).get("NumberOfRecoveryPoints"):
        for page in _pages(backup, "list_recovery_points_by_backup_vault", BackupVaultName=name):
            for one in page["RecoveryPoints"]:
                backup.delete_recovery_point(BackupVaultName=name, RecoveryPointArn=one["RecoveryPointArn"])
    # Until the last of them has gone, AWS refuses.
    _again_while(
        partial(backup.delete_backup_vault, BackupVaultName=name), backup.exceptions.ClientError, "InvalidRequestException"
    )


def _files(account: Account) -> Iterator[Retained]:
    efs = account.client("efs")
    for page in _pages(efs, "describe_file_systems"):
        for one in page["FileSystems"]:
            if _is_ours(account, {tag["Key"]: tag["Value"] for tag in one["Tags"]}):
                own_id = one["FileSystemId"]
                yield Retained(f"files {own_id}", partial(efs.delete_file_system, FileSystemId=own_id))


def _secrets(account: Account) -> Iterator[Retained]:
    manager = account.client("secretsmanager")
    for page in _pages(manager, "list_secrets", Filters=[{"Key": "name", "Values": [f"{NAME}/"]}]):
        for one in page["SecretList"]:
            yield Retained(f"secret {one['Name']}", partial(_delete_secret, manager, one["Name"]))


def _delete_secret(manager: Any, name: str) -> None:
    if regions := [one["Region"] for one in manager.describe_secret(SecretId=name).get("ReplicationStatus", [])]:
        manager.remove_regions_from_replication(SecretId=name, RemoveReplicaRegions=regions)
    delete = partial(manager.delete_secret, SecretId=name, ForceDeleteWithoutRecovery=True)
    _again_while(delete, manager.exceptions.ClientError, "InvalidRequestException")


def _logs(account: Account) -> Iterator[Retained]:
    """Those that AWS's services have made for what was ours, and ours of a deployment that failed."""
    logs, name, environment = account.client("logs"), account.config.stack_name, account.config.environment
    ours = (f"/{NAME}/{environment}/", f"/aws/rds/instance/{name('database')}", f"/aws/ecs/containerinsights/{name('cluster')}/")
    for prefix in ours:
        for page in _pages(logs, "describe_log_groups", logGroupNamePrefix=prefix):
            for one in page["logGroups"]:
                yield Retained(f"log {one['logGroupName']}", partial(logs.delete_log_group, logGroupName=one["logGroupName"]))


@dataclass(frozen=True)
class _Backup(Retained):
    made: datetime
    key: str
    """With which it is encrypted."""


def _backups(account: Account) -> Iterator[_Backup]:
    """Of the databases, also of those that a restored one has replaced: snapshots, and the logs by which they could be restored."""
    rds, name = account.client("rds"), account.config.stack_name("database")
    for page in _pages(rds, "describe_db_snapshots", SnapshotType="manual"):
        for one in page["DBSnapshots"]:
            if one["DBInstanceIdentifier"].startswith(name):
                own_id = one["DBSnapshotIdentifier"]
                delete = partial(rds.delete_db_snapshot, DBSnapshotIdentifier=own_id)
                yield _Backup(f"snapshot {own_id}", delete, one["SnapshotCreateTime"], one["KmsKeyId"])
    for page in _pages(rds, "describe_db_instance_automated_backups"):
        for one in page["DBInstanceAutomatedBackups"]:
            if one["DBInstanceIdentifier"].startswith(name) and one["Status"] == "retained":
                delete = partial(rds.delete_db_instance_automated_backup, DbiResourceId=one["DbiResourceId"])
                yield _Backup(f"automated backup of {one['DbiResourceId']}", delete, one["InstanceCreateTime"], one["KmsKeyId"])


def _keys(account: Account, needed: set[str]) -> Iterator[Retained]:
    """But for those without which snapshots that stay cannot be read. AWS deletes them some days later."""
    kms = account.client("kms")
    for page in _pages(kms, "list_keys"):
        for one in page["Keys"]:
            key = kms.describe_key(KeyId=one["KeyId"])["KeyMetadata"]
            if key["KeyManager"] != "CUSTOMER" or key["KeyState"] != "Enabled" or not needed.isdisjoint({key["Arn"], key["KeyId"]}):
                continue
            tags = {tag["TagKey"]: tag["TagValue"] for tag in kms.list_resource_tags(KeyId=key["KeyId"])["Tags"]}
            if _is_ours(account, tags):
                delete = partial(kms.schedule_key_deletion, KeyId=key["KeyId"], PendingWindowInDays=KEY_DAYS)
                yield Retained(f"key {key['KeyId']}, in {KEY_DAYS} days", delete)


def _is_ours(account: Account, tags: dict[str, str]) -> bool:
    """As deploy/app.py tags all."""
    return (tags.get("application"), tags.get("environment")) == (NAME, account.config.environment)


def _pages(client: Any, operation: str, **given: Any) -> Iterator[Any]:
    yield from client.get_paginator(operation).paginate(**given)


def _again_while(do: Callable[[], object], kind: type[Exception], code: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            do()
            return
        except kind as error:
            if getattr(error, "response", {}).get("Error", {}).get("Code") != code or time.monotonic() > deadline:
                raise
            time.sleep(10)
