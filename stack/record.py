"""Writes stack.json: where everything is. Run by supervisord, it does so whenever a program starts or ends."""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TextIO

from supervisor import childutils

from stack.keys import load_keys, write_private
from stack.postgres import database_url
from stack.settings import Problem, Settings, read_settings
from stack.supervise import Process, Supervisor

URLS = {
    "gamepulse": "gamepulse",
    "prometheus": "prometheus",
    "alertmanager": "alertmanager",
    "loki": "loki",
    "jaeger": "jaeger",
    "collector": "collector-http",
    "grafana": "grafana",
}
GAME = "demo"


@dataclass(frozen=True)
class Demo:
    """The demo game's name and keys."""

    game: str
    ingest_key: str
    server_key: str


@dataclass(frozen=True)
class StackFile:
    """The content of stack.json. A url is null when its program is left out."""

    urls: dict[str, str | None]
    database_url: str
    valkey_url: str
    demo: Demo
    processes: dict[str, int]


def describe(settings: Settings, found: Mapping[str, Process]) -> StackFile:
    keys = load_keys(settings.home)
    urls: dict[str, str | None] = {name: settings.url(port) for name, port in URLS.items()}
    if "grafana" not in found:
        urls["grafana"] = None
    return StackFile(
        urls=urls,
        database_url=database_url(settings, keys),
        valkey_url=f"redis://{settings.address('valkey')}/0",
        demo=Demo(GAME, keys.ingest_key, keys.server_key),
        processes={name: process.pid for name, process in found.items() if process.pid and name != "record"},
    )


def write_stack_file(settings: Settings) -> None:
    """Write stack.json anew, with the processes that run now."""
    content = describe(settings, Supervisor(settings).processes())
    write_private(settings.stack_file, json.dumps(asdict(content), indent=2) + "\n")


def say_urls(settings: Settings) -> None:
    """Print where everything is."""
    urls = json.loads(settings.stack_file.read_text())["urls"]
    for name, url in urls.items():
        print(f"  {name:13} {url or '(left out)'}")
    print(f"  {'':13} database, keys and processes: {settings.stack_file}", flush=True)


def follow(settings: Settings, event: str) -> None:
    """Record what an event of supervisord's changed; with each TICK_60, also start what supervisord has given up."""
    if event == "TICK_60":
        supervisor = Supervisor(settings)
        for process in supervisor.processes().values():
            if process.state == "FATAL":
                supervisor.start(process.name)
    write_stack_file(settings)


def main(stdin: TextIO = sys.stdin, stdout: TextIO = sys.stdout) -> None:
    settings = read_settings()
    while True:
        headers, _ = childutils.listener.wait(stdin, stdout)
        with suppress(OSError, Problem):
            follow(settings, headers["eventname"])
        childutils.listener.ok(stdout)


if __name__ == "__main__":
    main()
