"""CloudFront in front of the load balancer, and a web ACL in front of that. All of it is in us-east-1."""

from aws_cdk import Duration
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_cloudfront as cloudfront
from aws_cdk import aws_cloudfront_origins as origins
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_route53_targets as targets
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_wafv2 as waf
from constructs import Construct

from deploy.config import IDLE_S, SOURCE_HEADER, Config
from deploy.secrets import origin_value

# One address may be a PC bang of 300 players, or a carrier's; each sends every 10 s. In five minutes that is 9,000 requests.
# The service has limits of its own for keys and sessions; this one is against floods.
REQUESTS_IN_5_MIN = 100_000
COMMON = "AWSManagedRulesCommonRuleSet"
MANAGED = ("AWSManagedRulesAmazonIpReputationList", "AWSManagedRulesKnownBadInputsRuleSet", COMMON)
# Of those, what only counts. A batch may have 256 KiB, the rule about sizes has 8. What the others find is blocked
# by rules of ours, which have exceptions.
COUNTED = {COMMON: ("SizeRestrictions_BODY", "NoUserAgent_HEADER", "CrossSiteScripting_BODY", "GenericRFI_BODY")}
LABEL = "awswaf:managed:aws:core-rule-set"
"""Begins the labels by which COMMON tells what it has found."""
INGEST_PATH, GRAFANA_API = "/v1/reports", "/api/"
STATIC_PATHS = ("/assets/*",)


class WebAcl(Construct):
    """AWS's own rules, and a limit for each address."""

    def __init__(self, scope: Construct, id: str, *, config: Config) -> None:
        super().__init__(scope, id)
        rules = [_managed(number, name) for number, name in enumerate(MANAGED)]
        rate = waf.CfnWebACL.RateBasedStatementProperty(aggregate_key_type="IP", limit=REQUESTS_IN_5_MIN, evaluation_window_sec=300)
        rules += [
            # A game's HTTP client often says no name. Only batches may come so.
            _blocking(len(MANAGED), "NoUserAgent", ["NoUserAgent_Header"], _is(config.play, "EXACTLY", INGEST_PATH)),
            # Dashboards have HTML and links in them, queries `<` and addresses. Grafana answers only who has signed in there.
            _blocking(
                len(MANAGED) + 1,
                "Bodies",
                ["CrossSiteScripting_Body", "GenericRFI_Body"],
                _is(config.grafana, "STARTS_WITH", GRAFANA_API),
            ),
        ]
        rules.append(
            waf.CfnWebACL.RuleProperty(
                name="Rate",
                priority=len(rules),
                action=waf.CfnWebACL.RuleActionProperty(
                    block=waf.CfnWebACL.BlockActionProperty(
                        custom_response=waf.CfnWebACL.CustomResponseProperty(
                            response_code=429,
                            response_headers=[waf.CfnWebACL.CustomHTTPHeaderProperty(name="Retry-After", value="60")],
                        )
                    )
                ),
                statement=waf.CfnWebACL.StatementProperty(rate_based_statement=rate),
                visibility_config=_visible("Rate"),
            )
        )
        self.arn = waf.CfnWebACL(
            self,
            "Acl",
            name=config.stack_name("acl"),
            scope="CLOUDFRONT",
            default_action=waf.CfnWebACL.DefaultActionProperty(allow=waf.CfnWebACL.AllowActionProperty()),
            rules=rules,
            visibility_config=_visible("Acl"),
        ).attr_arn


def _managed(number: int, name: str) -> waf.CfnWebACL.RuleProperty:
    counted = [
        waf.CfnWebACL.RuleActionOverrideProperty(
            name=rule, action_to_use=waf.CfnWebACL.RuleActionProperty(count=waf.CfnWebACL.CountActionProperty())
        )
        for rule in COUNTED.get(name, ())
    ]
    group = waf.CfnWebACL.ManagedRuleGroupStatementProperty(vendor_name="AWS", name=name, rule_action_overrides=counted or None)
    return waf.CfnWebACL.RuleProperty(
        name=name,
        priority=number,
        override_action=waf.CfnWebACL.OverrideActionProperty(none={}),
        statement=waf.CfnWebACL.StatementProperty(managed_rule_group_statement=group),
        visibility_config=_visible(name),
    )


