"""An account in which all types that the stacks have can be made."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from moto.iam.access_control import IAMPolicy, PermissionResult

# Each module makes its types known.
from tests.deploy.emulated import data, edge, network, objects, operations, services  # noqa: F401
from tests.deploy.emulated.account import Account, Json, emulated_account
from tests.deploy.emulated.stacks import Resource, Resources


@contextmanager
def emulation(account_id: str, *, domain: str, hosted_zone_id: str) -> Iterator[Account]:
    with (
        emulated_account(account_id, domain=domain, hosted_zone_id=hosted_zone_id) as account,
        patch.object(Resource, "account", account, create=True),
        patch("moto.cloudformation.models.ResourceMap", Resources),
        patch("moto.s3.models.FakeBucket._log_permissions_enabled_policy", staticmethod(_may_be_logged_to)),
        patch("moto.s3.models.FakeBucket.get_permission", _permission),
    ):
        yield account


def _statements(bucket: Any) -> list[Json]:
    return list(json.loads(bucket.policy)["Statement"]) if bucket.policy else []


def _may_be_logged_to(target_bucket: Any, target_prefix: str) -> bool:
    """moto's own sees no statement about more than one resource."""
    for one in _statements(target_bucket):
        resources = one["Resource"] if isinstance(one["Resource"], list) else [one["Resource"]]
        if one["Principal"] == {"Service": "logging.s3.amazonaws.com"} and f"{target_bucket.arn}/{target_prefix}*" in resources:
            return bool(one["Effect"] == "Allow" and one["Action"] == "s3:PutObject")
    return False


# What is asked here is taken for asked over TLS 1.3.
WITHOUT_TLS = ({"Bool": {"aws:SecureTransport": "false"}}, {"NumericLessThan": {"s3:TlsVersion": 1.2}})


def _permission(bucket: Any, action: str, resource: str) -> PermissionResult:
    """moto's own looks at no condition: so it would refuse all that is refused without TLS."""
    statements = [one for one in _statements(bucket) if one.get("Condition") not in WITHOUT_TLS]
    if not statements:
        return PermissionResult.NEUTRAL
    return IAMPolicy(json.dumps({"Statement": statements})).is_action_permitted(action, resource)
