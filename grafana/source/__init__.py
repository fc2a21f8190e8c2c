"""Dashboards and alerts as code; `python -m grafana.source` writes what Grafana and Prometheus read."""
