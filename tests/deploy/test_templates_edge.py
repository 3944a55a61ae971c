"""What stands towards people and games: the load balancer, CloudFront, the web ACL, names, and who may sign in."""

import posixpath
from urllib.parse import quote

import pytest

from tests.deploy.templates import Json, Stacks, pairs
from tests.deploy.test_templates_network import PUBLIC
from tests.deploy.test_templates_tasks import containers, environment, services

CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
"""AWS's own policy of this name."""
SECRETS = [f"{{{{resolve:secretsmanager:gamepulse/origin-header/{number}:SecretString:::}}}}" for number in (0, 1)]
SECRET_HEADER = ("X-Origin-Secret", SECRETS[1])


def balancer(stacks: Stacks) -> Json:
    return stacks.one("ElasticLoadBalancingV2::LoadBalancer")


def attributes(stacks: Stacks) -> dict[str, str]:
    return pairs(balancer(stacks)["LoadBalancerAttributes"])


def distributions(stacks: Stacks) -> dict[str, Json]:
    """By host name."""
    found = {}
    for one in stacks.all("CloudFront::Distribution"):
        [name] = one.properties["DistributionConfig"]["Aliases"]
        found[name] = one.properties["DistributionConfig"]
    return found


# The load balancer


def test_the_load_balancer_stands_in_all_public_subnets(stacks: Stacks) -> None:
    assert (balancer(stacks)["Type"], balancer(stacks)["Scheme"]) == ("application", "internet-facing")
    assert set(balancer(stacks)["Subnets"]) == set(PUBLIC)


def test_port_80_only_leads_to_443(stacks: Stacks) -> None:
    [action] = stacks.one("ElasticLoadBalancingV2::Listener", Port=80)["DefaultActions"]
    assert action == {"Type": "redirect", "RedirectConfig": {"Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301"}}


def test_port_443_takes_tls_1_2_or_newer(stacks: Stacks) -> None:
    listener = stacks.one("ElasticLoadBalancingV2::Listener", Port=443)
    assert (listener["Protocol"], listener["SslPolicy"]) == ("HTTPS", "ELBSecurityPolicy-TLS13-1-2-2021-06")
    assert len(stacks.all("ElasticLoadBalancingV2::Listener")) == 2


def test_what_does_not_come_through_our_cloudfront_is_refused(stacks: Stacks) -> None:
    [action] = stacks.one("ElasticLoadBalancingV2::Listener", Port=443)["DefaultActions"]
    assert (action["Type"], action["FixedResponseConfig"]["StatusCode"]) == ("fixed-response", "403")
    for one in stacks.all("ElasticLoadBalancingV2::ListenerRule"):
        header = next(each["HttpHeaderConfig"] for each in one.properties["Conditions"] if each["Field"] == "http-header")
        assert (header["HttpHeaderName"], header["Values"]) == ("X-Origin-Secret", SECRETS)


def test_each_host_leads_to_its_program(stacks: Stacks) -> None:
    """The service, and Grafana for people; no other console."""
    groups = {one.name: one.properties for one in stacks.all("ElasticLoadBalancingV2::TargetGroup")}
    found = {}
    for one in stacks.all("ElasticLoadBalancingV2::ListenerRule"):
        [host] = next(each["HostHeaderConfig"]["Values"] for each in one.properties["Conditions"] if each["Field"] == "host-header")
        [action] = one.properties["Actions"]
        group = groups[action["TargetGroupArn"]]
        [program] = [
            name
            for name, has in services(stacks).items()
            if [each["TargetGroupArn"] for each in has.get("LoadBalancers", [])] == [action["TargetGroupArn"]]
        ]
        found[host] = (program, group["Protocol"], group["Port"], group["HealthCheckPath"])
    assert found == {
        "play.gamepulse.example": ("gamepulse-app", "HTTP", 8080, "/health/ready"),
        "grafana.gamepulse.example": ("grafana", "HTTP", 3000, "/api/health"),
    }


