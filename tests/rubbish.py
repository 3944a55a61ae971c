"""Batches that are good or nearly so, and what the published JSON Schema says of them: by a validator that is not ours."""

import json
import os
import random
import re
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import jsonschema_rs
from hypothesis import settings
from hypothesis import strategies as st

from gamepulse.batch import ITEMS_MAX
from tests.batches import Json, batch, event, report

FACTOR = int(os.environ.get("RUBBISH_FACTOR", "1"))
"""How many times more examples than in `make test`; with more than 1 they differ from run to run."""
_LISTS = ("reports", "events")


def examples(number: int) -> settings:
    """So many made-up examples: the same in every run, unless RUBBISH_FACTOR asks for more."""
    return settings(max_examples=number * FACTOR, derandomize=FACTOR == 1, deadline=None, database=None)


# -- what is sent -----------------------------------------------------------------------------------------------------------------


class Literal(NamedTuple):
    """A JSON value as it is written."""

    text: str


class Again(NamedTuple):
    """The name of a field that its object has already: the value here is the last one, which holds."""

    name: str


def written(value: Any) -> str:
    """JSON with literals as they are and names that stand twice."""
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, dict):
        named = ((name.name if isinstance(name, Again) else name, held) for name, held in value.items())
        return "{" + ",".join(f"{json.dumps(name)}:{written(held)}" for name, held in named) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


NUMBERS = (
    "0 -0 -0.0 1 1.0 1e0 -1 7 0.5 1.01 0.01 0.0099 1E-2 60000 60000.0 60000.01 6e4 1e400 -1e400 1e-400 2147483647 2147483648 "
    "9007199254740992 9007199254740993 9223372036854775807 9223372036854775808 -9223372036854775809 18446744073709551616 1e308"
)
TEXTS = (
    "",
    "1",
    "a",
    "a b",
    "-a",
    "a.b_c:d+e-f",
    "a/b",
    "A" * 64,
    "A" * 65,
    "é",
    "😀",
    "\x00",
    "\x1f",
    "\x7f",
    "a\n",
    "\ud800",
    "null",
)
WORDS = ("client", "server", "wifi", "5g", "good", "GOOD", "rfc3550", "connected", "complaint", "crashed", "demo")
TREES = ("null", "true", "false", "[]", "{}", "[null]", "[[]]", "[{}]", '{"a":[1,{"b":null}]}')
_LITERALS = [*NUMBERS.split(), "9" * 400, "-" + "9" * 5000, *map(json.dumps, (*TEXTS, *WORDS)), *TREES]
FIELDS_OF_SESSION = ("session", "player", "platform", "build", "connection", "match")
FIELDS = {
    "batch": ("batch_id", "game", "sent_at", "key", "dropped", *FIELDS_OF_SESSION, *_LISTS, "sessions"),
    "session": (*FIELDS_OF_SESSION, *_LISTS),
    "reports": (
        "seq", "at", "region", "side", "server", "rtt_ms", "rtt_min_ms", "rtt_max_ms", "jitter_ms", "jitter_method", "loss", "quality",
    ),
    "events": ("seq", "at", "kind", "reason", "region", "server"),
}  # fmt: skip
_UNKNOWN = ("extra", "Seq", "", "rtt_ms ", "__proto__", "é")


def _uuids() -> st.SearchStrategy[Literal]:
    """UUIDs in several spellings; new ones each time, or a batch would be another under the same id."""
    forms = ("{0}", "{0!s:.35}", "{{{0}}}", "urn:uuid:{0}", "{0}\n", " {0}", "{0.hex}", "{0.hex:.31}", "{0!s:.8}_{0!s:.27}")
    made = st.sampled_from(forms).map(lambda form: form.format(uuid.uuid4()))
    return st.builds(lambda text, is_upper: Literal(json.dumps(text.upper() if is_upper else text)), made, st.booleans())


_NUMERIC = {"seq", "at", "sent_at", "dropped", "loss", "rtt_ms", "rtt_min_ms", "rtt_max_ms", "jitter_ms"}
VALUES = st.sampled_from(_LITERALS).map(Literal) | _uuids()
NUMERALS = st.sampled_from(NUMBERS.split()).map(Literal)


@st.composite
def batches(draw: st.DrawFn) -> bytes:
    """A batch with up to three things wrong, or unusual."""
    many = draw(st.booleans())
    kinds = draw(st.lists(st.sampled_from(_LISTS), max_size=5))
    made = batch([report(n) for n, kind in enumerate(kinds) if kind == "reports"], [event(n) for n in range(kinds.count("events"))])
    parts = [made]
    if many:
        names = ("session", *_LISTS)
        parts = [{name: made[name] for name in names}] + [{"session": str(uuid.uuid4())} for _ in range(draw(st.integers(0, 2)))]
        made = {name: held for name, held in made.items() if name not in names} | {"sessions": parts}
    targets: list[tuple[str, Json]] = [("batch", made)]
    targets += [("session", part) for part in parts if many]
    targets += [(name, item) for part in parts for name in _LISTS for item in part.get(name, [])]
    for _ in range(draw(st.integers(0, 3))):
        _spoil(draw, *draw(st.sampled_from(targets)))
    return written(made).encode()


