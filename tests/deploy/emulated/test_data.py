"""What holds data in the deployed environment, as its services describe it."""

import json
import re
from typing import Any

import pytest

from tests.deploy.emulated.account import Account, Json

REGION = "ap-northeast-2"


@pytest.fixture(scope="module")
def key(deployed: Account) -> str:
    [alias] = [one for one in deployed.client("kms").list_aliases()["Aliases"] if one["AliasName"] == "alias/gamepulse/staging"]
    return str(deployed.client("kms").describe_key(KeyId=alias["TargetKeyId"])["KeyMetadata"]["Arn"])


@pytest.fixture(scope="module")
def private(deployed: Account) -> set[str]:
    subnets = deployed.client("ec2").describe_subnets()["Subnets"]
    return {one["SubnetId"] for one in subnets if one["CidrBlock"] in {"10.0.10.0/24", "10.0.20.0/24", "10.0.30.0/24"}}


def group(account: Account, name: str) -> str:
    found = account.client("ec2").describe_security_groups()["SecurityGroups"]
    return str(next(one["GroupId"] for one in found if one["Description"] == f"GamePulse: {name}"))


def test_the_key_is_rotated(deployed: Account, key: str) -> None:
    assert deployed.client("kms").get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]


def test_the_database_is_encrypted_in_two_zones_and_not_public(deployed: Account, key: str, private: set[str]) -> None:
    [found] = deployed.client("rds").describe_db_instances()["DBInstances"]
    assert found["DBInstanceIdentifier"] == "gamepulse-staging-database"
    assert (found["Engine"], found["EngineVersion"].split(".")[0]) == ("postgres", "18")
    assert (found["DBInstanceClass"], found["AllocatedStorage"], found["MaxAllocatedStorage"]) == ("db.m7g.large", 100, 500)
    assert (found["StorageType"], found["StorageEncrypted"], found["KmsKeyId"]) == ("gp3", True, key)
    assert found["MultiAZ"] is True
    assert found["PubliclyAccessible"] is False
    assert {one["SubnetIdentifier"] for one in found["DBSubnetGroup"]["Subnets"]} == private
    assert [one["VpcSecurityGroupId"] for one in found["VpcSecurityGroups"]] == [group(deployed, "database")]
    assert found["CACertificateIdentifier"] == "rds-ca-rsa2048-g1"


def test_the_database_can_be_brought_back_to_any_moment_of_two_weeks(deployed: Account) -> None:
    [found] = deployed.client("rds").describe_db_instances()["DBInstances"]
    assert (found["BackupRetentionPeriod"], found["PreferredBackupWindow"]) == (14, "18:00-19:00")
    assert found["CopyTagsToSnapshot"] is True


def test_the_database_is_entered_by_iam_over_tls_and_its_master_password_is_rds_own(deployed: Account, key: str) -> None:
    [found] = deployed.client("rds").describe_db_instances()["DBInstances"]
    assert found["IAMDatabaseAuthenticationEnabled"] is True
    assert (found["MasterUsername"], found["MasterUserSecret"]["KmsKeyId"]) == ("gamepulse_admin", key)
    secret = deployed.client("secretsmanager").get_secret_value(SecretId=found["MasterUserSecret"]["SecretArn"])
    assert json.loads(secret["SecretString"])["password"]
    [name] = [one["DBParameterGroupName"] for one in found["DBParameterGroups"]]
    parameters = deployed.client("rds").describe_db_parameters(DBParameterGroupName=name)["Parameters"]
    told = {one["ParameterName"]: one["ParameterValue"] for one in parameters}
    assert told["rds.force_ssl"] == "1"
    assert told["password_encryption"] == "scram-sha-256"
    # Nothing of players in its log, and nothing answered before it is safe.
    assert (told["log_min_error_statement"], told["log_error_verbosity"]) == ("panic", "terse")
    assert told["synchronous_commit"] == "on"


