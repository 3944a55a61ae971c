"""Who may look at Grafana: people of a Cognito pool, with a second factor. Only an admin adds people to it."""

from aws_cdk import Duration, RemovalPolicy, SecretValue
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from deploy.config import NAME, REGION, Config

GROUPS = ("admins", "operators", "viewers")


class SignIn(Construct):
    """Grafana as `client_id` with `client_secret`, and `url`, where the pages are on which people sign in."""

    def __init__(self, scope: Construct, id: str, *, config: Config, key: kms.IKey) -> None:
        super().__init__(scope, id)
        pool = cognito.UserPool(
            self,
            "Pool",
            user_pool_name=config.stack_name("people"),
            feature_plan=cognito.FeaturePlan.PLUS if config.is_production else cognito.FeaturePlan.ESSENTIALS,
            self_sign_up_enabled=False,
            sign_in_aliases=cognito.SignInAliases(email=True),
            sign_in_case_sensitive=False,
            mfa=cognito.Mfa.REQUIRED,
            mfa_second_factor=cognito.MfaSecondFactor(otp=True, sms=False),
            password_policy=cognito.PasswordPolicy(
                min_length=14,
                require_lowercase=True,
                require_uppercase=True,
                require_digits=True,
                require_symbols=True,
                temp_password_validity=Duration.days(2),
            ),
            account_recovery=cognito.AccountRecovery.EMAIL_ONLY,
            deletion_protection=config.is_production,
            removal_policy=RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if config.is_production else RemovalPolicy.DESTROY,
        )
        if config.is_production:
            users = pool.node.default_child
            assert isinstance(users, cognito.CfnUserPool)
            users.add_property_override("UserPoolAddOns.AdvancedSecurityMode", "ENFORCED")
        for name in GROUPS:
            cognito.CfnUserPoolGroup(self, name.capitalize(), user_pool_id=pool.user_pool_id, group_name=name)
        prefix = f"{NAME}-{config.account}"
        pool.add_domain("Domain", cognito_domain=cognito.CognitoDomainOptions(domain_prefix=prefix))
        self.url = f"https://{prefix}.auth.{REGION}.amazoncognito.com"
        client = pool.add_client(
            "Grafana",
            generate_secret=True,
            prevent_user_existence_errors=True,
            enable_token_revocation=True,
            auth_flows=cognito.AuthFlow(),
            o_auth=cognito.OAuthSettings(
                flows=cognito.OAuthFlows(authorization_code_grant=True),
                scopes=[cognito.OAuthScope.OPENID, cognito.OAuthScope.EMAIL, cognito.OAuthScope.PROFILE],
                callback_urls=[f"https://{config.grafana}/login/generic_oauth"],
                logout_urls=[f"https://{config.grafana}/login"],
            ),
            access_token_validity=Duration.hours(1),
            id_token_validity=Duration.hours(1),
            refresh_token_validity=Duration.hours(12),
        )
        self.client_id = client.user_pool_client_id
        made = client.node.default_child
        assert isinstance(made, cognito.CfnUserPoolClient)
        self.client_secret = secretsmanager.Secret(
            self,
            "Secret",
            secret_name=f"{NAME}/grafana/client",
            encryption_key=key,
            # By CloudFormation itself: CDK would ask for it with a Lambda function.
            secret_string_value=SecretValue.resource_attribute(made.attr_client_secret),
            removal_policy=RemovalPolicy.DESTROY,
        )
