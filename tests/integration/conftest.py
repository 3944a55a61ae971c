"""A service, and an admin, that all tests of a module share."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import asyncpg
import httpx
import pytest

from gamepulse import database
from tests.conftest import PATIENT_WITH_VALKEY, Cluster, Service, serve, smaller
from tests.people import Person, first_admin


@dataclass
class Studio:
    """A service with a database of the module's own, and a studio there with its admin."""

    service: Service
    database_url: str
    admin: Person
    studio_id: int


@pytest.fixture(scope="module")
def studio(cluster: Cluster, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    name = f"test_{secrets.token_hex(6)}"
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE bench OWNER bench")
    url = cluster.url(name)
    folder = tmp_path_factory.mktemp("studio")
    with serve(url, valkey_url, folder / "log", **smaller(folder, *PATIENT_WITH_VALKEY)) as running:
        admin, studio_id = asyncio.run(_admin(running.url, url))
        yield Studio(running, url, admin, studio_id)
    cluster.sql(f"DROP DATABASE {name} WITH (FORCE)")


async def _admin(service_url: str, database_url: str) -> tuple[Person, int]:
    async with httpx.AsyncClient(base_url=service_url, timeout=20) as client:
        return await first_admin(client, database_url, "admin", "Ours")


@pytest.fixture
async def api(studio: Studio) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the module's service, as nobody."""
    async with httpx.AsyncClient(base_url=studio.service.url, timeout=20) as client:
        yield client


@pytest.fixture
async def asker(database_url: str) -> AsyncIterator[database.Pool]:
    """Connections as those that answer questions."""
    pool = await database.open_pool({"dsn": database_url}, "query", size=1)
    yield pool
    pool.terminate()


@pytest.fixture
async def aggregator(database_url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """A connection as an aggregator's."""
    connection = await asyncpg.connect(database_url, server_settings={"role": "gamepulse_aggregate"})
    yield connection
    connection.terminate()
