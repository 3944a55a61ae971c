"""Who may do what in the account: engineers, with a second factor, and GitHub's workflows."""

from aws_cdk import Duration, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from deploy.config import EDGE_REGION, IMAGES, NAME, REGION, Config

BOOTSTRAP = "hnb659fds"
"""CDK's own name for what `cdk bootstrap` makes."""
GITHUB = "token.actions.githubusercontent.com"

# With a password alone one can look at oneself and enrol a second factor; nothing else.
ENROL = (
    "iam:GetUser",
    "iam:ChangePassword",
    "iam:ListMFADevices",
    "iam:ListVirtualMFADevices",
    "iam:CreateVirtualMFADevice",
    "iam:EnableMFADevice",
    "iam:ResyncMFADevice",
    "sts:GetSessionToken",
)


def of_account(config: Config, service: str) -> iam.IPrincipal:
    """A service of AWS, but only for this account: asked by another, it must not use our role."""
    return iam.PrincipalWithConditions(iam.ServicePrincipal(service), {"StringEquals": {"aws:SourceAccount": config.account}})


class Admins(Construct):
    """The group `gamepulse-admins`: it deploys by CDK's roles, looks, restarts, and adds people to Grafana."""

    def __init__(self, scope: Construct, id: str, *, config: Config, cluster: str, jobs: list[iam.IRole]) -> None:
        """`jobs`: the roles of tasks that they may start."""
        super().__init__(scope, id)
        stack = Stack.of(self)
        group = iam.Group(
            self,
            "Group",
            group_name=f"{NAME}-admins",
            managed_policies=[iam.ManagedPolicy.from_aws_managed_policy_name("ReadOnlyAccess")],
        )
        statements = [*_second_factor(config), *_work(config, stack, cluster, jobs)]
        iam.ManagedPolicy(self, "Policy", managed_policy_name=f"{NAME}-admins", groups=[group], statements=statements)


