"""CPU time and memory of process trees, and the wait until they are quiet."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil

QUIET_SHARE = 0.08  # of a core, over QUIET_FOR_S
QUIET_FOR_S = 1.0
QUIET_LIMIT_S = 60.0
MEMORY_EVERY_S = 0.25

type ByRole = dict[str, float]
"""`aggregator` (its command says so), `parent` (of others), `web` (all else)."""


def cpu_s(root: psutil.Process) -> float:
    """Seconds of CPU that the process, its descendants and those of them that have ended have used."""
    return sum(cpu_by_role(root).values())


def cpu_by_role(root: psutil.Process) -> ByRole:
    """The same by role."""
    used: ByRole = defaultdict(float)
    for process, role in _tree(root):
        try:
            used[role] += sum(process.cpu_times()[:4])  # user, system, and both of reaped children
        except psutil.NoSuchProcess:
            continue
    return used


def memory_mb(root: psutil.Process) -> ByRole:
    """Resident megabytes (10^6 bytes) by role and of `all`; what processes share is counted in each."""
    resident: ByRole = defaultdict(float)
    for process, role in _tree(root):
        try:
            size_mb = process.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            continue
        resident[role] += size_mb
        resident["all"] += size_mb
    return resident


@contextmanager
def watching_memory(root: psutil.Process) -> Iterator[ByRole]:
    """The most that each role has while this lasts."""
    most: ByRole = defaultdict(float)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(MEMORY_EVERY_S):
            for role, size_mb in memory_mb(root).items():
                most[role] = max(most[role], size_mb)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


@contextmanager
def using_cores(root: psutil.Process) -> Iterator[ByRole]:
    """How many cores each role, and `all`, have used while this lasted: CPU time ÷ time. There when it has ended."""
    cores: ByRole = defaultdict(float)
    before, started = cpu_by_role(root), time.monotonic()
    yield cores
    after, seconds = cpu_by_role(root), time.monotonic() - started
    cores |= {role: (used_s - before[role]) / seconds for role, used_s in after.items()}
    cores["all"] = sum(cores.values())


def wait_until_quiet(roots: Iterable[psutil.Process]) -> None:
    """Wait until what was put off (telemetry, aggregation) is done: its cost belongs to the load that caused it."""
    watched = tuple(roots)
    limit, used_s = time.monotonic() + QUIET_LIMIT_S, sum(map(cpu_s, watched))
    while time.monotonic() < limit:
        time.sleep(QUIET_FOR_S)
        before_s, used_s = used_s, sum(map(cpu_s, watched))
        if used_s - before_s < QUIET_SHARE * QUIET_FOR_S:
            return


def _tree(root: psutil.Process) -> Iterator[tuple[psutil.Process, str]]:
    children = root.children(recursive=True)
    yield root, "parent" if children else "web"
    for child in children:
        try:
            command = " ".join(child.cmdline())
        except psutil.NoSuchProcess:
            continue
        yield child, "aggregator" if "aggregate" in command else "parent" if "resource_tracker" in command else "web"
