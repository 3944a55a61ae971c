"""What `make purge` refuses, lists and keeps. That all goes which a deployment leaves is shown in tests/deploy/emulated/test_update.py."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from deploy import purge
from deploy.account import Account
from deploy.config import REGION, read_config
from deploy.purge import Retained, retained
from stack.settings import Problem
from tests.deploy.conftest import STAGING

ACCOUNT = "123456789012"  # moto's own
OURS = {"application": "gamepulse", "environment": "staging"}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield Account(read_config(STAGING | {"AWS_ACCOUNT": ACCOUNT}), boto3.Session(region_name=REGION))


def bucket(account: Account, content: str = "backups") -> str:
    name = f"gamepulse-{content}-{ACCOUNT}"
    s3 = account.client("s3")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"one", b"two"):
        s3.put_object(Bucket=name, Key="prometheus/one", Body=body)
    s3.delete_object(Bucket=name, Key="prometheus/one")
    return name


def key(account: Account, tags: dict[str, str]) -> str:
    given = [{"TagKey": name, "TagValue": value} for name, value in tags.items()]
    return str(account.client("kms").create_key(Tags=given)["KeyMetadata"]["Arn"])


def snapshot(account: Account, encrypted_by: str) -> None:
    given = {"DBInstanceIdentifier": "gamepulse-staging-database"}
    rds = account.client("rds")
    rds.create_db_instance(
        **given, DBInstanceClass="db.m7g.large", Engine="postgres", MasterUsername="x", MasterUserPassword="password",
        AllocatedStorage=20, StorageEncrypted=True, KmsKeyId=encrypted_by,
    )  # fmt: skip
    rds.create_db_snapshot(**given, DBSnapshotIdentifier="last")
    rds.delete_db_instance(**given, SkipFinalSnapshot=True)


def names(found: list[Retained]) -> list[str]:
    return [one.name.partition(",")[0] for one in found]


def typing(word: str) -> Any:
    def ask(question: str) -> str:
        assert "Type staging to take it away" in question
        return word

    return ask


def test_nothing_goes_unless_the_environment_s_name_is_typed(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    name = bucket(account)
    for word in ("", "yes", "production"):
        with pytest.raises(Problem, match="Nothing was taken away"):
            purge.purge(account, typing(word), snapshots=False)
    assert f"bucket {name}\n" in capsys.readouterr().out
    assert [one["Name"] for one in account.client("s3").list_buckets()["Buckets"]] == [name]
    purge.purge(account, typing("staging"), snapshots=False)
    assert account.client("s3").list_buckets()["Buckets"] == []
    purge.purge(account, lambda _: pytest.fail("asked"), snapshots=False)
    assert "Nothing is left" in capsys.readouterr().out


def test_neither_production_nor_another_account_nor_what_stands(account: Account) -> None:
    def refused(one: Account, told: str) -> None:
        with pytest.raises(Problem, match=told):
            purge.purge(one, lambda _: pytest.fail("asked"), snapshots=True)

    bucket(account)
    refused(Account(replace(account.config, environment="production"), account.session), "Production's data")
    refused(Account(replace(account.config, account="999999999999"), account.session), "The credentials are of the account")
    account.client("cloudformation", "us-east-1").create_stack(StackName="gamepulse-staging-edge", TemplateBody='{"Resources": {}}')
    refused(account, "gamepulse-staging-edge still stand: `make destroy ENV=staging` first")


def test_what_is_somebody_else_s_is_left(account: Account) -> None:
    bucket(account, "of-others")
    key(account, {"application": "another", "environment": "staging"})
    key(account, OURS | {"environment": "production"})
    for service, operation, given in (
        ("ecr", "create_repository", {"repositoryName": "gamepulse/of-others"}),
        ("secretsmanager", "create_secret", {"Name": "others/gamepulse/x", "SecretString": "x"}),
        ("logs", "create_log_group", {"logGroupName": "/gamepulse/production/migrate"}),
        ("efs", "create_file_system", {"Tags": [{"Key": "application", "Value": "another"}]}),
        ("backup", "create_backup_vault", {"BackupVaultName": "gamepulse-production-vault"}),
    ):
        getattr(account.client(service), operation)(**given)
    assert retained(account, snapshots=True) == []


def test_key_stays_as_long_as_a_snapshot_needs_it(account: Account) -> None:
    needed, other = key(account, OURS), key(account, OURS)
    snapshot(account, needed)
    assert names(retained(account, snapshots=False)) == [f"key {other.rpartition('/')[2]}"]
    now = datetime.now(UTC)
    assert names(retained(account, snapshots=True, since=now + timedelta(hours=1))) == [f"key {other.rpartition('/')[2]}"]
    found = retained(account, snapshots=True, since=now - timedelta(hours=1))
    assert set(names(found)) == {"snapshot last", *(f"key {one.rpartition('/')[2]}" for one in (needed, other))}
    assert found[0].name == "snapshot last"
    purge.take(found)
    assert retained(account, snapshots=True) == []


def test_backups_go_before_their_vault_and_what_aws_still_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto knows no backups."""
    monkeypatch.setattr("deploy.purge.time.sleep", lambda _: None)
    backup, vault, arn = boto3.client("backup", region_name=REGION), {"BackupVaultName": "vault"}, "arn:aws:rds:x:1:snapshot:y"
    with Stubber(backup) as told:
        told.add_response("describe_backup_vault", {"NumberOfRecoveryPoints": 1}, vault)
        told.add_response("list_recovery_points_by_backup_vault", {"RecoveryPoints": [{"RecoveryPointArn": arn}]}, vault)
        told.add_response("delete_recovery_point", {}, vault | {"RecoveryPointArn": arn})
        told.add_client_error("delete_backup_vault", "InvalidRequestException", expected_params=vault)
        told.add_response("delete_backup_vault", {}, vault)
        purge._delete_vault(backup, "vault")
        told.assert_no_pending_responses()
        told.add_response("describe_backup_vault", {"NumberOfRecoveryPoints": 0}, vault)
        told.add_client_error("delete_backup_vault", "AccessDeniedException")
        with pytest.raises(backup.exceptions.ClientError, match="AccessDenied"):
            purge._delete_vault(backup, "vault")
