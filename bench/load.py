"""The load: wrk with a body of 20 real reports. wrk, since it asks for several times what any server here answers."""

import json
import resource
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stack.exact import file_batches
from stack.measurements import networks

REPORTS = 20
CONNECTIONS = 32
SCRIPT = Path(__file__).with_name("load.lua")


class Load(msgspec.Struct):
    """What wrk saw; latencies are those of a closed loop of CONNECTIONS."""

    requests: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, and how to be let in."""

    url: str
    key: str


def wrk() -> str:
    """The program; raises RuntimeError when it is not installed."""
    found = shutil.which("wrk")
    if not found:
        raise RuntimeError("wrk is not installed (Debian: apt-get install wrk)")
    return found


def body() -> str:
    """The first reports of a phone session as one batch, measured just now, with marks where the ids go."""
    batch = next(batch for batch in file_batches("mobile", uuid.UUID(int=0)) if batch.report_count >= REPORTS)
    now = time.time_ns() // 1_000_000
    session = msgspec.to_builtins(batch.sessions[0])
    session["reports"] = [one | {"at": now - (REPORTS - number) * 250} for number, one in enumerate(session["reports"][:REPORTS])]
    head = {"batch_id": "@BATCH@", "session": "@SESSION@", "game": "demo", "sent_at": now}
    return msgspec.json.encode(head | {name: session[name] for name in session if name != "session"}).decode()


def apply(target: Target, seconds: float, folder: Path, run: int) -> Load:
    """Ask `target` as fast as it answers for that long. `run` keeps this load's ids apart from others'."""
    (folder / "body.json").write_text(body())
    command = [wrk(), "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds:.0f}s"]
    command += ["--timeout", "10s", "--script", str(SCRIPT), f"{target.url}/v1/reports", "--"]
    command += [str(folder / "body.json"), target.key, str(run), networks()["KR"][0].address(0)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    load = msgspec.convert(json.loads(done.stdout.splitlines()[-1]), Load)
    load.cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if load.refused or load.broken or not load.requests:
        raise RuntimeError(f"not every request was answered with 202: {load}\n{done.stdout}")
    return load
