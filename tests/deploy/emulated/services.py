"""What runs and who may: IAM, ECS, logs, Cloud Map, schedules, the load balancer, scaling, signing in."""

import json
from typing import Any, ClassVar
from urllib.parse import unquote

from moto.route53.models import route53_backends

from tests.deploy.emulated.account import Json
from tests.deploy.emulated.stacks import Resource


class Role(Resource, kind="AWS::IAM::Role", service="iam"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = name = wanted.get("RoleName", self.name[:64])
        told = {key: one for key, one in wanted.items() if key not in {"ManagedPolicyArns", "Policies"}}
        self.attributes = {"Arn": self.call("create_role", told, RoleName=name)["Role"]["Arn"]}
        for arn in wanted.get("ManagedPolicyArns", []):
            self.call("attach_role_policy", RoleName=name, PolicyArn=arn)
        for one in wanted.get("Policies", []):
            self.call("put_role_policy", one, RoleName=name)

    def read(self) -> Any:
        name = {"RoleName": self.physical_resource_id}
        found = self.call("get_role", name)["Role"]
        attached = self.call("list_attached_role_policies", name)["AttachedPolicies"]
        tags = self.call("list_role_tags", name)["Tags"]
        return found | {"ManagedPolicyArns": [one["PolicyArn"] for one in attached], "Tags": tags}

    def delete(self) -> None:
        name = {"RoleName": self.physical_resource_id}
        for arn in self.properties.get("ManagedPolicyArns", []):
            self.call("detach_role_policy", name, PolicyArn=arn)
        self.call("delete_role", name)


class Policy(Resource, kind="AWS::IAM::Policy", service="iam"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["PolicyName"]
        for role in wanted["Roles"]:
            self.call("put_role_policy", RoleName=role, PolicyName=wanted["PolicyName"], PolicyDocument=wanted["PolicyDocument"])

    def read(self) -> Any:
        name, roles = self.physical_resource_id, self.properties["Roles"]
        found = [self.call("get_role_policy", RoleName=role, PolicyName=name)["PolicyDocument"] for role in roles]
        assert all(one == found[0] for one in found)
        document = json.loads(unquote(found[0])) if isinstance(found[0], str) else found[0]
        return {"PolicyName": name, "Roles": roles, "PolicyDocument": document}

    def update(self, wanted: Json, changed: set[str]) -> None:
        assert changed == {"PolicyDocument"}, changed
        self.create(wanted)

    def delete(self) -> None:
        for role in self.properties["Roles"]:
            self.call("delete_role_policy", RoleName=role, PolicyName=self.physical_resource_id)


class LogGroup(Resource, kind="AWS::Logs::LogGroup", service="logs"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = name = wanted["LogGroupName"]
        self.call("create_log_group", LogGroupName=name, Tags={one["Key"]: one["Value"] for one in wanted["Tags"]})
        self.call("put_retention_policy", LogGroupName=name, RetentionInDays=wanted["RetentionInDays"])
        self.attributes = {"Arn": f"arn:aws:logs:{self.region}:{self.account.id}:log-group:{name}:*"}

    def read(self) -> Any:
        found = self.call("describe_log_groups", LogGroupNamePrefix=self.physical_resource_id)["logGroups"]
        [mine] = [one for one in found if one["logGroupName"] == self.physical_resource_id]
        tags = self.call("list_tags_for_resource", ResourceArn=mine["arn"].removesuffix(":*"))["tags"]
        return mine | {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}

    def delete(self) -> None:
        self.call("delete_log_group", LogGroupName=self.physical_resource_id)


class Cluster(Resource, kind="AWS::ECS::Cluster", service="ecs"):
    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name != "ClusterSettings"}
        made = self.call("create_cluster", told, Settings=wanted["ClusterSettings"])["cluster"]
        self.physical_resource_id = made["clusterName"]
        self.attributes = {"Arn": made["clusterArn"]}

    def read(self) -> Any:
        more = ["SETTINGS", "CONFIGURATIONS", "TAGS"]
        [found] = self.call("describe_clusters", Clusters=[self.physical_resource_id], Include=more)["clusters"]
        return found | {"ClusterSettings": found["settings"]}

    def delete(self) -> None:
        self.call("delete_cluster", Cluster=self.physical_resource_id)


class TaskDefinition(Resource, kind="AWS::ECS::TaskDefinition", service="ecs"):
    def create(self, wanted: Json) -> None:
        made = self.call("register_task_definition", wanted)["taskDefinition"]
        self.physical_resource_id = made["taskDefinitionArn"]
        self.attributes = {"TaskDefinitionArn": made["taskDefinitionArn"]}

    def read(self) -> Any:
        answer = self.call("describe_task_definition", TaskDefinition=self.physical_resource_id, Include=["TAGS"])
        return answer["taskDefinition"] | {"Tags": answer.get("tags")}

    def delete(self) -> None:
        self.call("deregister_task_definition", TaskDefinition=self.physical_resource_id)


class Service(Resource, kind="AWS::ECS::Service", service="ecs"):
    def create(self, wanted: Json) -> None:
        made = self.call("create_service", {"DesiredCount": 1} | wanted)["service"]  # as CloudFormation has it; moto makes none
        self.physical_resource_id = made["serviceArn"]
        self.attributes = {"Name": made["serviceName"], "ServiceArn": made["serviceArn"]}

    def _id(self) -> Json:
        return {"Cluster": self.properties["Cluster"], "Service": self.attributes["Name"]}

    def read(self) -> Any:
        asked = {"Cluster": self.properties["Cluster"], "Services": [self.attributes["Name"]], "Include": ["TAGS"]}
        [found] = self.call("describe_services", asked)["services"]
        return found | {"Cluster": found["clusterArn"].rsplit("/", 1)[1]}

    def update(self, wanted: Json, changed: set[str]) -> None:
        self.call("update_service", {name: wanted[name] for name in changed}, **self._id())

    def delete(self) -> None:
        self.call("delete_service", self._id(), Force=True)


class Namespace(Resource, kind="AWS::ServiceDiscovery::PrivateDnsNamespace", service="servicediscovery"):
    def create(self, wanted: Json) -> None:
        operation = self.call("create_private_dns_namespace", wanted)["OperationId"]
        own_id = self.call("get_operation", OperationId=operation)["Operation"]["Targets"]["NAMESPACE"]
        self.physical_resource_id, self.attributes = own_id, {"Id": own_id}

    def read(self) -> Any:
        found = self.call("get_namespace", Id=self.physical_resource_id)["Namespace"]
        tags = self.call("list_tags_for_resource", ResourceARN=found["Arn"])["Tags"]
        return found | {"Tags": tags}

    def delete(self) -> None:
        self.call("delete_namespace", Id=self.physical_resource_id)


class NamedService(Resource, kind="AWS::ServiceDiscovery::Service", service="servicediscovery"):
    def create(self, wanted: Json) -> None:
        made = self.call("create_service", wanted)["Service"]
        self.physical_resource_id, self.attributes = made["Id"], {"Arn": made["Arn"], "Id": made["Id"]}

    def read(self) -> Any:
        found = self.call("get_service", Id=self.physical_resource_id)["Service"]
        return found | {"Tags": self.call("list_tags_for_resource", ResourceARN=found["Arn"])["Tags"]}

    def delete(self) -> None:
        self.call("delete_service", Id=self.physical_resource_id)


class Schedule(Resource, kind="AWS::Scheduler::Schedule", service="scheduler"):
    def create(self, wanted: Json) -> None:
        self.call("create_schedule", wanted)
        self.physical_resource_id = wanted["Name"]

    def read(self) -> Any:
        return dict(self.call("get_schedule", Name=self.physical_resource_id))

    def update(self, wanted: Json, changed: set[str]) -> None:
        self.call("update_schedule", wanted)

    def delete(self) -> None:
        self.call("delete_schedule", Name=self.physical_resource_id)


class _Elb(Resource, service="elbv2"):
    def tags(self) -> Json:
        [found] = self.call("describe_tags", ResourceArns=[self.physical_resource_id])["TagDescriptions"]
        return {"Tags": found["Tags"]}


class LoadBalancer(_Elb, kind="AWS::ElasticLoadBalancingV2::LoadBalancer"):
    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name != "LoadBalancerAttributes"}
        [made] = self.call("create_load_balancer", told)["LoadBalancers"]
        self.physical_resource_id = made["LoadBalancerArn"]
        self.attributes = {
            "CanonicalHostedZoneID": made["CanonicalHostedZoneId"],
            "DNSName": made["DNSName"],
            "LoadBalancerFullName": made["LoadBalancerArn"].partition(":loadbalancer/")[2],
        }
        attributes = wanted["LoadBalancerAttributes"]
        self.call("modify_load_balancer_attributes", LoadBalancerArn=self.physical_resource_id, Attributes=attributes)

    def read(self) -> Any:
        arn = {"LoadBalancerArn": self.physical_resource_id}
        [found] = self.call("describe_load_balancers", LoadBalancerArns=[self.physical_resource_id])["LoadBalancers"]
        return (
            found
            | {"Name": found["LoadBalancerName"], "Subnets": [one["SubnetId"] for one in found["AvailabilityZones"]]}
            | {"LoadBalancerAttributes": self.call("describe_load_balancer_attributes", arn)["Attributes"]}
            | self.tags()
        )

    def delete(self) -> None:
        self.call("delete_load_balancer", LoadBalancerArn=self.physical_resource_id)


class TargetGroup(_Elb, kind="AWS::ElasticLoadBalancingV2::TargetGroup"):
    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name != "TargetGroupAttributes"}
        name = f"{self.logical_resource_id[:24]}"
        [made] = self.call("create_target_group", told, Name=name)["TargetGroups"]
        self.physical_resource_id = arn = made["TargetGroupArn"]
        self.attributes = {"TargetGroupFullName": arn.rsplit(":", 1)[1]}
        self.call("modify_target_group_attributes", TargetGroupArn=arn, Attributes=wanted["TargetGroupAttributes"])

    def read(self) -> Any:
        [found] = self.call("describe_target_groups", TargetGroupArns=[self.physical_resource_id])["TargetGroups"]
        attributes = self.call("describe_target_group_attributes", TargetGroupArn=self.physical_resource_id)["Attributes"]
        return found | {"TargetGroupAttributes": attributes} | self.tags()

    def delete(self) -> None:
        self.call("delete_target_group", TargetGroupArn=self.physical_resource_id)


