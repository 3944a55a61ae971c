"""POST /v1/reports: the one route that is hot, by hand on ASGI; everything else is the framework's (app.py)."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from gamepulse import errors, metrics, receive
from gamepulse.accept import Acceptor, Stored
from gamepulse.batch import BODY_BYTES_MAX, Answer
from gamepulse.geography import Geography
from gamepulse.keys import IngestKey, Keys
from gamepulse.leases import Leases
from gamepulse.limits import client_of
from gamepulse.pace import Pace
from gamepulse.settings import Settings
from gamepulse.spans import RequestFacts
from gamepulse.telemetry import Telemetry

type Scope = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH = "/v1/reports"
BODY_TIMEOUT_S = 10.0
BODIES_BYTES_MAX = 64 * 1024 * 1024
"""Of all bodies that a process is receiving; beyond it the oldest of them, which is the slowest, is given up."""
HELD_BYTES_MAX = 64 * 1024 * 1024
"""Of all bodies, expanded ones too, that wait for their key to be looked up."""
TELL_EVERY_S = 1.0
"""How often it is told that requests were turned away."""
_CORS = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", b"retry-after, ratelimit, ratelimit-policy")]
_PREFLIGHT = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-max-age", b"86400"),
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"authorization, content-type, content-encoding, traceparent"),
]
_TURNED_AWAY = [*_CORS, (b"content-type", errors.CONTENT_TYPE.encode())]
_MEDIA_TYPES = (b"", b"application/json", b"text/plain")
"""text/plain: sendBeacon sends it without asking first."""
_answer_encoder = msgspec.json.Encoder()


class Ingest:
    """Receives, accepts, answers."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        geography: Geography,
        leases: Leases,
        acceptor: Acceptor,
        pace: Pace,
        telemetry: Telemetry,
    ) -> None:
        self._keys = keys
        self._geography = geography
        self.leases = leases
        self._acceptor = acceptor
        self._pace = pace
        self._telemetry = telemetry
        self._player_hash_key = bytes.fromhex(settings.player_hash_key)
        self._bodies = Bodies()
        self._held_bytes = 0
        self.turned_away = TurnedAway(telemetry)
        self.is_draining = False

    async def __call__(self, scope: Scope, receive_: Receive, send: Send) -> None:
        """One request, always answered and always noted."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if scope["method"] == "POST" and (self._acceptor.is_full or self._is_full_for(headers)):
            return await self._turn_away(headers, receive_, send)
        traceparent = headers.get(b"traceparent")
        facts = self._telemetry.begin(scope["method"], traceparent.decode("latin-1") if traceparent else None)
        facts.route = PATH
        try:
            if scope["method"] == "OPTIONS":
                return await self._send(send, facts, 204, b"", _PREFLIGHT)
            if scope["method"] != "POST":
                facts.method = "OTHER"
                return await self._refuse(send, facts, errors.Problem(errors.METHOD_NOT_ALLOWED))
            answer = await self._ingest(scope, headers, receive_, facts)
            await self._send(send, facts, 202, _answer_encoder.encode(answer), [*_CORS, (b"content-type", b"application/json")])
        except errors.Problem as problem:
            await self._refuse(send, facts, problem)
        except Exception as error:  # noqa: BLE001 — a fault of ours; it is logged, answered, and the worker goes on
            self._telemetry.failed("request failed", error)
            await self._refuse(send, facts, errors.Problem(errors.INTERNAL))
        finally:
            self._telemetry.end(facts)

    def _is_full_for(self, headers: dict[bytes, bytes]) -> bool:
        """The game of this key has as much waiting as it may."""
        if not self._acceptor.full_games:
            return False
        key = self._keys.remembered(_secret(headers) or "")
        return key is not None and key.game_id in self._acceptor.full_games

    async def _find(self, secret: str, body: bytes, address: str) -> IngestKey:
        """The key of a body, which is held as long as that takes. Raises Problem as Keys.find() does."""
        if self._held_bytes + len(body) > HELD_BYTES_MAX:
            raise errors.Problem(errors.OVERLOADED)
        self._held_bytes += len(body)
        try:
            return await self._keys.find(secret, client_of(address))
        finally:
            self._held_bytes -= len(body)

    async def _ingest(self, scope: Scope, headers: dict[bytes, bytes], receive_: Receive, facts: RequestFacts) -> Answer:
        body = await self._bodies.read(headers, receive_)
        if self._acceptor.is_full:  # by now; decoding would be for nothing
            raise errors.Problem(errors.OVERLOADED)
        client = self._geography.client(scope["client"][0] if scope["client"] else "", headers)
        self.leases.spend_address(client.address)
        secret, key = _secret(headers), None
        if secret is not None:  # before the body is expanded and decoded: that costs most
            key = self._keys.remembered(secret) or await self._find(secret, body, client.address)
            self.leases.spend_key(secret)
        body = receive.expand(body, headers.get(b"content-encoding", b"").strip().lower())
        if key is None:
            secret = _secret_within(body)
            key = await self._find(secret, body, client.address)
            self.leases.spend_key(secret)
        content = receive.decode(body)
        receive.check_key(content, key)
        if not key.is_server and content.batch.session is not None:
            self.leases.spend_session(content.batch.session)
        place = self._geography.locate(client, headers)
        sent = receive.prepare(content, key, place, time.time_ns() // 1_000_000, self._player_hash_key, facts)
        facts.received_ns = time.time_ns()
        facts.reports = sent.accepted
        stored = await self._store(sent)
        facts.commit = stored.commit
        self._count(sent, stored, content.has_unknown_fields)
        return Answer(
            accepted=0 if stored.is_duplicate else stored.accepted,
            duplicate=stored.accepted if stored.is_duplicate else 0,
            rejected=stored.rejected,
            next_report_s=self._pace.told_s,
        )

    async def _store(self, sent: receive.Sent) -> Stored:
        """Commit. A batch with bad times may be one that was good when first sent: that is looked up first."""
        if any(rejection.pointer.endswith("/at") for rejection in sent.rejected):
            known = await self._acceptor.known(sent)
            if known is not None and known.fingerprint == sent.fingerprint:
                return known
        return await self._acceptor.accept(sent)

    def _count(self, sent: receive.Sent, stored: Stored, has_unknown_fields: bool) -> None:
        counted = self._telemetry.metrics
        counted.add(metrics.INGEST_BATCHES, 1, "duplicate" if stored.is_duplicate else "accepted")
        counted.add(metrics.INGEST_REPORTS, stored.accepted, "duplicate" if stored.is_duplicate else "accepted")
        if stored.rejected:
            counted.add(metrics.INGEST_REPORTS, len(stored.rejected), "rejected")
        if sent.dropped and not stored.is_duplicate:
            counted.add(metrics.INGEST_REPORTS, sent.dropped, "dropped_by_client")
        if sent.clock_offset_ms is not None:
            counted.add(metrics.INGEST_CLOCKS, 1)
        if has_unknown_fields:
            counted.add(metrics.INGEST_UNKNOWN_FIELDS, 1)

    async def _turn_away(self, headers: dict[bytes, bytes], receive_: Receive, send: Send) -> None:
        """Overloaded: when there is too much to do, saying so must be cheap, so nothing is decoded, and it is noted in sum.

        The body is read: a client that is still sending would not see the answer, and its connection would be lost.
        """
        started_ns, is_open = time.time_ns(), not self.is_draining
        self._acceptor.refused()
        try:
            await self._bodies.read(headers, receive_)
        except errors.Problem:
            is_open = False
        shown = [*_TURNED_AWAY, (b"retry-after", str(self._pace.retry_after_s).encode())]
        if not is_open:
            shown.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": errors.OVERLOADED.status, "headers": shown})
        await send({"type": "http.response.body", "body": self.turned_away.document(), "more_body": False})
        self.turned_away.durations_s.append((time.time_ns() - started_ns) / 1e9)

    async def _refuse(self, send: Send, facts: RequestFacts, problem: errors.Problem) -> None:
        kind = problem.kind
        self._telemetry.metrics.add(metrics.INGEST_BATCHES, 1, kind.code)
        facts.code = kind.code
        headers = [*_CORS, (b"content-type", errors.CONTENT_TYPE.encode())]
        if kind is errors.METHOD_NOT_ALLOWED:
            headers.append((b"allow", b"POST, OPTIONS"))
        if kind.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        told = problem.headers
        if kind is errors.OVERLOADED:
            told = {"retry-after": str(self._pace.retry_after_s)}
        headers += [(name.encode(), value.encode()) for name, value in told.items()]
        await self._send(send, facts, kind.status, errors.document(problem, facts.trace), headers)

    async def _send(self, send: Send, facts: RequestFacts, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        facts.status = status
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        if self.is_draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class TurnedAway:
    """Requests that were answered 503 before anything was done for them: told together, under one trace id a second."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._trace_id = 0
        self._document = b""
        self.durations_s: list[float] = []

    def document(self) -> bytes:
        """The answer's body."""
        if not self._document:
            self._trace_id = random.getrandbits(128) or 1
            self._document = errors.document(errors.Problem(errors.OVERLOADED), f"{self._trace_id:032x}")
            asyncio.get_running_loop().call_later(TELL_EVERY_S, self.tell)
        return self._document

    def tell(self) -> None:
        """Log and count those that have not been told of yet."""
        durations_s, self.durations_s, self._document = self.durations_s, [], b""
        if not durations_s:
            return
        code = errors.OVERLOADED.code
        self._telemetry.metrics.add(metrics.INGEST_BATCHES, len(durations_s), code)
        self._telemetry.metrics.record_all(metrics.REQUEST_DURATION, durations_s, "POST", PATH, errors.OVERLOADED.status)
        fields: dict[str, str | int | float] = {"error.code": code, "http.route": PATH, "count": len(durations_s)}
        self._telemetry.log("WARNING", "requests turned away", fields, self._trace_id)


