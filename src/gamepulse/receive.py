"""From the bytes of a request to a batch that is checked: decoded, within limits, its bad reports set aside, its times corrected.

Nothing personal goes further: the address has become a place, the player a keyed hash.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID
from zlib import crc32

import msgspec
from backports import zstd
from msgspec import Raw

from gamepulse import errors, records
from gamepulse.accept import Part, Sent
from gamepulse.batch import (
    BODY_EXPANDED_BYTES_MAX,
    ITEMS_MAX,
    LABEL_PATTERN,
    Batch,
    Event,
    LooseBatch,
    LooseSession,
    Rejection,
    Report,
    Session,
    SessionFields,
    StrictBatch,
    StrictEvent,
    StrictLooseBatch,
    StrictReport,
)
from gamepulse.geography import Place
from gamepulse.keys import IngestKey
from gamepulse.spans import RequestFacts

SHARDS = 4
"""A session's reports are aggregated by the leader of its shard."""
CLOCK_TOLERANCE_MS = 30_000
AGE_MS_MAX = 24 * 3600 * 1000
AHEAD_MS_MAX = 5 * 60 * 1000
ZSTD_WINDOW_LOG_MAX = 23
"""8 MiB, what RFC 8878 asks every decoder to support."""
LABELS_REMEMBERED = 4_096
SPOILED_BYTES_MAX = 512
"""Of an item that was set aside; a longer one is compared as it is written, not as it is meant: that costs less."""

_strict_decoder = msgspec.json.Decoder(StrictBatch)
_batch_decoder = msgspec.json.Decoder(Batch)
_strict_loose_decoder = msgspec.json.Decoder(StrictLooseBatch)
_loose_decoder = msgspec.json.Decoder(LooseBatch)
_strict_report_decoder = msgspec.json.Decoder(StrictReport)
_report_decoder = msgspec.json.Decoder(Report)
_strict_event_decoder = msgspec.json.Decoder(StrictEvent)
_event_decoder = msgspec.json.Decoder(Event)
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_packer = msgspec.msgpack.Encoder()
_label = re.compile(LABEL_PATTERN)


class Content(msgspec.Struct):
    """A decoded batch, with what was set aside of it."""

    batch: Batch
    sessions: Sequence[Session]
    columns: list[records.Columns]
    """The reports of each session."""
    rejected: list[Rejection]
    rejected_by_session: list[int]
    positions: dict[str, list[int]]
    """Where the good items of a list (JSON pointer) stood, for lists of which some were set aside."""
    fingerprint: int
    has_unknown_fields: bool


def expand(body: bytes, encoding: bytes) -> bytes:
    """Undo the content encoding.

    Raises Problem: EXPANDED_TOO_LARGE beyond 1 MiB, NOT_ITS_ENCODING, TRUNCATED, UNSUPPORTED_ENCODING.
    """
    if encoding in (b"", b"identity"):
        return body
    try:
        if encoding == b"gzip":
            gunzip = zlib.decompressobj(wbits=31)
            expanded, is_whole = gunzip.decompress(body, BODY_EXPANDED_BYTES_MAX + 1), gunzip.eof
            rest = gunzip.unused_data
        elif encoding == b"zstd":
            unzstd = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX})
            expanded, is_whole = unzstd.decompress(body, BODY_EXPANDED_BYTES_MAX + 1), unzstd.eof
            rest = unzstd.unused_data
        else:
            raise errors.Problem(errors.UNSUPPORTED_ENCODING)
    except (zlib.error, zstd.ZstdError) as error:
        raise errors.Problem(errors.NOT_ITS_ENCODING) from error
    if len(expanded) > BODY_EXPANDED_BYTES_MAX:
        raise errors.Problem(errors.EXPANDED_TOO_LARGE, f"At most {BODY_EXPANDED_BYTES_MAX} bytes when expanded.")
    if not is_whole:
        raise errors.Problem(errors.TRUNCATED)
    if rest:  # a second gzip member or zstd frame would be lost without a word
        raise errors.Problem(errors.NOT_ITS_ENCODING)
    return expanded


def decode(body: bytes) -> Content:
    """Decode and check a batch; bad reports and events are set aside, not fatal.

    Raises Problem: NOT_JSON, or what is wrong with the envelope.
    """
    sifted = _Sifted()
    try:
        batch = _decode_whole(body, sifted)
        if batch is not None:
            content = _content(batch, sifted)
            if _has_good_labels(content):
                return content
        return _content(_decode_loosely(body, sifted), sifted)
    except _NOT_JSON as error:
        raise errors.Problem(errors.NOT_JSON) from error


def _decode_whole(body: bytes, sifted: "_Sifted") -> Batch | None:
    """The batch when nothing is wrong with it but fields that are not known."""
    try:
        return sifted.decode(body, _strict_decoder, _batch_decoder)
    except msgspec.ValidationError:
        return None


