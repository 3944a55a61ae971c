"""What holds data: keys, secrets, buckets, RDS, EFS, ElastiCache, ECR, Backup, SNS."""

import json
import string
from typing import Any

from botocore.exceptions import ClientError
from moto.elasticache.models import elasticache_backends

from tests.deploy.emulated.account import Json
from tests.deploy.emulated.stacks import Resource


class Key(Resource, kind="AWS::KMS::Key", service="kms"):
    def create(self, wanted: Json) -> None:
        tags = [{"TagKey": one["Key"], "TagValue": one["Value"]} for one in wanted["Tags"]]
        made = self.call("create_key", Description=wanted["Description"], Policy=wanted["KeyPolicy"], Tags=tags)["KeyMetadata"]
        self.physical_resource_id = made["KeyId"]
        self.attributes = {"Arn": made["Arn"], "KeyId": made["KeyId"]}
        if wanted["EnableKeyRotation"]:
            self.call("enable_key_rotation", KeyId=made["KeyId"])

    def read(self) -> Json:
        id = {"KeyId": self.physical_resource_id}
        found = self.call("describe_key", id)["KeyMetadata"]
        tags = self.call("list_resource_tags", id)["Tags"]
        return found | {  # type: ignore[no-any-return]
            "KeyPolicy": json.loads(self.call("get_key_policy", id, PolicyName="default")["Policy"]),
            "EnableKeyRotation": self.call("get_key_rotation_status", id)["KeyRotationEnabled"],
            "Tags": [{"Key": one["TagKey"], "Value": one["TagValue"]} for one in tags],
        }


class Alias(Resource, kind="AWS::KMS::Alias", service="kms"):
    def create(self, wanted: Json) -> None:
        self.call("create_alias", AliasName=wanted["AliasName"], TargetKeyId=wanted["TargetKeyId"].rsplit("/", 1)[-1])
        self.physical_resource_id = wanted["AliasName"]

    def read(self) -> Json:
        [found] = [one for one in self.call("list_aliases")["Aliases"] if one["AliasName"] == self.physical_resource_id]
        return found | {"TargetKeyId": self.call("describe_key", KeyId=found["TargetKeyId"])["KeyMetadata"]["Arn"]}

    def delete(self) -> None:
        self.call("delete_alias", AliasName=self.physical_resource_id)


class Secret(Resource, kind="AWS::SecretsManager::Secret", service="secretsmanager"):
    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name not in {"GenerateSecretString", "ReplicaRegions"}}
        if "ReplicaRegions" in wanted:
            told["AddReplicaRegions"] = wanted["ReplicaRegions"]
        if how := wanted.get("GenerateSecretString"):
            told["SecretString"] = self.call("get_random_password", how)["RandomPassword"]
        made = self.call("create_secret", told)
        self.physical_resource_id = made["ARN"]
        self.attributes = {"Id": made["ARN"]}

    def read(self) -> Json:
        found = self.call("describe_secret", SecretId=self.physical_resource_id)
        value = self.call("get_secret_value", SecretId=self.physical_resource_id)["SecretString"]
        how = self.properties.get("GenerateSecretString")
        return found | {  # type: ignore[no-any-return]
            "SecretString": value,
            "GenerateSecretString": how if how and _is_made(value, how) else {},
            "ReplicaRegions": found.get("ReplicationStatus"),
        }

    def delete(self) -> None:
        self.call("delete_secret", SecretId=self.physical_resource_id, ForceDeleteWithoutRecovery=True)


def _is_made(value: str, how: Json) -> bool:
    """AWS does not tell how it made a value: the value does."""
    left_out = set(how.get("ExcludeCharacters", "")) | set(string.punctuation if how["ExcludePunctuation"] else "")
    left_out |= set(string.ascii_uppercase if how.get("ExcludeUppercase") else "")
    return len(value) == how["PasswordLength"] and not left_out & set(value)


class Bucket(Resource, kind="AWS::S3::Bucket", service="s3"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = name = wanted["BucketName"]
        near = {"CreateBucketConfiguration": {"LocationConstraint": self.region}} if self.region != "us-east-1" else {}
        self.call("create_bucket", {"Bucket": name, **near}, ObjectOwnership=wanted["OwnershipControls"]["Rules"][0]["ObjectOwnership"])
        self.attributes = {"Arn": f"arn:aws:s3:::{name}", "RegionalDomainName": f"{name}.s3.{self.region}.amazonaws.com"}
        setters: Json = {
            "BucketEncryption": lambda told: ("put_bucket_encryption", {"ServerSideEncryptionConfiguration": _encryption(told)}),
            "VersioningConfiguration": lambda told: ("put_bucket_versioning", {"VersioningConfiguration": told}),
            "PublicAccessBlockConfiguration": lambda told: ("put_public_access_block", {"PublicAccessBlockConfiguration": told}),
            "OwnershipControls": lambda told: ("put_bucket_ownership_controls", {"OwnershipControls": told}),
            "LifecycleConfiguration": lambda told: ("put_bucket_lifecycle_configuration", {"LifecycleConfiguration": _lifecycle(told)}),
            "LoggingConfiguration": lambda told: ("put_bucket_logging", {"BucketLoggingStatus": {"LoggingEnabled": _logging(told)}}),
            "Tags": lambda told: ("put_bucket_tagging", {"Tagging": {"TagSet": told}}),
        }
        for property_, told in wanted.items():
            if property_ != "BucketName":
                operation, given = setters[property_](told)
                self.call(operation, {"Bucket": name, **given})

    def read(self) -> Json:
        def get(what: str) -> Any:
            try:
                return self.call(f"get_{what}", Bucket=self.physical_resource_id)
            except ClientError:  # S3's way to say that there is none
                return {}

        rules = get("bucket_lifecycle_configuration").get("Rules", [])
        logging = get("bucket_logging").get("LoggingEnabled", {})
        return {
            "BucketName": self.physical_resource_id,
            "BucketEncryption": get("bucket_encryption").get("ServerSideEncryptionConfiguration", {}).get("Rules"),
            "VersioningConfiguration": get("bucket_versioning"),
            "PublicAccessBlockConfiguration": get("public_access_block").get("PublicAccessBlockConfiguration"),
            "OwnershipControls": get("bucket_ownership_controls").get("OwnershipControls"),
            "LifecycleConfiguration": {"Rules": [one | {"ExpirationInDays": one.get("Expiration", {}).get("Days")} for one in rules]},
            "LoggingConfiguration": {"DestinationBucketName": logging.get("TargetBucket"), "LogFilePrefix": logging.get("TargetPrefix")},
            "Tags": get("bucket_tagging").get("TagSet"),
        } | {
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {"ServerSideEncryptionByDefault": one["ApplyServerSideEncryptionByDefault"], **one}
                    for one in get("bucket_encryption").get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
                ]
            }
        }

    def delete(self) -> None:
        self.call("delete_bucket", Bucket=self.physical_resource_id)


def _encryption(told: Json) -> Json:
    rules = told["ServerSideEncryptionConfiguration"]
    return {
        "Rules": [
            {("Apply" if name == "ServerSideEncryptionByDefault" else "") + name: value for name, value in one.items()} for one in rules
        ]
    }


def _lifecycle(told: Json) -> Json:
    def rule(one: Json) -> Json:
        rest = {name: value for name, value in one.items() if name != "ExpirationInDays"}
        return rest | {"Filter": {"Prefix": ""}} | ({"Expiration": {"Days": one["ExpirationInDays"]}} if "ExpirationInDays" in one else {})

    return {"Rules": [rule(one) for one in told["Rules"]]}


def _logging(told: Json) -> Json:
    return {"TargetBucket": told["DestinationBucketName"], "TargetPrefix": told["LogFilePrefix"]}


