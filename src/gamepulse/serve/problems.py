"""The problems of a route, as its description (OpenAPI) tells them."""

from litestar.openapi.datastructures import ResponseSpec

from gamepulse import errors


def problems(*kinds: errors.Kind) -> dict[int, ResponseSpec]:
    """The answers that are none of success, by status, each with its codes."""
    by_status: dict[int, list[str]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind.code)
    return {
        status: ResponseSpec(
            errors.ProblemDocument,
            generate_examples=False,
            description=", ".join(f"`{code}`" for code in codes),
            media_type=errors.CONTENT_TYPE,
        )
        for status, codes in sorted(by_status.items())
    }
