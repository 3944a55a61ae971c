"""moto's CloudFormation with what it gets wrong put right: each resource with all its properties, and updates as AWS makes them.

moto drops most properties of most types, takes unknown types for created, looks on an update only at templates (not at what their
references have become) and replaces nothing. Here every type is a Resource of ours, made by boto3 from all its properties; what may be
changed in place and what is replaced is read from AWS's own schemas, which cfn-lint brings.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER
from moto.cloudformation.models import cloudformation_backends
from moto.cloudformation.parsing import OutputMap, ResourceMap, clean_json

from tests.deploy.emulated.account import Account, Json, text

KINDS: dict[str, type["Resource"]] = {}
REMAINS = {"Retain", "RetainExceptOnCreate"}


class Unsupported(Exception):
    """The emulation has no answer, and must not act as if it had."""


class Resource:
    """One resource: what boto3 calls make it, read it back, change it, delete it."""

    kind: ClassVar[str]
    service: ClassVar[str]
    account: ClassVar[Account]

    physical_resource_id: str
    attributes: Json

    def __init_subclass__(cls, *, kind: str = "", service: str = "") -> None:
        if service:
            cls.service = service
        if kind:
            cls.kind, KINDS[kind] = kind, cls

    def __init__(self, stack: str, logical_id: str, region: str, properties: Json) -> None:
        self.stack, self.logical_resource_id, self.region, self.properties = stack, logical_id, region, properties
        self.cf_resource_type = self.type = self.kind
        self.attributes = {}

    @property
    def name(self) -> str:
        """For what the template leaves without a name."""
        return f"{self.stack}-{self.logical_resource_id}"

    def create(self, wanted: Json) -> None:
        """Make it, and set `physical_resource_id` (its Ref) and `attributes` (its GetAtt)."""
        raise NotImplementedError

    def read(self) -> Any:
        """As it is now, in the shape of its properties."""
        raise NotImplementedError

    def update(self, wanted: Json, changed: set[str]) -> None:
        raise Unsupported(f"{self.kind} {self.logical_resource_id} cannot be updated: {', '.join(sorted(changed))}")

    def delete(self) -> None:
        raise NotImplementedError

    def snapshot(self) -> None:
        raise Unsupported(f"{self.kind} has no snapshots")

    def client(self, service: str | None = None) -> Any:
        return self.account.client(service or self.service, self.region)

    def call(self, operation: str, given: Json | None = None, /, *, service: str | None = None, **more: Any) -> Any:
        """One call to AWS, with names and types as botocore has them; what it does not know is an error."""
        client = self.client(service)
        method = client.meta.method_to_api_mapping[operation]
        shape = client.meta.service_model.operation_model(method).input_shape
        return getattr(client, operation)(**fit(shape, {**(given or {}), **more}))

    # What moto's own classes ask.
    def get_cfn_attribute(self, name: str) -> Any:
        if name not in self.attributes:
            raise Unsupported(f"{self.kind} has no attribute {name} here")
        return self.attributes[name]

    def is_created(self) -> bool:
        return True


SCALARS: dict[str, Callable[[Any], Any]] = {
    "boolean": lambda value: text(value) == "true",
    "integer": int,
    "long": int,
    "float": float,
    "double": float,
    "string": text,
}


def fit(shape: Any, value: Any) -> Any:
    """`value` of a template in botocore's shape: capitals of names, numbers and booleans that are text, documents that are text."""
    match shape.type_name:
        case "structure":
            names = {name.lower(): name for name in shape.members}
            if unknown := [name for name in value if name.lower() not in names]:
                raise Unsupported(f"AWS's {shape.name} knows no {', '.join(unknown)}")
            return {names[name.lower()]: fit(shape.members[names[name.lower()]], one) for name, one in value.items()}
        case "list":
            return [fit(shape.member, one) for one in value]
        case "map":
            return {name: fit(shape.value, one) for name, one in value.items()}
    return SCALARS.get(shape.type_name, lambda same: same)(value)


