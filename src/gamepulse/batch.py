"""What a client sends: the batch, its sessions, reports and events (docs/api.md), as msgspec types with their limits."""

import re
from functools import lru_cache
from typing import Annotated, Final, Literal, get_args
from uuid import UUID

import msgspec
from msgspec import Meta, Raw

BODY_BYTES_MAX = 256 * 1024
BODY_EXPANDED_BYTES_MAX = 1024 * 1024
ITEMS_MAX = 500
"""Reports and events together in one batch."""
SESSIONS_MAX = 100
RTT_MS_MIN = 0.01
RTT_MS_MAX = 60_000.0
LABEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:+-]{0,63}$(?!\n)"  # `$` alone would let a newline through at the end
LABEL_LENGTH_MAX = 64
LABELS_REMEMBERED = 4_096
SLUG_PATTERN = r"^[a-z0-9][a-z0-9-]{0,63}$(?!\n)"
SLUG_WORDS = "at most 64 of a–z 0–9 -, a letter or digit first"

type Label = Annotated[
    str,
    Meta(
        description="at most 64 of A–Z a–z 0–9 . _ : + -, a letter or digit first",
        extra_json_schema={"extra": {"pattern": LABEL_PATTERN}},
    ),
]
"""Checked by is_label(): most reports of a batch share theirs, and a pattern for each would cost more than all other decoding."""
type Player = Annotated[
    str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,64}$(?!\n)", description="at most 64 printable characters; hashed on arrival")
]
type Slug = Annotated[str, Meta(pattern=SLUG_PATTERN)]
_FROM_0: Final = {"extra": {"minimum": 0}}
"""For the OpenAPI description: the framework drops a minimum of 0 where null is allowed."""
type Milliseconds = Annotated[float, Meta(ge=0, le=RTT_MS_MAX, extra_json_schema=_FROM_0)]
type RoundTrip = Annotated[float, Meta(ge=RTT_MS_MIN, le=RTT_MS_MAX)]
type EpochMilliseconds = Annotated[int, Meta(ge=0, le=2**53)]
type Sequence = Annotated[int, Meta(ge=0, le=2**31 - 1)]

type Quality = Literal["estimating", "poor", "fair", "good", "excellent"]
type JitterMethod = Literal["rfc3550", "stddev", "ipdv"]
type Side = Literal["client", "server"]
type Connection = Literal["wifi", "wired", "cellular", "unknown"]
type EventKind = Literal["connect_failed", "connected", "disconnected", "reconnected", "complaint"]

QUALITIES: Final[tuple[str, ...]] = get_args(Quality.__value__)
JITTER_METHODS: Final[tuple[str, ...]] = get_args(JitterMethod.__value__)
SIDES: Final[tuple[str, ...]] = get_args(Side.__value__)
EVENT_KINDS: Final[tuple[str, ...]] = get_args(EventKind.__value__)


class Report(msgspec.Struct, gc=False):
    """One measurement of one session's connection. Unknown is null (or left out), never 0."""

    seq: Sequence
    at: EpochMilliseconds
    region: Label
    side: Side | None = None
    server: Label | None = None
    rtt_ms: RoundTrip | None = None
    rtt_min_ms: RoundTrip | None = None
    rtt_max_ms: RoundTrip | None = None
    jitter_ms: Milliseconds | None = None
    jitter_method: JitterMethod | None = None
    loss: Annotated[float, Meta(ge=0, le=1, extra_json_schema=_FROM_0)] | None = None
    quality: Quality | None = None


class Event(msgspec.Struct, gc=False):
    """Something that happened to a session's connection."""

    seq: Sequence
    at: EpochMilliseconds
    kind: EventKind
    reason: Label | None = None
    region: Label | None = None
    server: Label | None = None


class SessionFields(msgspec.Struct, gc=False, kw_only=True):
    """What is said of a session beside its reports and events."""

    session: UUID | None = None
    player: Player | None = None
    platform: Label | None = None
    build: Label | None = None
    connection: Connection | None = None
    match: Label | None = None


class BatchFields(SessionFields, gc=False, kw_only=True):
    """What is said of a batch beside its reports, events and sessions; of its one session, if it has but one."""

    batch_id: UUID
    game: Slug
    sent_at: EpochMilliseconds
    key: str | None = None
    dropped: Annotated[int, Meta(ge=0, le=2**31 - 1, extra_json_schema=_FROM_0)] | None = None


class Session(SessionFields, gc=False, kw_only=True):
    """One session of a game server's batch."""

    reports: list[Report] = []
    events: list[Event] = []


type _Sessions[T] = Annotated[list[T], Meta(min_length=1, max_length=SESSIONS_MAX)] | None


class Batch(BatchFields, gc=False, kw_only=True):
    """A batch: one session's fields inline, or `sessions` (1 to 100, only with a server key)."""

    reports: list[Report] = []
    events: list[Event] = []
    sessions: Annotated[list[Session], Meta(min_length=1, max_length=SESSIONS_MAX)] | None = None


# The same without fields that are not known: a batch is read as this first, so that unknown fields can be counted.


class StrictReport(Report, gc=False, forbid_unknown_fields=True):
    """A report without unknown fields."""


class StrictEvent(Event, gc=False, forbid_unknown_fields=True):
    """An event without unknown fields."""


class StrictSession(Session, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A session without unknown fields."""

    reports: list[StrictReport] = []  # type: ignore[assignment]  # lists are invariant; nobody adds to these
    events: list[StrictEvent] = []  # type: ignore[assignment]  # as above


class StrictBatch(Batch, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A batch without unknown fields."""

    reports: list[StrictReport] = []  # type: ignore[assignment]  # as above
    events: list[StrictEvent] = []  # type: ignore[assignment]  # as above
    sessions: _Sessions[StrictSession] = None  # type: ignore[assignment]  # as above


# The same, but reports and events are not looked into yet: read when Batch fails, to tell bad reports from a bad envelope.


class LooseSession(SessionFields, gc=False, kw_only=True):
    """A session whose reports and events are not looked into yet."""

    reports: list[Raw] = []
    events: list[Raw] = []


class LooseBatch(BatchFields, gc=False, kw_only=True):
    """A batch whose reports and events are not looked into yet."""

    reports: list[Raw] = []
    events: list[Raw] = []
    sessions: _Sessions[LooseSession] = None


class StrictLooseSession(LooseSession, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Such a session without unknown fields."""


class StrictLooseBatch(LooseBatch, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Such a batch without unknown fields."""

    sessions: _Sessions[StrictLooseSession] = None  # type: ignore[assignment]  # as above


class Rejection(msgspec.Struct, gc=False):
    """A report or event that was left out: where (JSON pointer and index in its list) and why."""

    pointer: str
    index: int
    code: str


class Answer(msgspec.Struct, gc=False):
    """The answer to a batch: accepted + duplicate + len(rejected) = what was sent."""

    accepted: int
    duplicate: int
    rejected: list[Rejection]
    next_report_s: int


_label = re.compile(LABEL_PATTERN)


def is_label(text: str) -> bool:
    """Whether a text may be a Label."""
    return len(text) <= LABEL_LENGTH_MAX and _matches_label(text)


@lru_cache(LABELS_REMEMBERED)
def _matches_label(text: str) -> bool:
    return _label.match(text) is not None
