"""Who may do what in AWS: for each role, out of all that is asked below, exactly what its table says, and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.deploy.iam import allowed
from tests.deploy.templates import ACCOUNT, REGION, Json, Stacks, listed, statements

type Table = dict[str, set[str]]
"""Of each action, on what."""

IMAGES = ("gamepulse", "operations", "collector", "prometheus", "alertmanager", "loki", "jaeger", "grafana", "someone-elses")
SECRETS = (
    "player-hash-key", "database/monitor", "database/grafana-reader", "database/grafana", "grafana/key", "grafana/client", "cache/0",
    "cache/1", "origin-header/0", "origin-header/1", "someone-elses",
)  # fmt: skip
BUCKETS = ("loki-logs", "backups", "traffic-logs", "edge-logs", "api-calls", "someone-elses")
TASKS = (
    "gamepulse-app",
    "infrastructure",
    "prometheus",
    "alertmanager",
    "loki",
    "jaeger",
    "grafana",
    "migrate",
    "backup",
    "rotate",
    "console",
)
FOLDERS = {
    "prometheus-data": "FilesSystemPrometheusData",
    "jaeger-data": "FilesSystemJaegerData",
    "grafana-config": "FilesSystemGrafanaConfig",
}
KMS = ("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:CreateGrant", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion")
ECR_PULL = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
ECR_PUSH = ("ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage")
READ_SECRET = ("secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue")
WRITE_SECRET = ("secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage")
# Nobody whose role is made here may do these, on anything.
NEVER = (
    "iam:CreateUser", "iam:CreateAccessKey", "iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:UpdateAssumeRolePolicy",
    "organizations:LeaveOrganization", "ec2:RunInstances", "ec2:AuthorizeSecurityGroupIngress", "ec2:CreateVpcPeeringConnection",
    "rds:DeleteDBInstance", "rds:ModifyDBInstance", "rds:CreateDBSnapshot", "rds:ModifyDBSnapshotAttribute", "elasticache:DeleteReplicationGroup",
    "s3:DeleteBucket", "s3:PutBucketPolicy", "s3:PutBucketPublicAccessBlock", "s3:DeleteObjectVersion", "s3:ListAllMyBuckets",
    "secretsmanager:DeleteSecret", "secretsmanager:PutResourcePolicy", "secretsmanager:CreateSecret", "ecs:RegisterTaskDefinition",
    "ecs:ExecuteCommand", "ecs:CreateService", "ecs:DeleteCluster", "elasticfilesystem:DeleteFileSystem", "elasticfilesystem:ClientRootAccess",
    "backup:DeleteRecoveryPoint", "backup:DeleteBackupVault", "ecr:DeleteRepository", "ecr:PutImageTagMutability", "ecr:BatchDeleteImage",
    "logs:DeleteLogGroup", "logs:DeleteLogStream", "cloudtrail:StopLogging", "cloudfront:UpdateDistribution", "wafv2:UpdateWebACL",
    "lambda:CreateFunction", "lambda:InvokeFunction", "cloudformation:UpdateStack", "ssm:SendCommand", "ssm:GetParameter",
    "cognito-idp:AdminSetUserPassword", "cognito-idp:UpdateUserPool", "route53:ChangeResourceRecordSets", "sns:SetTopicAttributes",
    "sns:DeleteTopic", "dynamodb:GetItem", "events:PutRule", "fis:CreateExperimentTemplate",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One thing that somebody might want to do; `target` is what the tables call it."""

    action: str
    target: str
    resource: str
    context: dict[str, str] = field(default_factory=dict)


