"""The stack's own secrets: generated once, kept in one file that only its owner reads."""

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Keys:
    """All secrets of one stack, as text."""

    postgres_password: str
    database_password: str
    """Of the owner of the tables."""
    service_password: str
    """Of the service's login."""
    player_hash_key: str
    ingest_key: str
    server_key: str
    grafana_password: str
    """Of PostgreSQL's login for Grafana."""
    monitor_password: str
    """Of PostgreSQL's login for the Collector."""


def load_keys(home: Path) -> Keys:
    """Return the keys of the stack in `home`, generating those that are not there yet."""
    path = home / "keys.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    keys = Keys(**(asdict(_new_keys()) | kept))
    if asdict(keys) != kept:
        write_private(path, json.dumps(asdict(keys), indent=2))
    return keys


def _new_keys() -> Keys:
    return Keys(
        postgres_password=secrets.token_hex(24),
        database_password=secrets.token_hex(24),
        service_password=secrets.token_hex(24),
        player_hash_key=secrets.token_hex(32),
        ingest_key=secrets.token_urlsafe(32),
        server_key=secrets.token_urlsafe(32),
        grafana_password=secrets.token_hex(24),
        monitor_password=secrets.token_hex(24),
    )


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 600, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
