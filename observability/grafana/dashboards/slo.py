"""The objectives: how much of each error budget is left and how fast it burns. Metrics are those of Sloth's rules."""

from grafana_foundation_sdk.builders import dashboard as d

from observability.grafana.dashboards.assembly import Row, assemble, environment
from observability.grafana.dashboards.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    About,
    glance,
    go_to,
    graph,
    prom,
    prom_table,
    rows,
)

NO_SLI = "Not measured yet: nothing was asked of it, or Prometheus has not run its rules"

SLOS = {
    "ingest-availability": ("Availability", "Batches that are not answered 5xx: 99.9 % over 28 days."),
    "answer-latency": ("Latency", "Batches that are answered within 100 ms: 99 % over 28 days."),
    "freshness": ("Freshness", "Moments at which the rollups are at most 2 s old: 99 % over 28 days."),
    "durability": ("Durability", "Batches answered as stored that are stored: all of them."),
}
"""By the name that the rules know: title, and what is promised."""

WINDOWS = {"5m": "super-light-blue", "1h": "light-blue", "6h": BLUE, "1d": "semi-dark-blue", "3d": "dark-blue"}
"""Darker: longer."""


def labels(name: str) -> str:
    return f'{{sloth_service="gamepulse",sloth_slo="{name}"}}'


def at_a_glance() -> Row:
    more = [go_to("Application", "application")]
    left = [
        glance(
            About(f"{title}: budget left", f"{promise} Below 0 the promise is broken.", "percentunit", NO_SLI),
            prom(f"slo:period_error_budget_remaining:ratio{labels(name)}", "left"),
            [(None, RED), (0, ORANGE), (0.25, GREEN)],
            width=6,
            links=more,
        )
        for name, (title, promise) in SLOS.items()
    ]
    burning = [
        glance(
            About(f"{title}: burn rate", f"{promise} At 1 the budget lasts exactly 28 days; at 14.4, two.", "short", NO_SLI),
            prom(f"slo:current_burn_rate:ratio{labels(name)}", "burn rate"),
            [(None, GREEN), (1, ORANGE), (6, RED)],
            width=6,
            links=more,
        )
        for name, (title, promise) in SLOS.items()
    ]
    return Row("At a glance", [*left, *burning])


def together() -> Row:
    every = '{sloth_service="gamepulse"}'
    columns = {
        "promised": f"slo:objective:ratio{every}",
        "kept": f"1 - slo:period_burn_rate:ratio{every} * on (sloth_slo) slo:error_budget:ratio{every}",
        "budget_left": f"slo:period_error_budget_remaining:ratio{every}",
        "burn_rate": f"slo:current_burn_rate:ratio{every}",
    }
    panels = [
        graph(
            About("Budgets left", "Error budget left of the last 28 days.", "percentunit", NO_SLI),
            prom(f"slo:period_error_budget_remaining:ratio{every}", "{{sloth_slo}}"),
            least=None,
            most=1,
            width=12,
        ),
        graph(
            About("Burn rates", "Errors now, in budgets: 1 is what is allowed.", "short", NO_SLI),
            prom(f"slo:current_burn_rate:ratio{every}", "{{sloth_slo}}"),
            limit=1,
            width=12,
        ),
        rows(
            About("Objectives", "What is promised, and what was kept of it in the last 28 days.", "percentunit", NO_SLI),
            [prom_table(f"max by (sloth_slo) ({expr})", ref) for ref, expr in columns.items()],
            names={"sloth_slo": "objective"} | {f"Value #{ref}": ref.replace("_", " ") for ref in columns},
            units={"burn rate": "short"},
            decimals=2,
            hidden=["Time"],
        ),
        graph(
            About(
                "Burn rates over the period",
                "Errors of the last 28 days, in budgets: above 1 the promise is broken.",
                "short",
                NO_SLI,
            ),
            prom(f"slo:period_burn_rate:ratio{every}", "{{sloth_slo}}"),
            limit=1,
            width=12,
        ),
    ]
    return Row("All objectives", panels)


def one_by_one() -> Row:
    panels = []
    for name, (title, promise) in SLOS.items():
        errors = [prom(f"slo:sli_error:ratio_rate{window}{labels(name)}", window) for window in WINDOWS]
        budget = prom(f"slo:error_budget:ratio{labels(name)}", "allowed")
        panels.append(
            graph(
                About(
                    f"{title}: errors",
                    f"{promise} Share that was not so, over each window; alerts compare two of them.",
                    "percentunit",
                    NO_SLI,
                ),
                [*errors, budget],
                width=12,
                ceiling="allowed",
                colours=WINDOWS,
                links=[go_to("Application", "application")],
            )
        )
    return Row("Each objective", panels)


def build() -> d.Dashboard:
    return assemble(
        "slo",
        "GamePulse: objectives",
        "What is promised over 28 days, how much of each error budget is left, how fast it burns.",
        [environment()],
        at_a_glance(),
        together(),
        one_by_one(),
        since="now-24h",
    )