def asked(stacks: Stacks) -> Iterator[Asked]:
    at = f"{REGION}:{ACCOUNT}"
    for action in NEVER:
        yield Asked(action, "*", "*")
    for image in IMAGES:
        yield from (Asked(action, image, f"arn:aws:ecr:{at}:repository/gamepulse/{image}") for action in ECR_PULL + ECR_PUSH)
    yield Asked("ecr:GetAuthorizationToken", "*", "*")
    secrets = {name: f"arn:aws:secretsmanager:{at}:secret:gamepulse/{name}-AbCdEf" for name in SECRETS}
    for name, arn in (secrets | {"master": f"arn:aws:secretsmanager:{at}:secret:rds!db-master-AbCdEf"}).items():
        yield from (Asked(action, name, arn) for action in READ_SECRET + WRITE_SECRET + ("secretsmanager:CreateSecret",))
    for path, name in (
        (f"{stacks.environment}/key/prove", "a game's key"), ("another/key/prove", "another environment's key"),
        (f"{stacks.environment}/admin/mina", "an admin's password"), ("another/admin/mina", "another environment's admin's password"),
    ):  # fmt: skip
        arn = f"arn:aws:secretsmanager:{at}:secret:gamepulse/{path}-AbCdEf"
        yield from (Asked(action, name, arn) for action in READ_SECRET + WRITE_SECRET + ("secretsmanager:CreateSecret",))
    for action in KMS:
        yield Asked(action, "directly", f"arn:aws:kms:{at}:key/Key")
        for service in ("secretsmanager", "s3", "sns", "rds"):
            yield Asked(
                action, f"by {service}", f"arn:aws:kms:{at}:key/Key", {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"}
            )
        yield Asked(
            action, "another's", "arn:aws:kms:ap-northeast-2:999999999999:key/Key", {"kms:ViaService": f"s3.{REGION}.amazonaws.com"}
        )
    yield from _asked_of_files(at)
    yield from _asked_of_ecs(stacks, at)
    for topic in ("alerts", "alarms"):
        yield Asked("sns:Publish", topic, f"arn:aws:sns:{at}:gamepulse-{stacks.environment}-{topic}")
    for user in ("gamepulse_service", "gamepulse", "gamepulse_admin", "gamepulse_monitor", "grafana"):
        yield Asked(
            "rds-db:connect", user, f"arn:aws:rds-db:{at}:dbuser:gamepulse-{stacks.environment}-database.DbiResourceId/{user}"
        )
    for action in (
        "cloudwatch:GetMetricData",
        "cloudwatch:ListMetrics",
        "cloudwatch:PutMetricData",
        "cloudwatch:DisableAlarmActions",
    ):
        yield Asked(action, "*", "*")
    for action in ("CreateControlChannel", "CreateDataChannel", "OpenControlChannel", "OpenDataChannel"):
        yield Asked(f"ssmmessages:{action}", "*", "*")
    for kind in ("deploy", "file-publishing", "lookup", "cfn-exec", "image-publishing"):
        yield Asked("sts:AssumeRole", kind, f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-{kind}-role-{ACCOUNT}-{REGION}")
    yield Asked("sts:AssumeRole", "administrator", f"arn:aws:iam::{ACCOUNT}:role/administrator")


def _asked_of_files(at: str) -> Iterator[Asked]:
    secure = {"aws:SecureTransport": "true", "s3:TlsVersion": "1.3"}
    for name in BUCKETS:
        bucket = f"arn:aws:s3:::gamepulse-{name}-{ACCOUNT}"
        for folder in ("prometheus", "others"):
            yield Asked("s3:ListBucket", f"{name}/{folder}", bucket, {**secure, "s3:prefix": f"{folder}/"})
            for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:PutObjectAcl"):
                yield Asked(action, f"{name}/{folder}", f"{bucket}/{folder}/one", secure)
                yield Asked(
                    action, f"{name}/{folder} without TLS", f"{bucket}/{folder}/one", {**secure, "aws:SecureTransport": "false"}
                )
    system = f"arn:aws:elasticfilesystem:{at}:file-system/FilesSystem"
    for action in ("elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite", "elasticfilesystem:ClientRootAccess"):
        through = {"aws:SecureTransport": "true", "elasticfilesystem:AccessedViaMountTarget": "true"}
        yield Asked(action, "all", system, through)
        for folder, point in FOLDERS.items():
            by_point = {**through, "elasticfilesystem:AccessPointArn": f"arn:aws:elasticfilesystem:{at}:access-point/{point}"}
            yield Asked(action, folder, system, by_point)
            yield Asked(action, f"{folder} without TLS", system, {**by_point, "aws:SecureTransport": "false"})


def _asked_of_ecs(stacks: Stacks, at: str) -> Iterator[Asked]:
    cluster = f"gamepulse-{stacks.environment}-cluster"
    for task in TASKS:
        yield Asked("ecs:RunTask", task, f"arn:aws:ecs:{at}:task-definition/{task}:1")
        for action in ("logs:CreateLogStream", "logs:PutLogEvents"):
            yield Asked(action, task, f"arn:aws:logs:{at}:log-group:/gamepulse/{stacks.environment}/{task}:log-stream:one")
    for service in (*TASKS[:7], "someone-elses"):
        yield Asked("ecs:UpdateService", service, f"arn:aws:ecs:{at}:service/{cluster}/{service}")
    yield Asked("ecs:UpdateService", "of another cluster", f"arn:aws:ecs:{at}:service/another/grafana")
    yield Asked("ecs:DescribeTasks", "*", f"arn:aws:ecs:{at}:task/{cluster}/1")
    yield Asked("ecs:StopTask", "*", f"arn:aws:ecs:{at}:task/{cluster}/1")
    for where, resource in {
        "": f"task/{cluster}/1",
        " of another cluster": "task/another/1",
        " of a service": f"service/{cluster}/grafana",
    }.items():
        yield Asked(
            "ecs:TagResource", f"when it is started{where}", f"arn:aws:ecs:{at}:{resource}", {"ecs:CreateAction": "RunTask"}
        )
    yield Asked("ecs:TagResource", "later", f"arn:aws:ecs:{at}:task/{cluster}/1")
    for one in stacks.all("IAM::Role"):
        yield Asked("iam:PassRole", one.name, one.arn, {"iam:PassedToService": "ecs-tasks.amazonaws.com"})
        yield Asked("iam:PassRole", f"{one.name} to EC2", one.arn, {"iam:PassedToService": "ec2.amazonaws.com"})


def each(actions: tuple[str, ...], targets: set[str]) -> Table:
    return {action: set(targets) for action in actions}


def of_execution(task: str, images: set[str], secrets: set[str]) -> Table:
    """What ECS needs to start a task: its images, its secrets, its log."""
    table = each(ECR_PULL, images) | {"ecr:GetAuthorizationToken": {"*"}}
    table |= each(("logs:CreateLogStream", "logs:PutLogEvents"), {task})
    return table | each(READ_SECRET, secrets) | {"kms:Decrypt": {"by secretsmanager"}} if secrets else table


def starting(task: str) -> Table:
    return {"ecs:RunTask": {task}, "iam:PassRole": {f"{task}Role", f"{task}Execution"}}


MOUNT, WRITE = "elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"
DATABASE_SECRETS = {"database/monitor", "database/grafana-reader", "database/grafana"}
LOKI = {"loki-logs/prometheus", "loki-logs/others"}
SNAPSHOTS = {"backups/prometheus"}
ROLES: dict[str, Table] = {
    # What the programs themselves may do.
    "gamepulseappRole": {"rds-db:connect": {"gamepulse_service"}},
    "prometheusRole": {MOUNT: {"prometheus-data"}, WRITE: {"prometheus-data"}},
    "alertmanagerRole": {"sns:Publish": {"alerts"}, "kms:Decrypt": {"by sns"}, "kms:GenerateDataKey": {"by sns"}},
    "lokiRole": {
        **each(("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"), LOKI),
        **each(("kms:Decrypt", "kms:GenerateDataKey"), {"by s3"}),
    },
    "jaegerRole": {MOUNT: {"jaeger-data"}, WRITE: {"jaeger-data"}},
    "grafanaRole": {MOUNT: {"grafana-config"}, "cloudwatch:GetMetricData": {"*"}, "cloudwatch:ListMetrics": {"*"}},
    "infrastructureRole": {},
    "migrateRole": each(("secretsmanager:CreateSecret", "secretsmanager:PutSecretValue"), {"a game's key", "an admin's password"}),
    "backupRole": {
        MOUNT: {"prometheus-data"}, WRITE: {"prometheus-data"},
        **each(("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"), SNAPSHOTS),
        **each(("kms:Decrypt", "kms:GenerateDataKey"), {"by s3"}),
    },
    "rotateRole": {
        **each(READ_SECRET + WRITE_SECRET, DATABASE_SECRETS),
        **each(("kms:Decrypt", "kms:GenerateDataKey"), {"by secretsmanager"}),
        "ecs:UpdateService": {"infrastructure", "grafana"},
    },
    "consoleRole": {f"ssmmessages:{one}": {"*"} for one in ("CreateControlChannel", "CreateDataChannel", "OpenControlChannel", "OpenDataChannel")},
    # What ECS may do for them.
    "gamepulseappExecution": of_execution("gamepulse-app", {"gamepulse", "collector"}, {"player-hash-key", "cache/1"}),
    "infrastructureExecution": of_execution("infrastructure", {"collector"}, {"database/monitor", "cache/1"}),
    "prometheusExecution": of_execution("prometheus", {"prometheus", "operations"}, set()),
    "alertmanagerExecution": of_execution("alertmanager", {"alertmanager"}, set()),
    "lokiExecution": of_execution("loki", {"loki"}, set()),
    "jaegerExecution": of_execution("jaeger", {"jaeger"}, set()),
    "grafanaExecution": of_execution("grafana", {"grafana"}, {"database/grafana", "database/grafana-reader", "grafana/key", "grafana/client"}),
    "migrateExecution": of_execution("migrate", {"operations"}, {"master"} | DATABASE_SECRETS),
    "backupExecution": of_execution("backup", {"operations"}, set()),
    "rotateExecution": of_execution("rotate", {"operations"}, set()),
    "consoleExecution": of_execution("console", {"operations"}, set()),
    # What starts jobs at their times.
    **{f"Schedules{job}role": starting(job) | {"ecs:TagResource": {"when it is started"}} for job in ("backup", "rotate")},
    # GitHub's workflows.
    "gamepulse-deploy": {
        "sts:AssumeRole": {"deploy", "file-publishing", "lookup"},
        "ecr:GetAuthorizationToken": {"*"},
        **each(ECR_PULL + ECR_PUSH, set(IMAGES) - {"someone-elses"}),
        **starting("migrate"),
        "ecs:DescribeTasks": {"*"},
        "ecs:StopTask": {"*"},
    },
    # AWS's own services, by AWS's own policies (MANAGED).
    "LostZoneRole": {},
    "DatabaseMonitoring": {},
    "BackupsRole": {},
}  # fmt: skip
MANAGED = {
    "LostZoneRole": {f"AWSFaultInjectionSimulator{one}Access" for one in ("Network", "ECS", "RDS")},
    "DatabaseMonitoring": {"AmazonRDSEnhancedMonitoringRole"},
    "BackupsRole": {"AWSBackupServiceRolePolicyForBackup"},
}


def policies(stacks: Stacks, role: str) -> list[Json]:
    """Of a role, its own."""
    apart = [
        one.properties
        for one in stacks.all("IAM::Policy") + stacks.all("IAM::ManagedPolicy")
        if role in one.properties.get("Roles", [])
    ]
    [has] = [one.properties for one in stacks.all("IAM::Role") if one.name == role]
    return [one["PolicyDocument"] for one in apart + has.get("Policies", [])]


def of_resources(stacks: Stacks) -> dict[str, list[Json]]:
    """The policies of buckets and of the file system, by the beginning of what they are about."""
    found = {
        f"arn:aws:s3:::{one.properties['Bucket']}": [one.properties["PolicyDocument"]] for one in stacks.all("S3::BucketPolicy")
    }
    return found | {
        one.arn: [one.properties["FileSystemPolicy"]]
        for one in stacks.all("EFS::FileSystem")
        if "FileSystemPolicy" in one.properties
    }


def test_each_role_may_do_what_its_table_says_and_nothing_else(stacks: Stacks) -> None:
    about = of_resources(stacks)
    questions = [(one, about.get(one.resource.split("/prometheus/")[0].split("/others/")[0], [])) for one in asked(stacks)]
    for one in stacks.all("IAM::Role"):
        own = policies(stacks, one.name)
        found: Table = {}
        for question, theirs in questions:
            if allowed([*own, *theirs], question.action, question.resource, question.context, principal=one.arn):
                found.setdefault(question.action, set()).add(question.target)
        assert found == ROLES.get(one.name), one.name


def test_the_roles_are_those_of_the_tables(stacks: Stacks) -> None:
    """A task role and an execution role for each program, none of them shared."""
    assert {one.name for one in stacks.all("IAM::Role")} == set(ROLES)
    tasks = [(one.properties["TaskRoleArn"], one.properties["ExecutionRoleArn"]) for one in stacks.all("ECS::TaskDefinition")]
    assert len({role for both in tasks for role in both}) == 2 * len(TASKS)


def test_aws_s_own_policies_are_given_only_to_aws_s_own_services(stacks: Stacks) -> None:
    found = {
        one.name: {arn.rsplit("/", 1)[1] for arn in one.properties["ManagedPolicyArns"]}
        for one in stacks.all("IAM::Role")
        if one.properties.get("ManagedPolicyArns")
    }
    assert found == MANAGED


# Wildcards, and why each is there. Of the resource it is written what can be exchanged for `*`.
WILDCARDS = {
    ("ecr:GetAuthorizationToken", "*"): "AWS knows no resource for it: the token opens what ECR's other actions allow",
    ("cloudwatch:GetMetricData", "*"): "AWS knows no resource for it: Grafana shows metrics of the account",
    ("cloudwatch:ListMetrics", "*"): "AWS knows no resource for it",
    ("ssmmessages:CreateControlChannel", "*"): "AWS knows no resource for it: a task's own channels of ECS Exec",
    ("ssmmessages:CreateDataChannel", "*"): "as CreateControlChannel",
    ("ssmmessages:OpenControlChannel", "*"): "as CreateControlChannel",
    ("ssmmessages:OpenDataChannel", "*"): "as CreateControlChannel",
    **{(f"s3:{one}", "loki-logs/*"): "all objects of the bucket are Loki's" for one in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload")},
    **{(f"s3:{one}", "backups/prometheus/*"): "all snapshots" for one in ("GetObject", "PutObject", "AbortMultipartUpload")},
    **{(f"secretsmanager:{one}", "secret:gamepulse/environment/key/*"): "keys are named after games" for one in ("CreateSecret", "PutSecretValue")},
    **{(f"secretsmanager:{one}", "secret:gamepulse/environment/admin/*"): "passwords are named after accounts" for one in ("CreateSecret", "PutSecretValue")},
    ("ecs:RunTask", "task-definition/migrate:*"): "each version is a new revision",
    ("ecs:RunTask", "task-definition/backup:*"): "each version is a new revision",
    ("ecs:RunTask", "task-definition/rotate:*"): "each version is a new revision",
    ("ecs:RunTask", "task-definition/console:*"): "each version is a new revision",
    ("ecs:DescribeTasks", "task/cluster/*"): "tasks get their names when they start; of our cluster",
    ("ecs:StopTask", "task/cluster/*"): "as DescribeTasks",
    ("ecs:TagResource", "task/cluster/*"): "as DescribeTasks: only when it is started",
    ("ecs:StopTask", "service/cluster/*"): "the statement is about services and tasks of our cluster",
    ("ecs:UpdateService", "service/cluster/*"): "admins restart any service of our cluster",
    ("ecs:UpdateService", "task/cluster/*"): "as StopTask",
    ("ssm:StartSession", "task/cluster/*"): "the task `console` has another name each time",
    ("ssm:TerminateSession", "session/${aws:username}-*"): "sessions get their names when they start; only one's own",
    ("ssm:ResumeSession", "session/${aws:username}-*"): "as TerminateSession",
    **{(f"cognito-idp:{one}", "userpool/*"): "the account has one pool, which another stack makes" for one in (
        "AdminCreateUser", "AdminDeleteUser", "AdminDisableUser", "AdminEnableUser", "AdminAddUserToGroup", "AdminRemoveUserFromGroup",
        "AdminResetUserPassword", "AdminUserGlobalSignOut", "AdminSetUserMFAPreference")},
    ("fis:StartExperiment", "experiment-template/*"): "the account has one template; experiments get their names when they start",
    ("fis:StartExperiment", "experiment/*"): "as above",
    ("fis:StopExperiment", "experiment-template/*"): "as above",
    ("fis:StopExperiment", "experiment/*"): "as above",
    **{(f"iam:{one}", "mfa/*"): "a device is named by whoever enrols it" for one in (
        "GetUser", "ChangePassword", "ListMFADevices", "CreateVirtualMFADevice", "EnableMFADevice", "ResyncMFADevice")},
    ("iam:ListVirtualMFADevices", "*"): "AWS knows no smaller resource for it",
    ("sts:GetSessionToken", "*"): "AWS knows no resource for it: by it a second factor is shown on the command line",
    **{(one, "*"): "reads what `make deploy` compares; AWS knows no resource for it, or it is named later" for one in (
        "cloudformation:DescribeStacks", "ec2:DescribeManagedPrefixLists", "ec2:DescribeSubnets", "ec2:DescribeSecurityGroups",
        "route53:GetHostedZone", "inspector2:ListCoverage", "inspector2:ListFindings", "logs:GetLogEvents")},
}  # fmt: skip


def test_each_wildcard_has_a_reason(stacks: Stacks) -> None:
    found = set()
    for one in stacks.all("IAM::Policy") + stacks.all("IAM::ManagedPolicy"):
        for statement in statements(one.properties["PolicyDocument"]):
            if statement["Effect"] == "Deny":
                continue
            assert "NotAction" not in statement and "NotResource" not in statement, one.name
            actions = listed(statement["Action"])
            assert not [action for action in actions if "*" in action], one.name
            for resource in listed(statement["Resource"]):
                if "*" in resource.removesuffix(":*" if ":log-group:" in resource else ""):  # as the ARN of a log group ends
                    short = resource.split(":", 5)[-1].removeprefix("gamepulse-").replace(f"-{ACCOUNT}", "")
                    short = short.replace(f"gamepulse-{stacks.environment}-cluster", "cluster")
                    found |= {(action, short.replace(f"/{stacks.environment}/", "/environment/")) for action in actions}
    assert found == set(WILDCARDS)