class Bodies:
    """The bodies that are being received, the oldest first, and how many bytes they hold."""

    def __init__(self) -> None:
        self._sizes: dict[asyncio.Timeout, int] = {}
        self._bytes = 0

    async def read(self, headers: dict[bytes, bytes], receive_: Receive) -> bytes:
        """A whole body.

        Raises Problem: BODY_TOO_LARGE beyond 256 KiB, BODY_TOO_SLOW after 10 s, CUT_OFF, UNSUPPORTED_MEDIA_TYPE.
        """
        if headers.get(b"content-type", b"").split(b";")[0].strip().lower() not in _MEDIA_TYPES:
            raise errors.Problem(errors.UNSUPPORTED_MEDIA_TYPE)
        if int(headers.get(b"content-length", b"0") or 0) > BODY_BYTES_MAX:
            raise _too_large()
        chunks, more = [], True
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S) as limit:
                self._sizes[limit] = 0
                while more:
                    message = await receive_()
                    if message["type"] == "http.disconnect":
                        raise errors.Problem(errors.CUT_OFF)
                    chunk = message.get("body", b"")
                    self._add(limit, len(chunk))
                    chunks.append(chunk)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise errors.Problem(errors.BODY_TOO_SLOW) from None
        finally:
            self._bytes -= self._sizes.pop(limit, 0)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _add(self, limit: asyncio.Timeout, size: int) -> None:
        if limit in self._sizes:
            self._sizes[limit] += size
            self._bytes += size
            if self._sizes[limit] > BODY_BYTES_MAX:
                raise _too_large()
        while self._bytes > BODIES_BYTES_MAX:
            oldest = next(iter(self._sizes))
            self._bytes -= self._sizes.pop(oldest)
            if not oldest.expired():
                oldest.reschedule(0)


def _too_large() -> errors.Problem:
    return errors.Problem(errors.BODY_TOO_LARGE, f"At most {BODY_BYTES_MAX} bytes as sent.")


class _KeyOnly(msgspec.Struct):
    key: str | None = None


_key_decoder = msgspec.json.Decoder(_KeyOnly)


def _secret(headers: dict[bytes, bytes]) -> str | None:
    authorization = headers.get(b"authorization", b"")
    return authorization[7:].strip().decode("latin-1") if authorization[:7].lower() == b"bearer " else None


def _secret_within(body: bytes) -> str:
    """The ingest key in a body (sendBeacon cannot set headers).

    Raises Problem: MISSING_KEY, or what is wrong with a body that cannot be read.
    """
    try:
        key = _key_decoder.decode(body).key
    except receive.UNREADABLE:
        key = receive.decode(body).batch.key
    if key is None:
        raise errors.Problem(errors.MISSING_KEY)
    return key
