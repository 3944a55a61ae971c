"""The web worker: the one place where everything is put together."""

import asyncio
import multiprocessing
import sys
import time
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis
from litestar import Litestar

from gamepulse import database, errors, metrics, serve, settings
from gamepulse.accept import Acceptor
from gamepulse.accounts import Passwords
from gamepulse.asker import Askers
from gamepulse.cache import Answers
from gamepulse.gather import Names
from gamepulse.geography import Geography
from gamepulse.keys import Keys
from gamepulse.live import Live
from gamepulse.reports import BODY_TIMEOUT_S, PATH, Ingest, Receive, Scope, Send
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
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class App:
    """The ASGI application: ingest by hand, the rest by the framework, every request noted."""

    def __init__(self, configured: Settings) -> None:
        self._settings = configured
        self._framework = serve.build(self._lifespan)
        self._ingest: Ingest
        self._telemetry: Telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"].rstrip("/") == PATH:
                await self._ingest(scope, receive, send)
            else:
                await self._serve(scope, receive, send)
        else:
            await self._framework(scope, receive, send)  # type: ignore[arg-type]  # ASGI is typed twice: here and there

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        traceparent = headers.get(b"traceparent")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        if method not in {"GET", "HEAD"}:  # nobody waits for the body of these; a stream only listens for the client to go
            receive = _in_time(receive)
        facts = self._telemetry.begin(method, traceparent.decode("latin-1") if traceparent else None)
        scope["state"] = {**scope.get("state", {}), "facts": facts}
        try:
            await self._framework(scope, receive, self._noting(facts, send))  # type: ignore[arg-type]  # as above
        finally:
            facts.route = scope.get("path_template") or "unmatched"
            self._telemetry.end(facts)

    def _noting(self, facts: RequestFacts, send: Send) -> Send:
        async def noting(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                facts.status = message["status"]
                if (b"content-type", b"text/event-stream") in message["headers"]:
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
        valkey, news = (
            redis.Redis.from_url(
                configured.valkey_url,
                password=configured.valkey_password or None,
                socket_timeout=timeout_s,
                socket_connect_timeout=1,
            )
            for timeout_s in (1, None)  # news may be long in coming
        )
        acceptor = Acceptor(ingest_pool, look_up_pool, telemetry, configured.pending_reports_max)
        live = Live(query_pool, news, telemetry)
        geography = Geography(configured.trusted_proxies, configured.geo_database)
        self._ingest = Ingest(configured, Keys(look_up_pool), geography, acceptor, telemetry)
        framework.state.reader = Reader(
            configured, query_pool, Names(), ingest_pool, valkey, live, asyncio.Semaphore(QUESTIONS_MAX), account_pool, manage_pool,
            Askers(account_pool), passwords, Answers(query_pool, configured.database_url, valkey, telemetry),
        )  # fmt: skip
        framework.state.telemetry = telemetry
        telemetry.observe.append(lambda: _observe(telemetry, acceptor, pools))
        asyncio.get_running_loop().add_signal_handler(DRAIN_SIGNAL, self._drain, framework, live)
        telemetry.start()
        live.start()
        parent = multiprocessing.parent_process()
        watch = asyncio.create_task(end_with(parent.pid)) if parent is not None and parent.pid else None
        yield
        if watch is not None:
            watch.cancel()
        self._drain(framework, live)
        await live.close()
        await acceptor.close()
        passwords.close()
        for pool in pools:
            pool.terminate()  # nothing is under way any more; close() would wait for a server that hangs
        await valkey.aclose()
        self._ingest.turned_away.tell()
        await telemetry.close()

    def _drain(self, framework: Litestar, live: Live) -> None:
        """Not ready any more; every connection ends with its next answer, every stream at once."""
        self._ingest.is_draining = True
        framework.state.reader.is_draining = True
        live.is_draining = True


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


def _observe(telemetry: Telemetry, acceptor: Acceptor, pools: Sequence[database.Pool]) -> None:
    telemetry.metrics.set(metrics.INGEST_PENDING, acceptor.pending_reports)
    for pool in pools:
        idle, used, most = pool.counts
        telemetry.metrics.set(metrics.POOL_CONNECTIONS, idle, pool.name, "idle")
        telemetry.metrics.set(metrics.POOL_CONNECTIONS, used, pool.name, "used")
        telemetry.metrics.set(metrics.POOL_CONNECTIONS_MAX, most, pool.name)
        telemetry.metrics.set(metrics.POOL_PENDING, pool.waiting, pool.name)


def create() -> App:
    """What Granian calls in each worker."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return App(settings.load())
