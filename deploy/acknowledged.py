"""What cdk-nag's rules of AWS Solutions find and is left so, each with its reason. `make synth` fails on all else."""

from dataclasses import dataclass, replace

from deploy.config import REGION, Config

ONE_LOG = "of the log of access logs there are no access logs"
RESOURCELESS = "AWS knows no resource for these actions"
OWN_POLICY = "AWS's own policy for its own service, which AWS keeps up with what the service does"
MADE_OF_NAMES = "tasks, revisions and experiments get their names when they start; the rest of the name is ours"
BY_JOB = "the job `rotate` changes it each month: no function of AWS Lambda is needed for it"
BY_NUMBER = "SECRETS counts it up (docs/deploy.md): who uses it goes over to the next one in a deployment"


@dataclass(frozen=True)
class Left:
    """`rule` at the construct `path` of a stack."""

    stack: str
    path: str
    rule: str
    why: str


def left(config: Config) -> list[Left]:
    """All of them."""
    found = [
        *_network(),
        *_data(config),
        *_programs(),
        *_wildcards(config),
        Left("edge", "EdgeLogs", "S1", ONE_LOG),
        Left("edge", "Edge/Play", "CFR1", "games are played everywhere"),
        Left("edge", "Edge/Grafana", "CFR1", "engineers travel; they sign in with a second factor"),
        Left("operations", "Admins/Group", "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/ReadOnlyAccess]", "they look at all"),
        *(
            _aws_s_own("operations", "LostZone/Role", f"AWSFaultInjectionSimulator{part}Access")
            for part in ("Network", "ECS", "RDS")
        ),
    ]
    if not config.is_production:
        found += [
            Left("data", "Database/Instance", "RDS10", "`make destroy` takes staging away; a last snapshot stays"),
            Left("services", "SignIn/Pool", "COG8", "staging has no real people"),
        ]
    if config.database_snapshot:
        found.append(Left("data", "Database/Instance", "RDS2", "it is encrypted as the snapshot is, which is ours"))
    return [replace(one, stack=config.stack_name(one.stack)) for one in found]


def _aws_s_own(stack: str, path: str, policy: str) -> Left:
    return Left(stack, path, f"IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/{policy}]", OWN_POLICY)


def _network() -> list[Left]:
    acls = [("Public", "Ingress", 4), ("Public", "Egress", 4), ("Private", "Ingress", 3), ("Private", "Egress", 3)]
    entries = [f"{acl}Acl/{way}{number}" for acl, way, count in acls for number in range(1, count + 1)]
    return [
        *(
            Left("network", f"Network/{path}", "VPC3", "the requirements want network ACLs")
            for path in ["PublicAcl", "PrivateAcl", *entries]
        ),
        Left("network", "TrafficLogs", "S1", ONE_LOG),
        Left("network", "Groups/Balancer", "EC23", "port 80 is answered with the way to 443 only, and 443 is CloudFront's"),
        *(
            Left("network", f"Groups/{name}", "EC23", "from everywhere only the word that a packet was too large")
            for name in ("App", "Infrastructure", "Grafana")
        ),
    ]


def _data(config: Config) -> list[Left]:
    return [
        Left("data", "Secrets/PlayerHashKey", "SMG4", "never changed: with another one, players are strangers"),
        Left("data", "Secrets/GrafanaKey", "SMG4", "never changed: with another one, Grafana cannot read what it has encrypted"),
        *(Left("data", f"Secrets/Database{name}", "SMG4", BY_JOB) for name in ("Monitor", "GrafanaReader", "Grafana")),
        *(
            Left("data", f"Secrets/{name}{number}", "SMG4", BY_NUMBER)
            for name in ("Cache", "OriginHeader")
            for number in config.valid_secrets
        ),
        Left("services", "SignIn/Secret", "SMG4", "it is Cognito's, which changes it only with the client"),
        Left("data", "Database/Instance", "RDS11", "another port hides nothing: only the groups' clients reach it"),
        Left("data", "Cache/Group", "AEC6", "users with passwords instead, which came after AUTH"),
        _aws_s_own("data", "Database/Monitoring", "AmazonRDSEnhancedMonitoringRole"),
        _aws_s_own("data", "Backups/Role", "AWSBackupServiceRolePolicyForBackup"),
    ]


