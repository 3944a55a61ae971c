"""Makes what is missing in PostgreSQL, as often as it is called: the owner, the databases, the tables, the logins."""

import hashlib
import hmac
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from gamepulse import database, migrate

OWNER, SERVICE, MONITOR, READER, GRAFANA = "gamepulse", "gamepulse_service", "gamepulse_monitor", "gamepulse_grafana", "grafana"
DATABASE = "gamepulse"
SCRAM_ITERATIONS = 4096
"""As PostgreSQL's own."""
_LOCK = 0x6770_6C6F  # one at a time ("gplo")
_SQL = database.named(files("operations").joinpath("logins.sql").read_text())


@dataclass(frozen=True)
class Passwords:
    """Of the logins. None: nobody signs in as the owner; the service does so with tokens of AWS; Grafana has no database."""

    monitor: str
    reader: str
    owner: str | None = None
    service: str | None = None
    grafana: str | None = None


@dataclass(frozen=True)
class Demo:
    """The keys of the demo's game."""

    ingest_key: str
    server_key: str


async def prepare(admin: database.Login, passwords: Passwords, demo: Demo | None = None) -> str:
    """Make all of it, signed in as `admin`, who may create roles and databases; the version of the tables.

    Raises database.UNREACHABLE, or asyncpg.PostgresError for what PostgreSQL refuses.
    """
    async with connected(admin) as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await _login(connection, OWNER, passwords.owner)
        await _make(connection, "owner", OWNER)
        await _make(connection, "act_as", OWNER)
        await _make(connection, "database", DATABASE, OWNER)
        await _login(connection, SERVICE, passwords.service, by_token=passwords.service is None)
        await _make(connection, "service", SERVICE)
        await _login(connection, MONITOR, passwords.monitor)
        await _make(connection, "monitor", MONITOR)
        if passwords.grafana is not None:
            await _login(connection, GRAFANA, passwords.grafana)
            await _make(connection, "act_as", GRAFANA)
            await _make(connection, "database", GRAFANA, GRAFANA)
        inside = {**admin, "database": DATABASE}
        version = await migrate.migrate(inside, OWNER)
        async with connected(inside, OWNER) as owner:
            await _make(owner, "acts", SERVICE)
        if demo:
            await migrate.put_demo(inside, demo.ingest_key, demo.server_key, OWNER)
        await _reader(connection, inside, READER, passwords.reader, 1)
    return version


async def put_reader(admin: database.Login, name: str, password: str, studio_id: int) -> None:
    """A login for Grafana that reads one studio. Raises as `prepare`."""
    async with connected(admin) as connection:
        await _reader(connection, {**admin, "database": DATABASE}, name, password, studio_id)


async def set_own_password(login: database.Login, password: str) -> None:
    """Change the password of who signs in. Raises asyncpg.InvalidPasswordError."""
    async with connected(login) as connection:
        await connection.execute("SET default_transaction_read_only = off")
        await _make(connection, "own_password", verifier(password))


async def sign_in(login: database.Login) -> None:
    """See whether it opens. Raises asyncpg.InvalidPasswordError."""
    async with connected(login):
        return


type _Connection = asyncpg.Connection[asyncpg.Record]


async def _reader(connection: "_Connection", inside: database.Login, name: str, password: str, studio_id: int) -> None:
    await _login(connection, name, password)
    await _make(connection, "reader", name)
    async with connected(inside, OWNER) as owner, owner.transaction():
        await _make(owner, "reads", name, studio_id)


async def _login(connection: "_Connection", name: str, password: str | None, *, by_token: bool = False) -> None:
    await _make(connection, "role", name)
    if password is not None:
        await _make(connection, "sign_in", name, verifier(password))
    elif by_token:
        await _make(connection, "sign_in_by_token", name)


async def _make(connection: "_Connection", name: str, *arguments: object) -> None:
    """Execute the statements that the query makes."""
    for row in await connection.fetch(_SQL[name], *arguments):
        await connection.execute(row[0])


@asynccontextmanager
async def connected(login: database.Login, role: str | None = None) -> AsyncIterator["_Connection"]:
    """A connection, acting as `role`."""
    settings = {"client_min_messages": "warning"} | ({"role": role} if role else {})
    connection = await asyncpg.connect(**login, timeout=database.CONNECT_TIMEOUT_S, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


def verifier(password: str) -> str:
    """What PostgreSQL keeps of a password (RFC 5803), so that it is in no statement, and so in no log."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{_text(salt)}${_text(stored)}:{_text(server)}"


def _text(octets: bytes) -> str:
    return b64encode(octets).decode()
