"""A game with a key, so that something can be sent where nobody has an account yet; and how much of it is stored."""

import secrets

import asyncpg
from botocore.exceptions import BotoCoreError, ClientError

from gamepulse import database
from gamepulse.keys import hash_key
from gamepulse.records import RECORD
from operations import aws, logins
from operations.snapshots import Failed

STUDIO = "Prove"
STORED = """
SELECT coalesce(sum(length(records)), 0) / $2 + coalesce(sum(jsonb_array_length(events)), 0)
FROM raw_batch JOIN game USING (studio_id, game_id) WHERE slug = $1
"""


async def put_game(admin: database.Login, slug: str, secret: str) -> None:
    """The game, if it is not there, and one more key of it, which goes into Secrets Manager as `secret`, and nowhere else.

    Raises Failed; nothing is changed in PostgreSQL then.
    """
    key = secrets.token_urlsafe(32)
    try:
        async with logins.connected({**admin, "database": logins.DATABASE}, logins.OWNER) as owner, owner.transaction():
            studio_id = await owner.fetchval(
                "INSERT INTO studio (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING studio_id",
                STUDIO,
            )
            await owner.execute("INSERT INTO game (studio_id, slug) VALUES ($1, $2) ON CONFLICT (slug) DO NOTHING", studio_id, slug)
            game_id = await owner.fetchval("SELECT game_id FROM game WHERE studio_id = $1 AND slug = $2", studio_id, slug)
            if game_id is None:
                raise Failed(f"the game {slug} is another studio's")
            await owner.execute(
                "INSERT INTO ingest_key (studio_id, game_id, key_hash, kind) VALUES ($1, $2, $3, 'client')",
                studio_id, game_id, hash_key(key),
            )  # fmt: skip
            aws.keep(secret, key)
    except (BotoCoreError, ClientError) as error:
        raise Failed(str(error)) from error
    except (*database.UNREACHABLE, asyncpg.PostgresError) as error:
        raise Failed(f"PostgreSQL: {error or type(error).__name__}") from error


async def stored(admin: database.Login, slug: str) -> int:
    """Reports and events of the game that are in PostgreSQL. Raises Failed."""
    try:
        async with logins.connected({**admin, "database": logins.DATABASE}, logins.OWNER) as owner:
            return int(await owner.fetchval(STORED, slug, RECORD.itemsize))
    except (*database.UNREACHABLE, asyncpg.PostgresError) as error:
        raise Failed(f"PostgreSQL: {error or type(error).__name__}") from error
