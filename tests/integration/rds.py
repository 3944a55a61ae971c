"""Stands for RDS, which cannot run here: TLS, and IAM's tokens in the place of passwords, in front of the real PostgreSQL.

And for the address that gives a task its credentials.
"""

import asyncio
import hashlib
import hmac
import json
import ssl
import struct
import subprocess
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import reduce
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote

SSL_REQUEST, CANCEL_REQUEST = 80877103, 80877102

type Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate for a name that signs itself, and its key."""
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {made} -subj /CN={name}"
    subprocess.run([*command.split(), "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True)
    return made, key


@contextmanager
def listening(serve: Serve, context: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A server in a thread of its own; its port, which is a free one unless told."""
    begun: Future[tuple[int, Callable[[], object]]] = Future()

    async def run() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(serve, host, port, ssl=context)
        begun.set_result((server.sockets[0].getsockname()[1], lambda: loop.call_soon_threadsafe(ended.set)))
        await ended.wait()
        server.close()

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(asyncio.run, run())
        bound, end = begun.result(10)
        try:
            yield bound
        finally:
            end()
            running.result(10)


def server_context(pair: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, first: bytes = b"") -> None:
    """Hand everything on to a port of this machine, and back."""
    try:
        there = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()
        return
    there[1].write(first)
    async with asyncio.TaskGroup() as both:
        both.create_task(_pass_on(reader, there[1]))
        both.create_task(_pass_on(there[0], writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except (OSError, asyncio.CancelledError):
        writer.transport.abort()


class Rds:
    """In front of the PostgreSQL on `port`. `secrets`: of the access keys that are valid. It notes each token.

    `by_password`: who signs in at PostgreSQL itself, as all do that have no rds_iam.
    """

    def __init__(self, port: int, pair: tuple[Path, Path], secrets: dict[str, str], by_password: Collection[str] = ()) -> None:
        self._port, self._context, self._secrets, self._by_password = port, server_context(pair), secrets, by_password
        self.tokens: list[str] = []
        self.refused = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError, ssl.SSLError):
            if await reader.readexactly(8) != struct.pack("!II", 8, SSL_REQUEST):
                self.refused += 1
                writer.close()  # as with rds.force_ssl
                return
            writer.write(b"S")
            await writer.start_tls(self._context)
            [length] = struct.unpack("!I", await reader.readexactly(4))
            startup = await reader.readexactly(length - 4)
            if startup[:4] == struct.pack("!I", CANCEL_REQUEST) or await self._is_let_in(reader, writer, startup):
                await join(reader, writer, self._port, struct.pack("!I", length) + startup)

    async def _is_let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, startup: bytes) -> bool:
        words = startup[4:].split(b"\0")
        user = dict(zip(words[::2], words[1::2], strict=False))[b"user"].decode()
        if user in self._by_password:
            return True
        writer.write(b"R" + struct.pack("!II", 8, 3))  # a password, in clear text: what RDS asks of a user with rds_iam
        _, length = struct.unpack("!cI", await reader.readexactly(5))
        token = (await reader.readexactly(length - 4))[:-1].decode()
        self.tokens.append(token)
        if self._is_valid(token, user):
            return True
        self.refused += 1
        text = b"SFATAL\0C28000\0MPAM authentication failed\0\0"
        writer.write(b"E" + struct.pack("!I", len(text) + 4) + text)
        writer.close()
        return False

    def _is_valid(self, token: str, user: str) -> bool:
        """Whether it is signed for this user, and not too old (AWS Signature Version 4, in a query)."""
        host, _, query = token.partition("/?")
        signed, _, signature = query.partition("&X-Amz-Signature=")
        said = {name: values[0] for name, values in parse_qs(signed).items()}
        key, *scope = said["X-Amz-Credential"].split("/")
        sorted_query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(said.items()))
        request = f"GET\n/\n{sorted_query}\nhost:{host}\n\nhost\n{hashlib.sha256().hexdigest()}"
        text = "\n".join(["AWS4-HMAC-SHA256", said["X-Amz-Date"], "/".join(scope), hashlib.sha256(request.encode()).hexdigest()])
        secret = b"AWS4" + self._secrets[key].encode()
        by_hand = reduce(lambda one, word: hmac.digest(one, word.encode(), "sha256"), [*scope, text], secret).hex()
        age = datetime.now(UTC) - datetime.strptime(said["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return (
            by_hand == signature
            and scope[1:] == ["ap-northeast-2", "rds-db", "aws4_request"]
            and (said["Action"], said["DBUser"], said["X-Amz-Expires"]) == ("connect", user, "900")
            and abs(age) < timedelta(seconds=900)
        )


@contextmanager
def task_credentials(secrets: dict[str, str]) -> Iterator[str]:
    """An address like that which a task is given, with other credentials at each request, which soon expire; they come into `secrets`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key, secret = f"AKIA{len(secrets)}", f"secret-{len(secrets)}"
            secrets[key] = secret
            expiration = (datetime.now(UTC) + timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
            body = {"AccessKeyId": key, "SecretAccessKey": secret, "Token": "session/token+", "Expiration": expiration}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v2/credentials"
        finally:
            server.shutdown()
            thread.join()
