"""`modelyard serving dashboard` and `modelyard serving alerts`: what Grafana and Prometheus are given."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from modelyard.serving import dashboards

if TYPE_CHECKING:
    from cyclopts import App


def add(app: App) -> None:
    """Put the two commands beside the derived ones."""
    app.command(dashboard)
    app.command(alerts)


def dashboard() -> None:
    """Print a Grafana dashboard of the serving processes, as JSON to import."""
    sys.stdout.write(dashboards.dashboard())


def alerts() -> None:
    """Print alerting rules over the serving processes, as YAML for Prometheus's rule_files."""
    sys.stdout.write(dashboards.alerts())
