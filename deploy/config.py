"""What a deployment is: the numbers of the requirements, and the two sizes that there are to choose from."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

NAME = "gamepulse"
REGION = "ap-northeast-2"
EDGE_REGION = "us-east-1"
"""Where CloudFront's certificates and web ACL have to be."""

VPC_CIDR = "10.0.0.0/16"
# The requirements name the third zone `ap-northeast-2`, which is the region: `2c` is meant.
ZONES = ("ap-northeast-2a", "ap-northeast-2b", "ap-northeast-2c")
PUBLIC_CIDRS = ("10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24")
PRIVATE_CIDRS = ("10.0.10.0/24", "10.0.20.0/24", "10.0.30.0/24")
# AWS's own lists of addresses, in this region. CloudFormation takes their ids only; `make deploy` compares them with the names.
PREFIX_LISTS = {"com.amazonaws.global.cloudfront.origin-facing": "pl-22a6434b", "com.amazonaws.ap-northeast-2.s3": "pl-78a54011"}

INTERNAL_DOMAIN = "gamepulse.internal"
"""Names of the tasks inside the VPC, by Cloud Map."""
IDLE_S = 60
"""The load balancer closes a connection that was idle so long; the service keeps it longer."""
DEREGISTRATION_S = 15
"""A task that is to stop gets no new requests, and ends those that it has, for so long."""
IMAGES = ("gamepulse", "operations", "collector", "prometheus", "alertmanager", "loki", "jaeger", "grafana")
SOURCE_HEADER = "X-Origin-Secret"
"""CloudFront says by it that it is ours."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """CPU in units of 1/1024 vCPU, memory in MiB, disk in GiB (21 is the least that can be asked for)."""

    cpu: int
    memory_mib: int
    disk_gib: int = 21


APP = Task(cpu=1024, memory_mib=2048)
"""The requirements'."""
JOB = Task(cpu=256, memory_mib=512)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is. There are two, and nothing else to choose."""

    database_class: str
    database_gib: int
    cache_class: str
    app_tasks_min: int
    app_tasks_max: int
    prometheus: Task
    alertmanager: Task
    loki: Task
    jaeger: Task
    grafana: Task
    infrastructure: Task
    budget_usd: int
    """A month; from half of it on people are told."""


SIZES = {
    "small": Size(
        database_class="m7g.large",
        database_gib=100,
        cache_class="cache.t4g.small",
        app_tasks_min=2,
        app_tasks_max=6,
        prometheus=Task(cpu=1024, memory_mib=4096, disk_gib=40),
        alertmanager=Task(cpu=256, memory_mib=512),
        loki=Task(cpu=512, memory_mib=2048, disk_gib=30),
        jaeger=Task(cpu=512, memory_mib=2048),
        grafana=Task(cpu=512, memory_mib=1024),
        infrastructure=Task(cpu=256, memory_mib=512),
        budget_usd=5_000,
    ),
    "large": Size(
        database_class="r7g.2xlarge",
        database_gib=1_000,
        cache_class="cache.m7g.large",
        app_tasks_min=3,
        app_tasks_max=70,
        prometheus=Task(cpu=2048, memory_mib=8192, disk_gib=60),
        alertmanager=Task(cpu=256, memory_mib=512),
        loki=Task(cpu=2048, memory_mib=4096, disk_gib=60),
        jaeger=Task(cpu=1024, memory_mib=4096),
        grafana=Task(cpu=512, memory_mib=1024),
        infrastructure=Task(cpu=256, memory_mib=512),
        budget_usd=20_000,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """One environment. Each has an AWS account of its own: so buckets can be named after it."""

    environment: Literal["staging", "production"]
    account: str
    domain: str
    """People and games use play.<domain>, people grafana.<domain>. Its hosted zone is in this account."""
    hosted_zone_id: str
    version: str
    """The tag of every image. Tags are immutable; each account builds its own images, from the same commit."""
    email: str
    """Whom alerts, alarms and the budget tell."""
    size: Size
    repository: str
    """owner/name at GitHub, whose workflows may deploy, and where alerts' runbooks are read."""
    database_snapshot: str = ""
    """Of which snapshot the database is made, instead of empty. Once said, it stays said (docs/deploy.md)."""

    secrets: int = 1
    """Counted up to change the secrets of which two are there, this one and the one before it (docs/deploy.md)."""

    def __post_init__(self) -> None:
        """Raises ValueError, naming what is wrong."""
        patterns = {
            "environment": "staging|production",
            "account": r"\d{12}",
            "domain": r"([a-z0-9-]+\.)+[a-z]{2,}",
            "hosted_zone_id": "[A-Z0-9]+",
            "version": r"\w[\w.-]{0,127}",
            "email": r"[^@\s]+@[^@\s]+",
            "repository": r"[\w.-]+/[\w.-]+",
            "database_snapshot": "([A-Za-z][A-Za-z0-9:-]*)?",
        }
        for name, pattern in patterns.items():
            if not re.fullmatch(pattern, getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}, which does not match {pattern}")

        if self.secrets < 1:
            raise ValueError(f"secrets is {self.secrets}, and must be 1 or more")

    @property
    def is_production(self) -> bool:
        return self.environment == "production"

    @property
    def play(self) -> str:
        return f"play.{self.domain}"

    @property
    def grafana(self) -> str:
        return f"grafana.{self.domain}"

    @property
    def origin(self) -> str:
        """The load balancer's own name: CloudFront asks it, and nobody else gets an answer."""
        return f"origin.{self.domain}"

    @property
    def valid_secrets(self) -> tuple[int, int]:
        """What is asked with the later one, or still with the earlier one, is answered."""
        return self.secrets - 1, self.secrets

    @property
    def database_name(self) -> str:
        """RDS's name for it. What was made of a snapshot has one of its own: the earlier database is still there."""
        suffix = f"-{hashlib.sha256(self.database_snapshot.encode()).hexdigest()[:8]}" if self.database_snapshot else ""
        return f"{self.stack_name('database')}{suffix}"

    def stack_name(self, part: str) -> str:
        return f"{NAME}-{self.environment}-{part}"

    def bucket_name(self, content: str) -> str:
        return f"{NAME}-{content}-{self.account}"


def read_config(variables: Mapping[str, str]) -> Config:
    """From the variables ENV, SIZE, AWS_ACCOUNT … Raises ValueError, naming what is wrong."""
    size = variables.get("SIZE", "small")
    if size not in SIZES:
        raise ValueError(f"SIZE is {size!r}, and must be one of {', '.join(SIZES)}")
    names = ("ENV", "AWS_ACCOUNT", "DOMAIN", "HOSTED_ZONE_ID", "VERSION", "EMAIL", "REPOSITORY")
    missing = [name for name in names if not variables.get(name)]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}")
    secrets = variables.get("SECRETS", "1")
    if not secrets.isdecimal():
        raise ValueError(f"SECRETS is {secrets!r}, and must be a number")
    env, account, domain, zone, version, email, repository = (variables[name] for name in names)
    return Config(
        environment=env,  # type: ignore[arg-type]  # Config checks it
        account=account,
        domain=domain,
        hosted_zone_id=zone,
        version=version,
        email=email,
        repository=repository,
        size=SIZES[size],
        secrets=int(secrets),
        database_snapshot=variables.get("DATABASE_SNAPSHOT", ""),
    )
