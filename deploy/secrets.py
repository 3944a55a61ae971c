"""Secrets: made by AWS, never seen by people or in templates. docs/deploy.md says how each is rotated."""

from aws_cdk import RemovalPolicy, SecretValue
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from deploy.config import EDGE_REGION, NAME, Config

NOT_HEXADECIMAL = "ghijklmnopqrstuvwxyz"


class Secrets(Construct):
    """One of each, by what it opens; two of those that are changed by deploying: whoever knows the earlier one is let in, too."""

    def __init__(self, scope: Construct, id: str, *, config: Config, key: kms.IKey) -> None:
        super().__init__(scope, id)
        self._key = key
        # 64 hexadecimal digits, as the service wants it. It is never rotated: with another one, players are strangers.
        self.player_hash_key = self._secret("player-hash-key", length=64, hexadecimal=True)
        self.monitor = self._secret("database/monitor")
        self.grafana_reader = self._secret("database/grafana-reader")
        self.grafana_state = self._secret("database/grafana")
        # Grafana encrypts with it what it keeps of passwords of data sources.
        self.grafana_key = self._secret("grafana/key")
        self.caches = [self._secret(f"cache/{number}") for number in config.valid_secrets]
        self.cache = self.caches[-1]
        for number in config.valid_secrets:
            # CloudFront is set up from another region, and names there what is here: so it is there, too.
            self._secret(f"origin-header/{number}", regions=[EDGE_REGION])

    @property
    def all(self) -> list[secretsmanager.Secret]:
        return [child for child in self.node.children if isinstance(child, secretsmanager.Secret)]

    def _secret(
        self, name: str, length: int = 40, hexadecimal: bool = False, regions: list[str] | None = None
    ) -> secretsmanager.Secret:
        return secretsmanager.Secret(
            self,
            name.title().replace("/", "").replace("-", ""),
            secret_name=f"{NAME}/{name}",
            encryption_key=self._key,
            generate_secret_string=secretsmanager.SecretStringGenerator(
                password_length=length,
                exclude_punctuation=True,
                exclude_uppercase=hexadecimal,
                exclude_characters=NOT_HEXADECIMAL if hexadecimal else None,
                require_each_included_type=not hexadecimal,
            ),
            replica_regions=[secretsmanager.ReplicaRegion(region=region) for region in regions or []],
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )


def origin_value(number: int) -> str:
    """What CloudFront sends and the load balancer wants: read by CloudFormation when it sets them up, in no template.

    It reads again only what is written otherwise: hence the number.
    """
    return SecretValue.secrets_manager(f"{NAME}/origin-header/{number}").unsafe_unwrap()