class BucketPolicy(Resource, kind="AWS::S3::BucketPolicy", service="s3"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["Bucket"]
        self.call("put_bucket_policy", Bucket=wanted["Bucket"], Policy=wanted["PolicyDocument"])

    def read(self) -> Json:
        found = self.call("get_bucket_policy", Bucket=self.physical_resource_id)
        return {"Bucket": self.physical_resource_id, "PolicyDocument": json.loads(found["Policy"])}

    def delete(self) -> None:
        self.call("delete_bucket_policy", Bucket=self.physical_resource_id)


class SubnetGroup(Resource, kind="AWS::RDS::DBSubnetGroup", service="rds"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.name.lower()
        self.call("create_db_subnet_group", wanted, DBSubnetGroupName=self.physical_resource_id)

    def read(self) -> Json:
        [found] = self.call("describe_db_subnet_groups", DBSubnetGroupName=self.physical_resource_id)["DBSubnetGroups"]
        tags = self.call("list_tags_for_resource", ResourceName=found["DBSubnetGroupArn"])["TagList"]
        return found | {"SubnetIds": [one["SubnetIdentifier"] for one in found["Subnets"]], "Tags": tags}  # type: ignore[no-any-return]

    def delete(self) -> None:
        self.call("delete_db_subnet_group", DBSubnetGroupName=self.physical_resource_id)


class ParameterGroup(Resource, kind="AWS::RDS::DBParameterGroup", service="rds"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = name = self.name.lower()
        told = {"DBParameterGroupFamily": wanted["Family"], "Description": wanted["Description"], "Tags": wanted["Tags"]}
        self.call("create_db_parameter_group", told, DBParameterGroupName=name)
        parameters = [
            {"ParameterName": key, "ParameterValue": value, "ApplyMethod": "pending-reboot"} for key, value in wanted["Parameters"].items()
        ]
        self.call("modify_db_parameter_group", DBParameterGroupName=name, Parameters=parameters)

    def read(self) -> Json:
        name = {"DBParameterGroupName": self.physical_resource_id}
        [found] = self.call("describe_db_parameter_groups", name)["DBParameterGroups"]
        parameters = self.call("describe_db_parameters", name)["Parameters"]
        return found | {  # type: ignore[no-any-return]
            "Family": found["DBParameterGroupFamily"],
            "Parameters": {one["ParameterName"]: one["ParameterValue"] for one in parameters},
            "Tags": self.call("list_tags_for_resource", ResourceName=found["DBParameterGroupArn"])["TagList"],
        }

    def delete(self) -> None:
        self.call("delete_db_parameter_group", DBParameterGroupName=self.physical_resource_id)


class Database(Resource, kind="AWS::RDS::DBInstance", service="rds"):
    # What only ends with the instance, and what the API calls otherwise.
    at_end = ("DeleteAutomatedBackups",)
    renamed = {"VPCSecurityGroups": "VpcSecurityGroupIds"}  # noqa: RUF012

    def _told(self, wanted: Json) -> Json:
        told = {self.renamed.get(name, name): one for name, one in wanted.items() if name not in {"MasterUserSecret", *self.at_end}}
        return told | ({"MasterUserSecretKmsKeyId": wanted["MasterUserSecret"]["KmsKeyId"]} if "MasterUserSecret" in wanted else {})

    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["DBInstanceIdentifier"]
        made = self.call("create_db_instance", self._told(wanted))["DBInstance"]
        self.attributes = {
            "DbiResourceId": made["DbiResourceId"],
            "Endpoint.Address": made["Endpoint"]["Address"],
            "MasterUserSecret.SecretArn": made["MasterUserSecret"]["SecretArn"],
        }

    def read(self) -> Json:
        [found] = self.call("describe_db_instances", DBInstanceIdentifier=self.physical_resource_id)["DBInstances"]
        return found | {  # type: ignore[no-any-return]
            "VPCSecurityGroups": [one["VpcSecurityGroupId"] for one in found["VpcSecurityGroups"]],
            "DBParameterGroupName": found["DBParameterGroups"][0]["DBParameterGroupName"],
            "DBSubnetGroupName": found["DBSubnetGroup"]["DBSubnetGroupName"],
            "EnableIAMDatabaseAuthentication": found["IAMDatabaseAuthenticationEnabled"],
            "EnableCloudwatchLogsExports": found.get("EnabledCloudwatchLogsExports"),
            "EnablePerformanceInsights": found.get("PerformanceInsightsEnabled"),
            "ManageMasterUserPassword": "MasterUserSecret" in found,
            "Tags": found["TagList"],
        }

    def update(self, wanted: Json, changed: set[str]) -> None:
        told = {name: one for name, one in self._told(wanted).items() if name in changed}
        self.call("modify_db_instance", told, DBInstanceIdentifier=self.physical_resource_id, ApplyImmediately=True)

    def snapshot(self) -> None:
        name = f"{self.physical_resource_id}-final"
        self.call("create_db_snapshot", DBInstanceIdentifier=self.physical_resource_id, DBSnapshotIdentifier=name)

    def delete(self) -> None:
        kept = self.properties["DeleteAutomatedBackups"]
        self.call(
            "delete_db_instance",
            DBInstanceIdentifier=self.physical_resource_id,
            SkipFinalSnapshot=True,  # CloudFormation has made one, if the template asks for it
            DeleteAutomatedBackups=kept,
        )


class FileSystem(Resource, kind="AWS::EFS::FileSystem", service="efs"):
    def create(self, wanted: Json) -> None:
        apart = {"FileSystemTags", "FileSystemPolicy", "LifecyclePolicies"}
        told = {name: one for name, one in wanted.items() if name not in apart}
        made = self.call("create_file_system", told, Tags=wanted["FileSystemTags"], CreationToken=self.name)
        self.physical_resource_id = id = made["FileSystemId"]
        self.attributes = {"Arn": made["FileSystemArn"], "FileSystemId": id}
        self.call("put_lifecycle_configuration", FileSystemId=id, LifecyclePolicies=wanted["LifecyclePolicies"])
        if policy := wanted.get("FileSystemPolicy"):
            self.call("put_file_system_policy", FileSystemId=id, Policy=policy)

    def read(self) -> Json:
        id = {"FileSystemId": self.physical_resource_id}
        [found] = self.call("describe_file_systems", id)["FileSystems"]
        return found | {  # type: ignore[no-any-return]
            "FileSystemTags": found["Tags"],
            "LifecyclePolicies": self.call("describe_lifecycle_configuration", id)["LifecyclePolicies"],
            "FileSystemPolicy": json.loads(self.call("describe_file_system_policy", id)["Policy"]),
        }


class AccessPoint(Resource, kind="AWS::EFS::AccessPoint", service="efs"):
    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name != "AccessPointTags"}
        made = self.call("create_access_point", told, Tags=wanted["AccessPointTags"], ClientToken=self.name)
        self.physical_resource_id = made["AccessPointId"]
        self.attributes = {"Arn": made["AccessPointArn"], "AccessPointId": made["AccessPointId"]}

    def read(self) -> Json:
        [found] = self.call("describe_access_points", AccessPointId=self.physical_resource_id)["AccessPoints"]
        return found | {"AccessPointTags": found["Tags"]}  # type: ignore[no-any-return]

    def delete(self) -> None:
        self.call("delete_access_point", AccessPointId=self.physical_resource_id)


class MountTarget(Resource, kind="AWS::EFS::MountTarget", service="efs"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.call("create_mount_target", wanted)["MountTargetId"]

    def read(self) -> Json:
        id = {"MountTargetId": self.physical_resource_id}
        [found] = self.call("describe_mount_targets", id)["MountTargets"]
        return found | self.call("describe_mount_target_security_groups", id)  # type: ignore[no-any-return]

    def delete(self) -> None:
        self.call("delete_mount_target", MountTargetId=self.physical_resource_id)


class _Cache(Resource, service="elasticache"):
    def arn(self, what: str) -> str:
        return f"arn:aws:elasticache:{self.region}:{self.account.id}:{what}:{self.physical_resource_id}"

    def tags(self, arn: str) -> Json:
        return {"Tags": self.call("list_tags_for_resource", ResourceName=arn)["TagList"]}


class CacheSubnetGroup(_Cache, kind="AWS::ElastiCache::SubnetGroup"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = name = wanted["CacheSubnetGroupName"]
        told = {one: value for one, value in wanted.items() if one != "Description"}
        self.call("create_cache_subnet_group", told, CacheSubnetGroupDescription=wanted["Description"], CacheSubnetGroupName=name)

    def read(self) -> Json:
        name = self.physical_resource_id
        [found] = self.call("describe_cache_subnet_groups", CacheSubnetGroupName=name)["CacheSubnetGroups"]
        subnets = [one["SubnetIdentifier"] for one in found["Subnets"]]
        described = {"Description": found["CacheSubnetGroupDescription"], "SubnetIds": subnets}
        return found | described | self.tags(found["ARN"])  # type: ignore[no-any-return]

    def delete(self) -> None:
        """moto has no call for it."""
        del elasticache_backends[self.account.id][self.region].cache_subnet_groups[self.physical_resource_id]


class CacheUser(_Cache, kind="AWS::ElastiCache::User"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["UserId"]
        told = {name: one for name, one in wanted.items() if name != "AuthenticationMode"}
        mode = dict(wanted["AuthenticationMode"])
        # moto takes passwords only as the older API did.
        older: Json = {"Passwords": mode.pop("Passwords")} if "Passwords" in mode else {}
        self.call("create_user", told | older, AuthenticationMode=mode)

    def read(self) -> Json:
        [found] = self.call("describe_users", UserId=self.physical_resource_id)["Users"]
        return found | {"AuthenticationMode": found["Authentication"]} | self.tags(found["ARN"])  # type: ignore[no-any-return]

    def delete(self) -> None:
        self.call("delete_user", UserId=self.physical_resource_id)


class CacheUserGroup(_Cache, kind="AWS::ElastiCache::UserGroup"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["UserGroupId"]
        self.call("create_user_group", wanted)

    def read(self) -> Json:
        [found] = self.call("describe_user_groups", UserGroupId=self.physical_resource_id)["UserGroups"]
        return dict(found)

    def delete(self) -> None:
        self.call("delete_user_group", UserGroupId=self.physical_resource_id)


class ReplicationGroup(_Cache, kind="AWS::ElastiCache::ReplicationGroup"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["ReplicationGroupId"]
        self.call("create_replication_group", wanted)
        [node] = self._described()["NodeGroups"]
        self.attributes = {"PrimaryEndPoint.Address": node["PrimaryEndpoint"]["Address"]}

    def _described(self) -> Json:
        [found] = self.call("describe_replication_groups", ReplicationGroupId=self.physical_resource_id)["ReplicationGroups"]
        return dict(found)

    def read(self) -> Json:
        found = self._described()
        told = {
            "ReplicationGroupDescription": found["Description"],
            "MultiAZEnabled": found["MultiAZ"] == "enabled",
            "AutomaticFailoverEnabled": found["AutomaticFailover"] == "enabled",
            "Port": found["NodeGroups"][0]["PrimaryEndpoint"]["Port"],
        }
        return found | told | self.tags(found["ARN"])

    def update(self, wanted: Json, changed: set[str]) -> None:
        told = {name: wanted[name] for name in changed}
        self.call("modify_replication_group", told, ReplicationGroupId=self.physical_resource_id, ApplyImmediately=True)

    def delete(self) -> None:
        self.call("delete_replication_group", ReplicationGroupId=self.physical_resource_id)


class Repository(Resource, kind="AWS::ECR::Repository", service="ecr"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = name = wanted["RepositoryName"]
        self.call("create_repository", {key: one for key, one in wanted.items() if key != "LifecyclePolicy"})
        policy = wanted["LifecyclePolicy"]["LifecyclePolicyText"]
        self.call("put_lifecycle_policy", RepositoryName=name, LifecyclePolicyText=policy)

    def read(self) -> Json:
        [found] = self.call("describe_repositories", RepositoryNames=[self.physical_resource_id])["repositories"]
        policy = self.call("get_lifecycle_policy", RepositoryName=self.physical_resource_id)
        tags = self.call("list_tags_for_resource", ResourceArn=found["repositoryArn"])["tags"]
        return found | {"LifecyclePolicy": policy, "Tags": tags}  # type: ignore[no-any-return]


class RegistryScanning(Resource, kind="AWS::ECR::RegistryScanningConfiguration", service="ecr"):
    """Of the whole registry: it cannot be deleted, only be as it was."""

    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.account.id
        self.call("put_registry_scanning_configuration", wanted)

    def read(self) -> Json:
        return dict(self.call("get_registry_scanning_configuration")["scanningConfiguration"])

    def delete(self) -> None:
        self.call("put_registry_scanning_configuration", ScanType="BASIC", Rules=[])


class BackupVault(Resource, kind="AWS::Backup::BackupVault", service="backup"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["BackupVaultName"]
        made = self.call("create_backup_vault", wanted)
        self.attributes = {"BackupVaultName": made["BackupVaultName"], "BackupVaultArn": made["BackupVaultArn"]}

    def read(self) -> Json:
        found = self.call("describe_backup_vault", BackupVaultName=self.physical_resource_id)
        return found | {"BackupVaultTags": self.call("list_tags", ResourceArn=found["BackupVaultArn"])["Tags"]}  # type: ignore[no-any-return]


class BackupPlan(Resource, kind="AWS::Backup::BackupPlan", service="backup"):
    renamed = {"BackupPlanRule": "Rules", "TargetBackupVault": "TargetBackupVaultName"}  # noqa: RUF012

    def create(self, wanted: Json) -> None:
        plan = dict(wanted["BackupPlan"])
        rules = [{self.renamed.get(name, name): value for name, value in one.items()} for one in plan.pop("BackupPlanRule")]
        made = self.call("create_backup_plan", BackupPlan=plan | {"Rules": rules}, BackupPlanTags=wanted["BackupPlanTags"])
        self.physical_resource_id = made["BackupPlanId"]
        self.attributes = {"BackupPlanId": made["BackupPlanId"]}

    def read(self) -> Json:
        found = self.call("get_backup_plan", BackupPlanId=self.physical_resource_id)
        rules = [one | {"TargetBackupVault": one["TargetBackupVaultName"]} for one in found["BackupPlan"]["Rules"]]
        tags = self.call("list_tags", ResourceArn=found["BackupPlanArn"])["Tags"]
        return {"BackupPlan": found["BackupPlan"] | {"BackupPlanRule": rules}, "BackupPlanTags": tags}

    def delete(self) -> None:
        self.call("delete_backup_plan", BackupPlanId=self.physical_resource_id)


class BackupSelection(Resource, kind="AWS::Backup::BackupSelection", service="backup"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.call("create_backup_selection", wanted)["SelectionId"]

    def _id(self) -> Json:
        return {"BackupPlanId": self.properties["BackupPlanId"], "SelectionId": self.physical_resource_id}

    def read(self) -> Json:
        return dict(self.call("get_backup_selection", self._id()))

    def delete(self) -> None:
        self.call("delete_backup_selection", self._id())


class Topic(Resource, kind="AWS::SNS::Topic", service="sns"):
    def create(self, wanted: Json) -> None:
        attributes = {name: one for name, one in wanted.items() if name not in {"TopicName", "Tags"}}
        made = self.call("create_topic", Name=wanted["TopicName"], Attributes=attributes, Tags=wanted["Tags"])
        self.physical_resource_id = made["TopicArn"]
        self.attributes = {"TopicArn": made["TopicArn"], "TopicName": wanted["TopicName"]}

    def read(self) -> Json:
        found = self.call("get_topic_attributes", TopicArn=self.physical_resource_id)["Attributes"]
        tags = self.call("list_tags_for_resource", ResourceArn=self.physical_resource_id)["Tags"]
        return found | {"TopicName": found["TopicArn"].rsplit(":", 1)[1], "Tags": tags}  # type: ignore[no-any-return]

    def delete(self) -> None:
        self.call("delete_topic", TopicArn=self.physical_resource_id)


class TopicPolicy(Resource, kind="AWS::SNS::TopicPolicy", service="sns"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.name
        for topic in wanted["Topics"]:
            self.call("set_topic_attributes", TopicArn=topic, AttributeName="Policy", AttributeValue=wanted["PolicyDocument"])

    def read(self) -> Json:
        topics = self.properties["Topics"]
        [policy] = {self.call("get_topic_attributes", TopicArn=one)["Attributes"]["Policy"] for one in topics}
        return {"Topics": topics, "PolicyDocument": json.loads(policy)}

    def delete(self) -> None:
        """With the topic, which is next."""


class Subscription(Resource, kind="AWS::SNS::Subscription", service="sns"):
    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name != "FilterPolicy"}
        attributes = {name: wanted[name] for name in ("FilterPolicy",) if name in wanted}
        made = self.call("subscribe", told, Attributes=attributes, ReturnSubscriptionArn=True)
        self.physical_resource_id = made["SubscriptionArn"]

    def read(self) -> Json:
        return dict(self.call("get_subscription_attributes", SubscriptionArn=self.physical_resource_id)["Attributes"])

    def delete(self) -> None:
        self.call("unsubscribe", SubscriptionArn=self.physical_resource_id)
