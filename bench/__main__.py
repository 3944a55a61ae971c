"""Measures the service, its peers and its limits in turn, each time from an empty database; prints tables, writes JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import psutil
from rich.console import Console

from bench import closed_loop, freshness, limit, rollups, schedule, wire
from bench.figures import FULL, QUICK, Figures, Plan, Round, summarise
from bench.machine import surroundings
from bench.servers import ROOT, SERVERS
from bench.tables import collector_table, figures_table, targets_table, wire_table
from bench.targets import SERVICE, judge
from bench.task import NotAllowed
from gamepulse.rollup import CARRIER, CLIENT, NETWORK, PLACE, SERVER, SETS

RESULTS = ROOT / "bench" / "results"
BUSY = 0.5  # load average before the first run


@dataclass(frozen=True, slots=True)
class Row:
    """Something to measure; `measure` gets what was measured before it in the same round."""

    what: str
    measure: Callable[[Plan, int, Round], Figures]
    needs_peak: bool = False
    is_once: bool = False


def server_row(name: str) -> Row:
    """A server in a closed loop."""
    return Row(SERVERS[name].what, lambda plan, run, _: closed_loop.of_server(name, plan, run))


def delayed_row(delay_ms: int) -> Row:
    """The service with slower commits."""
    what = f"the service with {closed_loop.MANY_CONNECTIONS} connections, {delay_ms} ms added to every commit"
    return Row(what, lambda plan, run, _: closed_loop.with_commit_delay(delay_ms, plan, run))


def rollup_row(dimension_set: int) -> Row:
    """The rollups of one dimension set."""
    what = f"the rollups of {rollups.MINUTES} minutes by {' · '.join(SETS[dimension_set])}"
    return Row(what, lambda plan, *_: rollups.measure(plan, dimension_set), is_once=True)


ROWS = {
    **{name: server_row(name) for name in SERVERS},
    "commit+0": delayed_row(0),
    "commit+5": delayed_row(5),
    "commit+10": delayed_row(10),
    "limit": Row(
        "msgspec's decoding and a binary COPY of the same rows, without HTTP and all else",
        lambda plan, _, done: limit.measure(plan, done[SERVICE]["batches_per_commit"]), needs_peak=True,
    ),
    "half": Row(
        "the service at half of its peak, on a schedule",
        lambda plan, run, done: schedule.at_half(done[SERVICE]["requests_per_s"], plan, run), needs_peak=True,
    ),
    "overload": Row(
        "the service at three times its peak, on a schedule",
        lambda plan, run, done: schedule.overloaded(done[SERVICE]["requests_per_s"], plan, run), needs_peak=True,
    ),
    "freshness": Row(
        "the whole stack at half of its peak: from the answer until it is seen",
        lambda plan, *_: freshness.measure(plan), is_once=True,
    ),
    "wire": Row(
        "telemetry on the wire, compressed", lambda plan, *_: wire.measure(plan, "gzip"), is_once=True,
    ),
    "wire-plain": Row(
        "the same without compression", lambda plan, *_: wire.measure(plan, "none"), is_once=True,
    ),
    "wire-none": Row(
        "the same without Collector and telemetry", lambda plan, *_: wire.measure(plan, collector="none"), is_once=True,
    ),
    "wire-gone": Row(
        "the same, the Collector dead", lambda plan, *_: wire.measure(plan, collector="gone"), is_once=True,
    ),
    "wire-task": Row(
        "service and Collector together within 1 CPU and 2 GiB, as in the task definition",
        lambda plan, *_: wire.measure(plan, is_task=True), is_once=True,
    ),
    "wire-task-none": Row(
        "the service alone within them, without telemetry",
        lambda plan, *_: wire.measure(plan, collector="none", is_task=True), is_once=True,
    ),
    "rollup-place": rollup_row(PLACE),
    "rollup-client": rollup_row(CLIENT),
    "rollup-network": rollup_row(NETWORK),
    "rollup-server": rollup_row(SERVER),
    "rollup-carrier": rollup_row(CARRIER),
}  # fmt: skip


def measure(names: list[str], plan: Plan, console: Console) -> list[dict[str, Figures]]:
    """All rounds: in each, everything in turn."""
    rounds: list[dict[str, Figures]] = []
    for number in range(plan.rounds):
        measured: dict[str, Figures] = {}
        for name in names:
            if ROWS[name].is_once and number < plan.rounds - 1:
                continue
            try:
                measured[name] = ROWS[name].measure(plan, number, measured)
            except NotAllowed as error:
                console.print(f"{name} is left out: {error}")
                continue
            first, value = next(iter(measured[name].items()))
            console.print(f"round {number + 1}/{plan.rounds} {name}: {value:,.1f} {first}")
        rounds.append(measured)
    return rounds


def write(results: Path, names: list[str], rounds: list[dict[str, Figures]], outcome: Mapping[str, object]) -> Path:
    """All that was measured, as JSON; where it lies."""
    rows = {name: {"what": ROWS[name].what, **summarise([one[name] for one in rounds if name in one])} for name in names}
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}.json"
    path.write_text(json.dumps({**outcome, "rows": rows, "targets": [one.told() for one in judge(rounds)]}, indent=2) + "\n")
    return path


@click.command()
@click.argument("chosen", metavar="[ROW]...", nargs=-1, type=click.Choice(tuple(ROWS)))
@click.option("--quick", is_flag=True, help="One short round: shows that it works, not how fast.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder for the JSON.")
def main(chosen: tuple[str, ...], quick: bool, results: Path) -> None:
    """Compare the service with its peers and its targets on this machine: everything, or the named rows."""
    console = Console(width=220)
    plan = QUICK if quick else FULL
    wanted = set(chosen or ROWS)
    if any(ROWS[name].needs_peak for name in wanted):
        wanted.add(SERVICE)
    names = [name for name in ROWS if name in wanted]
    outcome = surroundings() | {"plan": asdict(plan)}
    if psutil.getloadavg()[0] > BUSY:
        console.print("this machine is busy with something else: requests/s will be low, CPU a request less wrong")
    rounds = measure(names, plan, console)
    names = [name for name in names if any(name in one for one in rounds)]
    path = write(results, names, rounds, outcome)
    console.print(figures_table(rounds, names))
    if {"wire", "wire-plain"} <= set(names):
        console.print(wire_table(rounds[-1]))
    if {"wire", "wire-none", "wire-gone"} <= set(names):
        console.print(collector_table(rounds[-1]))
    console.print(targets_table(judge(rounds)))
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
