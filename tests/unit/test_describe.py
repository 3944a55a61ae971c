"""What the description (OpenAPI) says beyond what the framework says of itself. That it is so: tests/integration/test_contract.py."""

from typing import Any

import pytest

from gamepulse import errors, serve
from gamepulse.rollup import DIMENSIONS
from gamepulse.serve.describe import complete

pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")  # of what Litestar 3 asks for


@pytest.fixture(scope="module")
def described() -> Any:
    app = serve.build(None)
    return complete(app, app.openapi_schema.to_schema())


def test_every_operation_says_who_may_ask(described: Any) -> None:
    signed_in: list[dict[str, list[str]]] = [{"token": []}, {"cookie": []}]
    for method, path, wanted in (
        ("get", "/v1/meta", []),
        ("post", "/v1/sign-ins", []),
        ("get", "/health", []),
        ("get", "/v1/quality", [{}, *signed_in]),
        ("get", "/v1/live", [{}, *signed_in]),
        ("get", "/v1/account", signed_in),
        ("post", "/v1/games/{game}/exports", signed_in),
        ("post", "/v1/reports", [{"key": []}, {}]),
    ):
        assert (path, described["paths"][path][method]["security"]) == (path, wanted)
    assert all("security" in one for operations in described["paths"].values() for one in operations.values())
    assert "security" not in described
    assert set(described["components"]["securitySchemes"]) == {"token", "cookie", "key"}


def test_problems_are_told_by_their_codes(described: Any) -> None:
    for path, operations in described["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                problem = response.get("content", {}).get(errors.CONTENT_TYPE)
                codes = problem["schema"]["allOf"][1]["properties"]["code"]["enum"] if problem else []
                assert (path, {errors.KINDS[code].status for code in codes}) == (path, {int(status)} if problem else set())
                assert all(f"`{code}`" in response["description"] for code in codes)
            assert "{" not in path or errors.UNKNOWN_ROUTE.code in operation["responses"]["404"]["description"], path
            assert errors.BAD_HOST.code in operation["responses"]["400"]["description"]


def test_parameters_have_their_limits_and_are_never_null(described: Any) -> None:
    of = {one["name"]: one["schema"] for one in described["paths"]["/v1/quality/compare"]["get"]["parameters"]}
    for name in (f"{prefix}{dimension}" for prefix in ("", "a.", "b.") for dimension in DIMENSIONS):
        assert {key: of[name].get(key) for key in ("type", "maxItems")} == {"type": "array", "maxItems": 50}
        assert of[name]["items"] == {"type": "string", "maxLength": 64, "pattern": "^[^\\x00]*$"}
    for name in ("from", "to", "versus_from", "versus_to"):
        assert (of[name]["type"], of[name]["format"]) == ("string", "date-time")
    for operations in described["paths"].values():
        for operation in operations.values():
            assert '"null"' not in str([one["schema"] for one in operation.get("parameters", [])]).replace("'", '"')


def test_all_parameters_that_are_described_are_taken_and_no_others(described: Any) -> None:
    taken = serve.build(None).state.parameters
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            told = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
            assert (path, method, told) == (path, method, taken.get(path, set()) if method == "get" else set())
    assert taken["/v1/quality/series"] == {"game", "from", "to", "group_by", "limit", "step", *DIMENSIONS}
    assert "/v1/sign-ins" not in taken


def test_streams_say_what_comes(described: Any) -> None:
    [(kind, events)] = described["paths"]["/v1/live"]["get"]["responses"]["200"]["content"].items()
    data = events["schema"]["properties"]["data"]
    assert (kind, data["contentMediaType"]) == ("text/event-stream", "application/json")
    assert data["contentSchema"] == {"$ref": "#/components/schemas/Snapshot"}
    assert {"from", "to", "as_of", "series"} <= set(described["components"]["schemas"]["Snapshot"]["required"])
    [(kind, lines)] = described["paths"]["/v1/games/{game}/exports"]["post"]["responses"]["200"]["content"].items()
    names = {one["$ref"].rpartition("/")[2] for one in lines["schema"]["oneOf"]}
    assert (kind, names) == ("application/x-ndjson", {"ExportedSession", "ExportedBatch", "ExportedEnd"})


def test_answers_have_their_headers(described: Any) -> None:
    for method, path, status, wanted in (
        ("get", "/v1/quality/series", "200", {"ETag", "Cache-Control", "Vary"}),
        ("get", "/v1/quality/series", "304", {"ETag", "Cache-Control", "Vary"}),
        ("get", "/v1/quality/series", "503", {"Retry-After"}),
        ("get", "/v1/account", "401", {"WWW-Authenticate"}),
        ("post", "/v1/reports", "401", {"WWW-Authenticate"}),
        ("post", "/v1/sign-ins", "201", {"Set-Cookie", "cache-control"}),
        ("delete", "/v1/sign-ins/current", "204", {"Set-Cookie", "cache-control"}),
    ):
        assert (path, status, wanted - set(described["paths"][path][method]["responses"][status]["headers"])) == (
            path,
            status,
            set(),
        )


def test_what_may_be_left_out_and_what_may_be_null(described: Any) -> None:
    change = described["components"]["schemas"]["GameChange"]
    assert change["required"] == []
    can_be_null = {name for name, of in change["properties"].items() if "null" in str(of)}
    assert can_be_null == {"raw_retention_days"}
    assert {"minimum": 1, "maximum": 90}.items() <= change["properties"]["raw_retention_days"].items()
