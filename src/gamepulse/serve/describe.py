"""What a route may answer, for its description: problems by status with their codes, headers, and who may ask at all."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import SecurityScheme
from litestar.routes import HTTPRoute

from gamepulse import asker, errors

SCHEMES = {
    "token": SecurityScheme("http", scheme="bearer", description="What POST /v1/sign-ins gives"),
    "cookie": SecurityScheme("apiKey", name=asker.COOKIE, security_scheme_in="cookie", description="The same, in a browser"),
    "key": SecurityScheme("http", scheme="bearer", description="The game's key; it may stand in the body instead, as `key`"),
}
_SIGNED_IN: list[dict[str, list[str]]] = [{"token": []}, {"cookie": []}]
EVERYWHERE = (errors.BAD_HOST, errors.INTERNAL)
_ALWAYS = (*EVERYWHERE, errors.INVALID_PARAMETER, errors.RATE_LIMITED)
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


@dataclass
class Told(ResponseSpec):
    """An answer with what the framework has no place for: which problems it may be, and the names of its headers."""

    kinds: tuple[errors.Kind, ...] = ()
    headers: tuple[str, ...] = ()


def problems(*kinds: errors.Kind, has_body: bool = False) -> dict[int, ResponseSpec]:
    """The `responses` of a route under a limit that may answer with these."""
    return refusals(*kinds, *_ALWAYS, *(_BODY if has_body else ()))


def refusals(*kinds: errors.Kind) -> dict[int, ResponseSpec]:
    """The `responses` of a route that may answer with these only."""
    by_status: dict[int, dict[errors.Kind, None]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, {})[kind] = None
    return {
        status: Told(errors.ProblemDocument, media_type=errors.CONTENT_TYPE, generate_examples=False, kinds=tuple(of_status))
        for status, of_status in sorted(by_status.items())
    }


def _header(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"} | schema}


HEADERS = {
    **{
        name: _header(f"draft-ietf-httpapi-ratelimit-headers-10, as `{example}`")
        for name, example in (("RateLimit", '"address";r=59;t=1'), ("RateLimit-Policy", '"address";q=300;w=60'))
    },
    "Retry-After": _header("Seconds", type="integer", minimum=1),
    "WWW-Authenticate": _header("How to ask (RFC 9110)", const="Bearer"),
    "ETag": _header("Names the answer, for `If-None-Match`"),
    "Cache-Control": _header("How long it may be kept, and by whom"),
    "Vary": _header("Of a game that is not public: by what the answer differs"),
    "X-Accel-Buffering": _header("A proxy hands each event on at once", const="no"),
    "Set-Cookie": _header(f"`{asker.COOKIE}`, where the sign-in is a browser's"),
}


class Description(JsonRenderPlugin):
    """OpenAPI as JSON, completed by what routes tell with `Told`: the framework has no place for it."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The description."""
        return super().render(request, complete(request.app, openapi_schema))


def complete(app: Litestar, openapi_schema: dict[str, Any]) -> dict[str, Any]:
    """The same with all that; again, nothing changes."""
    for route in (one for one in app.routes if isinstance(one, HTTPRoute)):
        for method, (handler, _) in route.route_handler_map.items():
            operation = openapi_schema["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None:
                _complete(operation, route, handler)
    return openapi_schema


def _complete(operation: dict[str, Any], route: HTTPRoute, handler: HTTPRouteHandler) -> None:
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _never_null(parameter["schema"])
    told = {str(status): spec for status, spec in (handler.responses or {}).items() if isinstance(spec, Told)}
    operation["security"] = _security({kind for spec in told.values() for kind in spec.kinds})
    is_limited = route.path.startswith(("/v1/", "/api/")) and route.path != "/v1/reports"
    always = [header.name for header in handler.resolve_response_headers()]
    for status, response in operation["responses"].items():
        spec = told.get(status)
        names = [*(spec.headers if spec else ()), *(("RateLimit", "RateLimit-Policy") if is_limited or status == "429" else ())]
        if spec and spec.kinds:
            names += [name for name, of in _OF_PROBLEMS.items() if status in of]
            _name_codes(response, spec.kinds, may_be_none=status == "404" and _has_parameter(route))
        else:
            names += always
        events = response.get("content", {}).get("text/event-stream", {"schema": {}})
        if "$ref" in events["schema"]:  # of an event's data; OpenAPI 3.1 has no place for it
            data = {"type": "string", "contentMediaType": "application/json", "contentSchema": events["schema"]}
            events["schema"] = {"type": "object", "properties": {"event": {"const": "quality"}, "data": data}}
        headers = response.setdefault("headers", {})
        for name in names:
            headers[name] = HEADERS.get(name) or headers.get(name) or {"schema": {"type": "string"}}


_OF_PROBLEMS = {"Retry-After": ("429", "503"), "WWW-Authenticate": ("401",)}


def _security(kinds: set[errors.Kind]) -> list[dict[str, list[str]]]:
    """Which of SCHEMES: by what is answered without them."""
    if errors.MISSING_KEY in kinds:
        return [{"key": []}, {}]
    if errors.SIGN_IN_REQUIRED in kinds:
        return _SIGNED_IN
    return [{}, *_SIGNED_IN] if errors.SIGN_IN_ENDED in kinds else []


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or not; of one that may be left out the framework says that it may be null."""
    of = [one for one in schema.get("oneOf", ()) if one != {"type": "null"}]
    return of[0] | {name: value for name, value in schema.items() if name != "oneOf"} if len(of) == 1 else schema


def _has_parameter(route: HTTPRoute) -> bool:
    """A value with a slash, or a word in the place of a number, makes another path."""
    return any(not isinstance(part, str) for part in route.path_components)


def _name_codes(response: dict[str, Any], kinds: Iterable[errors.Kind], *, may_be_none: bool) -> None:
    kinds = [*kinds, errors.UNKNOWN_ROUTE] if may_be_none else list(kinds)
    response["description"] = "; ".join(f"`{kind.code}`: {kind.detail}" for kind in kinds)
    of_code = {"properties": {"code": {"enum": [kind.code for kind in kinds]}}}
    response["content"][errors.CONTENT_TYPE]["schema"] = {"allOf": [_PROBLEM, of_code]}


_PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}