def _content(batch: Batch, sifted: "_Sifted") -> Content:
    sessions = _sessions(batch)
    _check_count(sum(len(session.reports) + len(session.events) for session in sessions) + len(sifted.rejected))
    columns = [records.columns(session.reports) for session in sessions]
    by_session = [0] * len(sessions)
    for rejection in sifted.rejected:
        by_session[_session_of(rejection)] += 1
    return Content(
        batch=batch,
        sessions=sessions,
        columns=columns,
        rejected=sifted.rejected,
        rejected_by_session=by_session,
        positions=sifted.positions,
        fingerprint=_fingerprint(batch, sessions, columns, sifted.spoiled),
        has_unknown_fields=sifted.has_unknown_fields,
    )


def _has_good_labels(content: Content) -> bool:
    labels: set[Any] = {content.batch.platform, content.batch.build, content.batch.match}
    for session, columns in zip(content.sessions, content.columns, strict=True):
        labels.update(columns.region, columns.server, (session.platform, session.build, session.match))
        for event in session.events:
            labels.update((event.reason, event.region, event.server))
    labels.discard(None)
    return all(map(_is_label, labels))


def _is_label(text: str) -> bool:
    return len(text) <= 64 and _matches_label(text)


@lru_cache(LABELS_REMEMBERED)
def _matches_label(text: str) -> bool:
    return _label.match(text) is not None


def _check_count(items: int) -> None:
    if not 1 <= items <= ITEMS_MAX:
        raise errors.Problem(errors.WRONG_ITEM_COUNT, f"A batch holds 1 to {ITEMS_MAX} reports and events together.")


def check_key(content: Content, key: IngestKey) -> None:
    """Raises Problem: OTHER_GAME when the key does not open the batch's game, SERVER_KEY_REQUIRED for many sessions."""
    if content.batch.game != key.game:
        raise errors.Problem(errors.OTHER_GAME, pointers=["/game"])
    if content.batch.sessions is not None and not key.is_server:
        raise errors.Problem(errors.SERVER_KEY_REQUIRED, pointers=["/sessions"])


def prepare(content: Content, key: IngestKey, geography: Place, now_ms: int, player_hash_key: bytes, facts: RequestFacts) -> Sent:
    """What is stored of a batch: clocks corrected, times checked, players hashed.

    Raises Problem: TOO_MANY_SERVERS.
    """
    offset_ms = now_ms - content.batch.sent_at
    shift_ms = offset_ms if abs(offset_ms) > CLOCK_TOLERANCE_MS else 0
    prefixes = [""] if content.batch.sessions is None else [f"/sessions/{n}" for n in range(len(content.sessions))]
    parts, accepted = [], 0
    for n, (prefix, session) in enumerate(zip(prefixes, content.sessions, strict=True)):
        late = _reject_by_time(content, n, prefix, now_ms - shift_ms)
        content.rejected.extend(late)
        rejected = content.rejected_by_session[n] + len(late)
        kept = len(content.columns[n].seq) + len(session.events)
        accepted += kept
        if kept or rejected:
            parts.append(_part(session, content.columns[n], key, geography, shift_ms, player_hash_key, rejected))
    return Sent(
        key=key,
        batch_id=content.batch.batch_id,
        fingerprint=content.fingerprint,
        clock_offset_ms=shift_ms or None,
        parts=parts,
        accepted=accepted,
        rejected=content.rejected,
        dropped=content.batch.dropped or 0,
        facts=facts,
    )


def hash_player(player: str, game_id: int, player_hash_key: bytes) -> bytes:
    """A player's id as it is stored: keyed BLAKE2b, another for each game."""
    return hashlib.blake2b(player.encode(), digest_size=16, key=player_hash_key, salt=game_id.to_bytes(8)).digest()


def shard_of(session_id: UUID) -> int:
    """The shard of a session: by hash, so that one big game is spread over all."""
    return crc32(session_id.bytes) % SHARDS


def _sessions(batch: Batch) -> Sequence[Session]:
    if batch.sessions is not None:
        if batch.reports or batch.events or batch.session is not None:
            raise errors.Problem(errors.SESSION_AND_SESSIONS, pointers=["/sessions"])
        missing = [f"/sessions/{n}/session" for n, session in enumerate(batch.sessions) if session.session is None]
        if missing:
            raise errors.Problem(errors.MISSING_FIELD, pointers=missing)
        return batch.sessions
    if batch.session is None:
        raise errors.Problem(errors.MISSING_FIELD, pointers=["/session"])
    return [Session(**_fields(batch), reports=batch.reports, events=batch.events)]