def test_a_task_that_is_not_well_gets_no_requests(stacks: Stacks) -> None:
    for one in stacks.all("ElasticLoadBalancingV2::TargetGroup"):
        has = one.properties
        assert (has["HealthCheckIntervalSeconds"], has["HealthCheckTimeoutSeconds"]) == (10, 5)
        assert (has["HealthyThresholdCount"], has["UnhealthyThresholdCount"], has["Matcher"]) == (2, 3, {"HttpCode": "200"})
        assert has["TargetType"] == "ip"
    assert services(stacks)["gamepulse-app"]["HealthCheckGracePeriodSeconds"] == 90
    assert services(stacks)["grafana"]["HealthCheckGracePeriodSeconds"] == 180


def test_requests_go_to_who_has_fewest(stacks: Stacks) -> None:
    for one in stacks.all("ElasticLoadBalancingV2::TargetGroup"):
        has = pairs(one.properties["TargetGroupAttributes"])
        assert (has["load_balancing.algorithm.type"], has["stickiness.enabled"]) == ("least_outstanding_requests", "false")


def test_no_request_is_understood_in_two_ways(stacks: Stacks) -> None:
    has = attributes(stacks)
    assert has["routing.http.desync_mitigation_mode"] == "strictest"
    assert has["routing.http.drop_invalid_header_fields.enabled"] == "true"
    assert has["routing.http.xff_header_processing.mode"] == "append"
    assert has["routing.http.preserve_host_header.enabled"] == "true"


def test_the_load_balancer_logs_requests_and_is_not_deleted_by_accident(stacks: Stacks) -> None:
    has = attributes(stacks)
    assert (has["access_logs.s3.enabled"], has["access_logs.s3.bucket"]) == ("true", "gamepulse-traffic-logs-111122223333")
    assert has["deletion_protection.enabled"] == {"staging": "false", "production": "true"}[stacks.environment]


def test_the_service_believes_what_cloudfront_says_of_viewers(stacks: Stacks) -> None:
    assert environment(containers(stacks)["gamepulse-app", "gamepulse-app"])["GAMEPULSE_EDGE"] == "cloudfront"


def test_the_service_believes_addresses_of_the_load_balancer_only(stacks: Stacks) -> None:
    told = environment(containers(stacks)["gamepulse-app", "gamepulse-app"])
    assert set(told["GAMEPULSE_TRUSTED_PROXIES"].split(",")) == set(PUBLIC)


# CloudFront


def test_play_and_grafana_have_a_distribution_each(stacks: Stacks) -> None:
    assert set(distributions(stacks)) == {"play.gamepulse.example", "grafana.gamepulse.example"}
    assert {one.stack for one in stacks.all("CloudFront::Distribution")} == {"edge"}


def test_cloudfront_takes_tls_1_2_or_newer_and_leads_http_to_it(stacks: Stacks) -> None:
    for host, one in distributions(stacks).items():
        has = one["ViewerCertificate"]
        assert (has["MinimumProtocolVersion"], has["SslSupportMethod"]) == ("TLSv1.2_2021", "sni-only"), host
        assert has["AcmCertificateArn"] == "EdgeCertificate"
        behaviours = [one["DefaultCacheBehavior"], *one.get("CacheBehaviors", [])]
        assert {each["ViewerProtocolPolicy"] for each in behaviours} == {"redirect-to-https"}, host


def test_cloudfront_asks_the_load_balancer_over_tls_with_the_secret(stacks: Stacks) -> None:
    for host, one in distributions(stacks).items():
        [origin] = one["Origins"]
        assert origin["DomainName"] == "origin.gamepulse.example", host
        has = origin["CustomOriginConfig"]
        assert (has["OriginProtocolPolicy"], has["OriginSSLProtocols"]) == ("https-only", ["TLSv1.2"]), host
        assert [(each["HeaderName"], each["HeaderValue"]) for each in origin["OriginCustomHeaders"]] == [SECRET_HEADER], host


def test_cloudfront_says_from_which_country_and_network_a_player_is(stacks: Stacks) -> None:
    policies = {one.name: one.properties["OriginRequestPolicyConfig"] for one in stacks.all("CloudFront::OriginRequestPolicy")}
    for host, one in distributions(stacks).items():
        policy = policies[one["DefaultCacheBehavior"]["OriginRequestPolicyId"]]
        assert policy["HeadersConfig"]["HeaderBehavior"] == "allViewerAndWhitelistCloudFront", host
        assert {"CloudFront-Viewer-Address", "CloudFront-Viewer-Country", "CloudFront-Viewer-ASN"} <= set(
            policy["HeadersConfig"]["Headers"]
        ), host


