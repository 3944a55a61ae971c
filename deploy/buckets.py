"""S3 buckets: closed to the public, TLS only, versions kept, old things deleted."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from deploy.config import Config
from deploy.tasks import encrypting

NOT_CURRENT_DAYS = 30


class LogBucket(s3.Bucket):
    """What AWS itself writes: flow logs, access logs, API calls. AWS writes access logs only to buckets with S3's own key."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        name: str,
        days: int,
        for_cloudfront: bool = False,
        access_logs: s3.IBucket | None = None,
    ) -> None:
        super().__init__(
            scope,
            id,
            bucket_name=name,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            # CloudFront's standard logs are written with an access control list.
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_PREFERRED
            if for_cloudfront
            else s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            versioned=True,
            lifecycle_rules=[_expiry(days)],
            server_access_logs_bucket=access_logs,
            server_access_logs_prefix="s3/api-calls/" if access_logs else None,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )


class Buckets(Construct):
    """`loki`: its chunks. `backups`: snapshots of Prometheus."""

    def __init__(self, scope: Construct, id: str, *, config: Config, key: kms.IKey, logs: s3.IBucket) -> None:
        super().__init__(scope, id)
        self._key = key
        # Loki deletes what is older than its own limit (observability/loki/loki.yaml: 7 days); this is the net below it.
        self.loki = self._bucket("Loki", config.bucket_name("loki-logs"), key, logs, [_expiry(14, not_current=1)])
        self.backups = self._bucket("Backups", config.bucket_name("backups"), key, logs, [_expiry(14)])

    def grant(self, role: iam.IRole, bucket: s3.IBucket, *, folder: str = "", delete: bool = False) -> None:
        """Read and write, and perhaps delete, what is in the folder; list it."""
        listing = {"StringLike": {"s3:prefix": f"{folder}*"}} if folder else None
        role.add_to_principal_policy(
            iam.PolicyStatement(actions=["s3:ListBucket"], resources=[bucket.bucket_arn], conditions=listing)
        )
        role.add_to_principal_policy(
            iam.PolicyStatement(
                # S3 takes away the parts of what was not sent to its end only from who may say so.
                actions=["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", *(["s3:DeleteObject"] if delete else [])],
                resources=[bucket.arn_for_objects(f"{folder}*")],
            )
        )
        role.add_to_principal_policy(encrypting(self._key, "s3"))

    def _bucket(self, id: str, name: str, key: kms.IKey, logs: s3.IBucket, rules: list[s3.LifecycleRule]) -> s3.Bucket:
        return s3.Bucket(
            self,
            id,
            bucket_name=name,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            versioned=True,
            lifecycle_rules=rules,
            server_access_logs_bucket=logs,
            server_access_logs_prefix=f"s3/{id.lower()}/",
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )


def _expiry(days: int, not_current: int = NOT_CURRENT_DAYS) -> s3.LifecycleRule:
    return s3.LifecycleRule(
        expiration=Duration.days(days),
        noncurrent_version_expiration=Duration.days(not_current),
        abort_incomplete_multipart_upload_after=Duration.days(1),
    )
