"""`make status`: what runs, since when, and what is wrong."""

import time
from dataclasses import replace

from stack.components import Component, grafana_component, stack_components
from stack.down import orphans_of
from stack.grafana import Grafana
from stack.keys import load_keys
from stack.record import say_urls, write_stack_file
from stack.settings import Settings
from stack.supervise import Process, Supervisor


def print_status(settings: Settings) -> bool:
    """Print a line for each program, and the last lines of those that are not well. Return whether all are well."""
    supervisor = Supervisor(settings)
    processes = supervisor.processes()
    if not processes:
        left = ", ".join(f"{process.name()} ({process.pid})" for process in orphans_of(settings))
        print(
            f"The supervisor of {settings.home} is gone, but these run: {left}. `make up` or `make down` stops them."
            if left
            else f"Nothing runs in {settings.home}. `make up` starts it."
        )
        return False
    settings = replace(settings, port_offset=supervisor.port_offset() or 0)
    if not settings.stack_file.exists():
        write_stack_file(settings)
    components = stack_components(settings, load_keys(settings.home))
    if "grafana" in processes:
        components.append(grafana_component(settings, Grafana([], {})))
    troubles = [name for component in components if (name := _print_line(component, processes))]
    for name in troubles:
        print(f"\nThe last lines of {settings.logs / name}.log:\n{supervisor.tail(name, 5)}")
    print()
    say_urls(settings)
    return not troubles


def _print_line(component: Component, processes: dict[str, Process]) -> str:
    """Print one program's line; return its name when something is wrong with it."""
    process = processes[component.name]
    if process.state == "STOPPED":  # by nobody but us: not started yet, or DEMO=0
        print(f"{component.name:13} not started")
        return ""
    why = component.ready() if process.state == "RUNNING" else process.error or process.state
    since = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(process.started)) if process.pid else "-"
    print(f"{component.name:13} {process.state:9} pid {process.pid:<8} since {since:21} {why or 'ready'}")
    return component.name if why else ""
