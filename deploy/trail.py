"""CloudTrail: who asked AWS for what in the account, in all regions. The files are signed, and with our key."""

from aws_cdk import aws_cloudtrail as cloudtrail
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from deploy.buckets import LogBucket
from deploy.config import REGION, Config

CLOUDTRAIL = "cloudtrail.amazonaws.com"
DAYS = 365


class Trail(Construct):
    """Of management events. What is asked of objects is in the buckets' access logs."""

    def __init__(self, scope: Construct, id: str, *, config: Config, key: kms.IKey, access_logs: s3.IBucket) -> None:
        """`key`: it must let the trail in, as `let_in` does."""
        super().__init__(scope, id)
        name = config.bucket_name("api-calls")
        bucket = LogBucket(self, "Log", name=name, days=DAYS, access_logs=access_logs)
        for sid, action, resource, more in (
            ("TrailLooks", "s3:GetBucketAcl", bucket.bucket_arn, {}),
            (
                "TrailWrites",
                "s3:PutObject",
                bucket.arn_for_objects(f"AWSLogs/{config.account}/*"),
                {"s3:x-amz-acl": "bucket-owner-full-control"},
            ),
        ):
            bucket.add_to_resource_policy(
                iam.PolicyStatement(
                    sid=sid,
                    principals=[iam.ServicePrincipal(CLOUDTRAIL)],
                    actions=[action],
                    resources=[resource],
                    conditions={"StringEquals": {"aws:SourceArn": trail_arn(config), **more}},
                )
            )
        trail = cloudtrail.CfnTrail(
            self,
            "Trail",
            trail_name=config.stack_name("api-calls"),
            is_logging=True,
            s3_bucket_name=bucket.bucket_name,
            kms_key_id=key.key_arn,
            enable_log_file_validation=True,
            is_multi_region_trail=True,
            include_global_service_events=True,
            event_selectors=[
                cloudtrail.CfnTrail.EventSelectorProperty(include_management_events=True, read_write_type="All"),
            ],
        )
        assert bucket.policy is not None
        trail.node.add_dependency(bucket.policy)


def trail_arn(config: Config) -> str:
    return f"arn:aws:cloudtrail:{REGION}:{config.account}:trail/{config.stack_name('api-calls')}"


def let_in(key: kms.IKey, config: Config) -> None:
    """The trail may encrypt with the key, and nobody's else may."""
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="Trail",
            principals=[iam.ServicePrincipal(CLOUDTRAIL)],
            actions=["kms:GenerateDataKey*", "kms:DescribeKey"],
            resources=["*"],
            conditions={"StringEquals": {"aws:SourceArn": trail_arn(config)}},
        )
    )
