"""Whether AWS's policies let someone do something: "Policy evaluation logic" of IAM's User Guide, as far as it is used here. What is not known is an error."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from tests.deploy.templates import Json, listed, statements

type Context = Mapping[str, str]


def allowed(policies: Iterable[Json], action: str, resource: str, context: Context | None = None, principal: str = "") -> bool:
    """By identity policies and, of the same account, the resource's own: one must allow it, and none deny it. `principal`: the asker's ARN."""
    fitting = {
        one["Effect"] for policy in policies for one in statements(policy) if _fits(one, action, resource, context or {}, principal)
    }
    assert fitting <= {"Allow", "Deny"}, fitting
    return fitting == {"Allow"}


def _fits(one: Json, action: str, resource: str, context: Context, principal: str) -> bool:
    known = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition", "Principal"}
    assert set(one) <= known, f"not known here: {set(one) - known}"
    return (
        _among(one, "Action", action.lower(), lambda pattern: pattern.lower())
        and _among(one, "Resource", resource, lambda pattern: _filled(pattern, context))
        and ("Principal" not in one or _is_principal(one, principal))
        and all(_holds(operator, asked, context) for operator, asked in one.get("Condition", {}).items())
    )


def _among(one: Json, element: str, value: str, reading: Callable[[str], str]) -> bool:
    """Of Action and NotAction, Resource and NotResource."""
    if f"Not{element}" in one:
        return not any(like(reading(pattern), value) for pattern in listed(one[f"Not{element}"]))
    if element not in one:
        return element == "Resource"  # a trust policy has none: it is about its role
    return any(like(reading(pattern), value) for pattern in listed(one[element]))


def _is_principal(one: Json, principal: str) -> bool:
    """An account as a principal lets its own policies decide: so it denies to all of them, but allows nothing to them."""
    if one["Principal"] == "*":
        return True
    named = [name for kind in one["Principal"].values() for name in listed(kind)]
    account = ":".join(principal.split(":")[:5]) + ":root"
    return "*" in named or principal in named or (one["Effect"] == "Deny" and account in named)


def _holds(operator: str, asked: Json, context: Context) -> bool:
    base, optional = operator.removesuffix("IfExists"), operator.endswith("IfExists")
    if base == "Null":
        return all((key not in context) == (str(wanted).lower() == "true") for key, wanted in asked.items())
    negated, compare = OPERATORS[base]
    for key, wanted in asked.items():
        if key not in context:
            if optional or negated:
                continue  # what is not there is not equal
            return False
        hit = any(compare(_filled(str(one), context), context[key]) for one in listed(wanted))
        if hit == negated:
            return False
    return True


def _filled(pattern: str, context: Context) -> str:
    """With the policy's variables; one that the context does not have fits nothing."""
    return re.sub(r"\$\{([^}]+)\}", lambda found: context.get(found[1], "\0"), pattern)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(letter, re.escape(letter)) for letter in pattern), re.DOTALL)


def like(pattern: str, value: str) -> bool:
    """With `*` and `?`."""
    return _compiled(pattern).fullmatch(value) is not None


def _arn_like(pattern: str, value: str) -> bool:
    """Each of the six parts by itself: `*` reaches over no colon of the first five."""
    one, other = pattern.split(":", 5), value.split(":", 5)
    return len(one) == len(other) and all(map(like, one, other))


OPERATORS: dict[str, tuple[bool, Callable[[str, str], bool]]] = {
    "StringEquals": (False, str.__eq__),
    "StringNotEquals": (True, str.__eq__),
    "StringLike": (False, like),
    "StringNotLike": (True, like),
    "ArnLike": (False, _arn_like),
    "ArnEquals": (False, _arn_like),
    "ArnNotLike": (True, _arn_like),
    "Bool": (False, lambda wanted, value: wanted.lower() == value.lower()),
    "NumericLessThan": (False, lambda limit, value: float(value) < float(limit)),
}
"""Of each: whether it says no, and what it compares (the policy's value, the request's)."""
