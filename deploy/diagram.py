"""The picture in docs/deploy.md: who may reach whom, as the templates say it."""

import json
import re
from pathlib import Path
from typing import Any

from deploy.config import PREFIX_LISTS
from stack.settings import CHECKOUT, Problem

PAGE = CHECKOUT / "docs" / "deploy.md"
BLOCK = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)
LABELS = {
    "internet": "internet",
    "cloudfront": "CloudFront<br>web ACL",
    "balancer": "load balancer",
    "app": "gamepulse-app<br>service, Collector",
    "database": "PostgreSQL<br>RDS, two zones",
    "cache": "Valkey<br>ElastiCache, two zones",
    "files": "EFS",
}
LEFT_OUT = {"endpoints", "s3"}
"""Every task reaches them: AWS's own services."""

type Json = dict[str, Any]
type Edge = tuple[str, str, int]


def edges(network: Json) -> list[Edge]:
    """(source, target, port) of every rule of the template that lets something in, and of those that lead out of the VPC."""
    resources = network["Resources"]
    groups = {
        logical_id: one["Properties"]["GroupDescription"].removeprefix("GamePulse: ")
        for logical_id, one in resources.items()
        if one["Type"] == "AWS::EC2::SecurityGroup"
    }
    lists = {value: name.rpartition(".")[2].replace("origin-facing", "cloudfront") for name, value in PREFIX_LISTS.items()}

    def name(rule: Json, *keys: str) -> str:
        for key in keys:
            said = rule.get(key)
            if isinstance(said, dict) and "Fn::GetAtt" in said:
                return str(groups[said["Fn::GetAtt"][0]])
            if isinstance(said, str) and said in lists:
                return lists[said]
        return "internet"

    found: set[Edge] = set()
    for logical_id, one in resources.items():
        if one["Type"] == "AWS::EC2::SecurityGroup":
            own = groups[logical_id]
            for rule in one["Properties"].get("SecurityGroupIngress", []):
                if rule["IpProtocol"] == "tcp":
                    found.add((name(rule, "SourcePrefixListId"), own, rule["FromPort"]))
            for rule in one["Properties"].get("SecurityGroupEgress", []):
                if rule["IpProtocol"] == "tcp":
                    found.add((own, name(rule, "DestinationPrefixListId"), rule["FromPort"]))
        if one["Type"] == "AWS::EC2::SecurityGroupIngress":
            rule = one["Properties"]
            found.add((name(rule, "SourceSecurityGroupId", "SourcePrefixListId"), name(rule, "GroupId"), rule["FromPort"]))
    return sorted(found)


def mermaid(network: Json) -> str:
    """A flowchart, without AWS's own services."""
    shown = [edge for edge in edges(network) if not LEFT_OUT & set(edge[:2])]
    names = sorted({name for edge in shown for name in edge[:2]})
    lines = ["flowchart LR"]
    lines += [f'    {name}["{LABELS[name]}"]' for name in names if name in LABELS]
    lines += ["    internet -- 443 --> cloudfront"]
    ports: dict[tuple[str, str], list[int]] = {}
    for source, target, port in shown:
        ports.setdefault((source, target), []).append(port)
    lines += [f"    {source} -- {', '.join(map(str, found))} --> {target}" for (source, target), found in ports.items()]
    return "\n".join(lines) + "\n"


def write(folder: Path, environment: str) -> None:
    """Put it into the page. Raises Problem when that has no place for it."""
    text, picture = PAGE.read_text(), mermaid(json.loads((folder / f"gamepulse-{environment}-network.template.json").read_text()))
    if not BLOCK.search(text):
        raise Problem(f"{PAGE} has no block of mermaid.")
    PAGE.write_text(BLOCK.sub(lambda _: picture, text, count=1))
