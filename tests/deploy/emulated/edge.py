"""CloudFront and its web ACL."""

from typing import Any, ClassVar

from tests.deploy.emulated.account import Json
from tests.deploy.emulated.stacks import Resource


class _Policy(Resource, service="cloudfront"):
    what: ClassVar[str]
    config: ClassVar[str]

    def create(self, wanted: Json) -> None:
        told = lists(wanted[self.config])
        self.physical_resource_id = self.call(f"create_{self.what}", {self.config: told})["Id"]

    def read(self) -> Any:
        found = self.call(f"get_{self.what}", Id=self.physical_resource_id)
        return {self.config: plain(found[self.config])}

    def delete(self) -> None:
        self.call(f"delete_{self.what}", Id=self.physical_resource_id, IfMatch="kept")


class CachePolicy(_Policy, kind="AWS::CloudFront::CachePolicy"):
    what, config = "cache_policy", "CachePolicyConfig"


class OriginRequestPolicy(_Policy, kind="AWS::CloudFront::OriginRequestPolicy"):
    what, config = "origin_request_policy", "OriginRequestPolicyConfig"


class Distribution(Resource, kind="AWS::CloudFront::Distribution", service="cloudfront"):
    renamed: ClassVar[Json] = {
        "IPV6Enabled": "IsIPV6Enabled",
        "OriginCustomHeaders": "CustomHeaders",
        "AcmCertificateArn": "ACMCertificateArn",
        "SslSupportMethod": "SSLSupportMethod",
    }

    def _told(self, wanted: Json) -> Json:
        told: Json = lists(self._named(wanted["DistributionConfig"]))
        for behaviour in [told["DefaultCacheBehavior"], *told.get("CacheBehaviors", {}).get("Items", [])]:
            # The API has the methods that are cached inside of those that are allowed.
            behaviour["AllowedMethods"]["CachedMethods"] = {"Quantity": 2, "Items": ["GET", "HEAD"]}
        for origin in told["Origins"]["Items"]:
            origin["CustomOriginConfig"] = {"HTTPPort": 80, "HTTPSPort": 443} | origin["CustomOriginConfig"]
        told["Logging"]["Enabled"] = True
        return told | {"CallerReference": self.name}

    def create(self, wanted: Json) -> None:
        told = self._told(wanted)
        made = self.call(
            "create_distribution_with_tags",
            DistributionConfigWithTags={"DistributionConfig": told, "Tags": {"Items": wanted["Tags"]}},
        )["Distribution"]
        self.physical_resource_id, self.arn = made["Id"], made["ARN"]
        self.attributes = {"DomainName": made["DomainName"], "Id": made["Id"]}

    def _named(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.renamed.get(name, name): self._named(one) for name, one in value.items()}
        return [self._named(one) for one in value] if isinstance(value, list) else value

    def read(self) -> Any:
        config = plain(self.call("get_distribution_config", Id=self.physical_resource_id)["DistributionConfig"])
        back = {new: old for old, new in self.renamed.items()}

        def named(value: Any) -> Any:
            if isinstance(value, dict):
                return {back.get(name, name): named(one) for name, one in value.items()}
            return [named(one) for one in value] if isinstance(value, list) else value

        return {
            "DistributionConfig": named(config),
            "Tags": self.call("list_tags_for_resource", Resource=self.arn)["Tags"]["Items"],
        }

    def update(self, wanted: Json, changed: set[str]) -> None:
        assert changed == {"DistributionConfig"}, changed
        tag = self.call("get_distribution_config", Id=self.physical_resource_id)["ETag"]
        self.call("update_distribution", Id=self.physical_resource_id, IfMatch=tag, DistributionConfig=self._told(wanted))

    def delete(self) -> None:
        answer = self.call("get_distribution_config", Id=self.physical_resource_id)
        config = answer["DistributionConfig"] | {"Enabled": False}
        tag = self.call("update_distribution", Id=self.physical_resource_id, IfMatch=answer["ETag"], DistributionConfig=config)[
            "ETag"
        ]
        self.call("delete_distribution", Id=self.physical_resource_id, IfMatch=tag)


def lists(value: Any) -> Any:
    """Lists of templates as CloudFront's API has them."""
    if isinstance(value, dict):
        return {name: lists(one) for name, one in value.items()}
    if isinstance(value, list):
        return {"Quantity": len(value), "Items": [lists(one) for one in value]}
    return value


def plain(value: Any) -> Any:
    """The way back."""
    if isinstance(value, dict):
        if "Quantity" in value:
            return [plain(one) for one in value.get("Items", [])]
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


class WebAcl(Resource, kind="AWS::WAFv2::WebACL", service="wafv2"):
    def create(self, wanted: Json) -> None:
        made = self.call("create_web_acl", wanted)["Summary"]
        self.physical_resource_id = f"{made['Name']}|{made['Id']}|{wanted['Scope']}"
        self.attributes = {"Arn": made["ARN"], "Id": made["Id"]}

    def _id(self) -> Json:
        return dict(zip(("Name", "Id", "Scope"), self.physical_resource_id.split("|"), strict=True))

    def read(self) -> Any:
        found = self.call("get_web_acl", self._id())["WebACL"]
        tags = self.call("list_tags_for_resource", ResourceARN=found["ARN"])["TagInfoForResource"]["TagList"]
        # The name says for what it is.
        scope = "CLOUDFRONT" if ":global/" in found["ARN"] else "REGIONAL"
        return _as_text(found) | {"Scope": scope, "Tags": tags}

    def delete(self) -> None:
        lock = self.call("get_web_acl", self._id())["LockToken"]
        self.call("delete_web_acl", self._id(), LockToken=lock)


def _as_text(value: Any) -> Any:
    """What is searched for is bytes in the API, and text in templates."""
    if isinstance(value, dict):
        return {name: _as_text(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return value.decode() if isinstance(value, bytes) else value
