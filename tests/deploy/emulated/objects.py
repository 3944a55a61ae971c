"""Keys, secrets, buckets, images, topics."""

import json
import string
from typing import Any

from botocore.exceptions import ClientError

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

    def read(self) -> Any:
        own_id = {"KeyId": self.physical_resource_id}
        found = self.call("describe_key", own_id)["KeyMetadata"]
        tags = self.call("list_resource_tags", own_id)["Tags"]
        return found | {
            "KeyPolicy": json.loads(self.call("get_key_policy", own_id, PolicyName="default")["Policy"]),
            "EnableKeyRotation": self.call("get_key_rotation_status", own_id)["KeyRotationEnabled"],
            "Tags": [{"Key": one["TagKey"], "Value": one["TagValue"]} for one in tags],
        }


class Alias(Resource, kind="AWS::KMS::Alias", service="kms"):
    def create(self, wanted: Json) -> None:
        self.call("create_alias", AliasName=wanted["AliasName"], TargetKeyId=wanted["TargetKeyId"].rsplit("/", 1)[-1])
        self.physical_resource_id = wanted["AliasName"]

    def read(self) -> Any:
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

    def read(self) -> Any:
        found = self.call("describe_secret", SecretId=self.physical_resource_id)
        value = self.call("get_secret_value", SecretId=self.physical_resource_id)["SecretString"]
        how = self.properties.get("GenerateSecretString")
        return found | {
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
        self.call(
            "create_bucket", {"Bucket": name, **near}, ObjectOwnership=wanted["OwnershipControls"]["Rules"][0]["ObjectOwnership"]
        )
        self.attributes = {"Arn": f"arn:aws:s3:::{name}", "RegionalDomainName": f"{name}.s3.{self.region}.amazonaws.com"}
        setters: Json = {
            "BucketEncryption": lambda told: ("put_bucket_encryption", {"ServerSideEncryptionConfiguration": _encryption(told)}),
            "VersioningConfiguration": lambda told: ("put_bucket_versioning", {"VersioningConfiguration": told}),
            "PublicAccessBlockConfiguration": lambda told: ("put_public_access_block", {"PublicAccessBlockConfiguration": told}),
            "OwnershipControls": lambda told: ("put_bucket_ownership_controls", {"OwnershipControls": told}),
            "LifecycleConfiguration": lambda told: (
                "put_bucket_lifecycle_configuration",
                {"LifecycleConfiguration": _lifecycle(told)},
            ),
            "LoggingConfiguration": lambda told: (
                "put_bucket_logging",
                {"BucketLoggingStatus": {"LoggingEnabled": _logging(told)}},
            ),
            "Tags": lambda told: ("put_bucket_tagging", {"Tagging": {"TagSet": told}}),
        }
        for property_, told in wanted.items():
            if property_ != "BucketName":
                operation, given = setters[property_](told)
                self.call(operation, {"Bucket": name, **given})

    def read(self) -> Any:
        def get(what: str) -> Any:
            try:
                return self.call(f"get_{what}", Bucket=self.physical_resource_id)
            except ClientError:  # S3's way to say that there is none
                return {}

        rules = get("bucket_lifecycle_configuration").get("Rules", [])
        logging = get("bucket_logging").get("LoggingEnabled", {})
        encryption = get("bucket_encryption").get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
        used = [{"ServerSideEncryptionByDefault": one["ApplyServerSideEncryptionByDefault"], **one} for one in encryption]
        return {
            "BucketName": self.physical_resource_id,
            "BucketEncryption": {"ServerSideEncryptionConfiguration": used},
            "VersioningConfiguration": get("bucket_versioning"),
            "PublicAccessBlockConfiguration": get("public_access_block").get("PublicAccessBlockConfiguration"),
            "OwnershipControls": get("bucket_ownership_controls").get("OwnershipControls"),
            "LifecycleConfiguration": {
                "Rules": [one | {"ExpirationInDays": one.get("Expiration", {}).get("Days")} for one in rules]
            },
            "LoggingConfiguration": {
                "DestinationBucketName": logging.get("TargetBucket"),
                "LogFilePrefix": logging.get("TargetPrefix"),
            },
            "Tags": get("bucket_tagging").get("TagSet"),
        }

    def delete(self) -> None:
        self.call("delete_bucket", Bucket=self.physical_resource_id)


def _encryption(told: Json) -> Json:
    rules = told["ServerSideEncryptionConfiguration"]
    return {
        "Rules": [
            {("Apply" if name == "ServerSideEncryptionByDefault" else "") + name: value for name, value in one.items()}
            for one in rules
        ]
    }


def _lifecycle(told: Json) -> Json:
    def rule(one: Json) -> Json:
        rest = {name: value for name, value in one.items() if name != "ExpirationInDays"}
        return (
            rest
            | {"Filter": {"Prefix": ""}}
            | ({"Expiration": {"Days": one["ExpirationInDays"]}} if "ExpirationInDays" in one else {})
        )

    return {"Rules": [rule(one) for one in told["Rules"]]}


def _logging(told: Json) -> Json:
    return {"TargetBucket": told["DestinationBucketName"], "TargetPrefix": told["LogFilePrefix"]}


class BucketPolicy(Resource, kind="AWS::S3::BucketPolicy", service="s3"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["Bucket"]
        self.call("put_bucket_policy", Bucket=wanted["Bucket"], Policy=wanted["PolicyDocument"])

    def read(self) -> Any:
        found = self.call("get_bucket_policy", Bucket=self.physical_resource_id)
        return {"Bucket": self.physical_resource_id, "PolicyDocument": json.loads(found["Policy"])}

    def delete(self) -> None:
        self.call("delete_bucket_policy", Bucket=self.physical_resource_id)


class Repository(Resource, kind="AWS::ECR::Repository", service="ecr"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = name = wanted["RepositoryName"]
        self.call("create_repository", {key: one for key, one in wanted.items() if key != "LifecyclePolicy"})
        policy = wanted["LifecyclePolicy"]["LifecyclePolicyText"]
        self.call("put_lifecycle_policy", RepositoryName=name, LifecyclePolicyText=policy)

    def read(self) -> Any:
        [found] = self.call("describe_repositories", RepositoryNames=[self.physical_resource_id])["repositories"]
        policy = self.call("get_lifecycle_policy", RepositoryName=self.physical_resource_id)
        tags = self.call("list_tags_for_resource", ResourceArn=found["repositoryArn"])["tags"]
        return found | {"LifecyclePolicy": policy, "Tags": tags}


class RegistryScanning(Resource, kind="AWS::ECR::RegistryScanningConfiguration", service="ecr"):
    """Of the whole registry: it cannot be deleted, only be as it was."""

    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.account.id
        self.call("put_registry_scanning_configuration", wanted)

    def read(self) -> Any:
        return dict(self.call("get_registry_scanning_configuration")["scanningConfiguration"])

    def delete(self) -> None:
        self.call("put_registry_scanning_configuration", ScanType="BASIC", Rules=[])


class Parameter(Resource, kind="AWS::SSM::Parameter", service="ssm"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["Name"]
        self.call("put_parameter", wanted | {"Tags": [{"Key": key, "Value": value} for key, value in wanted["Tags"].items()]})

    def read(self) -> Any:
        found = self.call("get_parameter", Name=self.physical_resource_id)["Parameter"]
        tags = self.call("list_tags_for_resource", ResourceType="Parameter", ResourceId=self.physical_resource_id)["TagList"]
        return found | {"Tags": {one["Key"]: one["Value"] for one in tags}}

    def update(self, wanted: Json, changed: set[str]) -> None:
        assert changed == {"Value"}, changed
        self.call("put_parameter", Name=self.physical_resource_id, Value=wanted["Value"], Type=wanted["Type"], Overwrite=True)

    def delete(self) -> None:
        self.call("delete_parameter", Name=self.physical_resource_id)


class Topic(Resource, kind="AWS::SNS::Topic", service="sns"):
    def create(self, wanted: Json) -> None:
        attributes = {name: one for name, one in wanted.items() if name not in {"TopicName", "Tags"}}
        made = self.call("create_topic", Name=wanted["TopicName"], Attributes=attributes, Tags=wanted["Tags"])
        self.physical_resource_id = made["TopicArn"]
        self.attributes = {"TopicArn": made["TopicArn"], "TopicName": wanted["TopicName"]}

    def read(self) -> Any:
        found = self.call("get_topic_attributes", TopicArn=self.physical_resource_id)["Attributes"]
        tags = self.call("list_tags_for_resource", ResourceArn=self.physical_resource_id)["Tags"]
        return found | {"TopicName": found["TopicArn"].rsplit(":", 1)[1], "Tags": tags}

    def delete(self) -> None:
        self.call("delete_topic", TopicArn=self.physical_resource_id)


class TopicPolicy(Resource, kind="AWS::SNS::TopicPolicy", service="sns"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.name
        for topic in wanted["Topics"]:
            self.call("set_topic_attributes", TopicArn=topic, AttributeName="Policy", AttributeValue=wanted["PolicyDocument"])

    def read(self) -> Any:
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

    def read(self) -> Any:
        return dict(self.call("get_subscription_attributes", SubscriptionArn=self.physical_resource_id)["Attributes"])

    def delete(self) -> None:
        self.call("unsubscribe", SubscriptionArn=self.physical_resource_id)
