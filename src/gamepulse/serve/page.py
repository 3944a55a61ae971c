"""Routes: the live page's files, and the description of the interface for people."""

from functools import cache
from html import escape
from importlib.resources import files
from mimetypes import guess_type

from litestar import MediaType, Response, get

from gamepulse import errors

STATIC = files("gamepulse").joinpath("static")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_DOCS_POLICY = SECURITY_HEADERS["content-security-policy"] + "; img-src 'self' data:"


@get("/", include_in_schema=False)
async def page_route() -> Response[bytes]:
    """The live page."""
    return _file("index.html", cache_control="no-cache")


@get("/assets/{name:str}", include_in_schema=False)
async def asset_route(name: str) -> Response[bytes]:
    """The page's files; their names change with their content."""
    return _file(f"assets/{name}", cache_control="public, max-age=31536000, immutable")


@get("/docs", include_in_schema=False)
async def docs_route() -> Response[bytes]:
    """The description of the interface, for people."""
    page = _file("docs/index.html", cache_control="no-cache")
    page.headers["content-security-policy"] = _DOCS_POLICY
    return page


@get("/docs/errors", include_in_schema=False, media_type=MediaType.HTML)
async def errors_route() -> str:
    """What each `code` means: where the `type` of a problem leads."""
    rows = "".join(
        f'<tr id="{kind.code}"><td><code>{kind.code}</code><td>{kind.status}<td>{escape(kind.detail)}'
        for kind in errors.KINDS.values()
    )
    return f"<!doctype html><html lang=en><title>GamePulse errors</title><h1>Errors</h1><table>{rows}</table></html>"


@get("/docs/assets/{name:str}", include_in_schema=False)
async def docs_asset_route(name: str) -> Response[bytes]:
    """Files of the documentation page."""
    return _file(f"docs/{name}", cache_control="no-cache")


@cache
def _files() -> dict[str, bytes]:
    """The page's files by name: the few that there are, so that no name can lead elsewhere."""
    folders = {"": STATIC, "assets/": STATIC.joinpath("assets"), "docs/": STATIC.joinpath("docs")}
    return {
        prefix + file.name: file.read_bytes()
        for prefix, folder in folders.items()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.is_file()
    }


def _file(name: str, cache_control: str) -> Response[bytes]:
    """A file of the page. Raises Problem UNKNOWN_ROUTE."""
    content = _files().get(name)
    if content is None:
        raise errors.Problem(errors.UNKNOWN_ROUTE)
    media_type = guess_type(name)[0] or "application/octet-stream"
    return Response(content, media_type=media_type, headers={"cache-control": cache_control})


ROUTES = [page_route, asset_route, docs_route, errors_route, docs_asset_route]
