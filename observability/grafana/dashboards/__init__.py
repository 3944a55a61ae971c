"""Grafana's dashboards, one module each; `python -m observability.grafana.dashboards` writes what Grafana loads."""
