"""The description of POST /v1/reports, which reports.py answers."""

from typing import Annotated

from litestar import post
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.params import Body

from gamepulse import batch, errors
from gamepulse.serve.describe import BATCH, problems

_TEXT, _NULL, _NONE = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.NULL), Schema(max_items=0)
_OF_SESSION = Schema(required=["session"], properties={"session": _TEXT})
ONE_OR_MANY = [
    Schema(required=["session"], properties={"session": _TEXT, "sessions": _NULL}),
    Schema(
        required=["sessions"],
        properties={
            "sessions": Schema(type=OpenAPIType.ARRAY, items=_OF_SESSION), "session": _NULL, "reports": _NONE, "events": _NONE
        },
    ),
]  # fmt: skip
"""What the types of batch.py do not say: one session inline, or `sessions`."""


@post("/v1/reports", status_code=202, responses=problems(*BATCH, has_body=True))
async def reports_route(data: Annotated[batch.Batch, Body(schema_extra={"one_of": ONE_OR_MANY})]) -> batch.Answer:
    """Send a batch of reports and events. Answered when it is safe in PostgreSQL."""
    del data  # only described here: app.py routes this to reports.py, all but odd spellings such as //v1/reports
    raise errors.Problem(errors.UNKNOWN_ROUTE)


ROUTES = [reports_route]
