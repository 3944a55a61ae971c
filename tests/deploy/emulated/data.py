"""Databases and file systems: RDS, EFS, ElastiCache, and AWS Backup."""

import json
from typing import Any

from moto.backup.models import backup_backends
from moto.elasticache.models import elasticache_backends

from tests.deploy.emulated.account import Json
from tests.deploy.emulated.stacks import Resource


class SubnetGroup(Resource, kind="AWS::RDS::DBSubnetGroup", service="rds"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.name.lower()
        self.call("create_db_subnet_group", wanted, DBSubnetGroupName=self.physical_resource_id)

    def read(self) -> Any:
        [found] = self.call("describe_db_subnet_groups", DBSubnetGroupName=self.physical_resource_id)["DBSubnetGroups"]
        tags = self.call("list_tags_for_resource", ResourceName=found["DBSubnetGroupArn"])["TagList"]
        return found | {"SubnetIds": [one["SubnetIdentifier"] for one in found["Subnets"]], "Tags": tags}

    def delete(self) -> None:
        self.call("delete_db_subnet_group", DBSubnetGroupName=self.physical_resource_id)


class ParameterGroup(Resource, kind="AWS::RDS::DBParameterGroup", service="rds"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = name = self.name.lower()
        told = {"DBParameterGroupFamily": wanted["Family"], "Description": wanted["Description"], "Tags": wanted["Tags"]}
        self.call("create_db_parameter_group", told, DBParameterGroupName=name)
        parameters = [
            {"ParameterName": key, "ParameterValue": value, "ApplyMethod": "pending-reboot"}
            for key, value in wanted["Parameters"].items()
        ]
        self.call("modify_db_parameter_group", DBParameterGroupName=name, Parameters=parameters)

    def read(self) -> Any:
        name = {"DBParameterGroupName": self.physical_resource_id}
        [found] = self.call("describe_db_parameter_groups", name)["DBParameterGroups"]
        parameters = self.call("describe_db_parameters", name)["Parameters"]
        return found | {
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
        told = self._told(wanted)
        if "DBSnapshotIdentifier" in wanted:
            # As CloudFormation does it: what restoring does not take is said afterwards.
            first = self._taken("restore_db_instance_from_db_snapshot", told)
            self.call("restore_db_instance_from_db_snapshot", first)
            rest = {name: one for name, one in self._taken("modify_db_instance", told).items() if name not in first}
            made = self.call("modify_db_instance", rest, DBInstanceIdentifier=self.physical_resource_id)["DBInstance"]
        else:
            made = self.call("create_db_instance", told)["DBInstance"]
        self.attributes = {
            "DbiResourceId": made["DbiResourceId"],
            "Endpoint.Address": made["Endpoint"]["Address"],
            "MasterUserSecret.SecretArn": made["MasterUserSecret"]["SecretArn"],
        }

    def _taken(self, operation: str, told: Json) -> Json:
        """What an operation knows of it."""
        model = self.client().meta.service_model
        known = {
            one.lower() for one in model.operation_model(self.client().meta.method_to_api_mapping[operation]).input_shape.members
        }
        return {name: one for name, one in told.items() if name.lower() in known}

    def read(self) -> Any:
        [found] = self.call("describe_db_instances", DBInstanceIdentifier=self.physical_resource_id)["DBInstances"]
        return found | {
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
        self.physical_resource_id = own_id = made["FileSystemId"]
        self.attributes = {"Arn": made["FileSystemArn"], "FileSystemId": own_id}
        self.call("put_lifecycle_configuration", FileSystemId=own_id, LifecyclePolicies=wanted["LifecyclePolicies"])
        if policy := wanted.get("FileSystemPolicy"):
            self.call("put_file_system_policy", FileSystemId=own_id, Policy=policy)

    def read(self) -> Any:
        own_id = {"FileSystemId": self.physical_resource_id}
        [found] = self.call("describe_file_systems", own_id)["FileSystems"]
        return found | {
            "FileSystemTags": found["Tags"],
            "LifecyclePolicies": self.call("describe_lifecycle_configuration", own_id)["LifecyclePolicies"],
            "FileSystemPolicy": json.loads(self.call("describe_file_system_policy", own_id)["Policy"]),
        }


class AccessPoint(Resource, kind="AWS::EFS::AccessPoint", service="efs"):
    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name != "AccessPointTags"}
        made = self.call("create_access_point", told, Tags=wanted["AccessPointTags"], ClientToken=self.name)
        self.physical_resource_id = made["AccessPointId"]
        self.attributes = {"Arn": made["AccessPointArn"], "AccessPointId": made["AccessPointId"]}

    def read(self) -> Any:
        [found] = self.call("describe_access_points", AccessPointId=self.physical_resource_id)["AccessPoints"]
        return found | {"AccessPointTags": found["Tags"]}

    def delete(self) -> None:
        self.call("delete_access_point", AccessPointId=self.physical_resource_id)


class MountTarget(Resource, kind="AWS::EFS::MountTarget", service="efs"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.call("create_mount_target", wanted)["MountTargetId"]

    def read(self) -> Any:
        own_id = {"MountTargetId": self.physical_resource_id}
        [found] = self.call("describe_mount_targets", own_id)["MountTargets"]
        return found | self.call("describe_mount_target_security_groups", own_id)

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

    def read(self) -> Any:
        name = self.physical_resource_id
        [found] = self.call("describe_cache_subnet_groups", CacheSubnetGroupName=name)["CacheSubnetGroups"]
        subnets = [one["SubnetIdentifier"] for one in found["Subnets"]]
        described = {"Description": found["CacheSubnetGroupDescription"], "SubnetIds": subnets}
        return found | described | self.tags(found["ARN"])

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

    def read(self) -> Any:
        [found] = self.call("describe_users", UserId=self.physical_resource_id)["Users"]
        return found | {"AuthenticationMode": found["Authentication"]} | self.tags(found["ARN"])

    def update(self, wanted: Json, changed: set[str]) -> None:
        """moto has no call for it."""
        assert changed == {"AuthenticationMode"}, changed
        user = elasticache_backends[self.account.id][self.region].users[self.physical_resource_id]
        user.passwords = wanted["AuthenticationMode"]["Passwords"]

    def delete(self) -> None:
        self.call("delete_user", UserId=self.physical_resource_id)
        self.call("describe_users", UserId=self.physical_resource_id)  # with moto it has gone only when it was looked at


class CacheUserGroup(_Cache, kind="AWS::ElastiCache::UserGroup"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["UserGroupId"]
        self.call("create_user_group", wanted)

    def read(self) -> Any:
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

    def read(self) -> Any:
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
        # With moto it is being deleted for ever.
        del elasticache_backends[self.account.id][self.region].replication_groups[self.physical_resource_id]


class BackupVault(Resource, kind="AWS::Backup::BackupVault", service="backup"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["BackupVaultName"]
        made = self.call("create_backup_vault", wanted)
        self.attributes = {"BackupVaultName": made["BackupVaultName"], "BackupVaultArn": made["BackupVaultArn"]}

    def read(self) -> Any:
        found = self.call("describe_backup_vault", BackupVaultName=self.physical_resource_id)
        return found | {"BackupVaultTags": self.call("list_tags", ResourceArn=found["BackupVaultArn"])["Tags"]}


class BackupPlan(Resource, kind="AWS::Backup::BackupPlan", service="backup"):
    renamed = {"BackupPlanRule": "Rules", "TargetBackupVault": "TargetBackupVaultName"}  # noqa: RUF012

    def create(self, wanted: Json) -> None:
        plan = dict(wanted["BackupPlan"])
        rules = [{self.renamed.get(name, name): value for name, value in one.items()} for one in plan.pop("BackupPlanRule")]
        made = self.call("create_backup_plan", BackupPlan=plan | {"Rules": rules}, BackupPlanTags=wanted["BackupPlanTags"])
        self.physical_resource_id = made["BackupPlanId"]
        self.attributes = {"BackupPlanId": made["BackupPlanId"]}

    def read(self) -> Any:
        found = self.call("get_backup_plan", BackupPlanId=self.physical_resource_id)
        rules = [one | {"TargetBackupVault": one["TargetBackupVaultName"]} for one in found["BackupPlan"]["Rules"]]
        tags = self.call("list_tags", ResourceArn=found["BackupPlanArn"])["Tags"]
        return {"BackupPlan": found["BackupPlan"] | {"BackupPlanRule": rules}, "BackupPlanTags": tags}

    def delete(self) -> None:
        self.call("delete_backup_plan", BackupPlanId=self.physical_resource_id)
        # moto keeps it, and lets no other be the same.
        del backup_backends[self.account.id][self.region].plans[self.physical_resource_id]


class BackupSelection(Resource, kind="AWS::Backup::BackupSelection", service="backup"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = self.call("create_backup_selection", wanted)["SelectionId"]

    def _id(self) -> Json:
        return {"BackupPlanId": self.properties["BackupPlanId"], "SelectionId": self.physical_resource_id}

    def read(self) -> Any:
        return dict(self.call("get_backup_selection", self._id()))

    def delete(self) -> None:
        self.call("delete_backup_selection", self._id())
