"""The evaluator of policies, on cases whose answers AWS's documentation gives."""

from typing import Any

import pytest

from tests.deploy.iam import allowed
from tests.deploy.templates import Json

ME = "arn:aws:iam::111122223333:role/me"
THING = "arn:aws:s3:::bucket/thing"


def say(effect: str = "Allow", **more: Any) -> Json:
    return {"Statement": [{"Effect": effect, "Action": "s3:GetObject", "Resource": "*"} | more]}


def without(statement: str, policy: Json) -> Json:
    del policy["Statement"][0][statement]
    return policy


def test_nothing_is_allowed_that_nobody_allows() -> None:
    assert not allowed([], "s3:GetObject", THING)
    assert not allowed([{"Statement": []}], "s3:GetObject", THING)


def test_a_denial_wins_over_all_that_allow_in_whatever_order() -> None:
    for policies in ([say(), say("Deny")], [say("Deny"), say()], [{"Statement": [*say()["Statement"], *say("Deny")["Statement"]]}]):
        assert not allowed(policies, "s3:GetObject", THING)
    assert allowed([say(), say("Deny", Action="s3:PutObject")], "s3:GetObject", THING)


@pytest.mark.parametrize(
    ("pattern", "action", "fits"),
    [
        ("s3:GetObject", "s3:getobject", True),  # actions have no case
        ("s3:Get*", "s3:GetObject", True),
        ("s3:Get*", "s3:PutObject", False),
        ("s3:*Object", "s3:GetObjectAcl", False),
        ("s3:???Object", "s3:GetObject", True),
        ("*", "iam:CreateUser", True),
        ("s3:*", "s3express:CreateSession", False),
        (["s3:List*", "s3:Get*"], "s3:GetObject", True),
    ],
)
def test_actions(pattern: Any, action: str, fits: bool) -> None:
    assert allowed([say(Action=pattern)], action, THING) is fits


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("arn:aws:s3:::bucket/*", True),
        ("arn:aws:s3:::bucket", False),
        ("arn:aws:s3:::Bucket/*", False),  # resources have case
        ("arn:aws:s3:::bucket*", True),  # as bucket-of-others would fit, too
        ("arn:aws:s3:::bucket/th.ng", False),  # no regular expression
        ("arn:aws:s3:::bucket/th?ng", True),
    ],
)
def test_resources(pattern: str, fits: bool) -> None:
    assert allowed([say(Resource=pattern)], "s3:GetObject", THING) is fits


def test_not_action_and_not_resource() -> None:
    but_one = without("Action", say(NotAction="iam:*"))
    assert allowed([but_one], "s3:GetObject", THING)
    assert not allowed([but_one], "iam:CreateUser", THING)
    elsewhere = without("Resource", say(NotResource="arn:aws:s3:::bucket/*"))
    assert not allowed([elsewhere], "s3:GetObject", THING)
    assert allowed([elsewhere], "s3:GetObject", "arn:aws:s3:::other/thing")