def _part(
    session: Session,
    columns: records.Columns,
    key: IngestKey,
    geography: Place,
    shift_ms: int,
    player_hash_key: bytes,
    rejected: int,
) -> Part:
    assert session.session is not None
    places: dict[tuple[str, str | None], int] = {}
    codes = [places.setdefault(place, len(places)) for place in zip(columns.region, columns.server, strict=True)]
    if len(places) > records.PLACES_MAX:
        raise errors.Problem(errors.TOO_MANY_SERVERS, f"A session may name {records.PLACES_MAX} servers in a batch.")
    return Part(
        session_id=session.session,
        shard=shard_of(session.session),
        player=hash_player(session.player, key.game_id, player_hash_key) if session.player else None,
        match=session.match,
        labels=records.join_labels((*geography, session.connection, session.platform, session.build), places),
        columns=columns,
        place_codes=codes,
        events=_events(session.events, shift_ms) if session.events else None,
        rejected=rejected,
    )


def _events(events: Iterable[Event], shift_ms: int) -> str:
    """Events as they are stored: JSON, their times corrected."""
    if shift_ms:
        events = [msgspec.structs.replace(event, at=event.at + shift_ms) for event in events]
    return msgspec.json.encode(events).decode()


def _reject_by_time(content: Content, n: int, prefix: str, now_ms: int) -> list[Rejection]:
    """Sets aside what is older than 24 h or more than 5 min ahead; usually nothing, so it looks before it works.

    `now_ms`: on the client's clock, as far as that is believed.
    """
    earliest, latest = now_ms - AGE_MS_MAX, now_ms + AHEAD_MS_MAX
    session = content.sessions[n]
    rejected: list[Rejection] = []
    for name, times in (("reports", content.columns[n].at), ("events", [event.at for event in session.events])):
        if not times or (min(times) >= earliest and max(times) <= latest):
            continue
        where = content.positions.get(f"{prefix}/{name}", range(len(times)))
        for index, at in zip(where, times, strict=True):
            if not earliest <= at <= latest:
                code = "too_old" if at < earliest else "in_the_future"
                rejected.append(Rejection(f"{prefix}/{name}/{index}/at", index, code))
        setattr(session, name, [item for item in getattr(session, name) if earliest <= item.at <= latest])
        if name == "reports":
            content.columns[n] = records.columns(session.reports)
    return rejected


# -- a batch with bad reports ---------------------------------------------------------------------------------------------------


class _Sifted:
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
    return [f"/{name}" for name in names if (value := getattr(of, name, None)) is not None and not _is_label(value)]


def _said(raw: Raw) -> str:
    """What an item says, however it is spaced or ordered; for the fingerprint only."""
    written = bytes(raw)
    try:
        if len(written) <= SPOILED_BYTES_MAX:
            return json.dumps(json.loads(written, parse_int=float), sort_keys=True)
    except (ValueError, RecursionError):  # numbers beyond all types, or no text at all
        pass
    return hashlib.blake2b(written).hexdigest()


def _decode_loosely(body: bytes, sifted: _Sifted) -> Batch:
    """Decode report by report. Raises Problem when it is the envelope that is wrong."""
    try:
        loose = sifted.decode(body, _strict_loose_decoder, _loose_decoder)
    except msgspec.ValidationError as error:
        pointer, code = explain(error)
        raise errors.Problem(errors.KINDS[code], pointers=[pointer]) from None
    # Before they are looked into one by one: that costs much more than counting them.
    lists: Sequence[LooseBatch | LooseSession] = [loose, *(loose.sessions or ())]
    _check_count(sum(len(one.reports) + len(one.events) for one in lists))
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
            sessions.append(Session(**_fields(session), reports=own_reports, events=own_events))
    return Batch(
        **_fields(loose), batch_id=loose.batch_id, game=loose.game, sent_at=loose.sent_at, key=loose.key, dropped=loose.dropped,
        reports=reports, events=events, sessions=sessions,
    )  # fmt: skip


def _fields(of: SessionFields) -> dict[str, Any]:
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
    at = _AT.match(text)  # the last one: what was sent may look like one
    pointer = "".join("/" + (name or index) for name, index in _STEP.findall(at[1])) if at else ""
    missing = _MISSING.search(text)
    if missing:
        pointer += f"/{missing[1]}"
    return pointer, next((code for words, code in _CODES if words in text), "invalid")


def _session_of(rejection: Rejection) -> int:
    return int(rejection.pointer.split("/")[2]) if rejection.pointer.startswith("/sessions/") else 0


def _fingerprint(batch: Batch, sessions: Sequence[Session], columns: Sequence[records.Columns], spoiled: list[str]) -> int:
    """64 bits of the decoded content without sent_at and key: the same for every sending of the same batch."""
    content = [
        (one.session, one.player, one.platform, one.build, one.connection, one.match, reports, one.events)
        for one, reports in zip(sessions, columns, strict=True)
    ]
    packed = _packer.encode((batch.game, batch.dropped, content, spoiled))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), signed=True)
