"""The routes that are not hot, a module for each group of them, and their description (OpenAPI); every error as HTTP."""

from typing import Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, Router
from litestar.exceptions import HTTPException, SerializationException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components
from litestar.params import QueryParameter
from litestar.routes import HTTPRoute
from litestar.types import Message, Scope

from gamepulse import __version__, asker, database, errors, sift
from gamepulse.serve import accounts, ancestor, games, health, limited, page, privacy, quality, reports, sessions, studios
from gamepulse.serve.describe import SCHEMES, Description
from gamepulse.serve.page import SECURITY_HEADERS

_PUBLIC = (reports, ancestor, quality, health, page)
_PRIVATE = (sessions, accounts, studios, games, privacy)
"""What they answer is for who asks, and is kept by no cache on the way."""
_NO_STORE = {"cache-control": "no-store"}


def build(lifespan: Any) -> Litestar:
    """The framework's application."""
    app = Litestar(
        [
            *(route for group in _PUBLIC for route in group.ROUTES),
            Router("/", route_handlers=[route for group in _PRIVATE for route in group.ROUTES], response_headers=_NO_STORE),
        ],
        lifespan=[lifespan],
        request_class=_Request,
        before_request=_before_request,
        before_send=[limited.before_send, _say_methods],
        exception_handlers={
            errors.Problem: _answer_problem,
            HTTPException: _answer_http,
            SerializationException: _answer_unreadable,
            RecursionError: _answer_unreadable,
            UnicodeDecodeError: _answer_unreadable,
            **dict.fromkeys(database.UNREACHABLE, _answer_unreachable),
            Exception: _answer_unexpected,
        },
        openapi_config=OpenAPIConfig(
            title="GamePulse",
            version=__version__,
            path="/docs/schema",
            render_plugins=[Description(path="/openapi.json", media_type=MediaType.JSON)],
            use_handler_docstrings=True,
            components=Components(security_schemes=dict(SCHEMES)),
        ),
        response_headers=SECURITY_HEADERS,
        request_max_body_size=64 * 1024,
        logging_config=None,
    )
    app.state.parameters = _parameters(app)
    return app


def _parameters(app: Litestar) -> dict[str, frozenset[str]]:
    """Of each path under /v1/ that takes any in its query: their names. Only GET takes some."""
    found: dict[str, frozenset[str]] = {}
    for route in (one for one in app.routes if isinstance(one, HTTPRoute) and one.path.startswith("/v1/")):
        handlers = [handler for method, (handler, _) in route.route_handler_map.items() if method == "GET"]
        signatures = [handler.parsed_fn_signature for handler in handlers]
        signatures += [given.parsed_fn_signature for handler in handlers for given in handler.resolve_dependencies().values()]
        kinds = [(name, field.kwarg_definition) for of in signatures for name, field in of.parameters.items()]
        names = frozenset(kind.name or name for name, kind in kinds if isinstance(kind, QueryParameter))
        found |= {route.path_format: names} if names else {}
    return found


async def _before_request(request: Request[Any, Any, Any]) -> None:
    """Raises Problem: RATE_LIMITED; INVALID_PARAMETER, because a filter or a time whose name is mistyped would be none."""
    await limited.before_request(request)
    known = request.app.state.parameters.get(request.scope["path_template"])
    if known is not None and not request.query_params.keys() <= known:
        raise errors.Problem(errors.INVALID_PARAMETER, f"Possible are {', '.join(sorted(known))}.")


class _Request(Request[Any, Any, Any]):
    """Bodies are decoded strictly: the framework takes `"5"` for a number there too, as it must in a parameter."""

    async def json(self) -> Any:
        """The body. Raises Problem: NOT_JSON, INVALID_PARAMETER."""
        wanted = self.route_handler.parsed_fn_signature.parameters["data"].annotation
        try:
            return msgspec.json.decode(await self.body(), type=wanted)
        except msgspec.ValidationError as error:
            pointer, _ = sift.explain(error)
            raise errors.Problem(errors.INVALID_PARAMETER, pointers=[pointer]) from None
        except msgspec.DecodeError:
            raise errors.Problem(errors.NOT_JSON) from None


def _answer_problem(request: Request[Any, Any, Any], problem: errors.Problem) -> Response[bytes]:
    facts = request.scope["state"]["facts"]
    kind = problem.kind
    facts.code = kind.code
    headers = dict(problem.headers)
    if kind.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = errors.document(problem, facts.trace)
    given = asker.given(request.headers, request.cookies) if kind is errors.SIGN_IN_ENDED else None
    gone = [accounts.cookie("", 0)] if given is not None and given.is_cookie else []
    return Response(body, status_code=kind.status, media_type=errors.CONTENT_TYPE, headers=headers, cookies=gone)


_HTTP_KINDS = {
    400: errors.INVALID_PARAMETER,
    404: errors.UNKNOWN_ROUTE,
    405: errors.METHOD_NOT_ALLOWED,
    413: errors.BODY_TOO_LARGE,
}


def _answer_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The framework's own errors, in our shape; their texts may quote what was sent, so only the names of fields are kept."""
    kind = _HTTP_KINDS.get(error.status_code, errors.INTERNAL)
    extra = error.extra if isinstance(error.extra, list) else []
    names = [_as_sent(str(item["key"])) for item in extra if isinstance(item, dict) and "key" in item]
    return _answer_problem(request, errors.Problem(kind, f"{kind.detail[:-1]}: {', '.join(names)}." if names else ""))


def _as_sent(name: str) -> str:
    """A parameter's name as it is asked with: the framework tells a handler's (`from_`, `_country`, `a_country`; filters.py)."""
    name = {"data": "the body"}.get(name, name.strip("_"))
    return f"{name[0]}.{name[2:]}" if name.startswith(("a_", "b_")) else name


async def _say_methods(message: Message, scope: Scope) -> None:
    """405 and OPTIONS say which methods the path takes (RFC 9110). The framework says it of one route, or not at all."""
    if message["type"] == "http.response.start" and (message["status"] == 405 or scope.get("method") == "OPTIONS"):
        others = [(name, value) for name, value in message["headers"] if name.lower() != b"allow"]
        message["headers"] = [*others, (b"allow", ", ".join(sorted(_methods(scope))).encode())]


def _methods(scope: Scope) -> set[str]:
    parts = [part for part in scope["path"].split("/") if part]
    return {
        method
        for route in scope["litestar_app"].routes
        if isinstance(route, HTTPRoute) and len(route.path_components) == len(parts)
        if all(not isinstance(one, str) or one == part for one, part in zip(route.path_components, parts, strict=True))
        for method in {*route.methods, *({"HEAD"} if "GET" in route.methods else ())}  # app.py answers it as GET
    }


def _answer_unreadable(request: Request[Any, Any, Any], _: Exception) -> Response[bytes]:
    return _answer_problem(request, errors.Problem(errors.NOT_JSON))


def _answer_unreachable(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    request.app.state.telemetry.failed("query failed", error)
    return _answer_problem(request, errors.Problem(errors.DATABASE_UNAVAILABLE))


def _answer_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    request.app.state.telemetry.failed("request failed", error)
    return _answer_problem(request, errors.Problem(errors.INTERNAL))
