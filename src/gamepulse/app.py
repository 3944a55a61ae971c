"""The web worker: the one place where everything is put together."""

import asyncio
import ctypes
import gc
import multiprocessing
import re
import sys
import time
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from litestar import Litestar

from gamepulse import database, errors, metrics, serve, settings, valkey
from gamepulse.accept import Acceptor
from gamepulse.accounts import Passwords
from gamepulse.ancestor import Ancestor
from gamepulse.asker import Askers
from gamepulse.cache import Answers
from gamepulse.erase import Exports
from gamepulse.gather import Names
from gamepulse.geography import Geography
from gamepulse.health import Checks
from gamepulse.keys import Keys
from gamepulse.leases import Leases
from gamepulse.limits import Limits
from gamepulse.live import Live
from gamepulse.metrics import Metrics
from gamepulse.pace import Pace
from gamepulse.reports import BODY_TIMEOUT_S, PATH, Ingest, Receive, Scope, Send
from gamepulse.resilience import Policy
from gamepulse.run import DRAIN_SIGNAL, end_with
from gamepulse.serve.reader import QUESTIONS_MAX, Reader
from gamepulse.settings import Settings
from gamepulse.spans import RequestFacts
from gamepulse.telemetry import Telemetry

INGEST_CONNECTIONS_MAX = 2
LOOK_UP_CONNECTIONS_MAX = 2
"""Apart from those for commits: no flood of wrong keys stands before a commit."""
QUERY_CONNECTIONS_MAX = 8
ACCOUNT_CONNECTIONS_MAX = 4
MANAGE_CONNECTIONS_MAX = 2
SWITCH_INTERVAL_S = 0.0002
"""Granian's threads need the interpreter to hand a request over: they should not wait for it as long as Python lets them (5 ms)."""
KEPT_BYTES = 16 * 2**20
"""Of freed memory: the arrays of a question are up to so large. docs/adr/0037-questions-in-time.md"""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
HOST_BYTES_MAX = 300
UNNAMED_PROXY = (
    "a proxy on this machine is not trusted: nobody behind it is limited by address, or located. "
    "If it is yours, set GAMEPULSE_TRUSTED_PROXIES=127.0.0.0/8,::1/128"
)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class App:
    """The ASGI application: ingest by hand, the rest by the framework, every request noted."""

    def __init__(self, configured: Settings) -> None:
        self._settings = configured
        self._framework = serve.build(self._lifespan)
        self._ingest: Ingest
        self._telemetry: Telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._framework(scope, receive, send)  # type: ignore[arg-type]  # ASGI is typed twice: here and there
        elif not _has_good_host(scope["headers"]):
            await self._refuse(errors.Problem(errors.BAD_HOST), send)
        elif scope["path"].rstrip("/") == PATH:
            await self._ingest(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        traceparent = headers.get(b"traceparent")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        if method not in {"GET", "HEAD"}:  # nobody waits for the body of these; a stream only listens for the client to go
            receive = _in_time(receive)
        facts = self._telemetry.begin(method, traceparent.decode("latin-1") if traceparent else None)
        if method == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_content(send)
        scope["state"] = {**scope.get("state", {}), "facts": facts}
        try:
            await self._framework(scope, receive, self._noting(facts, send))  # type: ignore[arg-type]  # as above
        finally:
            facts.route = scope.get("path_template") or "unmatched"
            self._telemetry.end(facts)

    async def _refuse(self, problem: errors.Problem, send: Send) -> None:
        """Before anything else is known of the request."""
        facts = self._telemetry.begin("OTHER", None)
        facts.route, facts.code = "unmatched", problem.kind.code
        noting, headers = self._noting(facts, send), [(b"content-type", errors.CONTENT_TYPE.encode())]
        await noting({"type": "http.response.start", "status": problem.kind.status, "headers": headers})
        await noting({"type": "http.response.body", "body": errors.document(problem, facts.trace)})
        self._telemetry.end(facts)

    def _noting(self, facts: RequestFacts, send: Send) -> Send:
        async def noting(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                facts.status = message["status"]
                if dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream"):
                    facts.ended_ns = time.time_ns()  # a stream is answered when it begins, however long it lasts
                if self._ingest.is_draining:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        return noting

    @asynccontextmanager
    async def _lifespan(self, framework: Litestar) -> AsyncIterator[None]:
        configured = self._settings
        telemetry = self._telemetry = Telemetry(configured, "web")
        login = database.login(configured)
        ingest_pool = await database.open_pool(login, "ingest", size=INGEST_CONNECTIONS_MAX)
        look_up_pool = await database.open_pool(login, "ingest", size=LOOK_UP_CONNECTIONS_MAX, name="look_up")
        query_pool = await database.open_pool(login, "query", size=QUERY_CONNECTIONS_MAX)
        account_pool = await database.open_pool(login, "account", size=ACCOUNT_CONNECTIONS_MAX)
        manage_pool = await database.open_pool(login, "manage", size=MANAGE_CONNECTIONS_MAX)
        pools = (ingest_pool, look_up_pool, query_pool, account_pool, manage_pool)
        passwords = Passwords()
        cache, news = valkey.connect(configured), valkey.connect(configured, None)  # news may be long in coming
        of_valkey = valkey.policy()
        policies = [of_valkey, *(pool.policy for pool in pools if pool.policy is not None)]
        if configured.database_auth == "aws-iam":
            policies.append(login["password"].policy)
        secret = bytes.fromhex(configured.player_hash_key)
        limits = Limits(cache, of_valkey, secret, telemetry.metrics)
        acceptor = Acceptor(ingest_pool, look_up_pool, telemetry, configured.pending_reports_max)
        live = Live(query_pool, news, telemetry)
        geography = Geography(
            configured.trusted_proxies, configured.geo_database, configured.edge, lambda: telemetry.log("WARNING", UNNAMED_PROXY)
        )
        leases = Leases(limits, telemetry)
        pace = Pace(acceptor, configured.next_report_s)
        ancestor = Ancestor(configured.ancestor_game, look_up_pool, acceptor, telemetry)
        self._ingest = Ingest(configured, Keys(look_up_pool, limits), geography, leases, acceptor, pace, telemetry)
        framework.state.reader = Reader(
            configured, query_pool, Names(), live, asyncio.Semaphore(QUESTIONS_MAX), account_pool, manage_pool,
            Askers(account_pool, limits), passwords, Answers(query_pool, configured.database_url, cache, of_valkey, telemetry),
            geography, limits, Checks(ingest_pool, cache, pace, policies), ancestor, Exports(),
        )  # fmt: skip
        framework.state.telemetry = telemetry
        telemetry.observe.append(lambda: _observe(telemetry.metrics, acceptor, pools))
        telemetry.observe.append(lambda: _observe_limits(telemetry.metrics, limits, pace, policies))
        asyncio.get_running_loop().add_signal_handler(DRAIN_SIGNAL, self._drain, framework, live)
        telemetry.start()
        live.start()
        parent = multiprocessing.parent_process()
        watch = asyncio.create_task(end_with(parent.pid)) if parent is not None and parent.pid else None
        gc.collect()
        gc.freeze()  # what is there now stays: looking through it takes tens of milliseconds in the midst of requests
        yield
        if watch is not None:
            watch.cancel()
        self._drain(framework, live)
        await live.close()
        await acceptor.close()
        await leases.close()
        await pace.close()
        passwords.close()
        for pool in pools:
            pool.terminate()  # nothing is under way any more; close() would wait for a server that hangs
        await cache.aclose()
        self._ingest.turned_away.tell()
        await telemetry.close()

    def _drain(self, framework: Litestar, live: Live) -> None:
        """Not ready any more; every connection ends with its next answer, every stream at once."""
        self._ingest.is_draining = True
        framework.state.reader.is_draining = True
        live.is_draining = True


def _has_good_host(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    hosts = [value for name, value in headers if name == b"host"]
    return not hosts or (len(hosts) == 1 and len(hosts[0]) <= HOST_BYTES_MAX and _is_host(hosts[0]))


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    """RFC 9110, 7.2. What the framework makes an address of must be one: it answers 500 else."""
    if _HOST.fullmatch(value) is None:
        return False
    try:
        return urlsplit(f"//{value.decode()}").port is not False  # looks at the port, and at an IPv6 address
    except ValueError:
        return False


def _without_content(send: Send) -> Send:
    """HEAD is answered as GET, but for the content (RFC 9110, 9.3.2)."""

    async def without(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return without


def _in_time(receive: Receive) -> Receive:
    """Gives a body BODY_TIMEOUT_S to arrive; what is received after it (that the client has gone) may take longer."""
    deadline: float | None = asyncio.get_running_loop().time() + BODY_TIMEOUT_S

    async def in_time() -> MutableMapping[str, Any]:
        nonlocal deadline
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise errors.Problem(errors.BODY_TOO_SLOW) from None
        if not message.get("more_body", False):
            deadline = None
        return message

    return in_time


def _observe(counted: Metrics, acceptor: Acceptor, pools: Sequence[database.Pool]) -> None:
    counted.set(metrics.INGEST_PENDING, acceptor.pending_reports)
    for pool in pools:
        idle, used, most = pool.counts
        counted.set(metrics.POOL_CONNECTIONS, idle, pool.name, "idle")
        counted.set(metrics.POOL_CONNECTIONS, used, pool.name, "used")
        counted.set(metrics.POOL_CONNECTIONS_MAX, most, pool.name)
        counted.set(metrics.POOL_PENDING, pool.waiting, pool.name)


def _observe_limits(counted: Metrics, limits: Limits, pace: Pace, policies: Sequence[Policy]) -> None:
    counted.set(metrics.LIMITS_SHARED, limits.is_shared)
    counted.set(metrics.INGEST_LOAD, pace.load)
    counted.set(metrics.INGEST_NEXT_REPORT, pace.next_report_s)
    for policy in policies:
        policy.observe(counted)


def create() -> App:
    """What Granian calls in each worker."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _keep_memory()
    return App(settings.load())


def _keep_memory() -> None:
    """Have the C library (glibc; others do as they like) keep some of what was freed: taken anew, each page costs a fault.

    All threads have one heap: what one has freed is what the next one takes.
    """
    libc = ctypes.CDLL(None)
    options = {_TRIM_THRESHOLD: KEPT_BYTES, _MMAP_THRESHOLD: KEPT_BYTES, _ARENA_MAX: 1}
    for option, value in options.items() if hasattr(libc, "mallopt") else ():
        libc.mallopt(option, value)