class Listener(_Elb, kind="AWS::ElasticLoadBalancingV2::Listener"):
    def create(self, wanted: Json) -> None:
        [made] = self.call("create_listener", wanted)["Listeners"]
        self.physical_resource_id = made["ListenerArn"]

    def read(self) -> Any:
        [found] = self.call("describe_listeners", ListenerArns=[self.physical_resource_id])["Listeners"]
        return found | self.tags()

    def delete(self) -> None:
        self.call("delete_listener", ListenerArn=self.physical_resource_id)


class ListenerRule(_Elb, kind="AWS::ElasticLoadBalancingV2::ListenerRule"):
    def create(self, wanted: Json) -> None:
        [made] = self.call("create_rule", wanted)["Rules"]
        self.physical_resource_id = made["RuleArn"]

    def read(self) -> Any:
        [found] = self.call("describe_rules", RuleArns=[self.physical_resource_id])["Rules"]
        # The rule's own name says which listener it is of.
        listener = self.physical_resource_id.rsplit("/", 1)[0].replace(":listener-rule/", ":listener/")
        return found | {"ListenerArn": listener} | self.tags()

    def update(self, wanted: Json, changed: set[str]) -> None:
        assert changed == {"Conditions"}, changed
        self.call("modify_rule", RuleArn=self.physical_resource_id, Conditions=wanted["Conditions"])

    def delete(self) -> None:
        self.call("delete_rule", RuleArn=self.physical_resource_id)