def _blocking(number: int, name: str, labels: list[str], but_for: waf.CfnWebACL.StatementProperty) -> waf.CfnWebACL.RuleProperty:
    """Blocks what AWS's rules have counted and labelled so, unless it is what may come so."""
    statement = waf.CfnWebACL.StatementProperty
    found = [
        statement(label_match_statement=waf.CfnWebACL.LabelMatchStatementProperty(scope="LABEL", key=f"{LABEL}:{label}"))
        for label in labels
    ]
    one = found[0] if len(found) == 1 else statement(or_statement=waf.CfnWebACL.OrStatementProperty(statements=found))
    other = statement(not_statement=waf.CfnWebACL.NotStatementProperty(statement=but_for))
    return waf.CfnWebACL.RuleProperty(
        name=name,
        priority=number,
        action=waf.CfnWebACL.RuleActionProperty(block=waf.CfnWebACL.BlockActionProperty()),
        statement=statement(and_statement=waf.CfnWebACL.AndStatementProperty(statements=[one, other])),
        visibility_config=_visible(name),
    )


def _is(host: str, how: str, path: str) -> waf.CfnWebACL.StatementProperty:
    """A request for this path of this host; not one that only becomes so, by `..` or the like."""

    def matches(field: waf.CfnWebACL.FieldToMatchProperty, how: str, text: str, as_: str) -> waf.CfnWebACL.StatementProperty:
        return waf.CfnWebACL.StatementProperty(
            byte_match_statement=waf.CfnWebACL.ByteMatchStatementProperty(
                field_to_match=field,
                positional_constraint=how,
                search_string=text,
                text_transformations=[waf.CfnWebACL.TextTransformationProperty(priority=0, type=as_)],
            )
        )

    return waf.CfnWebACL.StatementProperty(
        and_statement=waf.CfnWebACL.AndStatementProperty(
            statements=[
                matches(waf.CfnWebACL.FieldToMatchProperty(single_header={"Name": "host"}), "EXACTLY", host, "LOWERCASE"),
                matches(waf.CfnWebACL.FieldToMatchProperty(uri_path={}), how, path, "NORMALIZE_PATH"),
            ]
        )
    )


def _visible(name: str) -> waf.CfnWebACL.VisibilityConfigProperty:
    # No samples: they would hold addresses and headers of players.
    return waf.CfnWebACL.VisibilityConfigProperty(
        cloud_watch_metrics_enabled=True, metric_name=name, sampled_requests_enabled=False
    )


