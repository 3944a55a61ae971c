"""From the bytes of a request to a batch that is checked: decoded, within limits, its bad reports set aside, its times corrected.

Nothing personal goes further: the address has become a place, the player a keyed hash.
"""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from uuid import UUID
from zlib import crc32

import msgspec
from backports import zstd

from gamepulse import errors, records
from gamepulse.batch import BODY_EXPANDED_BYTES_MAX, Batch, Event, Rejection, Session, StrictBatch, is_label
from gamepulse.geography import Place
from gamepulse.keys import IngestKey
from gamepulse.sift import Sifted, check_count, decode_loosely, fields, session_of
from gamepulse.spans import RequestFacts

SHARDS = 4
"""A session's reports are aggregated by the leader of its shard."""
CLOCK_TOLERANCE_MS = 30_000
AGE_MS_MAX = 24 * 3600 * 1000
AHEAD_MS_MAX = 5 * 60 * 1000
ZSTD_WINDOW_LOG_MAX = 23
"""8 MiB, what RFC 8878 asks every decoder to support."""

_strict_decoder = msgspec.json.Decoder(StrictBatch)
_batch_decoder = msgspec.json.Decoder(Batch)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_packer = msgspec.msgpack.Encoder()


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


class Part(msgspec.Struct, gc=False):
    """One session's part of a batch, checked and ready to be stored."""

    session_id: UUID
    shard: int
    player: bytes | None
    match: str | None
    labels: str
    columns: records.Columns
    place_codes: list[int]
    events: str | None
    """JSON."""
    rejected: int


class Sent(msgspec.Struct):
    """A batch that was received and awaits its commit."""

    key: IngestKey
    batch_id: UUID
    fingerprint: int
    clock_offset_ms: int | None
    parts: list[Part]
    accepted: int
    rejected: list[Rejection]
    dropped: int
    """By the client, before it sent."""
    facts: RequestFacts

    @property
    def weight(self) -> int:
        """What it counts for against the limits: everything that was in it."""
        return self.accepted + len(self.rejected)


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
    sifted = Sifted()
    try:
        batch = _decode_whole(body, sifted)
        if batch is not None:
            content = _content(batch, sifted)
            if _has_good_labels(content):
                return content
        return _content(decode_loosely(body, sifted), sifted)
    except UNREADABLE as error:
        raise errors.Problem(errors.NOT_JSON) from error


def content_of(batch: Batch) -> Content:
    """Of a batch that was made here. Raises Problem as `decode`."""
    return _content(batch, Sifted())


def _decode_whole(body: bytes, sifted: Sifted) -> Batch | None:
    """The batch when nothing is wrong with it but fields that are not known."""
    try:
        return sifted.decode(body, _strict_decoder, _batch_decoder)
    except msgspec.ValidationError:
        return None


def _content(batch: Batch, sifted: Sifted) -> Content:
    sessions = _sessions(batch)
    check_count(sum(len(session.reports) + len(session.events) for session in sessions) + len(sifted.rejected))
    columns = [records.columns(session.reports) for session in sessions]
    by_session = [0] * len(sessions)
    for rejection in sifted.rejected:
        by_session[session_of(rejection)] += 1
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
    labels: set[str | None] = {content.batch.platform, content.batch.build, content.batch.match}
    for session, columns in zip(content.sessions, content.columns, strict=True):
        labels.update(columns.region, columns.server, (session.platform, session.build, session.match))
        for event in session.events:
            labels.update((event.reason, event.region, event.server))
    return all(label is None or is_label(label) for label in labels)


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
    return [Session(**fields(batch), reports=batch.reports, events=batch.events)]


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
        # Of what was refused as a whole nothing is counted, so nobody would find it by its player.
        player=hash_player(session.player, key.game_id, player_hash_key) if session.player and (codes or session.events) else None,
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


def _fingerprint(batch: Batch, sessions: Sequence[Session], columns: Sequence[records.Columns], spoiled: list[str]) -> int:
    """64 bits of the decoded content without sent_at and key: the same for every sending of the same batch."""
    content = [
        (one.session, one.player, one.platform, one.build, one.connection, one.match, reports, one.events)
        for one, reports in zip(sessions, columns, strict=True)
    ]
    packed = _packer.encode((batch.game, batch.dropped, content, spoiled))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), signed=True)
