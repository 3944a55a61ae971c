"""`make down`: stops everything in order, also what a crash left behind."""

import signal
from contextlib import suppress

import psutil

from stack.settings import Settings
from stack.supervise import AWAY, Supervisor

# The data's way: players first, then who takes from them, then the stores. So the service still flushes its telemetry
# into the Collector, and the Collector into the stores.
ORDER = (
    "grafana",
    "demo",
    "gamepulse",
    "collector",
    "jaeger",
    "loki",
    "prometheus",
    "alertmanager",
    "valkey",
    "postgres",
    "record",  # else supervisord, which looks at one program a second when it ends, would take 5 s more
)
ORPHANS_LIMIT_S = 45


def take_down(settings: Settings) -> None:
    """Stop the stack in settings.home. Nothing happens when it does not run."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave half of it running
    try:
        supervisor = Supervisor(settings)
        ran = supervisor.is_alive()
        if ran:
            with suppress(*AWAY):
                _stop_in_order(supervisor)
            supervisor.shutdown()
        ran = stop_orphans(settings) or ran
        settings.stack_file.unlink(missing_ok=True)
        print("Stopped." if ran else "Nothing runs.", flush=True)
    finally:
        signal.signal(signal.SIGINT, previous)


def _stop_in_order(supervisor: Supervisor) -> None:
    running = supervisor.processes()
    for name in ORDER:
        if name in running and running[name].runs:
            print(f"Stopping {name}", flush=True)
            supervisor.stop(name)


def stop_orphans(settings: Settings) -> bool:
    """Stop processes of this stack whose supervisord is gone or does not answer: SIGTERM, their time, SIGKILL.

    Return whether there were any.
    """
    orphans = orphans_of(settings)
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            # SIGTERM would have PostgreSQL wait for the last client.
            process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
    if orphans:
        print(f"Stopping what a crash left: {', '.join(str(process.pid) for process in orphans)}", flush=True)
    _, alive = psutil.wait_procs(orphans, timeout=ORPHANS_LIMIT_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    return bool(orphans)


def orphans_of(settings: Settings) -> list[psutil.Process]:
    """Return processes by what supervisord gave them: this home, and the name of a program."""
    found, configuration = [], str(settings.home / "supervisord.conf")
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environ = process.environ()
            ours = environ.get("GAMEPULSE_HOME") == str(settings.home) and "SUPERVISOR_PROCESS_NAME" in environ
            if ours or configuration in process.cmdline():  # the second is supervisord itself
                found.append(process)
    return found