def test_the_database_is_observed(deployed: Account) -> None:
    [found] = deployed.client("rds").describe_db_instances()["DBInstances"]
    assert found["MonitoringInterval"] == 60
    assert set(found["EnabledCloudwatchLogsExports"]) == {"postgresql", "upgrade"}
    logs = deployed.client("logs").describe_log_groups(logGroupNamePrefix="/aws/rds/")["logGroups"]
    assert {one["logGroupName"]: one["retentionInDays"] for one in logs} == {
        f"/aws/rds/instance/gamepulse-staging-database/{name}": 30 for name in ("postgresql", "upgrade")
    }
    role = found["MonitoringRoleArn"].rsplit("/", 1)[1]
    attached = deployed.client("iam").list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    assert [one["PolicyName"] for one in attached] == ["AmazonRDSEnhancedMonitoringRole"]


def test_the_cache_is_encrypted_and_its_user_has_a_password(deployed: Account) -> None:
    cache = deployed.client("elasticache")
    [found] = cache.describe_replication_groups()["ReplicationGroups"]
    assert (found["ReplicationGroupId"], found["Engine"]) == ("gamepulse-staging-cache", "valkey")
    assert (found["TransitEncryptionEnabled"], found["TransitEncryptionMode"], found["AtRestEncryptionEnabled"]) == (
        True,
        "required",
        True,
    )
    assert (found["MultiAZ"], found["AutomaticFailover"]) == ("enabled", "enabled")
    assert found["UserGroupIds"] == ["gamepulse-staging-cache"]
    [users] = cache.describe_user_groups(UserGroupId="gamepulse-staging-cache")["UserGroups"]
    assert set(users["UserIds"]) == {"gamepulse-staging-cache-nobody", "gamepulse-staging-cache-gamepulse"}
    by_id = {one["UserId"]: one for one in cache.describe_users()["Users"]}
    nobody, ours = by_id["gamepulse-staging-cache-nobody"], by_id["gamepulse-staging-cache-gamepulse"]
    assert (nobody["UserName"], nobody["AccessString"]) == ("default", "off -@all")
    assert (ours["UserName"], ours["Authentication"]) == ("gamepulse", {"Type": "password", "PasswordCount": 2})
    assert ours["AccessString"].startswith("on ")
    assert "-@admin" in ours["AccessString"]


def test_files_are_encrypted_in_each_zone_with_a_folder_for_each_program(deployed: Account, key: str, private: set[str]) -> None:
    efs = deployed.client("efs")
    [system] = efs.describe_file_systems()["FileSystems"]
    assert (system["Encrypted"], system["KmsKeyId"], system["ThroughputMode"]) == (True, key, "elastic")
    targets = efs.describe_mount_targets(FileSystemId=system["FileSystemId"])["MountTargets"]
    assert {one["SubnetId"] for one in targets} == private
    for one in targets:
        groups = efs.describe_mount_target_security_groups(MountTargetId=one["MountTargetId"])["SecurityGroups"]
        assert groups == [group(deployed, "files")]
    points = efs.describe_access_points(FileSystemId=system["FileSystemId"])["AccessPoints"]
    assert {one["RootDirectory"]["Path"]: (one["PosixUser"]["Uid"], one["PosixUser"]["Gid"]) for one in points} == {
        "/prometheus-data": (65534, 65534),
        "/jaeger-data": (10001, 10001),
        "/grafana-config": (472, 472),
    }
    assert {one["RootDirectory"]["CreationInfo"]["Permissions"] for one in points} == {"0750"}


def test_files_are_mounted_over_tls_by_roles_that_may(deployed: Account) -> None:
    efs = deployed.client("efs")
    [system] = efs.describe_file_systems()["FileSystems"]
    policy = json.loads(efs.describe_file_system_policy(FileSystemId=system["FileSystemId"])["Policy"])
    # It allows nothing: what is allowed is in each role's own policy.
    [deny] = policy["Statement"]
    assert (deny["Effect"], deny["Principal"]) == ("Deny", {"AWS": "*"})
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