class Certificate(Resource, kind="AWS::CertificateManager::Certificate", service="acm"):
    """Made and validated at once: the names are in the account's own zone."""

    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name != "DomainValidationOptions"}
        self.physical_resource_id = arn = self.call("request_certificate", told)["CertificateArn"]
        found = self.call("describe_certificate", CertificateArn=arn)["Certificate"]["DomainValidationOptions"]
        zones = {one["DomainName"]: one["HostedZoneId"] for one in wanted["DomainValidationOptions"]}
        for one in found:
            record = one["ResourceRecord"]
            values = [{"Value": record["Value"]}]
            change = {
                "Action": "UPSERT",
                "ResourceRecordSet": {"Name": record["Name"], "Type": record["Type"], "TTL": 300, "ResourceRecords": values},
            }
            zone = zones[one["DomainName"]]
            self.call("change_resource_record_sets", HostedZoneId=zone, ChangeBatch={"Changes": [change]}, service="route53")

    def read(self) -> Any:
        found = self.call("describe_certificate", CertificateArn=self.physical_resource_id)["Certificate"]
        tags = self.call("list_tags_for_certificate", CertificateArn=self.physical_resource_id)["Tags"]
        zones = {one["DomainName"]: one["HostedZoneId"] for one in self.properties["DomainValidationOptions"]}
        options = [
            one | {"HostedZoneId": self._zone_with(one["ResourceRecord"], zones)} for one in found["DomainValidationOptions"]
        ]
        method = options[0]["ValidationMethod"]
        return found | {"DomainValidationOptions": options, "ValidationMethod": method, "Tags": tags}

    def _zone_with(self, record: Json, zones: Json) -> str | None:
        """Where the record is that shows whose the name is."""
        for zone in set(zones.values()):
            found = self.call("list_resource_record_sets", HostedZoneId=zone, service="route53")["ResourceRecordSets"]
            if [{"Value": record["Value"]}] in [one.get("ResourceRecords") for one in found]:
                return str(zone)
        return None

    def delete(self) -> None:
        self.call("delete_certificate", CertificateArn=self.physical_resource_id)


