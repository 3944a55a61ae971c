"""`gamepulse serve`: the parent of the web workers (Granian) and of the aggregator, which it starts again when it dies."""

import asyncio
import logging
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from gamepulse import database
from gamepulse.export import Exporter
from gamepulse.settings import Settings
from gamepulse.spans import rfc3339
from gamepulse.telemetry import log_record, logs_request, resource

DRAIN_SIGNAL = signal.SIGUSR1
"""Sent to the workers a moment before SIGTERM: connections are closed with their next answer."""
DRAIN_S = 1.0
PARENT_LOOK_EVERY_S = 0.5
WORKERS_KILL_TIMEOUT_S = 7
AGGREGATOR_KILL_TIMEOUT_S = 5
RESTART_AFTER_S = 1.0
KEEP_ALIVE_S = 75
"""Longer than the load balancer's idle timeout (60 s), or it would answer 502 for connections that we close."""
CONNECTIONS_MAX = 4_096
"""Of a web worker, idle ones too (Granian's `backpressure`). Those beyond wait in the kernel, as many again, until one ends."""
HEAD_BYTES_MAX = 128 * 1024
"""Of a request's head, and of what is read of a connection at a time (Granian's `max_buffer_size`)."""
_log = logging.getLogger(__name__)


class WebServer(MPServer):
    """Granian, but its workers are told to drain a moment before they are stopped: their clients go elsewhere by themselves."""

    keeper: "AggregatorKeeper"

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        for worker in self.wrks:
            if worker.inner.is_alive():
                os.kill(worker.inner.pid, DRAIN_SIGNAL)
        self.keeper.begin_stop()
        threading.Timer(DRAIN_S, super().signal_handler_interrupt).start()


class AggregatorKeeper:
    """Keeps one aggregator process running."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = threading.Event()
        self._stop_by = math.inf
        self._thread = threading.Thread(target=self._keep, name="aggregator-keeper", daemon=True)

    def start(self) -> None:
        """Start it, and again whenever it ends."""
        self._thread.start()

    def begin_stop(self) -> None:
        """Ask it to stop, and start it no more."""
        self._is_stopping.set()
        self._stop_by = min(self._stop_by, time.monotonic() + AGGREGATOR_KILL_TIMEOUT_S)
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop it: SIGTERM, then SIGKILL."""
        self.begin_stop()
        if self._thread.is_alive():
            self._thread.join(max(self._stop_by - time.monotonic(), 0.0))
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _keep(self) -> None:
        while not self._is_stopping.is_set():
            self._process = subprocess.Popen([sys.executable, "-m", "gamepulse", "aggregate", "--parent", str(os.getpid())])
            status = self._process.wait()
            if not self._is_stopping.wait(RESTART_AFTER_S):
                _log.error("the aggregator ended with status %s; it is started again", status)


class OwnLines(logging.Handler):
    """The parent's own lines and Granian's: to stdout in the shape of all the others, and to the Collector."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._resource = resource(settings, f"parent-{uuid4()}")
        self._exporter = Exporter(settings.otel_exporter_otlp_endpoint, settings.otel_exporter_otlp_compression, lambda *_: None)

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        time_ns, level, event = int(record.created * 1e9), record.levelname, record.getMessage()
        line = {"time": rfc3339(time_ns), "level": level.lower(), "event": event}
        self._exporter.write(msgspec.json.encode(line) + b"\n", 1)
        self._exporter.send("logs", logs_request(self._resource, [log_record(time_ns, level, event, {}).SerializeToString()]), 1)

    def close(self) -> None:
        """Send what waits, for a moment."""
        self._exporter.close(timeout_s=1.0)
        super().close()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises database.Unsafe when PostgreSQL could lose an answered batch."""
    # Not fork: the parent has threads (telemetry, the aggregator's keeper), whose locks a forked worker would inherit.
    multiprocessing.set_start_method("spawn", force=True)
    keeper = AggregatorKeeper()
    server = WebServer(
        "gamepulse.app:create",
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        loop=Loops.uvloop,
        workers=settings.workers,
        websockets=False,
        backlog=CONNECTIONS_MAX,
        backpressure=CONNECTIONS_MAX,
        http1_settings=HTTP1Settings(keep_alive=True, header_read_timeout=KEEP_ALIVE_S * 1000, max_buffer_size=HEAD_BYTES_MAX),
        workers_kill_timeout=WORKERS_KILL_TIMEOUT_S,
        respawn_failed_workers=True,
        log_level=LogLevels.warning,
        log_dictconfig={"handlers": {}, "loggers": {}},  # ours, from here on:
    )
    lines = OwnLines(settings)  # not before: Granian's set-up closes all handlers that there are
    for logger in (logging.getLogger(), logging.getLogger("_granian")):
        logger.handlers = [lines]
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    server.keeper = keeper
    server.on_startup(keeper.start)
    try:
        asyncio.run(_verify(database.login(settings)))
        server.serve()
    finally:
        keeper.stop()
        lines.close()


async def _verify(login: database.Login) -> None:
    """Check PostgreSQL's promises. When it is away that is no reason not to start: requests are answered 503 until it is there."""
    try:
        connection = await asyncpg.connect(**login, timeout=database.CONNECT_TIMEOUT_S)
    except database.UNREACHABLE as error:
        _log.warning("PostgreSQL is away (%s); serving 503 until it is there", type(error).__name__)
        return
    try:
        await database.verify(connection)
        if await connection.fetchval("SELECT to_regclass('raw_batch')") is None:
            raise database.Unsafe("The database has no tables yet: run `gamepulse migrate` first.")
    finally:
        await connection.close()


async def end_with(parent_pid: int) -> None:
    """Sends this process SIGTERM once its parent is gone (killed, say): nobody would start or stop it any more."""
    while os.getppid() == parent_pid:  # noqa: ASYNC110 — nothing tells of it but looking
        await asyncio.sleep(PARENT_LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