def test_only_the_page_s_files_are_kept_by_cloudfront(stacks: Stacks) -> None:
    play, grafana = (distributions(stacks)[f"{name}.gamepulse.example"] for name in ("play", "grafana"))
    for one in (play, grafana):
        assert one["DefaultCacheBehavior"]["CachePolicyId"] == CACHING_DISABLED
        assert "POST" in one["DefaultCacheBehavior"]["AllowedMethods"]
    [files] = play["CacheBehaviors"]
    assert (files["PathPattern"], files["AllowedMethods"], files["CachePolicyId"]) == ("/assets/*", ["GET", "HEAD"], "EdgeStatic")
    assert "CacheBehaviors" not in grafana
    policy = stacks.one("CloudFront::CachePolicy")["CachePolicyConfig"]
    assert (policy["MinTTL"], policy["DefaultTTL"], policy["MaxTTL"]) == (0, 0, 31_536_000), "as the service says"
    assert policy["ParametersInCacheKeyAndForwardedToOrigin"]["CookiesConfig"] == {"CookieBehavior": "none"}


def test_cloudfront_logs_requests_without_cookies(stacks: Stacks) -> None:
    for host, one in distributions(stacks).items():
        assert one["Logging"]["Bucket"] == "gamepulse-edge-logs-111122223333.RegionalDomainName", host
        assert one["Logging"]["IncludeCookies"] is False, host


# The web ACL


def rules(stacks: Stacks) -> dict[str, Json]:
    return {one["Name"]: one for one in stacks.one("WAFv2::WebACL")["Rules"]}


def test_all_requests_pass_the_web_acl(stacks: Stacks) -> None:
    acl = stacks.one("WAFv2::WebACL")
    assert (acl["Scope"], acl["DefaultAction"]) == ("CLOUDFRONT", {"Allow": {}})
    assert [one["WebACLId"] for one in distributions(stacks).values()] == [
        "arn:aws:wafv2:webacl:us-east-1:111122223333:EdgeAcl"
    ] * 2


def test_the_web_acl_has_aws_s_rules(stacks: Stacks) -> None:
    managed = {name: one for name, one in rules(stacks).items() if "ManagedRuleGroupStatement" in one["Statement"]}
    assert set(managed) == {
        "AWSManagedRulesAmazonIpReputationList",
        "AWSManagedRulesKnownBadInputsRuleSet",
        "AWSManagedRulesCommonRuleSet",
    }
    for name, one in managed.items():
        assert one["OverrideAction"] == {"None": {}}, name
        assert (
            one["Statement"]["ManagedRuleGroupStatement"]["VendorName"],
            one["Statement"]["ManagedRuleGroupStatement"]["Name"],
        ) == ("AWS", name)


def test_these_of_aws_s_rules_only_count(stacks: Stacks) -> None:
    """That about sizes, since a batch may have 256 KiB; and those that have exceptions."""
    counted = {
        (name, override["Name"]): override["ActionToUse"]
        for name, one in rules(stacks).items()
        for override in one["Statement"].get("ManagedRuleGroupStatement", {}).get("RuleActionOverrides", [])
    }
    names = ("SizeRestrictions_BODY", "NoUserAgent_HEADER", "CrossSiteScripting_BODY", "GenericRFI_BODY")
    assert counted == {("AWSManagedRulesCommonRuleSet", name): {"Count": {}} for name in names}


