"""How long answers take when batches come on a schedule: at half the peak, and at three times the peak."""

from bench import load
from bench.figures import Figures, Plan
from bench.processor import cpu_s, memory_mb, using_cores, wait_until_quiet, watching_memory
from bench.servers import SERVERS, Running, running

HALF, OVER = 0.5, 3.0
OVER_CONNECTIONS = 1_024
"""More than the batches that the service lets wait for a commit: else the load's connections would be the limit."""


def at_half(peak: float, plan: Plan, run: int) -> Figures:
    """Latency from when a batch was due until it was answered, commit included, at half of `peak` batches a second."""
    rate = HALF * peak
    with running(SERVERS["gamepulse"]) as one:
        warmed = load.paced(one.target, rate, plan.warm_up_s, one.folder, 2 * run)
        with using_cores(one.process) as cores:
            seen = load.paced(one.target, rate, plan.timed_s, one.folder, 2 * run + 1)
        wait_until_quiet(one.trees)
        _check(one, warmed, seen)
    answers = seen.of("202")
    refused = seen.of("503").count / seen.offered  # none, unless the disk stood still for a moment
    return {
        "offered_per_s": rate,
        "refused_share": refused,
        "p50_ms": answers.p50_ms,
        "p99_ms": answers.p99_ms,
        "max_ms": answers.max_ms,
        "server_cores": cores["all"],
        **_load(seen),
    }


def overloaded(peak: float, plan: Plan, run: int) -> Figures:
    """What is still stored, how soon the rest is refused, and how much memory it takes, at three times `peak`."""
    with running(SERVERS["gamepulse"]) as one:
        warmed = load.paced(one.target, HALF * peak, plan.warm_up_s, one.folder, 2 * run)
        wait_until_quiet(one.trees)
        before_mb, cpu_before = memory_mb(one.process), [cpu_s(tree) for tree in one.trees]
        with watching_memory(one.process) as most_mb, using_cores(one.process) as cores:
            seen = load.paced(one.target, OVER * peak, plan.timed_s, one.folder, 2 * run + 1, OVER_CONNECTIONS)
        wait_until_quiet(one.trees)
        after_mb, used_s = memory_mb(one.process), [cpu_s(tree) for tree in one.trees]
        _check(one, warmed, seen)
    stored, refused = seen.of("202"), seen.of("503")
    return {
        "offered_per_s": OVER * peak,
        "goodput_per_s": stored.count / seen.duration_s,
        "goodput_share": stored.count / seen.duration_s / peak,
        "stored_p50_ms": stored.p50_ms,
        "stored_p99_ms": stored.p99_ms,
        "refused_share": refused.count / seen.offered,
        "refused_p50_ms": refused.p50_ms,
        "refused_p99_ms": refused.p99_ms,
        "refused_sent_p99_ms": refused.sent_p99_ms,
        "rss_before_mb": before_mb["all"],
        "rss_mb": most_mb["all"],
        "rss_after_mb": after_mb["all"],
        "web_rss_mb": most_mb["web"],
        "aggregator_rss_mb": most_mb["aggregator"],
        "server_cores": cores["all"],
        "web_cores": cores["web"],
        "server_cpu_us": (used_s[0] - cpu_before[0]) * 1e6 / seen.offered,
        **_load(seen),
    }


def _check(one: Running, warmed: load.Paced, seen: load.Paced) -> None:
    """Every batch was stored or refused, none forgotten."""
    unexpected = set(seen.answers) - {"202", "503", "0"}
    if unexpected:
        raise RuntimeError(f"neither 202 nor 503: {seen}")
    one.check_stored(warmed.of("202").count + seen.of("202").count, seen.of("0").count)


def _load(seen: load.Paced) -> Figures:
    """What says that the load itself was not the limit."""
    return {
        "unanswered": seen.of("0").count,
        "load_awake_p99_ms": seen.awake_p99_ms,
        "load_waited_p99_ms": seen.waited_p99_ms,
        "load_cpu_share": seen.cpu_s / seen.duration_s,
    }
