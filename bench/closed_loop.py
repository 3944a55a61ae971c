"""How many requests a second a server answers when it is asked as fast as it answers, and what each costs."""

from bench import database, load
from bench.figures import Figures, Plan
from bench.processor import cpu_by_role, cpu_s, using_cores, wait_until_quiet, watching_memory
from bench.servers import SERVERS, Running, running

MANY_CONNECTIONS = 256


def of_server(name: str, plan: Plan, run: int) -> Figures:
    """One server once, from an empty database to its end."""
    with running(SERVERS[name]) as one:
        answered, figures = measure(one, plan, run, load.CONNECTIONS)
    figures["telemetry_bytes"] = sum(count for kind, count in one.exported.items() if kind.endswith("_bytes")) / answered
    figures["log_records"] = one.exported["log_records"] / answered
    if one.server.is_logging and figures["log_records"] < 1:
        raise RuntimeError(f"{name} logs every request, but {figures['log_records']:.3f} of them have arrived")
    return figures


def with_commit_delay(delay_ms: int, plan: Plan, run: int) -> Figures:
    """The service when every commit takes so much longer. Many connections: each waits for its commit."""
    with running(SERVERS["gamepulse"], delay_ms) as one:
        commit_ms = database.lone_commit_ms(one.around.database_port)
        if commit_ms < delay_ms:
            raise RuntimeError(f"a commit takes {commit_ms} ms: the {delay_ms} ms were not added")
        _, figures = measure(one, plan, run, MANY_CONNECTIONS)
        return figures | {"lone_commit_ms": commit_ms}


def measure(one: Running, plan: Plan, run: int, connections: int) -> tuple[int, Figures]:
    """How many requests a running server has answered in all, and its figures.

    CPU, WAL and sizes are taken when the server is quiet again, so that nothing is cheap by being put off; CPU in µs a request.
    How many cores were used is of the time of the load alone.
    """
    port = one.around.database_port
    sizes_before = database.sizes(port)
    answered = load.closed(one.target, plan.warm_up_s, one.folder, 2 * run, connections).requests
    wait_until_quiet(one.trees)
    wal_before, before = database.wal_bytes(port), [cpu_s(tree) for tree in one.trees]
    before_by_role = cpu_by_role(one.process)
    with watching_memory(one.process) as most_mb, using_cores(one.process) as cores:
        seen = load.closed(one.target, plan.timed_s, one.folder, 2 * run + 1, connections)
    wait_until_quiet(one.trees)
    used_us = [(cpu_s(tree) - start) * 1e6 / seen.requests for tree, start in zip(one.trees, before, strict=True)]
    by_role = cpu_by_role(one.process)
    wal = database.wal_bytes(port) - wal_before
    answered += seen.requests
    one.check_stored(answered, 2 * connections)  # wrk leaves without its last answers, twice
    grown = {name: size - sizes_before.get(name, 0) for name, size in database.sizes(port).items()}
    return answered, {
        "requests_per_s": seen.requests / seen.duration_s,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "server_cores": cores["all"],
        "web_cores": cores["web"],
        "server_cpu_us": used_us[0],
        "web_cpu_us": (by_role["web"] - before_by_role["web"]) * 1e6 / seen.requests,
        "aggregator_cpu_us": (by_role["aggregator"] - before_by_role["aggregator"]) * 1e6 / seen.requests,
        "database_cpu_us": used_us[1],
        "sink_cpu_us": used_us[2],
        "load_cpu_us": seen.cpu_s * 1e6 / seen.requests,
        "load_cpu_share": seen.cpu_s / seen.duration_s,
        "web_rss_mb": most_mb["web"],
        "aggregator_rss_mb": most_mb["aggregator"],
        "rss_mb": most_mb["all"],
        "wal_bytes_per_report": wal / seen.requests / one.server.reports,
        **_disk(port, grown, answered * one.server.reports),
    }


def _disk(port: int, grown: dict[str, int], reports: int) -> Figures:
    """Bytes on disk a report, indexes and what updates have left behind included: of all tables, and of each."""
    figures = {"disk_bytes_per_report": sum(grown.values()) / reports}
    figures |= {f"{table}_bytes_per_report": size / reports for table, size in grown.items() if size}
    if "raw_batch" in grown:
        batches, commits = database.query(port, "SELECT count(*), count(DISTINCT xid) FROM raw_batch", "bench").split("|")
        figures["batches_per_commit"] = int(batches) / int(commits)
    return figures