def _spoil(draw: st.DrawFn, kind: str, target: Json) -> None:
    """One change of one field."""
    name = draw(st.sampled_from(FIELDS[kind] * 3 + _UNKNOWN))
    values = NUMERALS | VALUES if name in _NUMERIC else VALUES
    match draw(st.sampled_from(("set", "set", "set", "remove", "again", "item"))):
        case "remove":
            target.pop(name, None)
        case "again" if name in target and not isinstance(target[name], (Literal, list)):
            target[Again(name)] = draw(values)  # type: ignore[index]  # written() knows it
        case "item" if isinstance(target.get("reports"), list):
            target["reports"] = [*target["reports"], draw(VALUES)]
        case _:
            target.pop(Again(name), None)  # type: ignore[call-overload]  # as above
            target[name] = draw(values)


def mutated(chance: random.Random, bodies: list[bytes]) -> bytes:
    """One of the bodies with some bytes changed, doubled, left out, or put in from elsewhere."""
    body = bytearray(chance.choice(bodies))
    for _ in range(chance.randint(1, 4)):
        at, size = chance.randrange(len(body) + 1), chance.randint(0, 12)
        match chance.randrange(5):
            case 0:
                body[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del body[at : at + size]
            case 2:
                body[at:at] = body[at : at + size] * chance.randint(1, 30)
            case 3:
                body[at:at] = chance.choice(
                    (b"{", b"[", b'"', b"}", b"]", b",", b":", b"\\", b"\\ud800", b"\xed\xa0\x80", b"1e999", b"-", b"null")
                )
            case 4:
                other = chance.choice(bodies)
                start = chance.randrange(len(other))
                body[at : at + size] = other[start : start + size * 4]
    return bytes(body)


# -- what the schema says of it ---------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What is accepted of a batch that is not refused as a whole: JSON pointers of its reports and events."""

    good: set[str]
    bad: set[str]


class Published:
    """The schema in /docs/schema/openapi.json, and what docs/api.md says beyond it.

    A schema cannot say: 1 to 500 reports and events together; an integer is not written 1.0. It need not say that a UUID may come
    without hyphens.
    """

    def __init__(self, openapi: Any) -> None:
        schemas = openapi["components"]["schemas"]
        self._schemas: Json = {name: schemas[name] for name in ("Batch", "Session", "Report", "Event")}
        self._validators = {
            name: jsonschema_rs.Draft202012Validator(
                {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}, validate_formats=True
            )
            for name in self._schemas
        }

    def verdict(self, body: bytes) -> Verdict | None:
        """None: refused as a whole."""
        try:
            sent = json.loads(body.decode(), parse_float=_finite, parse_int=_integer, parse_constant=_refuse_constant)
            json.dumps(sent, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except ValueError:
            return None
        if not isinstance(sent, dict) or not self._is_envelope(sent):
            return None
        items = list(_items(sent))
        if not 1 <= len(items) <= ITEMS_MAX:
            return None
        good = {pointer for pointer, name, item in items if isinstance(item, dict) and self._is_good(name, item)}
        return Verdict(good, {pointer for pointer, _, _ in items} - good)

    def _is_envelope(self, sent: Json) -> bool:
        hollow = _hollow(sent)
        sessions = sent.get("sessions")
        if isinstance(sessions, list):
            hollow["sessions"] = [_hollow(one) if isinstance(one, dict) else one for one in sessions]
            if not all(self._is_good("Session", one) for one in hollow["sessions"] if isinstance(one, dict)):
                return False
        return self._is_good("Batch", hollow)

    def _is_good(self, name: str, item: Json) -> bool:
        properties = self._schemas[name]["properties"]
        if any(isinstance(value, float) and "integer" in json.dumps(properties.get(field)) for field, value in item.items()):
            return False
        return self._validators[name].is_valid(item)


def _hollow(of: Json) -> Json:
    """The same with good reports and events, and hyphens in its UUIDs."""
    hollow = {name: _hyphenated(name, value) for name, value in of.items()}
    for name, good in (("reports", report()), ("events", event())):
        if isinstance(of.get(name), list):
            hollow[name] = [good] * len(of[name])
    return hollow


def _items(sent: Json) -> Iterator[tuple[str, str, Any]]:
    """JSON pointer, name of its type, and value of each report and event."""
    parts = [("", sent)] + [(f"/sessions/{n}", one) for n, one in enumerate(sent.get("sessions") or [])]
    for prefix, part in parts:
        for name, kind in (("reports", "Report"), ("events", "Event")):
            yield from ((f"{prefix}/{name}/{n}", kind, item) for n, item in enumerate(part.get(name, [])))


def _hyphenated(name: str, value: Any) -> Any:
    is_short = name in {"batch_id", "session"} and isinstance(value, str) and re.fullmatch("[0-9a-fA-F]{32}", value)
    return str(uuid.UUID(value)) if is_short else value


def _finite(text: str) -> float:
    return max(-1e308, min(float(text), 1e308))


def _integer(text: str) -> int:
    return int(text[:400])  # beyond every limit all the same


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def without_hint(pointer: str) -> str:
    """The pointer of the report or event itself, from that of the field that is wrong in it."""
    found = re.match(r"(/sessions/\d+)?/(reports|events)/\d+", pointer)
    assert found, pointer
    return found[0]
