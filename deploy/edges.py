"""Who may reach whom: one security group for each component, and every rule of them from one table."""

from dataclasses import dataclass

from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from deploy.config import PREFIX_LISTS

CLOUDFRONT, S3 = PREFIX_LISTS
INTERNET = "internet"
NOT_GROUPS = {INTERNET, CLOUDFRONT, S3}

TASKS = (
    "app",
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
GROUPS = ("balancer", *TASKS, "database", "cache", "files", "endpoints")


@dataclass(frozen=True)
class Edge:
    """`source` may open TCP connections to `target` at `port`."""

    source: str
    target: str
    port: int
    why: str  # EC2 takes letters, digits and little else: no apostrophes


EDGES = (
    Edge(INTERNET, "balancer", 80, "answered with the way to 443, nothing else"),
    Edge(CLOUDFRONT, "balancer", 443, "all that people and games ask"),
    Edge("balancer", "app", 8080, "requests"),
    Edge("balancer", "grafana", 3000, "requests for the host of Grafana"),
    Edge("app", "database", 5432, "reports, rollups"),
    Edge("app", "cache", 6379, "news for live pages"),
    Edge("app", "prometheus", 9090, "metrics by OTLP"),
    Edge("app", "loki", 3100, "logs by OTLP"),
    Edge("app", "jaeger", 4317, "traces by OTLP"),
    Edge("app", INTERNET, 443, "required; webhooks"),
    Edge("infrastructure", "database", 5432, "how PostgreSQL is"),
    Edge("infrastructure", "cache", 6379, "how Valkey is"),
    Edge("infrastructure", "prometheus", 9090, "metrics by OTLP"),
    Edge("infrastructure", INTERNET, 443, "how long certificates are valid"),
    Edge("prometheus", "app", 8888, "metrics of the Collectors themselves"),
    Edge("prometheus", "infrastructure", 8888, "metrics of the Collector itself"),
    Edge("prometheus", "alertmanager", 9093, "alerts, and its metrics"),
    Edge("prometheus", "loki", 3100, "its metrics"),
    Edge("prometheus", "jaeger", 8888, "its metrics"),
    Edge("prometheus", "files", 2049, "snapshots"),
    Edge("jaeger", "prometheus", 9090, "rates and durations for its Monitor"),
    Edge("jaeger", "files", 2049, "traces"),
    Edge("grafana", "prometheus", 9090, "queries"),
    Edge("grafana", "loki", 3100, "queries"),
    Edge("grafana", "jaeger", 16686, "queries"),
    Edge("grafana", "alertmanager", 9093, "alerts, silences"),
    Edge("grafana", "database", 5432, "queries, and its own state"),
    Edge("grafana", "files", 2049, "what operators add"),
    Edge("grafana", INTERNET, 443, "Cognito, where people sign in"),
    Edge("migrate", "database", 5432, "tables and logins"),
    Edge("rotate", "database", 5432, "new passwords"),
    Edge("backup", "files", 2049, "the newest snapshot"),
    Edge("console", "prometheus", 9090, "an engineer, by SSM"),
    Edge("console", "alertmanager", 9093, "an engineer, by SSM"),
    Edge("console", "loki", 3100, "an engineer, by SSM"),
    Edge("console", "jaeger", 16686, "an engineer, by SSM"),
    *(Edge(task, "endpoints", 443, "AWS: images, logs, secrets, its own APIs") for task in TASKS),
    *(Edge(task, S3, 443, "AWS: layers of images, buckets") for task in TASKS),
)


class SecurityGroups(Construct):
    """A group for each component, with the rules of EDGES and no other."""

    def __init__(self, scope: Construct, id: str, *, vpc: ec2.IVpc) -> None:
        super().__init__(scope, id)
        self._groups = {
            name: ec2.SecurityGroup(
                self,
                name.capitalize(),
                vpc=vpc,
                description=f"GamePulse: {name}",
                allow_all_outbound=False,
                disable_inline_rules=False,
            )
            for name in GROUPS
        }
        # AWS's own rule, which lets all out, is certain to go only when the group itself has another. This one lets nothing out.
        for group in self._groups.values():
            group.add_egress_rule(ec2.Peer.ipv4("127.0.0.1/32"), ec2.Port.icmp_ping(), "nothing")
        # Groups let in no ICMP by themselves. Who speaks with the internet must hear of packets too large (network.TOO_LARGE).
        outwards = [edge for edge in EDGES if INTERNET in (edge.source, edge.target)]
        for name in dict.fromkeys(edge.target if edge.source == INTERNET else edge.source for edge in outwards):
            too_large = ec2.Port.icmp_type_and_code(3, 4)
            self._groups[name].add_ingress_rule(ec2.Peer.any_ipv4(), too_large, "a link on the way takes only smaller packets")
        for edge in EDGES:
            port = ec2.Port.tcp(edge.port)
            if edge.source not in NOT_GROUPS:
                self._groups[edge.source].add_egress_rule(self._peer(edge.target), port, f"{edge.target}: {edge.why}")
            if edge.target not in NOT_GROUPS:
                self._groups[edge.target].add_ingress_rule(self._peer(edge.source), port, f"{edge.source}: {edge.why}")

    def _peer(self, name: str) -> ec2.IPeer:
        if name == INTERNET:
            return ec2.Peer.any_ipv4()
        return ec2.Peer.prefix_list(PREFIX_LISTS[name]) if name in PREFIX_LISTS else self._groups[name]

    def of(self, name: str) -> ec2.ISecurityGroup:
        """For other stacks: nothing that is done with it there adds a rule."""
        return ec2.SecurityGroup.from_security_group_id(
            self, f"{name.capitalize()}Fixed", self._groups[name].security_group_id, mutable=False
        )