class Edge(Construct):
    """play.<domain> and grafana.<domain>, each a distribution of its own: a cache of one has nothing of the other."""

    def __init__(self, scope: Construct, id: str, *, config: Config, zone: route53.IHostedZone, access_logs: s3.IBucket) -> None:
        super().__init__(scope, id)
        self._config, self._zone, self._logs = config, zone, access_logs
        self._acl = WebAcl(self, "Acl", config=config)
        self._certificate = acm.Certificate(
            self,
            "Certificate",
            domain_name=config.play,
            subject_alternative_names=[config.grafana],
            validation=acm.CertificateValidation.from_dns(zone),
        )
        self._origin = origins.HttpOrigin(
            config.origin,
            protocol_policy=cloudfront.OriginProtocolPolicy.HTTPS_ONLY,
            origin_ssl_protocols=[cloudfront.OriginSslPolicy.TLS_V1_2],
            custom_headers={SOURCE_HEADER: origin_value(config.secrets)},
            keepalive_timeout=Duration.seconds(IDLE_S - 5),  # it, not the load balancer, ends a connection
            read_timeout=Duration.seconds(60),  # a live page's stream says something every few seconds
        )
        self.play = self._distribution("Play", config.play, self._static())
        self.grafana = self._distribution("Grafana", config.grafana, {})

    def _behaviour(self, cache: cloudfront.ICachePolicy) -> cloudfront.BehaviorOptions:
        return cloudfront.BehaviorOptions(
            origin=self._origin,
            allowed_methods=cloudfront.AllowedMethods.ALLOW_ALL,
            viewer_protocol_policy=cloudfront.ViewerProtocolPolicy.REDIRECT_TO_HTTPS,
            cache_policy=cache,
            origin_request_policy=self._forwarded(),
            compress=True,
        )

    def _forwarded(self) -> cloudfront.OriginRequestPolicy:
        """All that the viewer sends, and where CloudFront says that it is."""
        found = self.node.try_find_child("Forwarded")
        if isinstance(found, cloudfront.OriginRequestPolicy):
            return found
        return cloudfront.OriginRequestPolicy(
            self,
            "Forwarded",
            origin_request_policy_name=self._config.stack_name("forwarded"),
            header_behavior=cloudfront.OriginRequestHeaderBehavior.all(
                "CloudFront-Viewer-Address",
                "CloudFront-Viewer-Country",
                "CloudFront-Viewer-Country-Region",
                "CloudFront-Viewer-ASN",
            ),
            query_string_behavior=cloudfront.OriginRequestQueryStringBehavior.all(),
            cookie_behavior=cloudfront.OriginRequestCookieBehavior.all(),
        )

    def _static(self) -> dict[str, cloudfront.BehaviorOptions]:
        """Files of the page, whose names change with their content."""
        cache = cloudfront.CachePolicy(
            self,
            "Static",
            cache_policy_name=self._config.stack_name("static"),
            min_ttl=Duration.seconds(0),
            default_ttl=Duration.seconds(0),
            max_ttl=Duration.days(365),
            enable_accept_encoding_brotli=True,
            enable_accept_encoding_gzip=True,
        )
        behaviour = cloudfront.BehaviorOptions(
            origin=self._origin,
            allowed_methods=cloudfront.AllowedMethods.ALLOW_GET_HEAD,
            viewer_protocol_policy=cloudfront.ViewerProtocolPolicy.REDIRECT_TO_HTTPS,
            cache_policy=cache,
            origin_request_policy=cloudfront.OriginRequestPolicy(
                self,
                "Host",
                origin_request_policy_name=self._config.stack_name("host"),
                header_behavior=cloudfront.OriginRequestHeaderBehavior.allow_list("Host"),
            ),
            compress=True,
        )
        return dict.fromkeys(STATIC_PATHS, behaviour)

    def _distribution(self, id: str, host: str, more: dict[str, cloudfront.BehaviorOptions]) -> cloudfront.Distribution:
        made = cloudfront.Distribution(
            self,
            id,
            comment=f"GamePulse: {host}",
            domain_names=[host],
            certificate=self._certificate,
            minimum_protocol_version=cloudfront.SecurityPolicyProtocol.TLS_V1_2_2021,
            http_version=cloudfront.HttpVersion.HTTP2_AND_3,
            price_class=cloudfront.PriceClass.PRICE_CLASS_ALL,
            web_acl_id=self._acl.arn,
            default_behavior=self._behaviour(cloudfront.CachePolicy.CACHING_DISABLED),
            additional_behaviors=more,
            enable_logging=True,
            log_bucket=self._logs,
            log_file_prefix=f"{id.lower()}/",
            log_includes_cookies=False,
        )
        alias = route53.RecordTarget.from_alias(targets.CloudFrontTarget(made))
        route53.ARecord(self, f"{id}A", zone=self._zone, record_name=host, target=alias)
        route53.AaaaRecord(self, f"{id}Aaaa", zone=self._zone, record_name=host, target=alias)
        return made
