"""What is printed at the end: medians, with the least and the most."""

from collections.abc import Sequence

from rich.table import Table

from bench import wire
from bench.figures import Round, summarise
from bench.load import REPORTS
from bench.targets import Verdict

COLUMNS = {
    "requests/s": "requests_per_s",
    "p99 ms": "p99_ms",
    "cores": "server_cores",
    "web CPU": "web_cpu_us",
    "aggregator": "aggregator_cpu_us",
    "PostgreSQL": "database_cpu_us",
    "load, of a core": "load_cpu_share",
    "WAL B/report": "wal_bytes_per_report",
    "raw B/report": "raw",
    "disk B/report": "disk_bytes_per_report",
    "rollup B/row": "rollup_bytes_per_row",
    "minute B/row": "minute_bytes_per_row",
    "RSS MB": "rss_mb",
    "offered/s": "offered_per_s",
}
RAW = ("raw_batch_bytes_per_report", "report_bytes_per_report", "batch_bytes_per_report")
"""Figures that are named for their table: the first that there is."""

COLLECTORS = {
    "beside": "wire",
    "none": "wire-none",
    "gone": "wire-gone",
    "beside, 1 CPU, 2 GiB": "wire-task",
    "none, 1 CPU, 2 GiB": "wire-task-none",
}
COLLECTOR_FIGURES = {
    "p99 ms": "p99_ms",
    "most requests/s": "requests_per_s",
    "CPU of the web worker": "web_cpu_us",
    "CPU of the aggregator": "aggregator_cpu_us",
    "CPU of the Collector": "collector_cpu_us",
    "most RSS of the service, MB": "rss_mb",
    "most RSS of the Collector, MB": "collector_rss_mb",
    "bytes to the Collector": "service_bytes_per_request",
    "share of periods throttled": "throttled_share",
}


def figures_table(rounds: Sequence[Round], names: Sequence[str]) -> Table:
    """A row for everything measured; what a row has no figure for stays empty."""
    shown = Table(
        title="medians (min to max)",
        caption=f"{REPORTS} reports a request unless said; CPU in µs a request, cores: of the server under load; more in the JSON",
    )
    for column in ("", *COLUMNS):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name in names:
        summary = summarise([one[name] for one in rounds if name in one])
        raw = next((summary[figure] for figure in RAW if figure in summary), None)
        shown.add_row(name, *(_cell(raw if column == "raw" else summary.get(column)) for column in COLUMNS.values()))
    return shown


def wire_table(one: Round) -> Table:
    """What each hop of telemetry takes a request, with compression and without."""
    shown = Table(
        title="telemetry on the wire", caption=f"bytes a request at {wire.RATE_PER_S:.0f} requests/s; CPU in µs a request"
    )
    for column in ("", "gzip", "none", "gzip ÷ none"):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    hops = {f"{hop} →" if hop == "service" else f"Collector → {hop}": f"{hop}_bytes_per_request" for hop in wire.HOPS}
    for what, figure in (hops | {"CPU of the web worker": "web_cpu_us", "CPU of the Collector": "collector_cpu_us"}).items():
        packed, plain = one["wire"][figure], one["wire-plain"][figure]
        shown.add_row(what, _short(packed), _short(plain), f"{packed / plain:.2f}")
    return shown


def collector_table(one: Round) -> Table:
    """What the Collector beside the service costs; what was not measured stays empty."""
    shown = Table(
        title="the Collector beside the service",
        caption=f"all but requests/s at {wire.RATE_PER_S:.0f} requests/s; CPU in µs and bytes a request",
    )
    for column in ("", *COLLECTORS):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for what, figure in COLLECTOR_FIGURES.items():
        measured = (one.get(row, {}).get(figure) for row in COLLECTORS.values())
        shown.add_row(what, *("" if value is None else _short(value) for value in measured))
    return shown


def targets_table(verdicts: Sequence[Verdict]) -> Table:
    """Target, measured, met or not."""
    shown = Table(title="targets")
    for column in ("", "target", "measured", ""):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for one in verdicts:
        sign = "≥" if one.target.is_least else "≤"
        shown.add_row(one.target.what, f"{sign} {one.target.limit}", _cell(one.measured), "met" if one.is_met else "NOT met")
    return shown


def _cell(summary: dict[str, float] | None) -> str:
    if summary is None:
        return ""
    median, least, most = (_short(summary[name]) for name in ("median", "min", "max"))
    return median if least == most else f"{median}\n{least}–{most}"


def _short(figure: float) -> str:
    """Three digits, or whole ones."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"
