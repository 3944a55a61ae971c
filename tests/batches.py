"""Batches as clients would send them."""

import time
import uuid
from typing import Any

type Json = dict[str, Any]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def report(seq: int = 0, **fields: Any) -> Json:
    """A good report, with some fields set otherwise."""
    return {"seq": seq, "at": now_ms(), "region": "ap-northeast-2", "server": "seoul-1", "rtt_ms": 30.0} | fields


def event(seq: int = 0, **fields: Any) -> Json:
    return {"seq": seq, "at": now_ms(), "kind": "connected"} | fields


def batch(reports: list[Json] | int | None = 1, events: list[Json] | None = None, **fields: Any) -> Json:
    """A good batch of one session, with some fields set otherwise; None leaves a field out."""
    made: Json = {
        "batch_id": str(uuid.uuid4()),
        "game": "demo",
        "sent_at": now_ms(),
        "session": str(uuid.uuid4()),
        "reports": [report(seq) for seq in range(reports)] if isinstance(reports, int) else reports,
    }
    if events is not None:
        made["events"] = events
    return {name: value for name, value in (made | fields).items() if value is not None}