def lacking(wanted: Any, found: Any, path: str = "") -> list[str]:
    """The paths of what is wanted and not found. Capitals of names do not matter, nor does the order of lists."""
    if isinstance(wanted, dict):
        if isinstance(found, str) and found.startswith("{"):
            found = json.loads(found)
        if not isinstance(found, dict):
            return [path]
        names = {name.lower(): name for name in found}
        return [
            gap
            for name, one in wanted.items()
            for gap in (
                lacking(one, found[names[name.lower()]], f"{path}.{name}".strip("."))
                if name.lower() in names
                else [f"{path}.{name}".strip(".")]
            )
        ]
    if isinstance(wanted, list):
        if not isinstance(found, list):
            return lacking(wanted[0], found, path) if len(wanted) == 1 else [path]
        gaps, left = [], list(found)
        for one in wanted:
            best = min(left, key=lambda other: len(lacking(one, other, f"{path}[]")), default=None)
            gaps += lacking(one, best, f"{path}[]")
            if best is not None:
                left.remove(best)
        return gaps
    return [] if _plain(wanted) == _plain(found) else [path]


def _plain(value: Any) -> Any:
    """`5`, `5.0` and `"5"` are one number."""
    try:
        return float(value) if not isinstance(value, bool) else text(value)
    except (TypeError, ValueError):
        return text(value)


@lru_cache
def schema(kind: str) -> Json:
    """AWS's own description of the type."""
    found: Json = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    return found


def replaced(kind: str, changed: set[str]) -> set[str]:
    """Those of the changed properties that are a new resource."""
    fixed = {path.split("/")[2] for path in schema(kind).get("createOnlyProperties", []) if path.count("/") == 2}
    return changed & fixed


class Resources(ResourceMap):
    """The resources of a stack, each made after all that it names."""

    def __getitem__(self, key: str) -> Any:
        if key not in self._parsed_resources and key in self._resource_json_map:
            body = self._resource_json_map[key]
            first = body.get("DependsOn", [])
            for other in [first] if isinstance(first, str) else first:
                _ = self[other]
            for other in _references(body) & self._resource_json_map.keys():
                _ = self[other]
            self._parsed_resources[key] = self._create(key)
        return self._parsed_resources[key]

    def validate_outputs(self) -> None:
        """Nothing: an attribute that does not exist fails when it is read."""

    def create(self, template: Json) -> bool:
        self._template, self._resource_json_map = template, template["Resources"]
        for key in self._resource_json_map:
            _ = self[key]
        return True

    def update(self, template: Json, parameters: Json | None = None) -> None:
        """As CloudFormation: what is new is made, what changed is changed or replaced, and then the rest goes."""
        before = {key: one for key, one in self._parsed_resources.items() if isinstance(one, Resource)}
        policies = self._resource_json_map
        self._template, self._resource_json_map = template, template["Resources"]
        self._parsed_resources = {key: one for key, one in self._parsed_resources.items() if key not in before}
        if parameters:
            self.input_parameters = parameters
        self.load()
        self._before = before
        self._old: list[Resource] = []
        for key in self._resource_json_map:
            _ = self[key]
        for one in reversed([*self._old, *(one for key, one in before.items() if key not in self._resource_json_map)]):
            policy = "UpdateReplacePolicy" if one.logical_resource_id in self._resource_json_map else "DeletionPolicy"
            _end(one, policies[one.logical_resource_id].get(policy, "Delete"))
        self._export(template)

    def _export(self, template: Json) -> None:
        """What other stacks import cannot be changed, nor taken away."""
        assert self.cross_stack_resources is not None
        exports = {one.name: one for one in OutputMap(self, template, self.stack_id).exports}
        others = [
            one
            for one in cloudformation_backends[self._account_id][self._region_name].stacks.values()
            if one.stack_id != self.stack_id
        ]
        imported = json.dumps([one.template_dict for one in others])
        for name, was in list(self.cross_stack_resources.items()):
            if was.exporting_stack_id != self.stack_id or (name in exports and exports[name].value == was.value):
                continue
            if json.dumps({"Fn::ImportValue": name}) in imported:
                raise Unsupported(f"CloudFormation changes no export that is in use: {name}")
            del self.cross_stack_resources[name]
        self.cross_stack_resources.update(exports)

    def delete(self) -> None:
        for one in reversed([one for one in self._parsed_resources.values() if isinstance(one, Resource)]):
            _end(one, self._resource_json_map[one.logical_resource_id].get("DeletionPolicy", "Delete"))
            del self._parsed_resources[one.logical_resource_id]

    def _create(self, key: str) -> Resource:
        kind = self._resource_json_map[key]["Type"]
        if kind not in KINDS:
            raise Unsupported(f"{key} is of type {kind}, which the emulation does not know")
        wanted = self._resolved(key)
        one: Resource | None = getattr(self, "_before", {}).get(key)
        if one is not None and one.properties == wanted:
            return one
        if one is not None:
            changed = {name for name in one.properties.keys() | wanted.keys() if one.properties.get(name) != wanted.get(name)}
            if not replaced(kind, changed):
                one.update(wanted, changed)
                one.properties = wanted
                return one
            self._old.append(one)
        made = KINDS[kind](self["AWS::StackName"], key, self._region_name, wanted)
        made.create(wanted)
        return made

    def _resolved(self, key: str) -> Json:
        found = clean_json(self._resource_json_map[key].get("Properties", {}), self)
        resolved: Json = _with_secrets(found, Resource.account.client("secretsmanager", self._region_name))
        return resolved