class RecordSet(Resource, kind="AWS::Route53::RecordSet", service="route53"):
    def _change(self, action: str, wanted: Json) -> None:
        record = {name: one for name, one in wanted.items() if name != "HostedZoneId"}
        if "AliasTarget" in record:
            record["AliasTarget"] = {"EvaluateTargetHealth": False} | record["AliasTarget"]
        changes = [{"Action": action, "ResourceRecordSet": record}]
        self.call("change_resource_record_sets", HostedZoneId=wanted["HostedZoneId"], ChangeBatch={"Changes": changes})

    def create(self, wanted: Json) -> None:
        self._change("CREATE", wanted)
        self.physical_resource_id = wanted["Name"]

    def read(self) -> Any:
        found = self.call("list_resource_record_sets", HostedZoneId=self.properties["HostedZoneId"])["ResourceRecordSets"]
        name, type_ = self.properties["Name"], self.properties["Type"]
        [record] = [one for one in found if (one["Name"], one["Type"]) == (name, type_)]
        return {"HostedZoneId": self.properties["HostedZoneId"], **record}

    def delete(self) -> None:
        self._change("DELETE", self.properties)
        # moto would refuse the same again, as long as the zone has any record that comes after it.
        changes = route53_backends[self.account.id]["aws"].zones[self.properties["HostedZoneId"]].rr_changes
        own = self.properties["Name"].rstrip("."), self.properties["Type"]
        changes[:] = [
            one for one in changes if (one["ResourceRecordSet"]["Name"].rstrip("."), one["ResourceRecordSet"]["Type"]) != own
        ]


class ScalableTarget(Resource, kind="AWS::ApplicationAutoScaling::ScalableTarget", service="application-autoscaling"):
    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name != "Tags"}
        tags = {one["Key"]: one["Value"] for one in wanted.get("Tags", [])}
        self.call("register_scalable_target", told, Tags=tags)
        self.physical_resource_id = "|".join(wanted[name] for name in ("ResourceId", "ScalableDimension", "ServiceNamespace"))

    def _id(self) -> Json:
        return {name: self.properties[name] for name in ("ServiceNamespace", "ScalableDimension", "ResourceId")}

    def read(self) -> Any:
        asked = {"ServiceNamespace": self.properties["ServiceNamespace"], "ResourceIds": [self.properties["ResourceId"]]}
        [found] = self.call("describe_scalable_targets", asked)["ScalableTargets"]
        return dict(found)

    def update(self, wanted: Json, changed: set[str]) -> None:
        self.call("register_scalable_target", {name: wanted[name] for name in changed}, **self._id())

    def delete(self) -> None:
        self.call("deregister_scalable_target", self._id())


