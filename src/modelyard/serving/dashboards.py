"""A Grafana dashboard and Prometheus alerting rules over what GET /metrics tells.

`modelyard serving dashboard` and `modelyard serving alerts` print them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

REQUESTS, DURATION = "modelyard_requests_total", "modelyard_request_duration_seconds_bucket"
ONE = 'endpoint=~"$endpoint"'  # of the dashboard's own choice
RATE = "[$__rate_interval]"


def _quantile(which: float, metric: str, by: str, chosen: str) -> str:
    return f"histogram_quantile({which}, sum by ({by}, le) (rate({metric}{chosen})))"


# title, unit, and each line's legend with its expression
PANELS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    (
        "Requests",
        "reqps",
        {"{{endpoint}} {{arm}} {{code}}": f"sum by (endpoint, arm, code) (rate({REQUESTS}{{{ONE}}}{RATE}))"},
    ),
    (
        "Failures of all requests",
        "percentunit",
        {
            "{{endpoint}} {{arm}}": f'sum by (endpoint, arm) (rate({REQUESTS}{{{ONE}, code=~"5.."}}{RATE})) '
            f"/ sum by (endpoint, arm) (rate({REQUESTS}{{{ONE}}}{RATE}))"
        },
    ),
    (
        "Time to the answer",
        "s",
        {
            "{{endpoint}} {{arm}} " + name: _quantile(which, DURATION, "endpoint, arm", f"{{{ONE}}}{RATE}")
            for name, which in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
    ),
    (
        "Waiting for the model (p95)",
        "s",
        {
            "{{endpoint}} {{arm}}": _quantile(
                0.95, "modelyard_queue_duration_seconds_bucket", "endpoint, arm", f"{{{ONE}}}{RATE}"
            )
        },
    ),
    (
        "Share of the requests: wanted and got",
        "percentunit",
        {
            "{{endpoint}} {{arm}} wanted": f"modelyard_arm_weight{{{ONE}}}",
            "{{endpoint}} {{arm}} got": f"sum by (endpoint, arm) (rate({REQUESTS}{{{ONE}}}{RATE})) "
            f"/ ignoring (arm) group_left sum by (endpoint) (rate({REQUESTS}{{{ONE}}}{RATE}))",
        },
    ),
    (
        "Shadow",
        "ops",
        {
            "{{endpoint}} {{outcome}}": f"sum by (endpoint, outcome) (rate(modelyard_shadow_comparisons_total{{{ONE}}}{RATE}))"
        },
    ),
    ("Rolled back by the guard", "bool_yes_no", {"{{endpoint}}": f"modelyard_guard_tripped{{{ONE}}}"}),
    (
        "Rows in a joined call (mean)",
        "short",
        {
            "{{model}} {{version}}": f"sum by (model, version) (rate(modelyard_batch_size_sum{RATE})) "
            f"/ sum by (model, version) (rate(modelyard_batch_size_count{RATE}))"
        },
    ),
    (
        "In flight and waiting",
        "short",
        {
            "in flight {{worker}}": "modelyard_requests_in_flight",
            "waiting {{worker}}": "modelyard_requests_waiting",
            "stuck {{worker}}": "modelyard_threads_stuck",
        },
    ),
    (
        "Processes",
        "short",
        {"ready": "modelyard_workers", "replaced: {{reason}}": "increase(modelyard_worker_restarts_total[1h])"},
    ),
    (
        "Payload log",
        "rowsps",
        {"{{endpoint}} {{state}}": f"sum by (endpoint, state) (rate(modelyard_payload_rows_total{{{ONE}}}{RATE}))"},
    ),
    ("Processors", "short", {"{{worker}}": f'rate(process_cpu_seconds_total{{worker!=""}}{RATE})'}),
    ("Memory", "bytes", {"{{worker}}": 'process_resident_memory_bytes{worker!=""}'}),
)

# name, expression, how long, severity, what it says, and what to do
ALERTS: tuple[tuple[str, str, str, str, str, str], ...] = (
    (
        "ModelyardNoWorkers",
        "modelyard_workers == 0 or absent(modelyard_workers)",
        "1m",
        "critical",
        "No serving process is ready.",
        "Look at the log of `modelyard serve`; `modelyard doctor` names what is wrong with the machine or the yard.",
    ),
    (
        "ModelyardFailures",
        f'sum by (endpoint, arm) (rate({REQUESTS}{{code=~"5.."}}[5m])) '
        f"/ sum by (endpoint, arm) (rate({REQUESTS}[5m])) > 0.01",
        "5m",
        "critical",
        "{{ $labels.endpoint }} fails {{ $value | humanizePercentage }} of the requests of its {{ $labels.arm }}.",
        "A 500 is the model's, a 503 is overload or a log that cannot be kept, a 504 is too slow a model.",
    ),
    (
        "ModelyardOverloaded",
        f'sum by (endpoint) (rate({REQUESTS}{{code="503"}}[5m])) > 0',
        "5m",
        "warning",
        "{{ $labels.endpoint }} refuses requests.",
        "Raise max_replicas, or start with more --workers.",
    ),
    (
        "ModelyardSlow",
        _quantile(0.99, DURATION, "endpoint", "[5m]") + " > 1",
        "10m",
        "warning",
        "One request in a hundred to {{ $labels.endpoint }} takes more than {{ $value | humanizeDuration }}.",
        "Ask with the header Server-Timing which stage it is.",
    ),
    (
        "ModelyardWaiting",
        _quantile(0.95, "modelyard_queue_duration_seconds_bucket", "endpoint", "[5m]") + " > 0.5",
        "10m",
        "warning",
        "Requests to {{ $labels.endpoint }} wait {{ $value | humanizeDuration }} for their model.",
        "More processes help, or a version that is compiled (`GET /v2/models/NAME` says why one is not).",
    ),
    (
        "ModelyardRolledBack",
        "modelyard_guard_tripped == 1",
        "0m",
        "warning",
        "The guard of {{ $labels.endpoint }} has sent everything back to the baseline, or to the control of a test.",
        "The rollout tells why: `modelyard deployment list-deployments`.",
    ),
    (
        "ModelyardWorkersReplaced",
        'sum by (reason) (increase(modelyard_worker_restarts_total{reason=~"crashed|hung|stuck|killed"}[15m])) > 2',
        "0m",
        "critical",
        "Serving processes were replaced: {{ $labels.reason }}.",
        "The events worker_replaced name the model: `modelyard audit query-events`.",
    ),
    (
        "ModelyardShadowReplaced",
        'increase(modelyard_worker_restarts_total{reason="shadowing"}[1h]) > 2',
        "0m",
        "warning",
        "The process that asks shadows was replaced again and again; nobody who is answered notices.",
        "The events worker_replaced of serving/shadow name the version: `modelyard audit query-events`.",
    ),
    (
        "ModelyardThreadsStuck",
        "modelyard_threads_stuck > 0",
        "2m",
        "warning",
        "A model does not come back from its call in worker {{ $labels.worker }}.",
        "A process whose threads are all stuck is replaced; look for what the model waits for.",
    ),
    (
        "ModelyardLogLosesRows",
        'sum by (endpoint) (increase(modelyard_payload_rows_total{state=~"dropped|failed"}[10m])) > 0',
        "0m",
        "warning",
        "The payload log of {{ $labels.endpoint }} has lost {{ $value | humanize }} rows.",
        "The disk is full or too slow; payload_sampling keeps a share.",
    ),
    (
        "ModelyardFilesRunOut",
        'process_open_fds{worker!=""} / process_max_fds{worker!=""} > 0.8',
        "5m",
        "warning",
        "Worker {{ $labels.worker }} has few file descriptors left.",
        "Clients open more connections than they use, or the limit (ulimit -n) is low.",
    ),
)


def dashboard() -> str:
    """The dashboard, as Grafana imports it: the JSON of a model with a choice of data source and endpoint."""
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "endpoint",
            "type": "query",
            "label": "Endpoint",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": {"query": f"label_values({REQUESTS}, endpoint)", "refId": "endpoint"},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    told = {
        "uid": "modelyard-serving",
        "title": "modelyard: serving",
        "tags": ["modelyard"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": [_panel(place, *one) for place, one in enumerate(PANELS)],
    }
    return json.dumps(told, indent=2) + "\n"


def _panel(place: int, title: str, unit: str, lines: Mapping[str, str]) -> dict[str, Any]:
    row, column = divmod(place, 2)
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": 12 * column, "y": 8 * row, "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(lines.items())
        ],
    }


def alerts() -> str:
    """The rules, as a YAML file for Prometheus's `rule_files`."""
    lines = ["groups:", "  - name: modelyard", "    rules:"]
    for name, expression, lasting, severity, says, do in ALERTS:
        lines += [f"      - alert: {name}", f"        expr: {json.dumps(expression)}", f"        for: {lasting}"]
        lines += ["        labels:", f"          severity: {severity}", "        annotations:"]
        lines += [f"          summary: {json.dumps(says)}", f"          description: {json.dumps(do)}"]
    return "\n".join(lines) + "\n"
