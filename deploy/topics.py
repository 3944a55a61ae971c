"""Where people are told: `alerts` of Prometheus, `alarms` of AWS about what Prometheus cannot see."""

from collections.abc import Mapping
from typing import Any

from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

from deploy.config import Config

ALARMS, EVENTS = "cloudwatch.amazonaws.com", "events.amazonaws.com"


class Topics(Construct):
    """Two, so that silence of the one can be told by the other."""

    def __init__(self, scope: Construct, id: str, *, config: Config, key: kms.IKey) -> None:
        super().__init__(scope, id)
        self.alerts = sns.Topic(self, "Alerts", topic_name=config.stack_name("alerts"), master_key=key, enforce_ssl=True)
        self.alarms = sns.Topic(self, "Alarms", topic_name=config.stack_name("alarms"), master_key=key, enforce_ssl=True)
        # No condition for EventBridge: it does not say to SNS or KMS for which account it asks, so what it tells would be dropped.
        of_account = {"StringEquals": {"aws:SourceAccount": config.account}}
        for sid, name, conditions in (("Alarms", ALARMS, of_account), ("Events", EVENTS, None)):
            self.alarms.add_to_resource_policy(_telling(sid, name, ["sns:Publish"], self.alarms.topic_arn, conditions))
            key.add_to_resource_policy(_telling(sid, name, ["kms:Decrypt", "kms:GenerateDataKey*"], "*", conditions))
        # The Watchdog says each five minutes that all is well: that is for the alarm `alerts-silent`, not for people.
        sns.Subscription(
            self,
            "AlertsToPeople",
            topic=self.alerts,
            protocol=sns.SubscriptionProtocol.EMAIL,
            endpoint=config.email,
            filter_policy={"severity": sns.SubscriptionFilter.string_filter(denylist=["none"])},
        )
        sns.Subscription(self, "AlarmsToPeople", topic=self.alarms, protocol=sns.SubscriptionProtocol.EMAIL, endpoint=config.email)


def _telling(
    sid: str, service: str, actions: list[str], resource: str, conditions: Mapping[str, Any] | None
) -> iam.PolicyStatement:
    principals: list[iam.IPrincipal] = [iam.ServicePrincipal(service)]
    return iam.PolicyStatement(sid=sid, principals=principals, actions=actions, resources=[resource], conditions=conditions)
