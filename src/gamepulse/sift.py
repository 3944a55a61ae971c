"""A batch with something wrong in it: which of its reports and events, and why; the others survive."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from gamepulse import errors
from gamepulse.batch import (
    ITEMS_MAX,
    Batch,
    Event,
    LooseBatch,
    LooseSession,
    Rejection,
    Report,
    Session,
    SessionFields,
    StrictEvent,
    StrictLooseBatch,
    StrictReport,
    is_label,
)

SPOILED_BYTES_MAX = 512
"""Of an item that was set aside; a longer one is compared as it is written, not as it is meant: that costs less."""

_strict_loose_decoder = msgspec.json.Decoder(StrictLooseBatch)
_loose_decoder = msgspec.json.Decoder(LooseBatch)
_strict_report_decoder = msgspec.json.Decoder(StrictReport)
_report_decoder = msgspec.json.Decoder(Report)
_strict_event_decoder = msgspec.json.Decoder(StrictEvent)
_event_decoder = msgspec.json.Decoder(Event)


def check_count(items: int) -> None:
    """Raises Problem WRONG_ITEM_COUNT."""
    if not 1 <= items <= ITEMS_MAX:
        raise errors.Problem(errors.WRONG_ITEM_COUNT, f"A batch holds 1 to {ITEMS_MAX} reports and events together.")


class Sifted:
    """What is wrong with the items set aside, what they were, and where the good ones of their lists stood."""

    def __init__(self) -> None:
        self.rejected: list[Rejection] = []
        self.spoiled: list[str] = []
        self.positions: dict[str, list[int]] = {}
        self.has_unknown_fields = False

    def decode[T](self, what: bytes | Raw, strict: msgspec.json.Decoder[Any], tolerant: msgspec.json.Decoder[T]) -> T:
        """Decode, ignoring fields that are not known, but noting that there were some."""
        try:
            decoded: T = strict.decode(what)
        except msgspec.ValidationError as error:
            if not str(error).startswith("Object contains unknown field"):
                raise
            self.has_unknown_fields = True
            return tolerant.decode(what)
        return decoded

    def reports(self, raws: Sequence[Raw], pointer: str) -> list[Report]:
        return self._items(raws, pointer, _strict_report_decoder, _report_decoder)

    def events(self, raws: Sequence[Raw], pointer: str) -> list[Event]:
        return self._items(raws, pointer, _strict_event_decoder, _event_decoder)

    def _items[T](
        self, raws: Sequence[Raw], pointer: str, strict: msgspec.json.Decoder[Any], tolerant: msgspec.json.Decoder[T]
    ) -> list[T]:
        """The good ones of a list at this JSON pointer."""
        good, positions = [], []
        for index, raw in enumerate(raws):
            try:
                item = self.decode(raw, strict, tolerant)
            except msgspec.ValidationError as error:
                self._set_aside(raw, pointer, index, *explain(error))
                continue
            bad = _bad_labels(item, "region", "server", "reason")
            if bad:
                self._set_aside(raw, pointer, index, bad[0], "invalid_characters")
                continue
            good.append(item)
            positions.append(index)
        if len(good) < len(raws):
            self.positions[pointer] = positions
        return good

    def _set_aside(self, raw: Raw, pointer: str, index: int, wrong: str, code: str) -> None:
        self.rejected.append(Rejection(f"{pointer}/{index}{wrong}", index, code))
        self.spoiled.append(f"{pointer}/{index} {_said(raw)}")


def _bad_labels(of: object, *names: str) -> list[str]:
    """JSON pointers of the labels that have wrong characters."""
    return [f"/{name}" for name in names if (value := getattr(of, name, None)) is not None and not is_label(value)]


def _said(raw: Raw) -> str:
    """What an item says, however it is spaced or ordered; for the fingerprint only."""
    written = bytes(raw)
    try:
        if len(written) <= SPOILED_BYTES_MAX:
            return json.dumps(json.loads(written, parse_int=float), sort_keys=True)
    except (ValueError, RecursionError):  # numbers beyond all types, or no text at all
        pass
    return hashlib.blake2b(written).hexdigest()


def decode_loosely(body: bytes, sifted: Sifted) -> Batch:
    """Decode report by report. Raises Problem when it is the envelope that is wrong."""
    try:
        loose = sifted.decode(body, _strict_loose_decoder, _loose_decoder)
    except msgspec.ValidationError as error:
        pointer, code = explain(error)
        raise errors.Problem(errors.KINDS[code], pointers=[pointer]) from None
    # Before they are looked into one by one: that costs much more than counting them.
    lists: Sequence[LooseBatch | LooseSession] = [loose, *(loose.sessions or ())]
    check_count(sum(len(one.reports) + len(one.events) for one in lists))
    if loose.sessions is not None and (loose.reports or loose.events):
        raise errors.Problem(errors.SESSION_AND_SESSIONS, pointers=["/sessions"])
    bad = _bad_labels(loose, "platform", "build", "match")
    for n, session in enumerate(loose.sessions or ()):
        bad += [f"/sessions/{n}{pointer}" for pointer in _bad_labels(session, "platform", "build", "match")]
    if bad:
        raise errors.Problem(errors.KINDS["invalid_characters"], pointers=bad)
    reports = sifted.reports(loose.reports, "/reports")
    events = sifted.events(loose.events, "/events")
    sessions = None
    if loose.sessions is not None:
        sessions = []
        for n, session in enumerate(loose.sessions):
            own_reports = sifted.reports(session.reports, f"/sessions/{n}/reports")
            own_events = sifted.events(session.events, f"/sessions/{n}/events")
            sessions.append(Session(**fields(session), reports=own_reports, events=own_events))
    return Batch(
        **fields(loose), batch_id=loose.batch_id, game=loose.game, sent_at=loose.sent_at, key=loose.key, dropped=loose.dropped,
        reports=reports, events=events, sessions=sessions,
    )  # fmt: skip


def fields(of: SessionFields) -> dict[str, Any]:
    return {name: getattr(of, name) for name in SessionFields.__struct_fields__}


_AT = re.compile(r".* - at `\$(.*)`$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_MISSING = re.compile(r"^Object missing required field `(\w+)`")
_CODES = (
    ("Invalid enum value", "unknown_value"),  # first: it quotes what was sent, which may look like any of the others
    ("missing required field", "missing_field"),
    ("matching regex", "invalid_characters"),
    ("Invalid UUID", "invalid_uuid"),
    ("of length", "wrong_length"),
    (" >= ", "out_of_range"),
    (" <= ", "out_of_range"),
    ("out of range", "out_of_range"),
    (", got ", "wrong_type"),
)


def explain(error: msgspec.ValidationError) -> tuple[str, str]:
    """JSON pointer and code of what is wrong. The library's text is not passed on: it may quote what was sent."""
    text = str(error)
    # The last one: what was sent may look like one. And a name that is not known was sent.
    at = None if text.startswith("Object contains unknown field") else _AT.match(text)
    pointer = "".join("/" + (name or index) for name, index in _STEP.findall(at[1])) if at else ""
    missing = _MISSING.search(text)
    if missing:
        pointer += f"/{missing[1]}"
    return pointer, next((code for words, code in _CODES if words in text), "invalid")


def session_of(rejection: Rejection) -> int:
    return int(rejection.pointer.split("/")[2]) if rejection.pointer.startswith("/sessions/") else 0
