"""What must outlive tasks: PostgreSQL, Valkey, files, buckets, secrets, images, backups."""

import json
from typing import Any

from tests.deploy.templates import Json, Stacks, statements
from tests.deploy.test_templates_network import PRIVATE

KEY = "arn:aws:kms:ap-northeast-2:111122223333:key/Key"
BUCKETS = {
    "gamepulse-loki-logs-111122223333",
    "gamepulse-backups-111122223333",
    "gamepulse-traffic-logs-111122223333",
    "gamepulse-edge-logs-111122223333",
    "gamepulse-api-calls-111122223333",
}
OURS = {"gamepulse-loki-logs-111122223333", "gamepulse-backups-111122223333"}
IMAGES = {"gamepulse", "operations", "collector", "prometheus", "alertmanager", "loki", "jaeger", "grafana"}


def database(stacks: Stacks) -> Json:
    return stacks.one("RDS::DBInstance")


def bucket(stacks: Stacks, name: str) -> Json:
    return stacks.one("S3::Bucket", BucketName=name)


# PostgreSQL


def test_postgresql_stands_in_two_zones_and_in_private_subnets(stacks: Stacks) -> None:
    assert database(stacks)["MultiAZ"] is True
    assert database(stacks)["PubliclyAccessible"] is False
    assert set(stacks.one("RDS::DBSubnetGroup")["SubnetIds"]) == set(PRIVATE)


def test_postgresql_is_18_of_the_size_that_was_chosen(stacks: Stacks) -> None:
    has = database(stacks)
    assert (has["Engine"], has["EngineVersion"]) == ("postgres", "18.3")
    expected = {"staging": ("db.m7g.large", "100", 500), "production": ("db.r7g.2xlarge", "1000", 5000)}
    assert (has["DBInstanceClass"], has["AllocatedStorage"], has["MaxAllocatedStorage"]) == expected[stacks.environment]
    assert has["StorageType"] == "gp3"


def test_postgresql_takes_tls_only_from_a_known_root(stacks: Stacks) -> None:
    assert stacks.one("RDS::DBParameterGroup")["Parameters"]["rds.force_ssl"] == "1"
    assert database(stacks)["CACertificateIdentifier"] == "rds-ca-rsa2048-g1"


def test_postgresql_keeps_what_it_has_answered(stacks: Stacks) -> None:
    assert stacks.one("RDS::DBParameterGroup")["Parameters"]["synchronous_commit"] == "on"


def test_postgresql_s_log_has_no_values(stacks: Stacks) -> None:
    """Statements and connections are not logged by PostgreSQL's own defaults: nothing here says otherwise."""
    parameters = stacks.one("RDS::DBParameterGroup")["Parameters"]
    assert {name: value for name, value in parameters.items() if name.startswith("log_")} == {
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_lock_waits": "1",
    }


def test_nobody_knows_postgresql_s_passwords(stacks: Stacks) -> None:
    """RDS makes and rotates the master's; the service has none, but asks by IAM."""
    has = database(stacks)
    assert has["ManageMasterUserPassword"] is True and "MasterUserPassword" not in has
    assert has["MasterUserSecret"] == {"KmsKeyId": KEY}
    assert has["EnableIAMDatabaseAuthentication"] is True
    assert stacks.one("RDS::DBParameterGroup")["Parameters"]["password_encryption"] == "scram-sha-256"


def test_postgresql_can_be_put_back_to_any_second_of_14_days(stacks: Stacks) -> None:
    has = database(stacks)
    assert (has["BackupRetentionPeriod"], has["DeleteAutomatedBackups"], has["CopyTagsToSnapshot"]) == (14, False, True)


def test_postgresql_is_encrypted(stacks: Stacks) -> None:
    has = database(stacks)
    assert (has["StorageEncrypted"], has["KmsKeyId"], has["PerformanceInsightsKMSKeyId"]) == (True, KEY, KEY)


def test_postgresql_says_how_it_is(stacks: Stacks) -> None:
    has = database(stacks)
    assert (has["EnablePerformanceInsights"], has["PerformanceInsightsRetentionPeriod"], has["MonitoringInterval"]) == (True, 7, 60)
    assert has["DatabaseInsightsMode"] == "standard", "which goes with seven days"
    assert has["EnableCloudwatchLogsExports"] == ["postgresql", "upgrade"]


