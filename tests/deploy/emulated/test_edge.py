"""The way in: CloudFront, the web ACL, names, certificates, the load balancer, signing in."""

from typing import Any

import pytest

from tests.deploy.emulated.account import Account, Json

EDGE = "us-east-1"


@pytest.fixture(scope="module")
def secret(deployed: Account) -> str:
    return str(deployed.client("secretsmanager").get_secret_value(SecretId="gamepulse/origin-header/1")["SecretString"])


@pytest.fixture(scope="module")
def distributions(deployed: Account) -> dict[str, Json]:
    """Configurations, by the name that people use."""
    cloudfront = deployed.client("cloudfront", EDGE)
    found = cloudfront.list_distributions()["DistributionList"]["Items"]
    configs = [cloudfront.get_distribution_config(Id=one["Id"])["DistributionConfig"] for one in found]
    return {one["Aliases"]["Items"][0]: one for one in configs}


def test_cloudfront_is_the_only_one_who_knows_the_secret(distributions: dict[str, Json], secret: str) -> None:
    assert distributions.keys() == {"play.gamepulse.example", "grafana.gamepulse.example"}
    for one in distributions.values():
        [origin] = one["Origins"]["Items"]
        assert origin["DomainName"] == "origin.gamepulse.example"
        assert origin["CustomHeaders"]["Items"] == [{"HeaderName": "X-Origin-Secret", "HeaderValue": secret}]


def test_the_secret_is_in_both_regions(deployed: Account, secret: str) -> None:
    there = deployed.client("secretsmanager", EDGE).get_secret_value(SecretId="gamepulse/origin-header/1")
    assert there["SecretString"] == secret


def test_cloudfront_speaks_tls_both_ways(deployed: Account, distributions: dict[str, Json]) -> None:
    for one in distributions.values():
        assert one["ViewerCertificate"]["MinimumProtocolVersion"] == "TLSv1.2_2021"
        assert one["ViewerCertificate"]["SSLSupportMethod"] == "sni-only"
        certificate = deployed.client("acm", EDGE).describe_certificate(
            CertificateArn=one["ViewerCertificate"]["ACMCertificateArn"]
        )
        assert one["Aliases"]["Items"][0] in certificate["Certificate"]["SubjectAlternativeNames"]
        origin = one["Origins"]["Items"][0]["CustomOriginConfig"]
        assert origin["OriginProtocolPolicy"] == "https-only"
        assert origin["OriginSslProtocols"]["Items"] == ["TLSv1.2"]
        # CloudFront ends a connection before the load balancer does (60 s).
        assert origin["OriginKeepaliveTimeout"] == 55
        behaviours = [one["DefaultCacheBehavior"], *one["CacheBehaviors"].get("Items", [])]
        assert {behaviour["ViewerProtocolPolicy"] for behaviour in behaviours} == {"redirect-to-https"}


def test_only_files_of_the_page_are_cached(deployed: Account, distributions: dict[str, Json]) -> None:
    cloudfront = deployed.client("cloudfront", EDGE)
    not_cached = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"  # AWS's CachingDisabled
    assert {one["DefaultCacheBehavior"]["CachePolicyId"] for one in distributions.values()} == {not_cached}
    [static] = distributions["play.gamepulse.example"]["CacheBehaviors"]["Items"]
    assert (static["PathPattern"], static["AllowedMethods"]["Items"]) == ("/assets/*", ["GET", "HEAD"])
    policy = cloudfront.get_cache_policy(Id=static["CachePolicyId"])["CachePolicy"]["CachePolicyConfig"]
    assert (policy["MinTTL"], policy["MaxTTL"]) == (0, 31_536_000)
    assert not distributions["grafana.gamepulse.example"]["CacheBehaviors"].get("Items")


def test_the_service_is_told_where_a_player_is(deployed: Account, distributions: dict[str, Json]) -> None:
    behaviour = distributions["play.gamepulse.example"]["DefaultCacheBehavior"]
    answer = deployed.client("cloudfront", EDGE).get_origin_request_policy(Id=behaviour["OriginRequestPolicyId"])
    headers = answer["OriginRequestPolicy"]["OriginRequestPolicyConfig"]["HeadersConfig"]
    assert headers["HeaderBehavior"] == "allViewerAndWhitelistCloudFront"
    assert set(headers["Headers"]["Items"]) == {
        "CloudFront-Viewer-Address",
        "CloudFront-Viewer-Country",
        "CloudFront-Viewer-Country-Region",
        "CloudFront-Viewer-ASN",
    }
    assert len(behaviour["AllowedMethods"]["Items"]) == 7


def test_access_is_logged_without_cookies(distributions: dict[str, Json]) -> None:
    for name, one in distributions.items():
        logging = one["Logging"]
        assert logging["Bucket"] == "gamepulse-edge-logs-111122223333.s3.us-east-1.amazonaws.com"
        assert (logging["Enabled"], logging["IncludeCookies"]) == (True, False)
        assert logging["Prefix"] == f"{name.split('.')[0]}/"