def _second_factor(config: Config) -> list[iam.PolicyStatement]:
    """Without one, enrol one; nothing else."""
    own = [f"arn:aws:iam::{config.account}:user/${{aws:username}}", f"arn:aws:iam::{config.account}:mfa/*"]
    return [
        iam.PolicyStatement(
            sid="NothingWithoutSecondFactor",
            effect=iam.Effect.DENY,
            not_actions=list(ENROL),
            resources=["*"],
            conditions={"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}},
        ),
        iam.PolicyStatement(
            sid="SecondFactor",
            actions=[action for action in ENROL if action.startswith("iam:") and action != "iam:ListVirtualMFADevices"],
            resources=own,
        ),
        iam.PolicyStatement(sid="SecondFactors", actions=["iam:ListVirtualMFADevices", "sts:GetSessionToken"], resources=["*"]),
    ]


def _work(config: Config, stack: Stack, cluster: str, jobs: list[iam.IRole]) -> list[iam.PolicyStatement]:
    """Of an engineer."""
    tasks = stack.format_arn(service="ecs", resource="task", resource_name=f"{cluster}/*")
    return [
        iam.PolicyStatement(sid="Deploy", actions=["sts:AssumeRole"], resources=deploying(config)),
        iam.PolicyStatement(
            sid="Jobs",
            actions=["ecs:RunTask"],
            resources=[
                stack.format_arn(service="ecs", resource="task-definition", resource_name=f"{job}:*")
                for job in ("migrate", "backup", "rotate", "console")
            ],
        ),
        iam.PolicyStatement(
            sid="JobsRoles",
            actions=["iam:PassRole"],
            resources=[role.role_arn for role in jobs],
            conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        ),
        iam.PolicyStatement(
            sid="Restart",
            actions=["ecs:UpdateService", "ecs:StopTask"],
            resources=[stack.format_arn(service="ecs", resource="service", resource_name=f"{cluster}/*"), tasks],
        ),
        # Port forwarding through the task `console`, and nothing like a shell.
        iam.PolicyStatement(
            sid="Console",
            actions=["ssm:StartSession"],
            resources=[tasks, f"arn:aws:ssm:{REGION}::document/AWS-StartPortForwardingSessionToRemoteHost"],
            conditions={"BoolIfExists": {"ssm:SessionDocumentAccessCheck": "true"}},
        ),
        iam.PolicyStatement(
            sid="ConsoleEnd",
            actions=["ssm:TerminateSession", "ssm:ResumeSession"],
            resources=[f"arn:aws:ssm:*:{config.account}:session/${{aws:username}}-*"],
        ),
        iam.PolicyStatement(
            sid="People",
            actions=[
                f"cognito-idp:{action}"
                for action in (
                    "AdminCreateUser", "AdminDeleteUser", "AdminDisableUser", "AdminEnableUser", "AdminAddUserToGroup",
                    "AdminRemoveUserFromGroup", "AdminResetUserPassword", "AdminUserGlobalSignOut", "AdminSetUserMFAPreference",
                )
            ],
            resources=[stack.format_arn(service="cognito-idp", resource="userpool", resource_name="*")],
        ),
        iam.PolicyStatement(
            sid="LoseAZone",
            actions=["fis:StartExperiment", "fis:StopExperiment"],
            resources=[f"arn:aws:fis:{REGION}:{config.account}:{one}/*" for one in ("experiment-template", "experiment")],
        ),
    ]  # fmt: skip


class Workflows(Construct):
    """GitHub's workflows of one repository and one environment, without keys: they prove who they are by OIDC."""

    def __init__(self, scope: Construct, id: str, *, config: Config, cluster: str, migrate: list[iam.IRole]) -> None:
        """`migrate`: the roles of the task that they start."""
        super().__init__(scope, id)
        stack = Stack.of(self)
        provider = iam.CfnOIDCProvider(self, "GitHub", url=f"https://{GITHUB}", client_id_list=["sts.amazonaws.com"])
        role = iam.Role(
            self,
            "Role",
            role_name=f"{NAME}-deploy",
            description="GitHub's workflows, in the environment of this name",
            max_session_duration=Duration.hours(2),
            assumed_by=iam.WebIdentityPrincipal(
                provider.attr_arn,
                {
                    "StringEquals": {
                        f"{GITHUB}:aud": "sts.amazonaws.com",
                        f"{GITHUB}:sub": f"repo:{config.repository}:environment:{config.environment}",
                    }
                },
            ),
        )
        for statement in _deployment(config, stack, cluster, migrate):
            role.add_to_policy(statement)


def _deployment(config: Config, stack: Stack, cluster: str, migrate: list[iam.IRole]) -> list[iam.PolicyStatement]:
    """Push, migrate, deploy, and look what came of it."""
    return [
        iam.PolicyStatement(sid="Deploy", actions=["sts:AssumeRole"], resources=deploying(config)),
        iam.PolicyStatement(sid="Login", actions=["ecr:GetAuthorizationToken"], resources=["*"]),
        iam.PolicyStatement(
            sid="Push",
            actions=[
                f"ecr:{action}"
                for action in (
                    "BatchCheckLayerAvailability",
                    "BatchGetImage",
                    "CompleteLayerUpload",
                    "DescribeImages",
                    "DescribeImageScanFindings",
                    "GetDownloadUrlForLayer",
                    "InitiateLayerUpload",
                    "PutImage",
                    "UploadLayerPart",
                )
            ],
            resources=[f"arn:aws:ecr:{REGION}:{config.account}:repository/{NAME}/{name}" for name in IMAGES],
        ),
        iam.PolicyStatement(
            sid="Migrate",
            actions=["ecs:RunTask"],
            resources=[stack.format_arn(service="ecs", resource="task-definition", resource_name="migrate:*")],
        ),
        iam.PolicyStatement(
            sid="MigrateRoles",
            actions=["iam:PassRole"],
            resources=[one.role_arn for one in migrate],
            conditions={"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
        ),
        iam.PolicyStatement(
            sid="Watch",
            actions=["ecs:DescribeTasks", "ecs:StopTask"],  # a migration that takes too long is stopped
            resources=[stack.format_arn(service="ecs", resource="task", resource_name=f"{cluster}/*")],
        ),
        iam.PolicyStatement(
            sid="Look",
            actions=[
                "cloudformation:DescribeStacks",
                "ec2:DescribeManagedPrefixLists",
                "ec2:DescribeSubnets",
                "ec2:DescribeSecurityGroups",
                "route53:GetHostedZone",
                "inspector2:ListCoverage",
                "inspector2:ListFindings",
                "logs:GetLogEvents",
            ],
            resources=["*"],
        ),
    ]


def deploying(config: Config) -> list[str]:
    """CDK's own roles, which `cdk bootstrap` made: CloudFormation's rights are theirs, not whoever assumes them."""
    return [
        f"arn:aws:iam::{config.account}:role/cdk-{BOOTSTRAP}-{kind}-role-{config.account}-{region}"
        for kind in ("deploy", "file-publishing", "lookup")
        for region in (REGION, EDGE_REGION)
    ]