def test_postgresql_s_log_is_kept_for_a_month(stacks: Stacks) -> None:
    """RDS writes into groups of these names: those that it makes itself keep all for ever."""
    [instance] = stacks.all("RDS::DBInstance")
    names = {f"/aws/rds/instance/{instance.name}/{log}" for log in instance.properties["EnableCloudwatchLogsExports"]}
    groups = {one.name: one for one in stacks.all("Logs::LogGroup") if one.name.startswith("/aws/rds/")}
    assert {name: one.properties["RetentionInDays"] for name, one in groups.items()} == dict.fromkeys(names, 30)
    assert {one.id for one in groups.values()} <= set(instance.attributes["DependsOn"]), "RDS would make them first"


def test_postgresql_is_not_deleted_by_accident(stacks: Stacks) -> None:
    [one] = stacks.all("RDS::DBInstance")
    protected, kept = {
        "staging": (False, ("Snapshot", "Snapshot")),
        "production": (True, ("RetainExceptOnCreate", "Retain")),
    }[stacks.environment]
    assert one.properties["DeletionProtection"] is protected
    assert (one.attributes["DeletionPolicy"], one.attributes["UpdateReplacePolicy"]) == kept


def test_what_a_restored_database_has_otherwise_is_told_by_parameters(stacks: Stacks) -> None:
    """Not by exports: CloudFormation changes none that is in use, so the restored one could not take the other's place."""
    [instance] = stacks.all("RDS::DBInstance")
    exported = json.dumps([template.get("Outputs", {}) for template in stacks.templates.values()])
    assert f'"{instance.id}"' not in exported
    found = {one.properties["Name"]: one.properties["Value"] for one in stacks.all("SSM::Parameter")}
    assert found == {
        f"/gamepulse/{stacks.environment}/database/host": f"{instance.name}.Endpoint.Address",
        f"/gamepulse/{stacks.environment}/database/resource-id": f"{instance.name}.DbiResourceId",
        f"/gamepulse/{stacks.environment}/database/master-secret": "arn:aws:secretsmanager:ap-northeast-2:111122223333:secret:rds!db-master-AbCdEf",
    }


# Valkey


def test_valkey_stands_in_two_zones_and_takes_over_by_itself(stacks: Stacks) -> None:
    has = stacks.one("ElastiCache::ReplicationGroup")
    assert (has["Engine"], has["EngineVersion"]) == ("valkey", "8.1")
    assert (has["MultiAZEnabled"], has["AutomaticFailoverEnabled"], has["NumCacheClusters"]) == (True, True, 2)
    subnets = stacks.one("ElastiCache::SubnetGroup")
    assert set(subnets["SubnetIds"]) == set(PRIVATE)
    assert (has["CacheSubnetGroupName"], has["SecurityGroupIds"]) == (subnets["CacheSubnetGroupName"], ["cache"])
    assert has["CacheNodeType"] == {"staging": "cache.t4g.small", "production": "cache.m7g.large"}[stacks.environment]


def test_valkey_takes_tls_only_and_is_encrypted(stacks: Stacks) -> None:
    has = stacks.one("ElastiCache::ReplicationGroup")
    assert (has["TransitEncryptionEnabled"], has["TransitEncryptionMode"], has["AtRestEncryptionEnabled"]) == (
        True,
        "required",
        True,
    )


def test_valkey_has_one_user_with_a_password_and_a_default_that_can_do_nothing(stacks: Stacks) -> None:
    users = {one.properties["UserName"]: one.properties for one in stacks.all("ElastiCache::User")}
    assert set(users) == {"default", "gamepulse"}
    assert users["default"]["AccessString"] == "off -@all"
    assert users["gamepulse"]["AccessString"] == "on ~* &* +@all -@admin -@dangerous +info"
    # ElastiCache refuses users of Valkey without a password ("Role-Based Access Control" in its guide), also one who is off.
    secrets = "arn:aws:secretsmanager:ap-northeast-2:111122223333:secret:gamepulse/cache"
    # Two passwords, of which tasks are told the second: so that it can be changed.
    for one in users.values():
        assert one["AuthenticationMode"] == {
            "Type": "password",
            "Passwords": [f"{{{{resolve:secretsmanager:{secrets}/{number}-AbCdEf:SecretString:::}}}}" for number in (0, 1)],
        }
    [group] = stacks.all("ElastiCache::UserGroup")
    assert set(group.properties["UserIds"]) == {one["UserId"] for one in users.values()}
    assert stacks.one("ElastiCache::ReplicationGroup")["UserGroupIds"] == [group.properties["UserGroupId"]]


# Files