def _programs() -> list[Left]:
    """Settings are told as variables, secrets are not."""
    jobs = ("migrate", "backup", "rotate", "console")
    services = ("prometheus", "alertmanager", "loki", "jaeger", "grafana", "infrastructure", "gamepulse-app")
    programs = [("jobs", name) for name in jobs] + [("services", name) for name in services]
    silent = {"console"}  # it is told nothing
    return [
        *(Left(stack, f"{name}/Execution/DefaultPolicy", "IAM5[Resource::*]", RESOURCELESS) for stack, name in programs),
        *(
            Left(stack, f"{name}/Task", "ECS2", "settings, which are no secrets: those come by ECS from Secrets Manager")
            for stack, name in programs
            if name not in silent
        ),
        Left("jobs", "console/Role/DefaultPolicy", "IAM5[Resource::*]", RESOURCELESS),
        Left("services", "grafana/Role/DefaultPolicy", "IAM5[Resource::*]", RESOURCELESS),
    ]


def _wildcards(config: Config) -> list[Left]:
    """tests/deploy/test_iam.py has a reason for each action of them."""
    at = f"{REGION}:{config.account}"
    exported = f"{config.stack_name('data')}:ExportsOutputFnGetAttBuckets"
    cluster = f"{config.stack_name('jobs')}:ExportsOutputRefClusterEB0386A796A0E3FE"
    admins, workflows = "Admins/Policy", "Workflows/Role/DefaultPolicy"
    secret = f"arn:aws:secretsmanager:{at}:secret:gamepulse/{config.environment}"
    found = [
        ("jobs", "migrate/Role/DefaultPolicy", f"{secret}/key/*", "keys are named after games"),
        ("jobs", "migrate/Role/DefaultPolicy", f"{secret}/admin/*", "passwords are named after accounts"),
        ("jobs", "backup/Role/DefaultPolicy", f"{exported}Backups18324FCDArn2F07337D/prometheus/*", "all of its own folder"),
        *(
            ("jobs", f"Schedules/{job}-role/DefaultPolicy", f"arn:aws:ecs:{at}:task/<ClusterEB0386A7>/*", MADE_OF_NAMES)
            for job in ("backup", "rotate")
        ),
        ("services", "loki/Role/DefaultPolicy", f"{exported}LokiB2CD8821Arn6738D49F/*", "all of its own bucket"),
        ("operations", admins, "*", RESOURCELESS),
        ("operations", workflows, "*", RESOURCELESS),
        ("operations", admins, f"arn:aws:iam::{config.account}:mfa/*", "whoever enrols a device names it"),
        ("operations", admins, f"arn:aws:ssm:*:{config.account}:session/<aws:username>-*", "one's own sessions"),
        ("operations", admins, f"arn:aws:cognito-idp:{at}:userpool/*", "the account has one pool, of another stack"),
    ]
    jobs = [f"arn:aws:ecs:{at}:task-definition/{job}:*" for job in ("backup", "console", "migrate", "rotate")]
    tries = [f"arn:aws:fis:{at}:{kind}/*" for kind in ("experiment-template", "experiment")]
    of_cluster = [f"arn:aws:ecs:{at}:{kind}/{cluster}/*" for kind in ("service", "task")]
    found += [("operations", admins, resource, MADE_OF_NAMES) for resource in [*jobs, *tries, *of_cluster]]
    tagged = f"arn:aws:ecs:{at}:task/<ClusterEB0386A7>/*"
    found += [("jobs", f"Schedules/{job}-role/DefaultPolicy", tagged, MADE_OF_NAMES) for job in ("backup", "rotate")]
    migrate, task = jobs[2], of_cluster[1]
    found += [("operations", workflows, resource, MADE_OF_NAMES) for resource in (migrate, task)]
    return [Left(stack, path, f"IAM5[Resource::{resource}]", why) for stack, path, resource, why in found]
