"""The Grafana dashboard: `python -m prometheus.dashboard > prometheus/dashboard.json`, in the folder of the examples.

What is asked of the data stands in `panels.py`; here is what Grafana wants around it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from .panels import ROWS, Line, Panel

TITLE = "urllib3 connection pools"
COLUMNS = 24  # of Grafana's grid
HEIGHTS = {"stat": 4, "timeseries": 8}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Each lists what there is under those before it.
VARIABLES = {
    "service": ("job", "", "The service: `job` of a scrape configuration, `service.name` of OTLP."),
    "instance": ("instance", 'job=~"$service"', "A process: its address, or its `service.instance.id` by OTLP."),
    "upstream": ("server_address", 'job=~"$service", instance=~"$instance"', "The host that the pools lead to."),
}


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, lines in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": _place(0, top, COLUMNS, 1), "panels": []})
        top += 1
        for line in lines:
            panels.extend(_laid(line, top))
            top += HEIGHTS[line[0].kind]
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "pool-telemetry",
        "title": TITLE,
        "description": "What urllib3's connection pools do, told by pool_telemetry: the questions that operators ask.",
        "tags": ["urllib3", "pool_telemetry"],
        "schemaVersion": 36,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_datasource(), *(_variable(name) for name in VARIABLES)]},
        "panels": panels,
    }


def _laid(line: Line, top: int) -> list[dict[str, Any]]:
    """Panels beside each other, all as wide."""
    width = COLUMNS // len(line)
    places = [_place(number * width, top, width, HEIGHTS[panel.kind]) for number, panel in enumerate(line)]
    return [{**_panel(panel), "gridPos": place} for panel, place in zip(line, places, strict=True)]


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    is_instant = panel.kind == "stat"
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "expr": expression,
            "legendFormat": legend,
            "instant": is_instant,
            "range": not is_instant,
        }
        for number, (legend, expression) in enumerate(panel.queries.items())
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str) -> dict[str, Any]:
    label, matchers, description = VARIABLES[name]
    query = f"label_values(urllib3_pool_checkouts_total{{{matchers}}}, {label})"
    return {
        "name": name,
        "label": name.capitalize(),
        "description": description,
        "type": "query",
        "datasource": DATASOURCE,
        "query": query,
        "refresh": 2,  # when the time range changes: processes come and go
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def render() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