def test_three_access_points_each_of_its_program_s_user(stacks: Stacks) -> None:
    found = {one.properties["RootDirectory"]["Path"]: one.properties for one in stacks.all("EFS::AccessPoint")}
    assert {path: one["PosixUser"] for path, one in found.items()} == {
        "/prometheus-data": {"Uid": "65534", "Gid": "65534"},
        "/jaeger-data": {"Uid": "10001", "Gid": "10001"},
        "/grafana-config": {"Uid": "472", "Gid": "472"},
    }
    for one in found.values():
        user = one["PosixUser"]["Uid"]
        assert one["RootDirectory"]["CreationInfo"] == {"OwnerUid": user, "OwnerGid": user, "Permissions": "0750"}


def test_files_are_encrypted_and_can_be_mounted_in_each_zone(stacks: Stacks) -> None:
    has = stacks.one("EFS::FileSystem")
    assert (has["Encrypted"], has["KmsKeyId"]) == (True, KEY)
    assert {one.properties["SubnetId"] for one in stacks.all("EFS::MountTarget")} == set(PRIVATE)


def test_files_are_given_over_tls_only_and_by_roles_only(stacks: Stacks) -> None:
    """The policy allows nothing: so nobody can mount without a role that says so."""
    policy = list(statements(stacks.one("EFS::FileSystem")["FileSystemPolicy"]))
    assert [one["Effect"] for one in policy] == ["Deny"]
    assert policy[0]["Principal"] == {"AWS": "*"}
    assert policy[0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert {"elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"} <= set(policy[0]["Action"])


def test_files_and_database_are_backed_up_each_night(stacks: Stacks) -> None:
    plan = stacks.one("Backup::BackupPlan")["BackupPlan"]["BackupPlanRule"]
    assert {one["ScheduleExpression"]: one["Lifecycle"]["DeleteAfterDays"] for one in plan} == {
        "cron(0 19 * * ? *)": 14,
    }
    assert set(stacks.one("Backup::BackupSelection")["BackupSelection"]["Resources"]) == {
        f"arn:aws:rds:ap-northeast-2:111122223333:db:gamepulse-{stacks.environment}-database",
        "arn:aws:elasticfilesystem:ap-northeast-2:111122223333:file-system/FilesSystem",
    }
    vault = stacks.one("Backup::BackupVault")
    assert vault["EncryptionKeyArn"] == KEY
    assert all(one["TargetBackupVault"] == vault["BackupVaultName"] for one in plan)


def test_production_s_backups_cannot_be_deleted_by_hand(stacks: Stacks) -> None:
    policy = stacks.one("Backup::BackupVault").get("AccessPolicy", {"Statement": []})
    denied = [(one["Effect"], set(one["Action"])) for one in statements(policy)]
    never = ("Deny", {"backup:DeleteRecoveryPoint", "backup:UpdateRecoveryPointLifecycle"})
    assert denied == {"staging": [], "production": [never]}[stacks.environment]


# Buckets


def test_buckets_are_named_after_the_account(stacks: Stacks) -> None:
    assert {one.name for one in stacks.all("S3::Bucket")} == BUCKETS


def test_no_bucket_can_be_public(stacks: Stacks) -> None:
    closed = {"BlockPublicAcls": True, "BlockPublicPolicy": True, "IgnorePublicAcls": True, "RestrictPublicBuckets": True}
    for one in stacks.all("S3::Bucket"):
        assert one.properties["PublicAccessBlockConfiguration"] == closed, one.name


def test_buckets_take_tls_1_2_only(stacks: Stacks) -> None:
    policies = {
        one.properties["Bucket"]: list(statements(one.properties["PolicyDocument"])) for one in stacks.all("S3::BucketPolicy")
    }
    assert set(policies) == BUCKETS
    for name, found in policies.items():
        arn = f"arn:aws:s3:::{name}"
        denied = [(one["Condition"], one["Action"], one["Principal"], one["Resource"]) for one in found if one["Effect"] == "Deny"]
        for condition in ({"Bool": {"aws:SecureTransport": "false"}}, {"NumericLessThan": {"s3:TlsVersion": 1.2}}):
            assert (condition, "s3:*", {"AWS": "*"}, [arn, f"{arn}/*"]) in denied, name


def test_buckets_keep_versions_and_are_encrypted(stacks: Stacks) -> None:
    for one in stacks.all("S3::Bucket"):
        assert one.properties["VersioningConfiguration"] == {"Status": "Enabled"}, one.name
        [rule] = one.properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        # AWS writes its own logs only to buckets with S3's own key.
        expected = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY} if one.name in OURS else {"SSEAlgorithm": "AES256"}
        assert rule["ServerSideEncryptionByDefault"] == expected, one.name


