"""CPU time of process trees, and the wait until they are quiet."""

import time
from collections.abc import Iterable

import psutil

QUIET_SHARE = 0.08  # of a core, over QUIET_FOR_S
QUIET_FOR_S = 1.0
QUIET_LIMIT_S = 30.0


def cpu_s(root: psutil.Process) -> float:
    """Seconds of CPU that the process, its descendants and those of them that have ended have used."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and both of reaped children
        except psutil.NoSuchProcess:
            continue
    return total


def wait_until_quiet(roots: Iterable[psutil.Process]) -> None:
    """Wait until what was put off (telemetry, aggregation) is done: its cost belongs to the load that caused it."""
    watched = tuple(roots)
    limit, used_s = time.monotonic() + QUIET_LIMIT_S, sum(map(cpu_s, watched))
    while time.monotonic() < limit:
        time.sleep(QUIET_FOR_S)
        before_s, used_s = used_s, sum(map(cpu_s, watched))
        if used_s - before_s < QUIET_SHARE * QUIET_FOR_S:
            return