def holds(statement: Json, host: str, path: str, labels: set[str]) -> bool:
    """For a request, as far as our own statements go (AWS WAF, "Rule statements")."""
    match statement:
        case {"AndStatement": {"Statements": several}}:
            return all(holds(one, host, path, labels) for one in several)
        case {"OrStatement": {"Statements": several}}:
            return any(holds(one, host, path, labels) for one in several)
        case {"NotStatement": {"Statement": one}}:
            return not holds(one, host, path, labels)
        case {"LabelMatchStatement": {"Scope": "LABEL", "Key": key}}:
            return key.removeprefix("awswaf:managed:aws:core-rule-set:") in labels
        case {"ByteMatchStatement": one}:
            transformed = (one["FieldToMatch"], [each["Type"] for each in one["TextTransformations"]])
            if transformed == ({"SingleHeader": {"Name": "host"}}, ["LOWERCASE"]):
                value = host.lower()
            else:
                assert transformed == ({"UriPath": {}}, ["NORMALIZE_PATH"])
                value = posixpath.normpath(path) + ("/" if path.endswith("/") else "")
            wanted: str = one["SearchString"]
            return value == wanted if one["PositionalConstraint"] == "EXACTLY" else value.startswith(wanted)
    raise AssertionError(f"not known here: {statement}")


@pytest.mark.parametrize(
    ("host", "path", "found", "blocked"),
    [
        ("play", "/v1/reports", "", False),
        ("play", "/v1/reports", "NoUserAgent_Header", False),  # a game's own client
        ("PLAY", "/v1/reports", "NoUserAgent_Header", False),
        ("play", "/v1/reports", "SizeRestrictions_Body", False),
        ("play", "/v1/reports/more", "NoUserAgent_Header", True),
        ("play", "/v1/reports/../live", "NoUserAgent_Header", True),
        ("play", "/", "NoUserAgent_Header", True),
        ("grafana", "/v1/reports", "NoUserAgent_Header", True),
        ("play", "/v1/reports", "CrossSiteScripting_Body", True),
        ("play", "/v1/reports", "GenericRFI_Body", True),
        ("grafana", "/api/dashboards/db", "CrossSiteScripting_Body", False),  # a text panel with HTML
        ("grafana", "/api/ds/query", "GenericRFI_Body", False),  # an address in a query
        ("grafana", "/api/../login", "CrossSiteScripting_Body", True),
        ("grafana", "/login", "GenericRFI_Body", True),
        ("grafana", "/api/dashboards/db", "NoUserAgent_Header", True),
        ("play", "/api/dashboards/db", "CrossSiteScripting_Body", True),
    ],
)
def test_what_aws_s_rules_find_is_blocked_but_for_batches_and_dashboards(
    stacks: Stacks, host: str, path: str, found: str, blocked: bool
) -> None:
    ours = [one for one in rules(stacks).values() if one.get("Action") == {"Block": {}}]
    common = rules(stacks)["AWSManagedRulesCommonRuleSet"]
    assert all(one["Priority"] > common["Priority"] for one in ours), "labels are of rules before"
    assert any(holds(one["Statement"], f"{host}.gamepulse.example", path, {found}) for one in ours) is blocked


def test_many_players_behind_one_address_are_not_blocked(stacks: Stacks) -> None:
    """300 players of a PC bang send a batch each 10 s: 9,000 in five minutes. A carrier's address has ten times as many."""
    rate = rules(stacks)["Rate"]
    assert rate["Statement"]["RateBasedStatement"] == {"AggregateKeyType": "IP", "Limit": 100_000, "EvaluationWindowSec": 300}
    answer = rate["Action"]["Block"]["CustomResponse"]
    assert (answer["ResponseCode"], answer["ResponseHeaders"]) == (429, [{"Name": "Retry-After", "Value": "60"}])


def test_the_web_acl_keeps_no_requests(stacks: Stacks) -> None:
    """They would hold addresses of players."""
    seen = [one["VisibilityConfig"] for one in (stacks.one("WAFv2::WebACL"), *rules(stacks).values())]
    assert {(one["SampledRequestsEnabled"], one["CloudWatchMetricsEnabled"]) for one in seen} == {(False, True)}


# Names and certificates


