"""Makes the keys of compose's stack, once: `python -m stack.volume /keys`, as root, for a volume that all mount read-only.

Each user has a folder in it with what only that user may read; names and numbers are those of compose.yaml.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from stack.keys import Keys, load_keys, write_private

# The numbers under which the images run.
USERS = {"gamepulse": 10100, "demo": 10101, "collector": 10001, "grafana": 472, "load": 12345, "postgres": 999}


def files(keys: Keys) -> dict[str, Mapping[str, str]]:
    """What each user reads, by file."""
    demo = {"game": "demo", "ingest_key": keys.ingest_key, "server_key": keys.server_key}
    stack = {"urls": {"gamepulse": "http://gamepulse:8080"}, "demo": demo}
    return {
        "gamepulse": {
            "database-url": f"postgresql://gamepulse_service:{keys.service_password}@postgres:5432/gamepulse",
            "player-hash-key": keys.player_hash_key,
        },
        "demo": {"stack.json": json.dumps(stack)},
        "collector": {"monitor-password": keys.monitor_password},
        "load": {"ingest-key": keys.ingest_key},
        "grafana": {"password": keys.grafana_password},
        "postgres": {
            "superuser-password": keys.postgres_password,
            "owner-password": keys.database_password,
            "service-password": keys.service_password,
            "monitor-password": keys.monitor_password,
            "grafana-password": keys.grafana_password,
            "demo.json": json.dumps({"ingest_key": keys.ingest_key, "server_key": keys.server_key}),
        },
    }


def write_keys(volume: Path, keys: Keys) -> None:
    """Write the files anew; each belongs to its user alone."""
    for user, content in files(keys).items():
        folder = volume / user
        folder.mkdir(mode=0o755, exist_ok=True)
        for name, text in content.items():
            path = folder / name
            write_private(path, text)
            os.chown(path, USERS[user], USERS[user])


if __name__ == "__main__":
    root = Path(sys.argv[1])
    write_keys(root, load_keys(root))
