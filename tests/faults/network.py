"""The network between the service and PostgreSQL: a proxy that can stall, reset, and lose answers."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

CHUNK_BYTES = 65_536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends RST (socket(7))


class Network:
    """Passes each connection on to 127.0.0.1:`to_port`."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._loses_answers = False
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on a free port; which."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Listen no more; cut what is open."""
        if self._server is not None:
            self._server.close()
        self.reset()

    def reset(self) -> None:
        """Cut every connection, in both directions."""
        for writer in list(self._open):
            writer.transport.abort()

    async def stall(self, seconds: float) -> None:
        """Nothing passes, nothing is lost."""
        self._flows.clear()
        await asyncio.sleep(seconds)
        self._flows.set()

    async def lose_answers(self, seconds: float) -> int:
        """What PostgreSQL says is lost, what it is told arrives; then all is cut. How many connections there were."""
        self._loses_answers = True
        await asyncio.sleep(seconds)
        self._loses_answers = False
        cut = len(self._open) // 2
        self.reset()
        return cut

    async def _connect(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            to_client.transport.abort()
            return
        pair = (to_client, to_server)
        for writer in pair:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._open.update(pair)
        try:
            pumps = [self._pump(from_client, self._sender(to_server)), self._pump(from_server, self._answerer(to_client))]
            await asyncio.wait([asyncio.ensure_future(pump) for pump in pumps], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for writer in pair:
                self._open.discard(writer)
                writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, send: Callable[[bytes], Awaitable[None]]) -> None:
        with suppress(OSError):  # cut: the other end is told by the reset
            while data := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                await send(data)

    @staticmethod
    def _sender(to_server: asyncio.StreamWriter) -> Callable[[bytes], Awaitable[None]]:
        async def send(data: bytes) -> None:
            to_server.write(data)
            await to_server.drain()

        return send

    def _answerer(self, to_client: asyncio.StreamWriter) -> Callable[[bytes], Awaitable[None]]:
        async def send(data: bytes) -> None:
            if not self._loses_answers:
                to_client.write(data)
                await to_client.drain()

        return send
