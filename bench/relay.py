"""A TCP relay that counts the bytes which go through it: what is really on the wire, compressed and with all that is around it."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK_BYTES = 65_536


class Relay(socketserver.ThreadingTCPServer):
    """From a free port of this machine to `target`, a port of it; `sent_bytes`: of those who have connected."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.target = target
        self.port: int = self.socket.getsockname()[1]
        self.sent_bytes = 0
        self.lock = threading.Lock()


class _Connection(socketserver.BaseRequestHandler):
    server: Relay
    request: socket.socket

    def handle(self) -> None:
        """There is no connection for as long as there is none behind it."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.server.target)) as behind:
            threading.Thread(target=_copy, args=(behind, self.request), daemon=True).start()
            for chunk in iter(lambda: self.request.recv(CHUNK_BYTES), b""):
                behind.sendall(chunk)
                with self.server.lock:
                    self.server.sent_bytes += len(chunk)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        for chunk in iter(lambda: source.recv(CHUNK_BYTES), b""):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_RDWR)


@contextmanager
def relaying(target: int) -> Iterator[Relay]:
    """A relay to a port, for as long as this lasts."""
    with Relay(target) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield relay
        relay.shutdown()
