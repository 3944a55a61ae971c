"""Clients that send batches of one report, each under a trace id of its own, and keep what was answered."""

import asyncio
import json
import random
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvloop

from tests.batches import batch, report

REGION = "outage"
TRACED = 0.3
"""Of the requests, so many are sampled by their sender."""
SLOW_S = 0.25
"""The service traces what has taken longer, too."""
CONNECTIONS = 24
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Flow:
    """`answered`: each trace id and whether it was to be traced; all of them were accepted."""

    url: str
    key: str
    answered: dict[str, bool] = field(default_factory=dict)
    slowest_s: float = 0.0
    slow: int = 0

    @contextmanager
    def flowing(self, per_s: float) -> Iterator[None]:
        """While this lasts, so many batches a second are sent, or as many as are answered. Raises when one was not accepted."""
        is_over, errors = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                uvloop.run(self._send(CONNECTIONS / per_s, is_over))
            except (AssertionError, OSError, EOFError, ExceptionGroup) as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
        if errors:
            raise errors[0]

    async def _send(self, every_s: float, is_over: threading.Event) -> None:
        async with asyncio.TaskGroup() as clients:
            for _ in range(CONNECTIONS):
                clients.create_task(self._client(every_s, is_over))

    async def _client(self, every_s: float, is_over: threading.Event) -> None:
        host, _, port = self.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await asyncio.sleep(random.uniform(0, every_s))
        while not is_over.is_set():
            trace, is_traced, began = secrets.token_hex(16), random.random() < TRACED, time.monotonic()
            body = json.dumps(batch([report(region=REGION)])).encode()
            head = (
                f"POST /v1/reports HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {self.key}\r\ncontent-length: {len(body)}\r\n"
                f"traceparent: 00-{trace}-{secrets.token_hex(8)}-0{int(is_traced)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(answer)
            assert length, answer
            said = await reader.readexactly(int(length[1]))
            assert answer.startswith(b"HTTP/1.1 202") and b'"accepted":1' in said, answer + said
            self.answered[trace] = is_traced
            took_s = time.monotonic() - began
            self.slowest_s = max(self.slowest_s, took_s)
            self.slow += took_s > SLOW_S and not is_traced
            await asyncio.sleep(max(every_s - took_s, 0))
        writer.close()
