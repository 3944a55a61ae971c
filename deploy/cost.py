"""`make cost`: what a month costs, for so many players at a time; docs/cost.md has it as it was printed."""

import re
from collections.abc import Sequence

from deploy.bill import bill, read_prices, usd
from deploy.config import SIZES
from deploy.measured import Measured, read_measured
from deploy.usage import HOURS, Assumed, Usage, levers, usage
from stack.settings import CHECKOUT

PLAYERS = (10_000, 50_000, 200_000)
PAGE = CHECKOUT / "docs" / "cost.md"
BLOCK = re.compile(r"(?<=<!-- make cost -->\n).*?(?=<!-- end -->)", re.DOTALL)

type Row = Sequence[str]


def report(players: Sequence[int] = PLAYERS, assumed: Assumed | None = None) -> str:
    """All tables, in Markdown. Raises Problem when there are no results of the benchmarks."""
    assumed, measured = assumed or Assumed(), read_measured()
    each = [usage(many, measured, assumed) for many in players]
    parts = [_said(measured, assumed), _needed(each), _bill(each, measured, assumed), _levers(players, measured, assumed)]
    return "\n".join([*parts, _idle(measured)])


def write() -> None:
    """Into docs/cost.md."""
    PAGE.write_text(BLOCK.sub(lambda _: f"\n{report()}\n", PAGE.read_text()))


def _said(measured: Measured, assumed: Assumed) -> str:
    oldest = min(price.date for price in read_prices().values())
    return (
        f"Measured: `bench/results` {', '.join(measured.files)}. Prices: `deploy/prices.json`, of {oldest} to "
        f"{max(price.date for price in read_prices().values())}; `*` is another region's.\n"
        f"Assumed: a batch each {assumed.interval_s:g} s from each player, of {assumed.sessions} session"
        f"{'' if assumed.sessions == 1 else 's'}; at the peak {assumed.peak_to_mean:g} times as many as in the mean of a day; "
        f"the rest in `deploy/usage.py`.\n"
    )


def _needed(each: list[Usage]) -> str:
    rows: list[Row] = [
        ("requests/s, mean · peak", *(f"{_n(one.mean_rps)} · {_n(one.peak_rps)}" for one in each)),
        ("requests a month, millions", *(_n(one.requests / 1e6) for one in each)),
        ("requests/s of one task", *(_n(one.task_rps) for one in each)),
        ("tasks, mean · peak (most of the size)", *(f"{_n(one.tasks_mean)} · {one.tasks_peak} ({_most(one)})" for one in each)),
        ("size · class", *(f"{one.size_name} · db.{one.size.database_class}" for one in each)),
        ("cores that PostgreSQL uses for batches at the peak", *(f"{one.database_cores_peak:.2f}" for one in each)),
        *((f"GB of {name}", *(_n(one.database_gib[name]) for one in each)) for name in each[0].database_gib),
        ("GB of storage (it grows to)", *(f"{_n(one.storage_gib)} ({_n(5 * one.size.database_gib)})" for one in each)),
        ("GB of WAL a day", *(_n(one.wal_gib_a_day) for one in each)),
        ("is within the size", *("yes" if one.has_room else "**no**" for one in each)),
    ]
    return _table([["players at a time", *(_n(one.players) for one in each)], *rows])


def _most(one: Usage) -> str:
    return str(one.size.app_tasks_max)


def _bill(each: list[Usage], measured: Measured, assumed: Assumed) -> str:
    prices = read_prices()
    bills = [bill(one, measured, assumed) for one in each]
    totals = [usd(lines, prices) for lines in bills]
    head = ["a month", "unit", "USD each", *(f"{_n(one.players)}: quantity | USD" for one in each), "share"]
    rows: list[Row] = []
    for group in dict.fromkeys(line.group for line in bills[0]):
        ours = [[line for line in lines if line.group == group] for lines in bills]
        rows.append(_sum_row(f"**{group}**", [usd(lines, prices) for lines in ours], totals))
        for same in zip(*ours, strict=True):
            kinds = [prices[line.price] for line in same]
            # Sizes have machines of different kinds.
            units, marks = dict.fromkeys(kind.unit for kind in kinds), dict.fromkeys(f"{k.value:g}{k.mark}" for k in kinds)
            costs = [line.quantity * kind.value for line, kind in zip(same, kinds, strict=True)]
            cells = [f"{_n(line.quantity)} | {_usd(cost)}" for line, cost in zip(same, costs, strict=True)]
            rows.append([same[0].name, " / ".join(units), " / ".join(marks), *cells, f"{costs[-1] / totals[-1]:.1%}"])
    rows.append(_sum_row("**all**", totals, totals))
    a_player = [f" | {total / one.players:.4f}" for total, one in zip(totals, each, strict=True)]
    rows.append(["**for each player at a time**", "", "", *a_player, ""])
    return _table([head, *rows])


def _sum_row(name: str, sums: list[float], totals: list[float]) -> Row:
    return [name, "", "", *(f" | **{_usd(one)}**" for one in sums), f"**{sums[-1] / totals[-1]:.1%}**"]


def _levers(players: Sequence[int], measured: Measured, assumed: Assumed) -> str:
    prices = read_prices()

    def total(many: int, one: Assumed) -> float:
        return usd(bill(usage(many, measured, one), measured, one), prices)

    now = [total(many, assumed) for many in players]
    rows: list[Row] = [["as it is", *(_usd(one) for one in now)]]
    for name, changed in levers(assumed).items():
        then = [total(many, changed) for many in players]
        rows.append([name, *(f"{_usd(new)} ({new / old - 1:+.0%})" for new, old in zip(then, now, strict=True))])
    return _table([["USD a month, if", *(f"{_n(many)}" for many in players)], *rows])


def _idle(measured: Measured) -> str:
    assumed, prices = Assumed(), read_prices()
    rows: list[Row] = []
    for name, size in SIZES.items():
        lines = bill(usage(0, measured, assumed, name), measured, assumed)
        groups = dict.fromkeys(line.group for line in lines)
        costs = {group: usd([line for line in lines if line.group == group], prices) for group in groups}
        most = sorted(costs, key=lambda group: -costs[group])[:3]
        said = ", ".join(f"{group} {_usd(costs[group])}" for group in most)
        total = usd(lines, prices)
        rows.append([name, _usd(total), f"{total / HOURS:.2f}", said, _n(size.budget_usd)])
    return _table([["nobody plays, size", "USD a month", "an hour", "of it", "budget (deploy/config.py)"], *rows])


def _table(rows: Sequence[Row]) -> str:
    """In Markdown, and to be read as it is. The first row is the head. A cell may be two, with a bar between them."""
    cells = [[cell.strip() for cell in " | ".join(row).split("|")] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = [
        [one[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(one[1:], widths[1:], strict=True))] for one in cells
    ]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), ""])


def _n(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:,.1f}"


def _usd(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:,.2f}"
