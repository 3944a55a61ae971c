"""Where people are told: `alerts` of Prometheus, `alarms` of AWS about what Prometheus cannot see."""

from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

from deploy.config import Config

TELLERS = ("cloudwatch.amazonaws.com", "events.amazonaws.com")


class Topics(Construct):
    """Two, so that silence of the one can be told by the other."""

    def __init__(self, scope: Construct, id: str, *, config: Config, key: kms.IKey) -> None:
        super().__init__(scope, id)
        self.alerts = sns.Topic(self, "Alerts", topic_name=config.stack_name("alerts"), master_key=key, enforce_ssl=True)
        self.alarms = sns.Topic(self, "Alarms", topic_name=config.stack_name("alarms"), master_key=key, enforce_ssl=True)
        of_account = {"StringEquals": {"aws:SourceAccount": config.account}}
        tellers = [iam.ServicePrincipal(name) for name in TELLERS]
        self.alarms.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Tell",
                principals=list(tellers),
                actions=["sns:Publish"],
                resources=[self.alarms.topic_arn],
                conditions=of_account,
            )
        )
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Tell",
                principals=list(tellers),
                actions=["kms:Decrypt", "kms:GenerateDataKey*"],
                resources=["*"],
                conditions=of_account,
            )
        )
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
