"""The templates as CloudFormation would fill them in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

type Json = dict[str, Any]


@dataclass(frozen=True)
class Templates:
    """By stack. `known`: what CloudFormation would know of resources that are not made here, by `type` or `type.attribute`."""

    stacks: Mapping[str, Json]
    known: Mapping[str, str]

    def resources(self, kind: str) -> dict[str, Json]:
        """The properties of all resources of a type, by their logical id."""
        return {name: one for name, one, _ in self._resources(kind)}

    def task(self, family: str) -> Json:
        """A task definition whose containers and volumes are as ECS gets them."""
        for _, one, stack in self._resources("AWS::ECS::TaskDefinition"):
            if one["Family"] == family:
                return one | {name: self._filled(one[name], stack) for name in ("ContainerDefinitions", "Volumes")}
        raise KeyError(family)

    def _resources(self, kind: str) -> Iterator[tuple[str, Json, Json]]:
        for stack in self.stacks.values():
            for name, one in stack["Resources"].items():
                if one["Type"] == kind:
                    yield name, one["Properties"], stack

    def _filled(self, value: Any, stack: Json) -> Any:
        match value:
            case {"Fn::Join": [glue, parts]}:
                return glue.join(self._filled(part, stack) for part in parts)
            case {"Fn::ImportValue": name}:
                return self._imported(name)
            case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
                return self._of_resource(name, value.get("Fn::GetAtt"), stack)
            case dict():
                return {name: self._filled(part, stack) for name, part in value.items()}
            case list():
                return [self._filled(part, stack) for part in value]
        return value

    def _of_resource(self, name: str, attribute: list[str] | None, stack: Json) -> Any:
        if name == "AWS::URLSuffix":
            return "amazonaws.com"
        if name in stack.get("Parameters", {}):
            return self._parameter(stack["Parameters"][name]["Default"])
        one = stack["Resources"][name]
        if attribute:
            return self.known[f"{one['Type']}.{attribute[1]}"]
        told = one.get("Properties", {})
        return self.known.get(one["Type"]) or told.get("Name") or told.get("BucketName") or name

    def _parameter(self, name: str) -> Any:
        """Of the Parameter Store."""
        [found] = [(one, stack) for _, one, stack in self._resources("AWS::SSM::Parameter") if one["Name"] == name]
        return self._filled(found[0]["Value"], found[1])

    def _imported(self, name: str) -> Any:
        for stack in self.stacks.values():
            for output in stack.get("Outputs", {}).values():
                if output.get("Export", {}).get("Name") == name:
                    return self._filled(output["Value"], stack)
        raise KeyError(name)
