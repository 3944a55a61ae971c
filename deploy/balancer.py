"""The load balancer: only for CloudFront, by a host name for each program behind it."""

from aws_cdk import Duration
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_s3 as s3
from constructs import Construct

from deploy.config import DEREGISTRATION_S, IDLE_S, SOURCE_HEADER, Config
from deploy.network import PUBLIC
from deploy.secrets import origin_value


class Balancer(Construct):
    """Port 80 leads to 443; there, what does not come through our CloudFront is refused."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        config: Config,
        vpc: ec2.IVpc,
        group: ec2.ISecurityGroup,
        certificate: acm.ICertificate,
        access_logs: s3.IBucket,
    ) -> None:
        super().__init__(scope, id)
        self._config, self._vpc = config, vpc
        self.balancer = elb.ApplicationLoadBalancer(
            self,
            "Balancer",
            load_balancer_name=config.stack_name("balancer"),
            vpc=vpc,
            vpc_subnets=PUBLIC,
            security_group=group,
            internet_facing=True,
            deletion_protection=config.is_production,
            idle_timeout=Duration.seconds(IDLE_S),
            desync_mitigation_mode=elb.DesyncMitigationMode.STRICTEST,
            drop_invalid_header_fields=True,
            preserve_host_header=True,
            xff_header_processing_mode=elb.XffHeaderProcessingMode.APPEND,
        )
        self.balancer.log_access_logs(access_logs, "balancer")
        elb.ApplicationListener(
            self,
            "Http",
            load_balancer=self.balancer,
            port=80,
            open=False,
            default_action=elb.ListenerAction.redirect(protocol="HTTPS", port="443", permanent=True),
        )
        self._https = elb.ApplicationListener(
            self,
            "Https",
            load_balancer=self.balancer,
            port=443,
            open=False,
            certificates=[certificate],
            ssl_policy=elb.SslPolicy.RECOMMENDED_TLS,
            default_action=elb.ListenerAction.fixed_response(403, content_type="text/plain", message_body="Forbidden"),
        )

    def add(self, id: str, *, host: str, port: int, health: str, priority: int) -> elb.ApplicationTargetGroup:
        """What comes through CloudFront for `host` goes to these targets."""
        targets = elb.ApplicationTargetGroup(
            self,
            id,
            vpc=self._vpc,
            port=port,
            protocol=elb.ApplicationProtocol.HTTP,
            target_type=elb.TargetType.IP,
            deregistration_delay=Duration.seconds(DEREGISTRATION_S),
            load_balancing_algorithm_type=elb.TargetGroupLoadBalancingAlgorithmType.LEAST_OUTSTANDING_REQUESTS,
            health_check=elb.HealthCheck(
                path=health,
                interval=Duration.seconds(10),
                timeout=Duration.seconds(5),
                healthy_threshold_count=2,
                unhealthy_threshold_count=3,
                healthy_http_codes="200",
            ),
        )
        self._https.add_action(
            f"{id}Rule",
            priority=priority,
            conditions=[
                elb.ListenerCondition.host_headers([host]),
                elb.ListenerCondition.http_header(SOURCE_HEADER, [origin_value(one) for one in self._config.valid_secrets]),
            ],
            action=elb.ListenerAction.forward([targets]),
        )
        return targets