@pytest.mark.parametrize(
    ("condition", "context", "fits"),
    [
        ({"StringEquals": {"aws:SourceAccount": "1"}}, {"aws:SourceAccount": "1"}, True),
        ({"StringEquals": {"aws:SourceAccount": "1"}}, {"aws:SourceAccount": "12"}, False),
        ({"StringEquals": {"aws:SourceAccount": "1"}}, {}, False),
        ({"StringEquals": {"aws:SourceAccount": "1*"}}, {"aws:SourceAccount": "12"}, False),
        ({"StringEquals": {"a": ["1", "2"]}}, {"a": "2"}, True),  # one of the values
        ({"StringEquals": {"a": "1", "b": "2"}}, {"a": "1"}, False),  # all of the keys
        ({"StringEquals": {"a": "1"}, "StringLike": {"b": "x*"}}, {"a": "1", "b": "y"}, False),  # all of the operators
        ({"StringLike": {"s3:prefix": "logs/*"}}, {"s3:prefix": "logs/2026"}, True),
        ({"StringNotEquals": {"a": "1"}}, {}, True),  # what is not there is not equal
        ({"StringNotEquals": {"a": ["1", "2"]}}, {"a": "2"}, False),
        ({"Bool": {"aws:SecureTransport": "false"}}, {"aws:SecureTransport": "False"}, True),
        ({"Bool": {"aws:MultiFactorAuthPresent": "false"}}, {}, False),  # long-term keys have no such key: Bool alone misses them
        ({"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}}, {}, True),
        ({"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}}, {"aws:MultiFactorAuthPresent": "true"}, False),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:ecs:*:1:*"}}, {"aws:SourceArn": "arn:aws:ecs:r:1:service/c/s"}, True),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:ecs:*"}}, {"aws:SourceArn": "arn:aws:ecs:r:1:service/c"}, False),  # `*` reaches over no colon
        ({"NumericLessThan": {"s3:TlsVersion": 1.2}}, {"s3:TlsVersion": "1.1"}, True),
        ({"NumericLessThan": {"s3:TlsVersion": 1.2}}, {"s3:TlsVersion": "1.2"}, False),
        ({"Null": {"a": "true"}}, {}, True),
        ({"Null": {"a": "false"}}, {}, False),
    ],
)  # fmt: skip
def test_conditions(condition: Json, context: dict[str, str], fits: bool) -> None:
    assert allowed([say(Condition=condition)], "s3:GetObject", THING, context) is fits


def test_variables_are_those_of_who_asks() -> None:
    own = say(Action="iam:ChangePassword", Resource="arn:aws:iam::1:user/${aws:username}")
    assert allowed([own], "iam:ChangePassword", "arn:aws:iam::1:user/ann", {"aws:username": "ann"})
    assert not allowed([own], "iam:ChangePassword", "arn:aws:iam::1:user/bob", {"aws:username": "ann"})
    assert not allowed([own], "iam:ChangePassword", "arn:aws:iam::1:user/", {})


@pytest.mark.parametrize(
    ("principal", "fits"),
    [
        ("*", True),
        ({"AWS": "*"}, True),
        ({"AWS": ME}, True),
        ({"AWS": "arn:aws:iam::111122223333:root"}, False),  # the account's own policies decide
        ({"AWS": "arn:aws:iam::999999999999:root"}, False),
        ({"AWS": "arn:aws:iam::111122223333:role/you"}, False),
        ({"Service": "ecs-tasks.amazonaws.com"}, False),
    ],
)
def test_policies_of_resources_name_who_may(principal: Any, fits: bool) -> None:
    assert allowed([say(Principal=principal)], "s3:GetObject", THING, principal=ME) is fits


def test_what_a_resource_denies_to_an_account_it_denies_to_all_of_it() -> None:
    assert not allowed(
        [say(), say("Deny", Principal={"AWS": "arn:aws:iam::111122223333:root"})], "s3:GetObject", THING, principal=ME
    )
    assert allowed([say(), say("Deny", Principal={"AWS": "arn:aws:iam::999999999999:root"})], "s3:GetObject", THING, principal=ME)


def test_a_trust_policy_has_no_resource() -> None:
    trust = {"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ecs-tasks.amazonaws.com"}}}
    assert allowed([trust], "sts:AssumeRole", ME, principal="ecs-tasks.amazonaws.com")
    assert not allowed([trust], "sts:AssumeRole", ME, principal="lambda.amazonaws.com")


@pytest.mark.parametrize(
    "policy", [say(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), say(NotPrincipal="*"), say("allow")]
)
def test_what_is_not_known_here_is_an_error(policy: Json) -> None:
    with pytest.raises((AssertionError, KeyError)):
        allowed([policy], "s3:GetObject", THING, {"aws:SourceIp": "10.0.0.1"})
