"""The limits of the task definition, by cgroups (v2; v1 where the machine has that): for the service and its Collector together."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CPUS, MEMORY_BYTES = 1.0, 2 * 2**30  # 1024 CPU units, 2048 MiB
PERIOD_US = 100_000
CGROUPS = Path("/sys/fs/cgroup")
GONE_LIMIT_S = 5.0

type Limits = Mapping[str, Mapping[str, object]]
"""By the group's folder: its files and what stands in them."""


class NotAllowed(Exception):
    """This machine does not let us limit anything; says why."""


@dataclass(frozen=True, slots=True)
class Task:
    """Groups that have the limits: one in v2, one of each controller in v1."""

    groups: Sequence[Path]

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, within the limits from its beginning."""
        joined = " && ".join(f"echo $$ > {group}/cgroup.procs" for group in self.groups)
        return ["/bin/sh", "-c", f'{joined} && exec "$@"', "sh", *command]

    def throttled_share(self) -> float:
        """In how many of the periods in which something ran there was more to do than CPU allowed."""
        [text] = [path.read_text() for group in self.groups if (path := group / "cpu.stat").exists()]
        told = {name: int(value) for name, value in map(str.split, text.splitlines())}
        return told["nr_throttled"] / max(told["nr_periods"], 1)


def limits_here(name: str, cpus: float = CPUS, memory_bytes: int = MEMORY_BYTES) -> Limits:
    """What has to be written where."""
    quota_us = round(cpus * PERIOD_US)
    if (CGROUPS / "cgroup.controllers").exists():
        return {name: {"cpu.max": f"{quota_us} {PERIOD_US}", "memory.max": memory_bytes}}
    return {
        f"cpu/{name}": {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota_us},
        f"memory/{name}": {"memory.limit_in_bytes": memory_bytes},
    }


@contextmanager
def limited() -> Iterator[Task]:
    """A task that has the limits, for as long as this lasts; what runs in it must have ended by then. Raises NotAllowed."""
    limits = limits_here(f"gamepulse-bench-{os.getpid()}")
    groups = [CGROUPS / group for group in limits]
    try:
        try:
            if (CGROUPS / "cgroup.controllers").exists():
                (CGROUPS / "cgroup.subtree_control").write_text("+cpu +memory")
            for group, files in zip(groups, limits.values(), strict=True):
                group.mkdir()
                for name, value in files.items():
                    (group / name).write_text(str(value))
        except OSError as error:
            raise NotAllowed(f"cgroups of our own are needed, which root has on most machines: {error}") from None
        yield Task(groups)
    finally:
        for group in groups:
            _remove(group)


def _remove(group: Path) -> None:
    """A group can be removed a moment after its last process has gone."""
    until = time.monotonic() + GONE_LIMIT_S
    while group.exists() and time.monotonic() < until:
        with suppress(OSError):
            group.rmdir()
        time.sleep(0.05)