def test_names_lead_to_cloudfront_and_cloudfront_to_the_load_balancer(stacks: Stacks) -> None:
    found = {
        (one.properties["Name"], one.properties["Type"]): one.properties["AliasTarget"]["DNSName"]
        for one in stacks.all("Route53::RecordSet")
    }
    assert found == {
        ("play.gamepulse.example.", "A"): "EdgePlay.DomainName",
        ("play.gamepulse.example.", "AAAA"): "EdgePlay.DomainName",
        ("grafana.gamepulse.example.", "A"): "EdgeGrafana.DomainName",
        ("grafana.gamepulse.example.", "AAAA"): "EdgeGrafana.DomainName",
        ("origin.gamepulse.example.", "A"): "dualstack.Balancer.DNSName",
    }


def test_certificates_are_for_these_names_and_renew_themselves(stacks: Stacks) -> None:
    found = {one.stack: one.properties for one in stacks.all("CertificateManager::Certificate")}
    names = {stack: {one["DomainName"], *one["SubjectAlternativeNames"]} for stack, one in found.items()}
    people = {"play.gamepulse.example", "grafana.gamepulse.example"}
    assert names == {"edge": people, "services": people | {"origin.gamepulse.example"}}
    assert {one["ValidationMethod"] for one in found.values()} == {"DNS"}


# Grafana's people


def test_grafana_s_people_need_a_second_factor_and_are_added_by_an_admin(stacks: Stacks) -> None:
    pool = stacks.one("Cognito::UserPool")
    assert (pool["MfaConfiguration"], pool["EnabledMfas"]) == ("ON", ["SOFTWARE_TOKEN_MFA"])
    assert pool["AdminCreateUserConfig"]["AllowAdminCreateUserOnly"] is True
    has = pool["Policies"]["PasswordPolicy"]
    assert has["MinimumLength"] == 14
    assert has["RequireLowercase"] is has["RequireUppercase"] is has["RequireNumbers"] is has["RequireSymbols"] is True
    assert pool["AccountRecoverySetting"]["RecoveryMechanisms"] == [{"Name": "verified_email", "Priority": 1}]
    assert pool["DeletionProtection"] == {"staging": "INACTIVE", "production": "ACTIVE"}[stacks.environment]


def test_only_grafana_signs_people_in_by_that_pool(stacks: Stacks) -> None:
    client = stacks.one("Cognito::UserPoolClient")
    assert (client["AllowedOAuthFlows"], client["GenerateSecret"]) == (["code"], True)
    assert client["CallbackURLs"] == ["https://grafana.gamepulse.example/login/generic_oauth"]
    assert client["PreventUserExistenceErrors"] == "ENABLED"
    assert {one.properties["GroupName"] for one in stacks.all("Cognito::UserPoolGroup")} == {"admins", "operators", "viewers"}


def test_grafana_has_no_other_way_in(stacks: Stacks) -> None:
    told = environment(containers(stacks)["grafana", "grafana"])
    assert {name: told[name] for name in told if name in {
        "GF_AUTH_ANONYMOUS_ENABLED", "GF_AUTH_DISABLE_LOGIN_FORM", "GF_AUTH_BASIC_ENABLED", "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION",
        "GF_AUTH_GENERIC_OAUTH_ENABLED", "GF_AUTH_GENERIC_OAUTH_USE_PKCE", "GF_AUTH_GENERIC_OAUTH_ROLE_ATTRIBUTE_STRICT",
    }} == {
        "GF_AUTH_ANONYMOUS_ENABLED": "false", "GF_AUTH_DISABLE_LOGIN_FORM": "true", "GF_AUTH_BASIC_ENABLED": "false",
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
        "GF_AUTH_GENERIC_OAUTH_ENABLED": "true", "GF_AUTH_GENERIC_OAUTH_USE_PKCE": "true", "GF_AUTH_GENERIC_OAUTH_ROLE_ATTRIBUTE_STRICT": "true",
    }  # fmt: skip
    pool = "https://gamepulse-111122223333.auth.ap-northeast-2.amazoncognito.com"
    assert told["GF_AUTH_GENERIC_OAUTH_AUTH_URL"] == f"{pool}/oauth2/authorize"
    assert told["GF_AUTH_SIGNOUT_REDIRECT_URL"].endswith(quote("https://grafana.gamepulse.example/login", safe=""))
    assert (told["GF_SECURITY_COOKIE_SECURE"], told["GF_SERVER_ROOT_URL"]) == ("true", "https://grafana.gamepulse.example/")
