"""Every error that GamePulse answers with, and their one shape (RFC 9457).

    Problem
    ├── Malformed 400      the body is not JSON, not its encoding, or was cut off
    ├── Unauthenticated 401
    ├── Forbidden 403
    ├── NotFound 404
    ├── MethodNotAllowed 405
    ├── TooSlow 408
    ├── Conflict 409
    ├── TooLarge 413
    ├── UnsupportedMedia 415
    ├── Invalid 422        the envelope or a parameter is wrong
    └── Unavailable 503    try again after `retry_after_s`

`code` is stable and documented in docs/api.md. Details name fields and limits, never the values that were sent.
"""

import msgspec

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer that is not a success. `pointers` are JSON pointers into the body that was sent."""

    status = 500
    title = "Internal error"

    def __init__(self, code: str, detail: str, *, pointers: list[str] | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.pointers = pointers
        self.retry_after_s = retry_after_s


class Malformed(Problem):
    status = 400
    title = "Malformed body"


class Unauthenticated(Problem):
    status = 401
    title = "Not authenticated"


class Forbidden(Problem):
    status = 403
    title = "Not allowed"


class NotFound(Problem):
    status = 404
    title = "Not found"


class MethodNotAllowed(Problem):
    status = 405
    title = "Method not allowed"


class TooSlow(Problem):
    status = 408
    title = "Body too slow"


class Conflict(Problem):
    status = 409
    title = "Conflict"


class TooLarge(Problem):
    status = 413
    title = "Too large"


class UnsupportedMedia(Problem):
    status = 415
    title = "Unsupported media type"


class Invalid(Problem):
    status = 422
    title = "Invalid"


class Unavailable(Problem):
    status = 503
    title = "Unavailable"


class ProblemDocument(msgspec.Struct, omit_defaults=True):
    """The JSON of a problem (RFC 9457 with `code`, `trace_id` and `pointers`)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    trace_id: str
    pointers: list[str] | None = None


def document(problem: Problem, trace_id: str) -> bytes:
    """The body of the answer."""
    return msgspec.json.encode(
        ProblemDocument(
            type=f"/docs/errors#{problem.code}",
            title=problem.title,
            status=problem.status,
            detail=problem.detail,
            code=problem.code,
            trace_id=trace_id,
            pointers=problem.pointers,
        )
    )
