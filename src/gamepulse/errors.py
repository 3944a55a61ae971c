"""Every error that GamePulse answers with: its stable code, its status, what it means. One shape for all (RFC 9457).

Details name fields and limits, never the values that were sent. /docs/errors shows this table.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

CONTENT_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """A kind of error. `retry_after_s`: when to try again, where trying again makes sense."""

    code: str
    status: int
    detail: str
    retry_after_s: int | None = None


KINDS: Final[dict[str, Kind]] = {}
_NO_HEADERS: Final[Mapping[str, str]] = {}


def _declare(code: str, status: int, detail: str, retry_after_s: int | None = None) -> Kind:
    kind = KINDS[code] = Kind(code, status, detail, retry_after_s)
    return kind


# The request cannot be read.
BAD_HOST = _declare("bad_host", 400, "The Host header is no host with or without a port, or there are several.")
NOT_JSON = _declare("not_json", 400, "The body is not JSON.")
NOT_ITS_ENCODING = _declare("not_its_encoding", 400, "The body is not what Content-Encoding says.")
TRUNCATED = _declare("truncated", 400, "The compressed body is cut off.")
CUT_OFF = _declare("cut_off", 400, "The body was cut off.")
BODY_TOO_SLOW = _declare("body_too_slow", 408, "The body did not arrive in time.")
BODY_TOO_LARGE = _declare("body_too_large", 413, "The body is larger than it may be.")
EXPANDED_TOO_LARGE = _declare("expanded_too_large", 413, "The body is larger than it may be when expanded.")
UNSUPPORTED_MEDIA_TYPE = _declare("unsupported_media_type", 415, "Send application/json (or text/plain, as sendBeacon does).")
UNSUPPORTED_ENCODING = _declare("unsupported_encoding", 415, "Content-Encoding may be gzip, zstd or identity.")

# Who asks may not.
MISSING_KEY = _declare("missing_key", 401, "Give the ingest key as Authorization: Bearer …, or as `key`.")
UNKNOWN_KEY = _declare("unknown_key", 401, "The ingest key is unknown or revoked.")
OTHER_GAME = _declare("other_game", 403, "This key is not for this game.")
SERVER_KEY_REQUIRED = _declare("server_key_required", 403, "Only a server key may send `sessions`.")

# Who asks is not signed in, or may not.
SIGN_IN_REQUIRED = _declare("sign_in_required", 401, "Sign in first: POST /v1/sign-ins.")
SIGN_IN_ENDED = _declare("sign_in_ended", 401, "The token is unknown, or its sign-in has ended. Sign in again.")
WRONG_CREDENTIALS = _declare("wrong_credentials", 401, "The name or the password is wrong.")
TOTP_REQUIRED = _declare("totp_required", 401, "This account needs a code as well: give `totp`.")
WRONG_CODE = _declare("wrong_code", 401, "The code is wrong, too old, or was used before.")
ROLE_REQUIRED = _declare("role_required", 403, "This takes another role in the studio.")
TOTP_ENROLMENT_REQUIRED = _declare("totp_enrolment_required", 403, "Admins need a second factor first: POST /v1/account/totp.")
CROSS_SITE = _declare("cross_site", 403, "With the cookie, only our own pages may ask for changes.")

# Accounts, studios and games cannot be changed so.
NAME_TAKEN = _declare("name_taken", 409, "There is an account of this name.")
PASSWORD_IS_NAME = _declare("password_is_name", 422, "The password may not be the name.")
NO_TOTP_PENDING = _declare("no_totp_pending", 409, "There is nothing to confirm: POST /v1/account/totp first.")
UNKNOWN_SIGN_IN = _declare("unknown_sign_in", 404, "There is no such sign-in of this account.")
UNKNOWN_STUDIO = _declare("unknown_studio", 404, "There is no such studio, or the asker is no member of it.")
UNKNOWN_ACCOUNT = _declare("unknown_account", 404, "There is no account of this name.")
UNKNOWN_MEMBER = _declare("unknown_member", 404, "This account is no member of the studio.")
ALREADY_MEMBER = _declare("already_member", 409, "This account is a member of the studio. Change its role instead.")
LAST_ADMIN = _declare("last_admin", 409, "A studio keeps one admin at least.")
TOO_MANY_MEMBERS = _declare("too_many_members", 409, "The studio has as many members as it may.")
GAME_TAKEN = _declare("game_taken", 409, "There is a game of this name.")
TOO_MANY_GAMES = _declare("too_many_games", 409, "The studio has as many games as it may.")
UNKNOWN_KEY_ID = _declare("unknown_key_id", 404, "There is no such key of this game, or it is revoked.")
TOO_MANY_KEYS = _declare("too_many_keys", 409, "The game has as many keys as it may. Revoke one first.")
INVALID_THRESHOLDS = _declare("invalid_thresholds", 422, "`custom` takes all three thresholds; any other profile takes none.")
RETENTION_TOO_LONG = _declare("retention_too_long", 422, "Raw data is not kept for so long.")
TOO_MANY_ERASURES = _declare("too_many_erasures", 409, "As many erasures as may be are not done yet. Wait for them.")
UNKNOWN_ERASURE = _declare("unknown_erasure", 404, "The game has no such erasure.")
REGION_TWICE = _declare("region_twice", 422, "A region stands twice.")

# The batch is wrong as a whole.
WRONG_ITEM_COUNT = _declare("wrong_item_count", 422, "A batch holds at least one report or event, and no more than it may.")
SESSION_AND_SESSIONS = _declare("session_and_sessions", 422, "Give one session inline or `sessions`, not both.")
TOO_MANY_SERVERS = _declare("too_many_servers", 422, "A session names more servers in one batch than it may.")
NOT_STORABLE = _declare("not_storable", 422, "PostgreSQL refused this batch. Do not send it again.")
BATCH_ID_REUSED = _declare("batch_id_reused", 409, "This batch_id was accepted before with other content.")

# A field is wrong: of the envelope (422), or of a report or event, which is then listed in `rejected`.
MISSING_FIELD = _declare("missing_field", 422, "A required field is missing.")
WRONG_TYPE = _declare("wrong_type", 422, "The value has another type.")
OUT_OF_RANGE = _declare("out_of_range", 422, "The number is below or above its range.")
INVALID_CHARACTERS = _declare("invalid_characters", 422, "The text is empty, too long, or has characters that it may not.")
UNKNOWN_VALUE = _declare("unknown_value", 422, "The word is none of those possible.")
INVALID_UUID = _declare("invalid_uuid", 422, "The text is not a UUID.")
WRONG_LENGTH = _declare("wrong_length", 422, "The list has fewer or more entries than it may.")
INVALID = _declare("invalid", 422, "The value is wrong.")
TOO_OLD = _declare("too_old", 422, "`at` is more than 24 h in the past (only ever in `rejected`).")
IN_THE_FUTURE = _declare("in_the_future", 422, "`at` is more than 5 min in the future (only ever in `rejected`).")

# A question is wrong.
INVALID_PARAMETER = _declare("invalid_parameter", 422, "A parameter or the body is wrong.")
NO_OFFSET = _declare("no_offset", 422, "`from` and `to` are RFC 3339 and need an offset, such as Z.")
EMPTY_SPAN = _declare("empty_span", 422, "`from` must be before `to`.")
SPAN_TOO_LONG = _declare("span_too_long", 422, "At most a year.")
UNKNOWN_DIMENSION = _declare("unknown_dimension", 422, "`group_by` names something that is no dimension.")
NOT_ROLLED_UP_TOGETHER = _declare("not_rolled_up_together", 422, "These dimensions are not rolled up together.")
TOO_MUCH = _declare("too_much", 422, "This would read too many rollup rows. Choose a shorter span or fewer dimensions.")
TOO_FINE = _declare("too_fine", 422, "Minutes are not kept for so long. Choose a step from 1h.")
TOO_MANY_POINTS = _declare("too_many_points", 422, "Choose a longer step or a shorter span.")
NOTHING_TO_COMPARE = _declare(
    "nothing_to_compare", 422, "Give versus_from and versus_to, or what sides differ in, such as a.build and b.build."
)
UNKNOWN_GAME = _declare("unknown_game", 404, "There is no such game, or the asker may not see it.")
UNKNOWN_SESSION = _declare("unknown_session", 404, "There is no such session within the retention of raw data.")
UNKNOWN_ROUTE = _declare("unknown_route", 404, "There is nothing here.")
METHOD_NOT_ALLOWED = _declare("method_not_allowed", 405, "This path does not take that method.")

# Not now.
RATE_LIMITED = _declare("rate_limited", 429, "This asker asks more often than it may. Wait as `Retry-After` says.")
OVERLOADED = _declare("overloaded", 503, "Too much waits to be stored or looked up. Send again.", 1)
DATABASE_UNAVAILABLE = _declare("database_unavailable", 503, "PostgreSQL is away or slow. Send again.", 2)
COMMIT_FAILED = _declare("commit_failed", 503, "The batch was not stored. Send again.", 5)
BUSY = _declare("busy", 503, "Other questions are being answered. Ask again.", 2)
TOO_MANY_VIEWERS = _declare("too_many_viewers", 503, "This process has as many live streams as it may, or of one address.", 5)
INTERNAL = _declare("internal", 500, "Something went wrong on our side.")


class Problem(Exception):
    """An answer that is not a success.

    `pointers`: JSON pointers into the body that was sent; `detail`: more than the kind says; `headers`: of this answer.
    """

    def __init__(
        self, kind: Kind, detail: str = "", pointers: list[str] | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        super().__init__(kind.code)
        self.kind = kind
        self.detail = detail or kind.detail
        self.pointers = pointers
        self.headers = headers if kind.retry_after_s is None else {"retry-after": str(kind.retry_after_s), **headers}


class ProblemDocument(msgspec.Struct, omit_defaults=True):
    """The JSON of a problem: RFC 9457 with `code`, `trace_id` and `pointers`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    trace_id: str
    pointers: list[str] | None = None


def in_words(error: Exception, patterns: Mapping[str, str]) -> str:
    """What msgspec says, for who sits before it: what a text may be in words instead of as a pattern."""
    text = str(error)
    for pattern, words in patterns.items():
        text = text.replace(f"`str` matching regex {pattern!r}", words)
    return text


def document(problem: Problem, trace_id: str) -> bytes:
    """The body of the answer."""
    kind = problem.kind
    return msgspec.json.encode(
        ProblemDocument(
            type=f"/docs/errors#{kind.code}",
            title=HTTPStatus(kind.status).phrase,
            status=kind.status,
            detail=problem.detail,
            code=kind.code,
            trace_id=trace_id,
            pointers=problem.pointers,
        )
    )
