"""Sends telemetry to the Collector (OTLP over gRPC) and log lines to stdout, from threads that nobody waits for."""

import logging
import os
import threading
import time
from collections import deque
from typing import Any, Final, Protocol

import grpc

SEND_TIMEOUT_S = 5.0
RETRY_AFTER_S = 1.0
QUEUE_BYTES_MAX: Final = 8 * 1024 * 1024
"""What waits of a signal for a Collector that is away or refuses it; beyond it the oldest is dropped and counted."""

_METHODS: Final = {
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}
_log = logging.getLogger(__name__)


class Dropped(Protocol):
    """Told how many items of a signal were dropped."""

    def __call__(self, signal: str, items: int) -> None: ...


class Exporter:
    """A queue for each signal, and one for stdout. `endpoint`: http://host:port, or '' to send nothing but stdout."""

    def __init__(self, endpoint: str, compression: str, dropped: Dropped) -> None:
        self._channel = _channel(endpoint, compression) if endpoint else None
        self._queues: dict[str, _Queue] = {}
        if self._channel:  # without serializers: what is sent is bytes already
            self._queues = {name: _Queue(name, self._channel.unary_unary(method), dropped) for name, method in _METHODS.items()}
        self._lines = _Lines(dropped)

    def send(self, signal: str, request: bytes, items: int) -> None:
        """Queue an OTLP export request ('logs', 'metrics' or 'traces'), encoded, that holds so many items. Never waits."""
        if self._queues:
            self._queues[signal].add(request, items)

    def write(self, lines: bytes, items: int) -> None:
        """Queue log lines for stdout. Never waits."""
        self._lines.write(lines, items)

    def close(self, timeout_s: float) -> None:
        """Send what is queued, for at most so long."""
        deadline = time.monotonic() + timeout_s
        for queue in self._queues.values():
            queue.end()
        for queue in self._queues.values():
            queue.join(deadline - time.monotonic())
        self._lines.close(timeout_s=1.0)
        if self._channel:
            self._channel.close()


class _Queue:
    """A bounded queue of one signal and the thread that empties it.

    One signal does not wait for another: the Collector refuses what it has no room for, by signal.
    """

    def __init__(self, signal: str, export: Any, dropped: Dropped) -> None:
        self._signal = signal
        self._export = export
        self._dropped = dropped
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"telemetry {signal}", daemon=True)
        self._thread.start()

    def add(self, request: bytes, items: int) -> None:
        with self._changed:
            self._waiting.append((request, items))
            self._bytes += len(request)
            while self._bytes > QUEUE_BYTES_MAX:
                oldest, lost = self._waiting.popleft()
                self._bytes -= len(oldest)
                self._dropped(self._signal, lost)
            self._changed.notify()

    def end(self) -> None:
        """Send what is queued, and no more than once what is refused."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        self._thread.join(max(timeout_s, 0))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_closing:
                        return
                    self._changed.wait()
                request, items = self._waiting.popleft()
                self._bytes -= len(request)
            if not self._deliver(request, items):
                with self._changed:
                    if self._is_closing:
                        return
                    self._waiting.appendleft((request, items))
                    self._bytes += len(request)
                    self._changed.wait_for(lambda: self._is_closing, RETRY_AFTER_S)  # not for what is added meanwhile

    def _deliver(self, request: bytes, items: int) -> bool:
        """Whether this is done with: delivered, or refused for good."""
        try:
            self._export(request, timeout=SEND_TIMEOUT_S)
        except grpc.RpcError as error:
            # Retryable codes: OTLP specification, "Failures". The others would be refused again.
            code = error.code()
            if code in _RETRYABLE:
                return False
            _log.warning("the Collector refused %s: %s", self._signal, code)
            self._dropped(self._signal, items)
        return True


_RETRYABLE = {
    grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED, grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
}  # fmt: skip


def _channel(endpoint: str, compression: str) -> grpc.Channel:
    target = endpoint.removeprefix("http://").removeprefix("https://").rstrip("/")
    options = [("grpc.max_reconnect_backoff_ms", 2_000), ("grpc.initial_reconnect_backoff_ms", 200)]
    how = grpc.Compression.Gzip if compression == "gzip" else grpc.Compression.NoCompression
    if endpoint.startswith("https://"):
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options, how)
    return grpc.insecure_channel(target, options, how)


class _Lines:
    """stdout, by a thread of its own: a reader that hangs blocks neither requests nor the Collector's queue."""

    BYTES_MAX = 4 * 1024 * 1024

    def __init__(self, dropped: Dropped) -> None:
        self._dropped = dropped
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="stdout", daemon=True)
        self._thread.start()

    def write(self, lines: bytes, items: int) -> None:
        with self._changed:
            if self._bytes + len(lines) > self.BYTES_MAX:
                self._dropped("stdout", items)
                return
            self._waiting.append(lines)
            self._bytes += len(lines)
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_closing:
                        return
                    self._changed.wait()
                lines = self._waiting.popleft()
                self._bytes -= len(lines)
            view = memoryview(lines)
            while view:
                view = view[os.write(1, view) :]
