"""Sends telemetry to the Collector (OTLP over gRPC) and log lines to stdout, from one thread that nobody waits for."""

import logging
import os
import threading
from collections import deque
from typing import Any, Final, Protocol

import grpc

SEND_TIMEOUT_S = 5.0
RETRY_AFTER_S = 1.0
QUEUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""What waits for a Collector that is away; beyond it the oldest is dropped and counted."""

_METHODS: Final = {
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
}
_log = logging.getLogger(__name__)


class Dropped(Protocol):
    """Told how many items of a signal were dropped."""

    def __call__(self, signal: str, items: int) -> None: ...


class _Waiting:
    __slots__ = ("items", "payload", "signal")

    def __init__(self, signal: str, payload: bytes, items: int) -> None:
        self.signal = signal
        self.payload = payload
        self.items = items


class Exporter:
    """A bounded queue and the thread that empties it. `endpoint`: http://host:port, or '' to send nothing but stdout."""

    def __init__(self, endpoint: str, dropped: Dropped) -> None:
        self._channel = _channel(endpoint) if endpoint else None
        self._methods: dict[str, Any] = {}
        if self._channel:  # without serializers: what is sent is bytes already
            self._methods = {signal: self._channel.unary_unary(method) for signal, method in _METHODS.items()}
        self._dropped = dropped
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._lines = _Lines(dropped)
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def send(self, signal: str, request: bytes, items: int) -> None:
        """Queue an OTLP export request ('logs', 'metrics' or 'traces'), encoded, that holds so many items. Never waits."""
        if not self._methods:
            return
        one = _Waiting(signal, request, items)
        with self._changed:
            self._waiting.append(one)
            self._waiting_bytes += len(one.payload)
            while self._waiting_bytes > QUEUE_BYTES_MAX:
                self._drop_oldest()
            self._changed.notify()

    def write(self, lines: bytes, items: int) -> None:
        """Queue log lines for stdout. Never waits."""
        self._lines.write(lines, items)

    def close(self, timeout_s: float) -> None:
        """Send what is queued, for at most so long."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        self._lines.close(timeout_s=1.0)
        if self._channel:
            self._channel.close()

    def _drop_oldest(self) -> None:
        oldest = self._waiting.popleft()
        self._waiting_bytes -= len(oldest.payload)
        self._dropped(oldest.signal, oldest.items)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_closing:
                        return
                    self._changed.wait()
                one = self._waiting.popleft()
                self._waiting_bytes -= len(one.payload)
            if not self._deliver(one):
                with self._changed:
                    if self._is_closing:
                        return
                    self._waiting.appendleft(one)
                    self._waiting_bytes += len(one.payload)
                    self._changed.wait(RETRY_AFTER_S)

    def _deliver(self, one: _Waiting) -> bool:
        """Whether this is done with: delivered, or refused for good."""
        try:
            self._methods[one.signal](one.payload, timeout=SEND_TIMEOUT_S)
        except grpc.RpcError as error:
            # Retryable codes: OTLP specification, "Failures". The others would be refused again.
            code = error.code()
            if code in _RETRYABLE:
                return False
            _log.warning("the Collector refused %s: %s", one.signal, code)
            self._dropped(one.signal, one.items)
        return True


_RETRYABLE = {
    grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED, grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
}  # fmt: skip


def _channel(endpoint: str) -> grpc.Channel:
    target = endpoint.removeprefix("http://").removeprefix("https://").rstrip("/")
    options = [("grpc.max_reconnect_backoff_ms", 2_000), ("grpc.initial_reconnect_backoff_ms", 200)]
    if endpoint.startswith("https://"):
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options, grpc.Compression.Gzip)
    return grpc.insecure_channel(target, options)  # a Collector beside us: compressing would cost more than it saves


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