def test_the_web_acl_blocks_floods_and_known_attacks_and_only_counts_what_games_and_dashboards_do(
    deployed: Account, distributions: dict[str, Json]
) -> None:
    waf = deployed.client("wafv2", EDGE)
    [listed] = waf.list_web_acls(Scope="CLOUDFRONT")["WebACLs"]
    assert {one["WebACLId"] for one in distributions.values()} == {listed["ARN"]}
    acl = waf.get_web_acl(Name=listed["Name"], Id=listed["Id"], Scope="CLOUDFRONT")["WebACL"]
    assert acl["DefaultAction"] == {"Allow": {}}
    rules = {one["Name"]: one for one in acl["Rules"]}
    assert list(rules) == [
        "AWSManagedRulesAmazonIpReputationList",
        "AWSManagedRulesKnownBadInputsRuleSet",
        "AWSManagedRulesCommonRuleSet",
        "NoUserAgent",
        "Bodies",
        "Rate",
    ]
    assert all(one["OverrideAction"] == {"None": {}} for name, one in rules.items() if name.startswith("AWS"))
    assert rules["NoUserAgent"]["Action"] == rules["Bodies"]["Action"] == {"Block": {}}
    counted = rules["AWSManagedRulesCommonRuleSet"]["Statement"]["ManagedRuleGroupStatement"]["RuleActionOverrides"]
    assert {one["Name"]: one["ActionToUse"] for one in counted} == {
        name: {"Count": {}}
        for name in ("SizeRestrictions_BODY", "NoUserAgent_HEADER", "CrossSiteScripting_BODY", "GenericRFI_BODY")
    }
    rate = rules["Rate"]["Statement"]["RateBasedStatement"]
    assert (rate["Limit"], rate["EvaluationWindowSec"], rate["AggregateKeyType"]) == (100_000, 300, "IP")
    answer = rules["Rate"]["Action"]["Block"]["CustomResponse"]
    assert answer == {"ResponseCode": 429, "ResponseHeaders": [{"Name": "Retry-After", "Value": "60"}]}
    # Samples would hold what players send.
    assert not any(one["VisibilityConfig"]["SampledRequestsEnabled"] for one in [acl, *rules.values()])


def test_names_lead_to_cloudfront_and_its_origin_to_the_load_balancer(deployed: Account) -> None:
    zone = deployed.client("route53").list_resource_record_sets(HostedZoneId="Z0123456789")["ResourceRecordSets"]
    aliases = {(one["Name"], one["Type"]): one["AliasTarget"]["DNSName"].rstrip(".") for one in zone if "AliasTarget" in one}
    found = deployed.client("cloudfront", EDGE).list_distributions()["DistributionList"]["Items"]
    at = {one["Aliases"]["Items"][0]: one["DomainName"] for one in found}
    [balancer] = deployed.client("elbv2").describe_load_balancers()["LoadBalancers"]
    play, grafana = "play.gamepulse.example", "grafana.gamepulse.example"
    assert aliases.keys() == {(f"{name}.", kind) for name in (play, grafana) for kind in ("A", "AAAA")} | {
        ("origin.gamepulse.example.", "A")
    }
    for name in (play, grafana):
        assert aliases[f"{name}.", "A"] == aliases[f"{name}.", "AAAA"] == at[name]
    assert aliases["origin.gamepulse.example.", "A"].removeprefix("dualstack.") == balancer["DNSName"]


@pytest.fixture(scope="module")
def elb(deployed: Account) -> Any:
    return deployed.client("elbv2")


@pytest.fixture(scope="module")
def listeners(elb: Any) -> dict[int, Json]:
    [balancer] = elb.describe_load_balancers()["LoadBalancers"]
    return {one["Port"]: one for one in elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]}


def test_the_load_balancer_is_strict_and_logs(deployed: Account, elb: Any) -> None:
    [balancer] = elb.describe_load_balancers()["LoadBalancers"]
    assert (balancer["Scheme"], balancer["Type"]) == ("internet-facing", "application")
    subnets = {one["SubnetId"]: one["CidrBlock"] for one in deployed.client("ec2").describe_subnets()["Subnets"]}
    assert {subnets[one["SubnetId"]] for one in balancer["AvailabilityZones"]} == {"10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"}
    told = elb.describe_load_balancer_attributes(LoadBalancerArn=balancer["LoadBalancerArn"])["Attributes"]
    wanted = {
        "routing.http.desync_mitigation_mode": "strictest",
        "routing.http.drop_invalid_header_fields.enabled": "true",
        "routing.http.xff_header_processing.mode": "append",
        "idle_timeout.timeout_seconds": "60",
        "access_logs.s3.enabled": "true",
        "access_logs.s3.bucket": "gamepulse-traffic-logs-111122223333",
        # Staging is destroyed by a command; production's is protected.
        "deletion_protection.enabled": "false",
    }
    assert wanted.items() <= {one["Key"]: one["Value"] for one in told}.items()


