"""What a route may answer besides its success, for its description: problems by status, with their codes; headers of limits."""

from typing import Any

from litestar import MediaType, Request
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import SecurityScheme

from gamepulse import asker, errors

SCHEMES = {
    "token": SecurityScheme("http", scheme="bearer", description="What POST /v1/sign-ins gives; for /v1/reports the game's key"),
    "cookie": SecurityScheme("apiKey", name=asker.COOKIE, security_scheme_in="cookie", description="The same, in a browser"),
}
"""What is public needs neither."""
_ALWAYS = (errors.INVALID_PARAMETER, errors.RATE_LIMITED, errors.INTERNAL)
_BODY = (errors.NOT_JSON, errors.BODY_TOO_SLOW, errors.BODY_TOO_LARGE)
_DATABASE = (errors.DATABASE_UNAVAILABLE, errors.OVERLOADED)
SIGNED_IN = (errors.SIGN_IN_REQUIRED, errors.SIGN_IN_ENDED, errors.CROSS_SITE, *_DATABASE)
"""Of what an account does."""
STUDIO = (*SIGNED_IN, errors.UNKNOWN_STUDIO, errors.ROLE_REQUIRED, errors.TOTP_ENROLMENT_REQUIRED)
"""Of what a member of a studio does."""
GAME = (errors.UNKNOWN_GAME, errors.SIGN_IN_ENDED, *_DATABASE)
"""Of what anyone may ask about a public game."""
GAME_OF_STUDIO = (*GAME, *SIGNED_IN, errors.ROLE_REQUIRED, errors.TOTP_ENROLMENT_REQUIRED)
"""Of what takes a role in the game's studio."""


BATCH = (
    errors.NOT_ITS_ENCODING, errors.TRUNCATED, errors.CUT_OFF, errors.EXPANDED_TOO_LARGE, errors.UNSUPPORTED_MEDIA_TYPE,
    errors.UNSUPPORTED_ENCODING, errors.MISSING_KEY, errors.UNKNOWN_KEY, errors.OTHER_GAME, errors.SERVER_KEY_REQUIRED,
    errors.WRONG_ITEM_COUNT, errors.SESSION_AND_SESSIONS, errors.TOO_MANY_SERVERS, errors.NOT_STORABLE, errors.BATCH_ID_REUSED,
    errors.MISSING_FIELD, errors.WRONG_TYPE, errors.OUT_OF_RANGE, errors.INVALID_CHARACTERS, errors.UNKNOWN_VALUE,
    errors.INVALID_UUID, errors.WRONG_LENGTH, errors.INVALID, errors.COMMIT_FAILED, *_DATABASE,
)  # fmt: skip
"""Of sending a batch."""


def problems(*kinds: errors.Kind, has_body: bool = False) -> dict[int, ResponseSpec]:
    """The `responses` of a route that may answer with these."""
    by_status: dict[int, dict[str, str]] = {}
    for kind in (*kinds, *_ALWAYS, *(_BODY if has_body else ())):
        by_status.setdefault(kind.status, {})[kind.code] = kind.detail
    return {
        status: ResponseSpec(
            errors.ProblemDocument,
            description="; ".join(f"`{code}`: {detail}" for code, detail in details.items()),
            media_type=errors.CONTENT_TYPE,
            generate_examples=False,
        )
        for status, details in sorted(by_status.items())
    }


_RETRY_AFTER: dict[str, Any] = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}}
_LIMITS: dict[str, Any] = {
    name: {"description": f"draft-ietf-httpapi-ratelimit-headers-10, as `{example}`", "schema": {"type": "string"}}
    for name, example in (("RateLimit", '"address";r=59;t=1'), ("RateLimit-Policy", '"address";q=300;w=60'))
}


class Description(JsonRenderPlugin):
    """OpenAPI as JSON, with the headers that tell of limits and of when to ask again: the framework has no place for them.

    And without errors in the framework's own shape: `_answer_http` gives them ours.
    """

    _rendered = b""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The description, always the same."""
        self._rendered = self._rendered or self._render(request, openapi_schema)
        return self._rendered

    def _render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        for path, operations in openapi_schema["paths"].items():
            for operation in operations.values():
                if MediaType.JSON in operation["responses"].get("400", {}).get("content", {}):
                    del operation["responses"]["400"]
            is_told = path.startswith(("/v1/", "/api/")) and path != "/v1/reports"
            for status, response in ((one, told) for of in operations.values() for one, told in of["responses"].items()):
                is_refusal = status in {"429", "503"} and errors.CONTENT_TYPE in response["content"]
                more = (_LIMITS if is_told or status == "429" else {}) | (_RETRY_AFTER if is_refusal else {})
                if more:
                    response["headers"] = response.get("headers", {}) | more
        return super().render(request, openapi_schema)
