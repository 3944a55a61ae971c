"""Keeps the programs running: one supervisord for each stack, spoken to over its unix socket."""

import http.client
import re
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from supervisor.xmlrpc import SupervisorTransport

from stack.keys import write_private
from stack.settings import CHECKOUT, Problem, Settings

START_LIMIT_S = 15
LOG_BYTES, LOG_FILES = 10_000_000, 3
AWAY = (OSError, xmlrpc.client.ProtocolError, http.client.HTTPException)
RPC_LIMIT_S = 120  # stopping a program may take its whole time


@dataclass(frozen=True)
class Supervised:
    """What supervisord has to know of one program."""

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 15  # then SIGKILL


@dataclass(frozen=True)
class Process:
    """What supervisord says of one program; `started`: its last start, in seconds since the epoch, 0 when there was none."""

    name: str
    state: str  # RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL …
    pid: int  # 0 when it does not run
    started: float
    error: str

    @property
    def runs(self) -> bool:
        return self.state in ("RUNNING", "STARTING", "BACKOFF")


class Supervisor:
    """The supervisord of one stack."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.configuration = settings.home / "supervisord.conf"

    @property
    def _rpc(self) -> xmlrpc.client.ServerProxy:
        transport = SupervisorTransport(None, None, f"unix://{self.settings.socket}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    def is_alive(self) -> bool:
        try:
            self._rpc.supervisor.getPID()
        except xmlrpc.client.Fault:
            return True  # it answers that it is shutting down
        except AWAY:
            return False
        return True

    def port_offset(self) -> int | None:
        """Return the offset with which the stack was launched, whatever the environment says now."""
        if not self.configuration.exists():
            return None
        found = re.search(r'GAMEPULSE_PORT_OFFSET="(-?\d+)"', self.configuration.read_text())
        return int(found[1]) if found else None

    def launch(self, programs: Iterable[Supervised]) -> None:
        """Start supervisord in the background, with all programs stopped. Raises Problem when it does not come up."""
        self.settings.socket.unlink(missing_ok=True)
        write_private(self.configuration, render(self.settings, programs))
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.configuration)]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=False)
        deadline = time.monotonic() + START_LIMIT_S
        while not self.is_alive():
            if done.returncode or time.monotonic() > deadline:
                raise Problem(f"supervisord did not start:\n{done.stderr or self.tail('supervisord')}")
            time.sleep(0.1)

    def add(self, programs: list[Supervised]) -> None:
        """Make programs known that are not yet; `programs` are all there shall be."""
        write_private(self.configuration, render(self.settings, programs))
        self._rpc.supervisor.reloadConfig()
        for program in programs:
            with suppress(xmlrpc.client.Fault):  # ALREADY_ADDED
                self._rpc.supervisor.addProcessGroup(program.name)

    def processes(self) -> dict[str, Process]:
        """Return what runs, by name; nothing when supervisord is away or shutting down."""
        try:
            answer: object = self._rpc.supervisor.getAllProcessInfo()
        except (*AWAY, xmlrpc.client.Fault):
            return {}
        assert isinstance(answer, list)
        return {process.name: process for process in map(_process, answer)}

    def runs(self, name: str) -> bool:
        process = self.processes().get(name)
        return process is not None and process.runs

    def start(self, name: str) -> None:
        """Start a program, unless it runs. It may still fail: who starts it waits for its health."""
        try:
            self._rpc.supervisor.startProcess(name, False)
        except xmlrpc.client.Fault:
            return  # ALREADY_STARTED, or a failure that the health check reports better
        except AWAY:
            raise Problem(f"{name} could not be started: the stack was stopped meanwhile") from None

    def stop(self, name: str) -> None:
        """Stop a program and wait until it is gone: SIGTERM, its time, SIGKILL."""
        with suppress(xmlrpc.client.Fault):
            self._rpc.supervisor.stopProcess(name, True)

    def shutdown(self, limit_s: float = RPC_LIMIT_S) -> None:
        """End supervisord itself and wait until it is gone; what still runs is stopped with it."""
        with suppress(*AWAY, xmlrpc.client.Fault, psutil.NoSuchProcess):
            process = psutil.Process(int(str(self._rpc.supervisor.getPID())))
            self._rpc.supervisor.shutdown()
            try:
                process.wait(limit_s)
            except psutil.TimeoutExpired:
                raise Problem(f"supervisord did not end within {limit_s:.0f} s") from None

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a program's log; those that differ in numbers only (times, pids), once."""
        path = self.settings.logs / f"{name}.log"
        if not path.exists():
            return f"(no {path})"
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            text = file.read().decode(errors="replace")
        last = {re.sub(r"\d+", "", line): line[:300] for line in text.splitlines()[-lines:]}
        return "\n".join(last.values())


def _process(answer: Mapping[str, object]) -> Process:
    return Process(
        name=str(answer["name"]),
        state=str(answer["statename"]),
        pid=int(str(answer["pid"])),
        started=float(str(answer["start"])),
        error=str(answer["spawnerr"]),
    )


def render(settings: Settings, programs: Iterable[Supervised]) -> str:
    """Return supervisord's configuration. Programs do not start by themselves: their order is ours."""
    listener = Supervised("record", [sys.executable, "-m", "stack.record"])
    head = f"""\
[supervisord]
pidfile={_text(settings.home / "supervisord.pid")}
logfile={_text(settings.logs / "supervisord.log")}
logfile_maxbytes={LOG_BYTES}
logfile_backups={LOG_FILES}
childlogdir={_text(settings.logs)}

[unix_http_server]
file={_text(settings.socket)}
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[eventlistener:record]
events=PROCESS_STATE,TICK_60
buffer_size=100
autorestart=true
{_lines(settings, listener, error_log=True)}
"""
    return head + "\n".join(_section(settings, program) for program in programs)


def _section(settings: Settings, program: Supervised) -> str:
    # Each try waits a second longer than the one before. After the last, stack.record starts the program every minute.
    return f"""\
[program:{program.name}]
autostart=false
autorestart=true
startsecs=1
startretries=10
stopsignal={program.stop_signal}
stopwaitsecs={program.stop_seconds}
killasgroup=true
{_lines(settings, program, error_log=False)}
"""


def _lines(settings: Settings, program: Supervised, *, error_log: bool) -> str:
    """Command, environment and log. An event listener speaks to supervisord on stdout, so only stderr is logged."""
    stream = "stderr" if error_log else "stdout"
    environment = {
        "GAMEPULSE_HOME": str(settings.home),
        "GAMEPULSE_PORT_OFFSET": str(settings.port_offset),
        "PYTHONUNBUFFERED": "1",
        **program.environment,
    }
    lines = [
        f"command={' '.join(_quoted(word) for word in program.command)}",
        f"environment={','.join(f'{key}={_quoted(value)}' for key, value in environment.items())}",
        f"directory={_text(settings.home if program.user else CHECKOUT)}",
        f"{stream}_logfile={_text(settings.logs / program.name)}.log",
        f"{stream}_logfile_maxbytes={LOG_BYTES}",
        f"{stream}_logfile_backups={LOG_FILES}",
    ]
    lines += [] if error_log else ["redirect_stderr=true"]
    lines += [f"user={program.user}"] if program.user else []
    return "\n".join(lines)


def _text(value: object) -> str:
    return str(value).replace("%", "%%")  # a single one would be an expansion


def _quoted(word: str) -> str:
    if '"' in word or "\n" in word:
        raise Problem(f"supervisord cannot take a quote or a line break in {word!r}")
    return f'"{_text(word)}"'
