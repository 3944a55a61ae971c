"""ECR: a repository for each image. Tags cannot be moved; what is pushed is scanned."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_ecr as ecr
from constructs import Construct

from deploy.config import IMAGES, NAME

KEPT = 30


class Images(Construct):
    """`repositories` by the name of the image."""

    def __init__(self, scope: Construct, id: str) -> None:
        super().__init__(scope, id)
        # Inspector also finds Python's packages in images without a package manager, as ours are; the basic scan does not.
        ecr.CfnRegistryScanningConfiguration(
            self,
            "Scanning",
            scan_type="ENHANCED",
            rules=[
                {
                    "scanFrequency": "SCAN_ON_PUSH",
                    "repositoryFilters": [{"filter": f"{NAME}/*", "filterType": "WILDCARD"}],
                }
            ],
        )
        self.repositories = {name: self._repository(name) for name in IMAGES}

    def _repository(self, name: str) -> ecr.Repository:
        return ecr.Repository(
            self,
            name.capitalize(),
            repository_name=f"{NAME}/{name}",
            encryption=ecr.RepositoryEncryption.KMS,
            image_scan_on_push=True,
            image_tag_mutability=ecr.TagMutability.IMMUTABLE,
            lifecycle_rules=[
                ecr.LifecycleRule(
                    description="images without a tag", tag_status=ecr.TagStatus.UNTAGGED, max_image_age=Duration.days(1)
                ),
                ecr.LifecycleRule(description="all but the newest", max_image_count=KEPT),
            ],
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )
