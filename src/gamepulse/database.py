"""Connections to PostgreSQL: one pool a role, the SQL by name, and what must hold of the server before we promise anything."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import asyncpg

from gamepulse.resilience import Policy
from gamepulse.settings import Settings

type PoolConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
type Connection = PoolConnection | asyncpg.Connection[asyncpg.Record]
type Login = Mapping[str, Any]
"""Where PostgreSQL is and as whom: keywords of asyncpg's `connect`. TLS is what the URL says (sslmode, sslrootcert)."""


class Pool:
    """A role's connections, and how many wait for one."""

    def __init__(self, name: str, pool: "asyncpg.Pool[asyncpg.Record]", policy: Policy | None) -> None:
        self.name = name
        self.policy = policy
        self.waiting = 0
        self._pool = pool

    @property
    def counts(self) -> tuple[int, int, int]:
        """Connections that are idle, used, and at most."""
        idle = self._pool.get_idle_size()
        return idle, self._pool.get_size() - idle, self._pool.get_max_size()

    async def acquire(self) -> PoolConnection:
        """A connection, as soon as one is free. Nothing has been asked yet, so connecting may be tried again."""
        self.waiting += 1
        try:
            return await (self._pool.acquire() if self.policy is None else self.policy.retried(self._pool.acquire))
        finally:
            self.waiting -= 1

    async def release(self, connection: PoolConnection) -> None:
        """Give it back."""
        await self._pool.release(connection)

    def terminate(self) -> None:
        """End all, whatever they do."""
        self._pool.terminate()


class Unsafe(RuntimeError):
    """The server is set so that an answered batch could be lost."""


class Misused(RuntimeError):
    """asyncpg refused what we asked of it (an argument of another type or range, say): our fault, and PostgreSQL is there."""


CONNECT_TIMEOUT_S = 3
COMMIT_TIMEOUT_S = 4.5
LOOK_UP_TIMEOUT_S = 2.0
QUESTION_TIMEOUT_S = 8.0
STATEMENT_TIMEOUT_S = 4
"""Told to PostgreSQL, which then gives up by itself. The others are ours, for a PostgreSQL that hangs."""
UNREACHABLE = (
    Unsafe,
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server's last words, cut short
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What is raised when PostgreSQL is away, stopping, full, has just failed over, or could lose data."""
UNGUARDED = ("ingest",)
"""Pools without a circuit breaker: each commit is a trial, and is answered by rules of its own (accept.py)."""


def login(settings: Settings) -> Login:
    """Of the settings: with the password in the URL, or with a new token of AWS for each connection."""
    if settings.database_auth == "password":
        return {"dsn": settings.database_url}
    from gamepulse.tokens import Tokens  # noqa: PLC0415 — botocore takes 14 MB and a second, in each process

    return {"dsn": settings.database_url, "password": Tokens(settings.database_url, settings.aws_region)}


@cache
def queries(name: str) -> dict[str, str]:
    """The named queries of sql/<name>.sql."""
    return named(files("gamepulse").joinpath(f"sql/{name}.sql").read_text())


def named(text: str) -> dict[str, str]:
    """The queries of a text, each after a line `-- name: x`."""
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


async def _keep(connection: Connection) -> None:
    """Replaces asyncpg's reset (a round trip a use): our roles change no session state."""


async def open_pool(login: Login, role: str, *, size: int, name: str = "") -> Pool:
    """A pool whose connections act as gamepulse_<role>, each verified before its first use; named after the role, unless otherwise.

    Connects when first used, so it opens while PostgreSQL is away.
    """
    pool = asyncpg.create_pool(
        **login,
        min_size=0,
        max_size=size,
        timeout=CONNECT_TIMEOUT_S,
        max_inactive_connection_lifetime=300,
        init=verify,
        reset=_keep,
        server_settings={
            "role": f"gamepulse_{role}",
            "application_name": f"gamepulse-{role}",
            "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
            "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_S}s",  # a frozen process must not hold up the horizon
            "jit": "off",
        },
    )
    name = name or role
    policy = None if name in UNGUARDED else Policy(f"postgresql-{name}", UNREACHABLE, CONNECT_TIMEOUT_S)
    return Pool(name, await pool, policy)


@asynccontextmanager
async def use(pool: Pool, timeout_s: float) -> AsyncIterator[PoolConnection]:
    """A connection for so long, waiting for it included. Raises TimeoutError; the connection is then thrown away. Raises Misused.

    Raises resilience.Open, which counts as UNREACHABLE, at once while the pool's circuit breaker is open. A server is not asked
    to cancel what it does: one that hangs would not answer that either.
    """
    async with _guarded(pool), asyncio.timeout(timeout_s):
        connection = await pool.acquire()
        try:
            yield connection
        except (TimeoutError, asyncio.CancelledError, asyncpg.InternalClientError):
            connection.terminate()
            raise
        except asyncpg.InterfaceError as error:
            if connection.is_closed():
                raise
            raise Misused from error
        except asyncpg.DataError as error:
            if error.severity is not None:
                raise
            raise Misused from error  # PostgreSQL did not say this: the argument could not even be sent
        finally:
            await pool.release(connection)


def _guarded(pool: Pool) -> AbstractAsyncContextManager[None]:
    return nullcontext() if pool.policy is None else pool.policy.guarded()


def studio(pool: Pool, studio_id: int | None) -> AbstractAsyncContextManager[Connection]:
    """A snapshot of what one studio may see (none: public games' names only)."""
    return _as(pool, "studio_id", studio_id, "REPEATABLE READ")


def manage(pool: Pool, studio_id: int | None) -> AbstractAsyncContextManager[Connection]:
    """A transaction that sees and changes one studio; each of its statements sees what others have committed."""
    return _as(pool, "studio_id", studio_id, "READ COMMITTED")


def account(pool: Pool, account_id: int | None) -> AbstractAsyncContextManager[Connection]:
    """A transaction that sees and changes one account (none: public games' names only)."""
    return _as(pool, "account_id", account_id, "READ COMMITTED")


@asynccontextmanager
async def _as(
    pool: Pool, name: Literal["studio_id", "account_id"], value: int | None, isolation: Literal["REPEATABLE READ", "READ COMMITTED"]
) -> AsyncIterator[Connection]:
    """Begun in one round trip, where asyncpg's own transaction and set_config() take two."""
    async with use(pool, QUESTION_TIMEOUT_S) as connection:
        try:
            await connection.execute(f"BEGIN ISOLATION LEVEL {isolation}; SET LOCAL gamepulse.{name} = '{value or ''}'")
            yield connection
        except (TimeoutError, asyncio.CancelledError):
            raise  # `use` throws the connection away
        except BaseException:
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")


async def verify(connection: Connection) -> None:
    """Refuses a server that does not keep its promises over a power loss.

    Raises Unsafe when fsync, full_page_writes or synchronous_commit is off, or when the server is older than version 15.
    """
    wrong: Iterable[Any] = await connection.fetch(
        "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'"
    )
    names = [row["name"] for row in wrong]
    if names:
        raise Unsafe(f"PostgreSQL has {', '.join(names)} off: an answered batch could be lost. Turn it on.")
    if connection.get_server_version().major < 15:
        raise Unsafe("PostgreSQL is older than version 15.")
