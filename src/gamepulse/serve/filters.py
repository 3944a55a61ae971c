"""Parameters that say which groups are meant: one for each dimension, given as often as there are values."""

from inspect import Parameter, Signature
from typing import Annotated, Any

from litestar.di import Provide
from litestar.params import QueryParameter
from msgspec import Meta

from gamepulse.gather import Filters
from gamepulse.rollup import DIMENSIONS

VALUES_MAX = 50
"""Of one dimension."""
_WORD: Any = {"max_length": 64, "pattern": r"^[^\x00]*$"}  # PostgreSQL takes no NUL
_Word = Annotated[str, Meta(**_WORD), QueryParameter(**_WORD)]  # to check, and to describe: neither does for both


def filters(prefix: str = "") -> Provide:
    """What is given as `country=KR&country=JP&network=AS4766`, or with a prefix as `a.country=KR`."""
    annotations: dict[str, Any] = {
        f"{prefix.rstrip('.')}_{dimension}": Annotated[
            list[_Word] | None,
            QueryParameter(name=prefix + dimension, max_items=VALUES_MAX, description="Only these; may be given more than once"),
        ]
        for dimension in DIMENSIONS
    }

    def given(**values: list[str] | None) -> Filters:
        of = {dimension: values[name] for name, dimension in zip(annotations, DIMENSIONS, strict=True)}
        return tuple((dimension, tuple(sorted(set(words)))) for dimension, words in of.items() if words)

    # The framework looks at signatures: one parameter for each dimension, without 24 lines of them.
    given.__annotations__ = annotations | {"return": Any}
    given.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=one) for name, one in annotations.items()]
    )
    return Provide(given, sync_to_thread=False)


def both(common: Filters, of_side: Filters) -> Filters:
    """A side's own filters, and the common ones of other dimensions."""
    merged = dict(common) | dict(of_side)
    return tuple((dimension, merged[dimension]) for dimension in DIMENSIONS if dimension in merged)