BUCKETS = {
    # name: key of ours, days, days of what is not current, region
    "gamepulse-loki-logs-111122223333": (True, 14, 1, REGION),
    "gamepulse-backups-111122223333": (True, 14, 30, REGION),
    "gamepulse-traffic-logs-111122223333": (False, 90, 30, REGION),
    "gamepulse-edge-logs-111122223333": (False, 90, 30, "us-east-1"),
    "gamepulse-api-calls-111122223333": (False, 365, 30, REGION),
}


def test_there_are_these_buckets(deployed: Account) -> None:
    assert {one["Name"] for one in deployed.client("s3").list_buckets()["Buckets"]} == BUCKETS.keys()


@pytest.mark.parametrize("name", BUCKETS)
def test_a_bucket_is_closed_encrypted_versioned_and_forgets(deployed: Account, key: str, name: str) -> None:
    own_key, days, not_current, region = BUCKETS[name]
    s3 = deployed.client("s3", region)
    place = s3.get_bucket_location(Bucket=name)["LocationConstraint"] or "us-east-1"
    assert place == region
    block = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    [rule] = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    used = rule["ApplyServerSideEncryptionByDefault"]
    assert used == ({"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key} if own_key else {"SSEAlgorithm": "AES256"})
    assert s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    [rule] = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert rule["Status"] == "Enabled"
    assert (rule["Expiration"]["Days"], rule["NoncurrentVersionExpiration"]["NoncurrentDays"]) == (days, not_current)
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    statements = json.loads(s3.get_bucket_policy(Bucket=name)["Policy"])["Statement"]
    denied = [one["Condition"] for one in statements if one["Effect"] == "Deny" and one["Action"] == "s3:*"]
    assert {"Bool": {"aws:SecureTransport": "false"}} in denied
    assert {"NumericLessThan": {"s3:TlsVersion": 1.2}} in denied


def test_who_reads_our_buckets_is_logged(deployed: Account) -> None:
    s3 = deployed.client("s3")
    for content in ("loki-logs", "backups", "api-calls"):
        told = s3.get_bucket_logging(Bucket=f"gamepulse-{content}-111122223333")["LoggingEnabled"]
        assert told["TargetBucket"] == "gamepulse-traffic-logs-111122223333"
        assert told["TargetPrefix"].startswith("s3/")


def test_aws_may_write_the_logs_of_traffic(deployed: Account) -> None:
    policy = json.loads(deployed.client("s3").get_bucket_policy(Bucket="gamepulse-traffic-logs-111122223333")["Policy"])

    def resources(one: Json) -> list[str]:
        return [one["Resource"]] if isinstance(one["Resource"], str) else one["Resource"]

    allowed = [one for one in policy["Statement"] if one["Effect"] == "Allow" and one["Action"] == "s3:PutObject"]
    writes = {
        (principal, resource.removeprefix("arn:aws:s3:::gamepulse-traffic-logs-111122223333/"))
        for one in allowed
        for principal in one["Principal"].values()
        for resource in resources(one)
    }
    assert ("delivery.logs.amazonaws.com", "flow/AWSLogs/111122223333/*") in writes
    assert ("logging.s3.amazonaws.com", "s3/loki/*") in writes
    assert ("logging.s3.amazonaws.com", "s3/backups/*") in writes
    assert ("logging.s3.amazonaws.com", "s3/api-calls/*") in writes
    # The account of Elastic Load Balancing in this region.
    assert ("arn:aws:iam::600734575887:root", "balancer/AWSLogs/111122223333/*") in writes


IMAGES = ("gamepulse", "operations", "collector", "prometheus", "alertmanager", "loki", "jaeger", "grafana")


def test_images_are_scanned_and_their_tags_are_fixed(deployed: Account) -> None:
    ecr = deployed.client("ecr")
    found = {one["repositoryName"]: one for one in ecr.describe_repositories()["repositories"]}
    assert found.keys() == {f"gamepulse/{name}" for name in IMAGES}
    for name, one in found.items():
        assert one["imageTagMutability"] == "IMMUTABLE"
        assert one["imageScanningConfiguration"] == {"scanOnPush": True}
        assert one["encryptionConfiguration"]["encryptionType"] == "KMS"
        rules = json.loads(ecr.get_lifecycle_policy(repositoryName=name)["lifecyclePolicyText"])["rules"]
        assert [(rule["selection"]["tagStatus"], rule["selection"]["countNumber"]) for rule in rules] == [
            ("untagged", 1),
            ("any", 30),
        ]


SECRETS = {
    "gamepulse/player-hash-key": r"[0-9a-f]{64}",
    "gamepulse/database/monitor": r"[0-9A-Za-z]{40}",
    "gamepulse/database/grafana-reader": r"[0-9A-Za-z]{40}",
    "gamepulse/database/grafana": r"[0-9A-Za-z]{40}",
    "gamepulse/grafana/key": r"[0-9A-Za-z]{40}",
    **{f"gamepulse/{name}/{number}": r"[0-9A-Za-z]{40}" for name in ("cache", "origin-header") for number in (0, 1)},
}


@pytest.mark.parametrize(("name", "pattern"), SECRETS.items())
def test_a_secret_is_made_by_aws_and_encrypted_with_our_key(deployed: Account, key: str, name: str, pattern: str) -> None:
    secrets = deployed.client("secretsmanager")
    assert secrets.describe_secret(SecretId=name)["KmsKeyId"] == key
    value = secrets.get_secret_value(SecretId=name)["SecretString"]
    assert re.fullmatch(pattern, value)


def test_no_two_secrets_are_the_same_and_all_are_listed(deployed: Account) -> None:
    secrets = deployed.client("secretsmanager")
    names = {one["Name"] for one in secrets.list_secrets()["SecretList"] if not one["Name"].startswith("rds!")}
    assert names == SECRETS.keys() | {"gamepulse/grafana/client"}
    values = {secrets.get_secret_value(SecretId=name)["SecretString"] for name in names}
    assert len(values) == len(names)


def test_the_nights_backups_are_kept_for_two_weeks(deployed: Account, key: str) -> None:
    backup = deployed.client("backup")
    vault = backup.describe_backup_vault(BackupVaultName="gamepulse-staging-vault")
    assert vault["EncryptionKeyArn"] == key
    [plan] = backup.list_backup_plans()["BackupPlansList"]
    rules = backup.get_backup_plan(BackupPlanId=plan["BackupPlanId"])["BackupPlan"]["Rules"]
    assert {one["RuleName"]: (one["ScheduleExpression"], one["Lifecycle"]["DeleteAfterDays"]) for one in rules} == {
        "nightly": ("cron(0 19 * * ? *)", 14)
    }
    [selection] = [one for (kind, _), one in deployed.kept.items() if kind == "BackupSelection"]
    [system] = deployed.client("efs").describe_file_systems()["FileSystems"]
    [database] = deployed.client("rds").describe_db_instances()["DBInstances"]
    assert set(selection["BackupSelection"]["Resources"]) == {system["FileSystemArn"], database["DBInstanceArn"]}


def test_people_are_told_over_tls_by_encrypted_topics(deployed: Account, key: str) -> None:
    sns = deployed.client("sns")
    told: dict[str, Any] = {}
    for topic in sns.list_topics()["Topics"]:
        attributes = sns.get_topic_attributes(TopicArn=topic["TopicArn"])["Attributes"]
        assert attributes["KmsMasterKeyId"] == key
        denied = [one for one in json.loads(attributes["Policy"])["Statement"] if one["Effect"] == "Deny"]
        assert [one["Condition"] for one in denied] == [{"Bool": {"aws:SecureTransport": "false"}}]
        [subscription] = sns.list_subscriptions_by_topic(TopicArn=topic["TopicArn"])["Subscriptions"]
        told[topic["TopicArn"].rsplit(":", 1)[1]] = (subscription["Protocol"], subscription["Endpoint"])
    people = ("email", "ops@gamepulse.example")
    assert told == {"gamepulse-staging-alerts": people, "gamepulse-staging-alarms": people}