def test_old_objects_are_deleted(stacks: Stacks) -> None:
    def days(name: str) -> tuple[Any, ...]:
        [rule] = bucket(stacks, name)["LifecycleConfiguration"]["Rules"]
        assert rule["Status"] == "Enabled" and rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
        return rule["ExpirationInDays"], rule["NoncurrentVersionExpiration"]["NoncurrentDays"]

    assert {name: days(name) for name in BUCKETS} == {
        "gamepulse-loki-logs-111122223333": (14, 1),
        "gamepulse-backups-111122223333": (14, 30),
        "gamepulse-traffic-logs-111122223333": (90, 30),
        "gamepulse-edge-logs-111122223333": (90, 30),
        "gamepulse-api-calls-111122223333": (365, 30),
    }


def test_who_asks_our_buckets_is_logged(stacks: Stacks) -> None:
    for name in OURS | {"gamepulse-api-calls-111122223333"}:
        assert bucket(stacks, name)["LoggingConfiguration"]["DestinationBucketName"] == "gamepulse-traffic-logs-111122223333"


# Key, secrets, images


def test_the_key_is_changed_each_year(stacks: Stacks) -> None:
    assert stacks.one("KMS::Key")["EnableKeyRotation"] is True


def test_a_secret_for_everything_that_is_secret(stacks: Stacks) -> None:
    secrets = {one.properties["Name"]: one.properties for one in stacks.all("SecretsManager::Secret")}
    made = {
        "gamepulse/player-hash-key", "gamepulse/database/monitor", "gamepulse/database/grafana-reader", "gamepulse/database/grafana",
        "gamepulse/grafana/key", "gamepulse/cache/0", "gamepulse/cache/1", "gamepulse/origin-header/0", "gamepulse/origin-header/1",
    }  # fmt: skip
    assert set(secrets) == made | {"gamepulse/grafana/client"}
    assert all(one["KmsKeyId"] == KEY for one in secrets.values())
    for name in made:
        assert "SecretString" not in secrets[name] and secrets[name]["GenerateSecretString"]["PasswordLength"] >= 40, name
    # Cognito makes it; nobody reads it here.
    assert secrets["gamepulse/grafana/client"]["SecretString"] == "SignInPoolGrafana.ClientSecret"


def test_the_key_of_players_is_64_hexadecimal_digits(stacks: Stacks) -> None:
    made = stacks.one("SecretsManager::Secret", Name="gamepulse/player-hash-key")["GenerateSecretString"]
    letters = "abcdefghijklmnopqrstuvwxyz" + ("" if made["ExcludeUppercase"] else "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    left = set(f"0123456789{letters}") - set(made["ExcludeCharacters"])
    assert (made["PasswordLength"], made["ExcludePunctuation"], left) == (64, True, set("0123456789abcdef"))


def test_cloudfront_s_region_has_the_header_s_secret_too(stacks: Stacks) -> None:
    for number in (0, 1):
        secret = stacks.one("SecretsManager::Secret", Name=f"gamepulse/origin-header/{number}")
        assert secret["ReplicaRegions"] == [{"Region": "us-east-1"}]


def test_the_password_before_stays_exported(stacks: Stacks) -> None:
    """When SECRETS counts up, `services` imports what is the earlier one then, until it is deployed itself."""
    exported = [str(one["Value"]) for one in stacks.templates["data"]["Outputs"].values()]
    for one in stacks.all("SecretsManager::Secret"):
        if one.name.startswith("gamepulse/cache/"):
            assert f"{{'Ref': '{one.id}'}}" in exported, one.name


def test_a_repository_for_each_image_with_fixed_tags_and_scans(stacks: Stacks) -> None:
    found = {one.properties["RepositoryName"]: one.properties for one in stacks.all("ECR::Repository")}
    assert set(found) == {f"gamepulse/{name}" for name in IMAGES}
    for name, one in found.items():
        assert one["ImageTagMutability"] == "IMMUTABLE", name
        assert one["ImageScanningConfiguration"] == {"ScanOnPush": True}, name
        assert one["EncryptionConfiguration"]["EncryptionType"] == "KMS", name
    scan = stacks.one("ECR::RegistryScanningConfiguration")
    assert scan["ScanType"] == "ENHANCED"
    assert [one["ScanFrequency"] for one in scan["Rules"]] == ["SCAN_ON_PUSH"]


def test_old_images_are_deleted(stacks: Stacks) -> None:
    for one in stacks.all("ECR::Repository"):
        untagged, all_but = (
            rule["selection"] for rule in json.loads(one.properties["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
        )
        assert (untagged["tagStatus"], untagged["countNumber"], untagged["countUnit"]) == ("untagged", 1, "days")
        assert (all_but["tagStatus"], all_but["countType"], all_but["countNumber"]) == ("any", "imageCountMoreThan", 30)