def test_http_leads_to_https_and_https_refuses_what_has_not_the_secret(deployed: Account, listeners: dict[int, Json]) -> None:
    assert listeners.keys() == {80, 443}
    [action] = listeners[80]["DefaultActions"]
    assert action["Type"] == "redirect"
    assert {"Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301"}.items() <= action["RedirectConfig"].items()
    assert (listeners[443]["Protocol"], listeners[443]["SslPolicy"]) == ("HTTPS", "ELBSecurityPolicy-TLS13-1-2-2021-06")
    [action] = listeners[443]["DefaultActions"]
    assert (action["Type"], action["FixedResponseConfig"]["StatusCode"]) == ("fixed-response", "403")
    [certificate] = listeners[443]["Certificates"]
    found = deployed.client("acm").describe_certificate(CertificateArn=certificate["CertificateArn"])["Certificate"]
    names = {"origin.gamepulse.example", "play.gamepulse.example", "grafana.gamepulse.example"}
    assert set(found["SubjectAlternativeNames"]) == names


def test_with_the_secret_each_host_leads_to_its_program(
    deployed: Account, elb: Any, listeners: dict[int, Json], secret: str
) -> None:
    earlier = deployed.client("secretsmanager").get_secret_value(SecretId="gamepulse/origin-header/0")["SecretString"]
    groups = {one["TargetGroupArn"]: one for one in elb.describe_target_groups()["TargetGroups"]}
    leads = {}
    for rule in elb.describe_rules(ListenerArn=listeners[443]["ListenerArn"])["Rules"]:
        if rule["IsDefault"]:
            continue
        by = {one["Field"]: one for one in rule["Conditions"]}
        assert by.keys() == {"host-header", "http-header"}
        assert by["http-header"]["HttpHeaderConfig"] == {"HttpHeaderName": "X-Origin-Secret", "Values": [earlier, secret]}
        [action] = rule["Actions"]
        [host] = by["host-header"]["HostHeaderConfig"]["Values"]
        leads[host] = groups[action["TargetGroupArn"]]
    assert {host: (one["Port"], one["HealthCheckPath"]) for host, one in leads.items()} == {
        "play.gamepulse.example": (8080, "/health/ready"),
        "grafana.gamepulse.example": (3000, "/api/health"),
    }
    for one in leads.values():
        assert (one["TargetType"], one["Protocol"]) == ("ip", "HTTP")
        told = elb.describe_target_group_attributes(TargetGroupArn=one["TargetGroupArn"])["Attributes"]
        attributes = {attribute["Key"]: attribute["Value"] for attribute in told}
        assert attributes["deregistration_delay.timeout_seconds"] == "15"
        assert attributes["load_balancing.algorithm.type"] == "least_outstanding_requests"


def test_people_sign_in_with_a_second_factor_and_only_admins_add_people(deployed: Account) -> None:
    cognito = deployed.client("cognito-idp")
    [listed] = cognito.list_user_pools(MaxResults=10)["UserPools"]
    pool = cognito.describe_user_pool(UserPoolId=listed["Id"])["UserPool"]
    assert pool["AdminCreateUserConfig"]["AllowAdminCreateUserOnly"] is True
    assert pool["Policies"]["PasswordPolicy"]["MinimumLength"] == 14
    factors = cognito.get_user_pool_mfa_config(UserPoolId=listed["Id"])
    assert (factors["MfaConfiguration"], factors["SoftwareTokenMfaConfiguration"]) == ("ON", {"Enabled": True})
    assert "SmsMfaConfiguration" not in factors
    assert {one["GroupName"] for one in cognito.list_groups(UserPoolId=listed["Id"])["Groups"]} == {
        "admins",
        "operators",
        "viewers",
    }


def test_grafana_is_a_client_of_the_pool_with_the_secret_that_it_is_told(deployed: Account) -> None:
    cognito = deployed.client("cognito-idp")
    [pool] = cognito.list_user_pools(MaxResults=10)["UserPools"]
    [listed] = cognito.list_user_pool_clients(UserPoolId=pool["Id"], MaxResults=10)["UserPoolClients"]
    client = cognito.describe_user_pool_client(UserPoolId=pool["Id"], ClientId=listed["ClientId"])["UserPoolClient"]
    assert client["CallbackURLs"] == ["https://grafana.gamepulse.example/login/generic_oauth"]
    assert (client["AllowedOAuthFlows"], client["AllowedOAuthFlowsUserPoolClient"]) == (["code"], True)
    told = deployed.client("secretsmanager").get_secret_value(SecretId="gamepulse/grafana/client")["SecretString"]
    assert told == client["ClientSecret"]
    [container] = deployed.client("ecs").describe_task_definition(taskDefinition="grafana")["taskDefinition"][
        "containerDefinitions"
    ]
    environment = {one["name"]: one["value"] for one in container["environment"]}
    assert environment["GF_AUTH_GENERIC_OAUTH_CLIENT_ID"] == client["ClientId"]
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
