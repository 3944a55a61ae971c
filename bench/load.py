"""The load: wrk asks as fast as it is answered (a closed loop), `paced/` on a schedule whatever is answered (an open one)."""

import os
import resource
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.programs import PACED, ensure_built
from stack.exact import file_batches
from stack.measurements import networks

REPORTS = 20
CONNECTIONS = 64
PACED_CONNECTIONS = 256
SCRIPT = Path(__file__).with_name("load.lua")
ADDRESSES = 14
CORE = max(os.sched_getaffinity(0))
"""The load runs on this core alone; servers and PostgreSQL run wherever the system puts them, here too."""


class Closed(msgspec.Struct):
    """What wrk saw; latencies are those of a closed loop."""

    requests: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int
    cpu_s: float = 0.0


class Answers(msgspec.Struct):
    """How many answers had one status, and how late they came: from when the request was due, at last from when it was sent."""

    count: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    sent_p99_ms: float = 0.0


class Paced(msgspec.Struct):
    """What the paced load saw, by status; `0` stands for no answer.

    `awake_p99_ms`: how late it was for its own schedule; `waited_p99_ms`: until a batch that was due had a connection.
    """

    offered: int
    duration_s: float
    awake_p99_ms: float
    waited_p99_ms: float
    answers: dict[str, Answers]
    cpu_s: float = 0.0

    def of(self, status: str) -> Answers:
        """What came with this status."""
        return self.answers.get(status, Answers())


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, how to be let in, how many reports in a batch."""

    port: int
    key: str
    reports: int = REPORTS


def wrk() -> str:
    """The program; raises RuntimeError when it is not installed."""
    found = shutil.which("wrk")
    if not found:
        raise RuntimeError("wrk is not installed (Debian: apt-get install wrk)")
    return found


def body(reports: int = REPORTS) -> str:
    """The first reports of a phone session as one batch, measured just now, with marks where the ids go."""
    batch = next(batch for batch in file_batches("mobile", uuid.UUID(int=0)) if batch.report_count >= reports)
    now = time.time_ns() // 1_000_000
    session = msgspec.to_builtins(batch.sessions[0])
    session["reports"] = [one | {"at": now - (reports - number) * 250} for number, one in enumerate(session["reports"][:reports])]
    head = {"batch_id": "@BATCH@", "session": "@SESSION@", "game": "demo", "sent_at": now}
    return msgspec.json.encode(head | {name: session[name] for name in session if name != "session"}).decode()


def client_address(number: int = 0) -> str:
    """Where the load says that it comes from."""
    return networks()["KR"][0].address(number)


def client_addresses() -> str:
    """Several of one network, with commas: one address may not send as much as the load does."""
    return ",".join(client_address(number) for number in range(ADDRESSES))


def closed(target: Target, seconds: float, folder: Path, run: int, connections: int = CONNECTIONS) -> Closed:
    """Ask `target` as fast as it answers for that long. `run` keeps this load's ids apart from others'.

    Raises RuntimeError unless every answer is 202.
    """
    path = folder / "body.json"
    path.write_text(body(target.reports))
    command = [wrk(), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:.0f}s", "--timeout", "10s"]
    command += ["--script", str(SCRIPT), f"http://127.0.0.1:{target.port}/v1/reports", "--"]
    said, cpu_s = _run([*command, str(path), target.key, str(run), client_addresses()])
    load = msgspec.structs.replace(msgspec.json.decode(said, type=Closed), cpu_s=cpu_s)
    if load.refused or load.broken or not load.requests:
        raise RuntimeError(f"not every request was answered with 202: {load}")
    return load


def paced(target: Target, rate: float, seconds: float, folder: Path, run: int, connections: int = PACED_CONNECTIONS) -> Paced:
    """Send `rate` batches a second for that long, on a schedule, whatever is answered."""
    path = folder / "body.json"
    path.write_text(body(target.reports))
    command = [str(ensure_built(PACED) / "paced"), "-address", f"127.0.0.1:{target.port}", "-key", target.key, "-body", str(path)]
    command += ["-from", client_addresses(), "-rate", f"{rate:.1f}", "-seconds", f"{seconds:.1f}"]
    said, cpu_s = _run([*command, "-connections", str(connections), "-run", str(run)])
    return msgspec.structs.replace(msgspec.json.decode(said, type=Paced), cpu_s=cpu_s)


def _run(command: list[str]) -> tuple[str, float]:
    """The last line of a load generator on its core, and its CPU time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["taskset", "--cpu-list", str(CORE), *command]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout.splitlines()[-1], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
