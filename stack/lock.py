"""One at a time: file locks that the system frees when their holder dies."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.settings import Problem


@contextmanager
def only_one(path: Path, message: str, limit_s: float) -> Iterator[None]:
    """Hold the lock of `path`; say `message` when somebody else has it. Raises Problem after `limit_s`."""
    with path.open("a") as file:
        deadline, told = time.monotonic() + limit_s, False
        while not _taken(file.fileno()):
            if time.monotonic() > deadline:
                raise Problem(f"{message}; given up after {limit_s:.0f} s")
            if not told:
                print(message, flush=True)
            told = True
            time.sleep(0.5)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
