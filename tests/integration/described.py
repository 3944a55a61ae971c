"""Checks of schemathesis' own kind, which it loads (SCHEMATHESIS_HOOKS): what it does not look at by itself."""

import json
from typing import Any

import jsonschema_rs
import schemathesis

STANDARD = {"allow", "connection", "content-length", "content-type", "date", "server", "transfer-encoding"}
"""Headers that mean the same everywhere. Besides, those of CORS."""
LINES = "application/x-ndjson"


@schemathesis.check
def described_headers(_: Any, response: Any, case: Any) -> None:
    """Every header of an answer is described for its status."""
    described = _described(response, case)
    known = STANDARD | {name.lower() for name in (described or {}).get("headers", ())}
    strange = sorted(name for name in response.headers if name not in known and not name.startswith("access-control-"))
    assert described is None or not strange, f"not described: {strange}"


@schemathesis.check
def described_lines(_: Any, response: Any, case: Any) -> None:
    """Every line of an answer in lines is as the schema says."""
    described = _described(response, case)
    if described and LINES in described.get("content", ()):
        lines = response.content.splitlines()
        assert lines
        components = case.operation.schema.raw_schema["components"]
        validator = jsonschema_rs.Draft202012Validator(described["content"][LINES]["schema"] | {"components": components})
        for line in lines:
            assert validator.is_valid(json.loads(line)), f"a line that is not described: {line.decode()}"


def _described(response: Any, case: Any) -> Any:
    """What is said of this status; None: nothing, or the method is another, which other checks look at."""
    is_it = case.method.lower() == case.operation.method.lower()
    return case.operation.definition.raw["responses"].get(str(response.status_code)) if is_it else None
