"""`make up`: starts what does not run yet, in order, says where everything is, and stays until it is told to stop."""

import signal
import time
from dataclasses import replace
from types import FrameType

from stack import postgres
from stack.components import Component, grafana_component, stack_components
from stack.down import stop_orphans, take_down
from stack.grafana import MISSING, find_grafana
from stack.keys import Keys, load_keys
from stack.lock import only_one
from stack.prepare import check_ports, make_folders, render_alertmanager, render_prometheus
from stack.programs import BUILD_LIMIT_S, ensure_program
from stack.record import say_urls, write_stack_file
from stack.settings import Problem, Settings
from stack.supervise import Process, Supervisor

WATCH_EVERY_S = 2
ENDS_MAX = 4  # of a program that shall become ready: about 7 s when it ends at once


def bring_up(settings: Settings) -> None:
    """Start the stack; return once every component is ready. Raises Problem with the reason and the last log lines.

    In the foreground (not settings.detach) it then waits for Ctrl-C and takes the stack down again. Whoever started
    the supervisor also ends it when the start fails; `make up` on a running stack only adds what is missing.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT too: a script's `&` ignores it
        signal.signal(number, _interrupt)
    supervisor = Supervisor(settings)
    mine = False
    try:
        make_folders(settings)
        with only_one(settings.home / "up.lock", "Another `make up` is starting this stack: waiting", BUILD_LIMIT_S):
            mine = not supervisor.is_alive()
            outcome = _start(settings, supervisor, load_keys(settings.home))
    except BaseException as error:
        if mine:
            take_down(settings)
        if isinstance(error, KeyboardInterrupt):
            raise Problem("Interrupted.") from None
        raise
    print(outcome, flush=True)
    say_urls(settings)
    if mine and not settings.detach:
        print("Ctrl-C stops everything.", flush=True)
        _watch(settings, supervisor)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _start(settings: Settings, supervisor: Supervisor, keys: Keys) -> str:
    """Start everything that does not run yet, wait until it is ready, and return how it went."""
    began = time.monotonic()
    every = stack_components(settings, keys)
    wanted = {component.name: component for component in every if settings.demo or component.name != "demo"}
    before = _launch(settings, supervisor, keys, every)
    if not settings.demo:
        _stop_demo(supervisor)
    _start_service(settings, supervisor, keys, wanted)
    _start_telemetry(settings, supervisor, wanted)
    _start_grafana(settings, supervisor, keys, every, wanted)
    _wait(supervisor, list(wanted.values()))
    write_stack_file(settings)
    took = f"Everything is up after {time.monotonic() - began:.0f} s:"
    return "Already up:" if set(wanted) <= before else took


def _launch(settings: Settings, supervisor: Supervisor, keys: Keys, components: list[Component]) -> set[str]:
    """Start supervisord if it is not there; return the names of what runs already."""
    if supervisor.is_alive():
        _check_same_ports(settings, supervisor)
        return {process.name for process in supervisor.processes().values() if process.runs}
    stop_orphans(settings)
    check_ports(settings, components)
    render_prometheus(settings)
    render_alertmanager(settings)
    postgres.prepare_data(settings, keys)
    supervisor.launch(component.supervised for component in components)
    return set()


def _check_same_ports(settings: Settings, supervisor: Supervisor) -> None:
    running = replace(settings, port_offset=supervisor.port_offset() or 0)
    if running.port_offset != settings.port_offset:
        raise Problem(f"the stack in {settings.home} runs with other ports ({running.url('gamepulse')}): `make down` first")


def _stop_demo(supervisor: Supervisor) -> None:
    demo = supervisor.processes().get("demo")
    if demo is None or demo.state == "STOPPED":
        return
    print("Stopping demo, because of DEMO=0", flush=True)
    supervisor.start("demo")  # one that is FATAL could not be stopped, and would be started again
    supervisor.stop("demo")


def _start_service(settings: Settings, supervisor: Supervisor, keys: Keys, wanted: dict[str, Component]) -> None:
    """Database and cache, then the service on a migrated database with the demo game in it, then its players."""
    for name in ("postgres", "valkey"):
        supervisor.start(name)
    _wait(supervisor, [wanted["postgres"], wanted["valkey"]])
    if not supervisor.runs("gamepulse"):
        postgres.prepare_database(settings, keys)
        supervisor.start("gamepulse")
    _wait(supervisor, [wanted["gamepulse"]])
    write_stack_file(settings)
    print(f"GamePulse is up: {settings.url('gamepulse')}", flush=True)
    if "demo" in wanted:
        supervisor.start("demo")


def _start_telemetry(settings: Settings, supervisor: Supervisor, wanted: dict[str, Component]) -> None:
    """Each program as soon as it is built. The Collector is the first and queues until its stores are there."""
    for component in wanted.values():
        if component.builds:
            ensure_program(settings, component.builds)
            supervisor.start(component.name)


def _start_grafana(
    settings: Settings, supervisor: Supervisor, keys: Keys, every: list[Component], wanted: dict[str, Component]
) -> None:
    """Last, because its image may have to be pulled; supervisord learns of it only now."""
    if supervisor.runs("grafana"):
        return
    found = find_grafana(settings, keys)
    if found is None:
        print(MISSING, flush=True)
        return
    wanted["grafana"] = grafana_component(settings, found)
    check_ports(settings, [wanted["grafana"]])
    supervisor.add([component.supervised for component in (*every, wanted["grafana"])])
    supervisor.start("grafana")


def _wait(supervisor: Supervisor, components: list[Component]) -> None:
    """Wait until all run and say that they are ready. Raises Problem with the last lines of the one that does not."""
    began, starts = time.monotonic(), {component.name: set[float]() for component in components}
    while components:
        processes = supervisor.processes()
        if not processes:
            raise Problem("the stack was stopped while it started")
        components = [one for one in components if not _is_ready(supervisor, one, processes[one.name], starts[one.name], began)]
        time.sleep(0.2)


def _is_ready(supervisor: Supervisor, component: Component, process: Process, starts: set[float], began: float) -> bool:
    """Say whether it is ready; `starts` collects its starts. Raises Problem when it ends again and again, or takes too long."""
    why = f"it is {process.state} {process.error}".strip() if process.state != "RUNNING" else component.ready()
    if not why:
        return True
    starts.add(process.started)
    ends, waited_s = len(starts) - bool(process.pid), time.monotonic() - began
    if ends >= ENDS_MAX:
        why = f"it ends again and again ({why})"
    elif process.state not in ("FATAL", "STOPPED") and waited_s < component.ready_seconds:  # STOPPED: its file is missing
        return False
    raise Problem(
        f"{component.name} is not ready after {waited_s:.0f} s: {why}\n"
        f"The last lines of {supervisor.settings.logs / component.name}.log:\n{supervisor.tail(component.name)}"
    )


def _watch(settings: Settings, supervisor: Supervisor) -> None:
    """Say what dies and comes back, until the stack is stopped from elsewhere or Ctrl-C comes."""
    known = supervisor.processes()
    try:
        while now := supervisor.processes():
            for name, process in now.items():
                _say_change(supervisor, known.get(name), process)
            known = now
            time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        take_down(settings)
    else:
        print("Stopped from elsewhere.", flush=True)


def _say_change(supervisor: Supervisor, before: Process | None, now: Process) -> None:
    if before is None or before == now:
        return
    if now.pid not in (0, before.pid):
        print(f"{now.name} was restarted (pid {now.pid})", flush=True)
    if now.state in ("FATAL", "EXITED") and now.state != before.state:
        print(f"{now.name} is {now.state}; its last lines:\n{supervisor.tail(now.name, 5)}", flush=True)