def _end(one: Resource, policy: str) -> None:
    if policy == "Snapshot":
        one.snapshot()
    if policy not in REMAINS:
        one.delete()


def _references(value: Any) -> set[str]:
    """What a resource names."""
    if isinstance(value, list):
        return set().union(*map(_references, value))
    if not isinstance(value, dict):
        return set()
    named = {value["Ref"]} if "Ref" in value else {value["Fn::GetAtt"][0]} if "Fn::GetAtt" in value else set()
    named |= set(re.findall(r"\$\{([A-Za-z0-9]+)", json.dumps(value["Fn::Sub"]))) if "Fn::Sub" in value else set()
    return named.union(*map(_references, value.values()))


def _with_secrets(value: Any, secrets: Any) -> Any:
    """`value` with what dynamic references name."""
    if isinstance(value, dict):
        return {key: _with_secrets(one, secrets) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_secrets(one, secrets) for one in value]
    if not isinstance(value, str) or "{{resolve:" not in value:
        return value

    def secret(found: re.Match[str]) -> str:
        name, field = found[1], found[2]
        content: str = secrets.get_secret_value(SecretId=name)["SecretString"]
        return str(json.loads(content)[field]) if field else content

    done = re.sub(r"\{\{resolve:secretsmanager:([^{}]+):SecretString:([^:{}]*):[^:{}]*:[^:{}]*\}\}", secret, value)
    if "{{resolve:" in done:
        raise Unsupported(f"a dynamic reference: {done}")
    return done


def stacks_of(assembly: Path) -> list[tuple[str, str, Json]]:
    """Name, region and template of each stack, in the order of the manifest."""
    artifacts = json.loads((assembly / "manifest.json").read_text())["artifacts"]
    return [
        (name, one["environment"].rsplit("/", 1)[1], json.loads((assembly / one["properties"]["templateFile"]).read_text()))
        for name, one in artifacts.items()
        if one["type"] == "aws:cloudformation:stack"
    ]


def deploy(account: Account, assembly: Path) -> None:
    """Create or update every stack."""
    for name, region, template in stacks_of(assembly):
        client = account.client("cloudformation", region)
        body = json.dumps(template)
        if name in {one["StackName"] for one in client.list_stacks()["StackSummaries"] if one["StackStatus"] != "DELETE_COMPLETE"}:
            client.update_stack(StackName=name, TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM"])
        else:
            client.create_stack(StackName=name, TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM"])


def destroy(account: Account, assembly: Path) -> None:
    for name, region, _ in reversed(stacks_of(assembly)):
        account.client("cloudformation", region).delete_stack(StackName=name)


def resources_of(account: Account, assembly: Path) -> Iterator[Resource]:
    """What the stacks have made."""
    for name, region, _ in stacks_of(assembly):
        for one in cloudformation_backends[account.id][region].get_stack(name).resource_map.values():
            if isinstance(one, Resource):
                yield one