class ScalingPolicy(Resource, kind="AWS::ApplicationAutoScaling::ScalingPolicy", service="application-autoscaling"):
    def _id(self) -> Json:
        target = self.properties["ScalingTargetId"].split("|")
        return dict(zip(("ResourceId", "ScalableDimension", "ServiceNamespace"), target, strict=True))

    def create(self, wanted: Json) -> None:
        told = {name: one for name, one in wanted.items() if name != "ScalingTargetId"}
        self.physical_resource_id = self.call("put_scaling_policy", told, **self._id())["PolicyARN"]

    def read(self) -> Any:
        answer = self.call("describe_scaling_policies", ServiceNamespace=self._id()["ServiceNamespace"])
        [found] = [one for one in answer["ScalingPolicies"] if one["PolicyARN"] == self.physical_resource_id]
        target = "|".join(found[name] for name in ("ResourceId", "ScalableDimension", "ServiceNamespace"))
        return found | {"ScalingTargetId": target}

    def delete(self) -> None:
        self.call("delete_scaling_policy", {"PolicyName": self.properties["PolicyName"], **self._id()})


class UserPool(Resource, kind="AWS::Cognito::UserPool", service="cognito-idp"):
    renamed: ClassVar[Json] = {"UserPoolName": "PoolName"}

    def create(self, wanted: Json) -> None:
        told = {
            self.renamed.get(name, name): one for name, one in wanted.items() if name not in {"EnabledMfas", "MfaConfiguration"}
        }
        made = self.call("create_user_pool", told)["UserPool"]
        self.physical_resource_id, self.attributes = made["Id"], {"Arn": made["Arn"], "UserPoolId": made["Id"]}
        assert wanted["EnabledMfas"] == ["SOFTWARE_TOKEN_MFA"]
        factor = {"Enabled": True}
        mode = wanted["MfaConfiguration"]
        self.call("set_user_pool_mfa_config", UserPoolId=made["Id"], SoftwareTokenMfaConfiguration=factor, MfaConfiguration=mode)

    def read(self) -> Any:
        found = self.call("describe_user_pool", UserPoolId=self.physical_resource_id)["UserPool"]
        factors = self.call("get_user_pool_mfa_config", UserPoolId=self.physical_resource_id)
        enabled = ["SOFTWARE_TOKEN_MFA"] if factors["SoftwareTokenMfaConfiguration"]["Enabled"] else []
        enabled += ["SMS_MFA"] if "SmsMfaConfiguration" in factors else []
        return found | {
            "UserPoolName": found["Name"],
            "EnabledMfas": enabled,
            "MfaConfiguration": factors["MfaConfiguration"],
        }

    def delete(self) -> None:
        self.call("delete_user_pool", UserPoolId=self.physical_resource_id)


class UserPoolClient(Resource, kind="AWS::Cognito::UserPoolClient", service="cognito-idp"):
    def create(self, wanted: Json) -> None:
        made = self.call("create_user_pool_client", wanted, ClientName=self.name)["UserPoolClient"]
        self.physical_resource_id = made["ClientId"]
        self.attributes = {"ClientId": made["ClientId"], "ClientSecret": made["ClientSecret"], "Name": made["ClientName"]}

    def _id(self) -> Json:
        return {"UserPoolId": self.properties["UserPoolId"], "ClientId": self.physical_resource_id}

    def read(self) -> Any:
        found = self.call("describe_user_pool_client", self._id())["UserPoolClient"]
        return found | {"GenerateSecret": "ClientSecret" in found}

    def delete(self) -> None:
        self.call("delete_user_pool_client", self._id())


class UserPoolDomain(Resource, kind="AWS::Cognito::UserPoolDomain", service="cognito-idp"):
    def create(self, wanted: Json) -> None:
        self.call("create_user_pool_domain", wanted)
        self.physical_resource_id = wanted["Domain"]

    def read(self) -> Any:
        return dict(self.call("describe_user_pool_domain", Domain=self.physical_resource_id)["DomainDescription"])

    def delete(self) -> None:
        self.call("delete_user_pool_domain", self.properties)


class UserPoolGroup(Resource, kind="AWS::Cognito::UserPoolGroup", service="cognito-idp"):
    def create(self, wanted: Json) -> None:
        self.call("create_group", wanted)
        self.physical_resource_id = wanted["GroupName"]

    def read(self) -> Any:
        return dict(self.call("get_group", self.properties)["Group"])

    def delete(self) -> None:
        self.call("delete_group", self.properties)
