"""Who is told, who may, and what is tried: alarms, events, the budget, people, experiments."""

import json
from typing import Any, ClassVar
from urllib.parse import unquote

from tests.deploy.emulated.account import Json
from tests.deploy.emulated.stacks import Resource


class Alarm(Resource, kind="AWS::CloudWatch::Alarm", service="cloudwatch"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["AlarmName"]
        self.call("put_metric_alarm", wanted)
        self.attributes = {"Arn": self.read()["AlarmArn"]}

    def read(self) -> Any:
        answer = self.call("describe_alarms", AlarmNames=[self.physical_resource_id], AlarmTypes=["MetricAlarm", "CompositeAlarm"])
        [found] = answer["MetricAlarms"]
        return found | {"Tags": self.call("list_tags_for_resource", ResourceARN=found["AlarmArn"])["Tags"]}

    def update(self, wanted: Json, changed: set[str]) -> None:
        self.call("put_metric_alarm", wanted)

    def delete(self) -> None:
        self.call("delete_alarms", AlarmNames=[self.physical_resource_id])


class Rule(Resource, kind="AWS::Events::Rule", service="events"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = name = wanted["Name"]
        self.call("put_rule", {key: one for key, one in wanted.items() if key != "Targets"})
        answer = self.call("put_targets", Rule=name, Targets=wanted["Targets"])
        assert not answer["FailedEntryCount"], answer

    def read(self) -> Any:
        found = self.call("describe_rule", Name=self.physical_resource_id)
        return found | {
            "EventPattern": json.loads(found["EventPattern"]),
            "Targets": self.call("list_targets_by_rule", Rule=self.physical_resource_id)["Targets"],
            "Tags": self.call("list_tags_for_resource", ResourceARN=found["Arn"])["Tags"],
        }

    def delete(self) -> None:
        self.call("remove_targets", Rule=self.physical_resource_id, Ids=[one["Id"] for one in self.properties["Targets"]])
        self.call("delete_rule", Name=self.physical_resource_id)


class Budget(Resource, kind="AWS::Budgets::Budget", service="budgets"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["Budget"]["BudgetName"]
        self.call("create_budget", wanted, AccountId=self.account.id)

    def _id(self) -> Json:
        return {"AccountId": self.account.id, "BudgetName": self.physical_resource_id}

    def read(self) -> Any:
        found = self.call("describe_budget", self._id())["Budget"]
        told = self.call("describe_notifications_for_budget", self._id())["Notifications"]
        return {"Budget": found, "NotificationsWithSubscribers": [{"Notification": one} for one in told]}

    def update(self, wanted: Json, changed: set[str]) -> None:
        """moto cannot change one: it is made anew, under the same name."""
        self.delete()
        self.create(wanted)

    def delete(self) -> None:
        self.call("delete_budget", self._id())


class Group(Resource, kind="AWS::IAM::Group", service="iam"):
    def create(self, wanted: Json) -> None:
        self.physical_resource_id = wanted["GroupName"]
        self.attributes = {"Arn": self.call("create_group", GroupName=wanted["GroupName"])["Group"]["Arn"]}
        for arn in wanted["ManagedPolicyArns"]:
            self.call("attach_group_policy", GroupName=wanted["GroupName"], PolicyArn=arn)

    def read(self) -> Any:
        name = {"GroupName": self.physical_resource_id}
        attached = self.call("list_attached_group_policies", name)["AttachedPolicies"]
        return self.call("get_group", name)["Group"] | {"ManagedPolicyArns": [one["PolicyArn"] for one in attached]}

    def delete(self) -> None:
        for arn in self.properties["ManagedPolicyArns"]:
            self.call("detach_group_policy", GroupName=self.physical_resource_id, PolicyArn=arn)
        self.call("delete_group", GroupName=self.physical_resource_id)


class ManagedPolicy(Resource, kind="AWS::IAM::ManagedPolicy", service="iam"):
    def create(self, wanted: Json) -> None:
        told = {name: wanted[name] for name in ("Path", "Description", "PolicyDocument")}
        made = self.call("create_policy", told, PolicyName=wanted["ManagedPolicyName"])["Policy"]
        self.physical_resource_id = made["Arn"]
        for group in wanted["Groups"]:
            self.call("attach_group_policy", GroupName=group, PolicyArn=made["Arn"])

    def read(self) -> Any:
        arn = {"PolicyArn": self.physical_resource_id}
        found = self.call("get_policy", arn)["Policy"]
        version = self.call("get_policy_version", arn, VersionId=found["DefaultVersionId"])["PolicyVersion"]["Document"]
        entities = self.call("list_entities_for_policy", arn)
        return (
            {"Description": ""}
            | found
            | {
                "ManagedPolicyName": found["PolicyName"],
                "PolicyDocument": json.loads(unquote(version)) if isinstance(version, str) else version,
                "Groups": [one["GroupName"] for one in entities["PolicyGroups"]],
            }
        )

    def delete(self) -> None:
        for group in self.properties["Groups"]:
            self.call("detach_group_policy", GroupName=group, PolicyArn=self.physical_resource_id)
        self.call("delete_policy", PolicyArn=self.physical_resource_id)


class OidcProvider(Resource, kind="AWS::IAM::OIDCProvider", service="iam"):
    def create(self, wanted: Json) -> None:
        # IAM finds the thumbprint by itself; moto wants one.
        made = self.call("create_open_id_connect_provider", {"ThumbprintList": ["0" * 40]} | wanted)
        self.physical_resource_id = made["OpenIDConnectProviderArn"]
        self.attributes = {"Arn": self.physical_resource_id}

    def read(self) -> Any:
        found = self.call("get_open_id_connect_provider", OpenIDConnectProviderArn=self.physical_resource_id)
        return found | {"Url": f"https://{found['Url'].removeprefix('https://')}"}

    def delete(self) -> None:
        self.call("delete_open_id_connect_provider", OpenIDConnectProviderArn=self.physical_resource_id)


class Trail(Resource, kind="AWS::CloudTrail::Trail", service="cloudtrail"):
    renamed: ClassVar[Json] = {"TrailName": "Name", "KMSKeyId": "KmsKeyId", "Tags": "TagsList"}

    def create(self, wanted: Json) -> None:
        apart = {"IsLogging", "EventSelectors"}
        told = {self.renamed.get(name, name): one for name, one in wanted.items() if name not in apart}
        self.physical_resource_id = name = self.call("create_trail", told)["Name"]
        self.call("put_event_selectors", TrailName=name, EventSelectors=wanted["EventSelectors"])
        if wanted["IsLogging"]:
            self.call("start_logging", Name=name)

    def read(self) -> Any:
        name = self.physical_resource_id
        found = self.call("get_trail", Name=name)["Trail"]
        [tags] = self.call("list_tags", ResourceIdList=[found["TrailARN"]])["ResourceTagList"]
        return found | {
            **{own: found[theirs] for own, theirs in self.renamed.items() if theirs in found},
            "EnableLogFileValidation": found["LogFileValidationEnabled"],
            "IsLogging": self.call("get_trail_status", Name=name)["IsLogging"],
            "EventSelectors": self.call("get_event_selectors", TrailName=name)["EventSelectors"],
            "Tags": tags["TagsList"],
        }

    def delete(self) -> None:
        self.call("delete_trail", Name=self.physical_resource_id)


class ExperimentTemplate(Resource, kind="AWS::FIS::ExperimentTemplate", service="fis"):
    def update(self, wanted: Json, changed: set[str]) -> None:
        assert changed == {"Targets"}, changed
        self.call("update_experiment_template", Id=self.physical_resource_id, Targets=wanted["Targets"])

    def create(self, wanted: Json) -> None:
        made = self.call("create_experiment_template", wanted, ClientToken=self.name)
        self.physical_resource_id = made["experimentTemplate"]["id"]

    def read(self) -> Any:
        return dict(self.call("get_experiment_template", Id=self.physical_resource_id)["experimentTemplate"])

    def delete(self) -> None:
        self.call("delete_experiment_template", Id=self.physical_resource_id)
