"""Brings the database to the newest version, with Alembic: SQL files in migrations/versions/, never changed once released."""

from functools import partial
from importlib.resources import as_file, files
from typing import Any

import asyncpg
from alembic import command, op
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from gamepulse import database
from gamepulse.keys import hash_key

_LOCK = 0x6770_6D69  # one migration at a time ("gpmi")


async def migrate(login: database.Login, owner: str | None = None) -> str:
    """Migrate to the newest version and return its name. `owner`: whose the tables are to be, if not the login's own.

    Raises database.Unsafe for a server that could lose data.
    """
    # Not SQLAlchemy's own way to connect: that knows neither sslmode in a URL nor a password that is made anew.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=partial(_connect, login, owner))
    try:
        await _verify(login)
        async with engine.connect() as connection:
            await connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
            await connection.commit()
            await connection.run_sync(_upgrade)
            await connection.commit()
            version = await connection.exec_driver_sql("SELECT version_num FROM alembic_version")
            return str(version.scalar_one())
    finally:
        await engine.dispose()


async def _connect(login: database.Login, owner: str | None) -> "asyncpg.Connection[asyncpg.Record]":
    settings = {"role": owner} if owner else None
    return await asyncpg.connect(**login, timeout=database.CONNECT_TIMEOUT_S, server_settings=settings)


async def _verify(login: database.Login) -> None:
    connection = await _connect(login, None)
    try:
        await database.verify(connection)
    finally:
        await connection.close()


def _upgrade(connection: Connection) -> None:
    with as_file(files("gamepulse").joinpath("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def run_sql(name: str) -> None:
    """Run a file of migrations/versions/ in the migration's transaction."""
    text = files("gamepulse").joinpath(f"migrations/versions/{name}").read_text()
    adapted: Any = op.get_bind().connection.dbapi_connection
    adapted.run_async(lambda connection: connection.execute(text))


async def put_demo(login: database.Login, ingest_key: str, server_key: str, owner: str | None = None) -> None:
    """The demo studio and its public game `demo`, with these two keys. Doing it again changes nothing. `owner`: as above."""
    connection = await _connect(login, owner)
    try:
        async with connection.transaction():
            studio_id = await connection.fetchval(
                "INSERT INTO studio (name) VALUES ('Demo studio')"
                " ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING studio_id"
            )
            game_id = await connection.fetchval(
                "INSERT INTO game (studio_id, slug, is_public) VALUES ($1, 'demo', true)"
                " ON CONFLICT (slug) DO UPDATE SET slug = excluded.slug RETURNING game_id",
                studio_id,
            )
            for secret, kind in ((ingest_key, "client"), (server_key, "server")):
                await connection.execute(
                    "INSERT INTO ingest_key (studio_id, game_id, key_hash, kind) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                    studio_id, game_id, hash_key(secret), kind,
                )  # fmt: skip
    finally:
        await connection.close()
