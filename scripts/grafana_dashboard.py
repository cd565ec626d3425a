"""Writes deploy/grafana/sc2onnx.json, a dashboard of the server's figures,
for Grafana 10 and later.

    python scripts/grafana_dashboard.py > deploy/grafana/sc2onnx.json

Import the file in Grafana, or mount it where its sidecar or provisioning looks for dashboards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_WIDTH: Final = 8
_HEIGHT: Final = 8
_ROW: Final = 24
"""Units of Grafana's grid: a row has 24."""

_SELECT: Final = '{namespace=~"$namespace",pod=~"$pod"}'
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph over time. ``lines``: expressions by what their lines are called."""

    title: str
    unit: str
    lines: dict[str, str]
    told: str = ""
    stacked: bool = False


def _rate(name: str) -> str:
    return f"rate({name}{_SELECT}[$__rate_interval])"


def _quantiles(name: str) -> dict[str, str]:
    """The median and the 95th percentile of a histogram."""
    buckets = f"sum by (le) ({_rate(f'{name}_bucket')})"
    return {f"p{share}": f"histogram_quantile({share / 100}, {buckets})" for share in (50, 95)}


def _per(part: str, whole: str) -> str:
    return f"sum({_rate(part)}) / sum({_rate(whole)})"


PANELS: Final = (
    Panel(
        "First token",
        "s",
        _quantiles("vllm:time_to_first_token_seconds"),
        "From a request to its first token, waiting included.",
    ),
    Panel("Wait for the first step", "s", _quantiles("vllm:request_queue_time_seconds")),
    Panel(
        "Time of a token",
        "s",
        _quantiles("vllm:request_time_per_output_token_seconds"),
        "After the first, in the mean of a request.",
    ),
    Panel(
        "Requests under way",
        "short",
        {
            "computed": f"sum(llamacpp:requests_processing{_SELECT})",
            "waiting": f"sum(llamacpp:requests_deferred{_SELECT})",
        },
        "Engines are added by the sum of both, over their number.",
        stacked=True,
    ),
    Panel(
        "Answers by status",
        "reqps",
        {"{{status}}": f"sum by (status) ({_rate('sc2onnx:answers_total')})"},
        "499: the client went.",
        stacked=True,
    ),
    Panel(
        "Tokens",
        "short",
        {
            "generated /s": f"sum({_rate('llamacpp:tokens_predicted_total')})",
            "read /s": f"sum({_rate('llamacpp:prompt_tokens_total')})",
        },
        "Read: of prompts, without those that were computed already.",
    ),
    Panel(
        "Reuse",
        "percentunit",
        {
            "tokens of prompts": _per(
                "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
            ),
            "requests, half or more": _per(
                "sc2onnx:requests_reusing_total", "vllm:time_to_first_token_seconds_count"
            ),
            "guesses that were right": _per(
                "sc2onnx:tokens_accepted_total", "sc2onnx:tokens_drafted_total"
            ),
        },
        "It falls when engines come, go or restart, and where they keep too few files.",
    ),
    Panel(
        "Caches of files",
        "bytes",
        {
            "kept, {{pod}}": f"sc2onnx:prefix_cache_bytes{_SELECT}",
            "at most, {{pod}}": f"sc2onnx:prefix_cache_limit_bytes{_SELECT}",
        },
    ),
    Panel(
        "Files let go",
        "short",
        {"{{pod}}": _rate("sc2onnx:prefix_cache_evictions_total")},
        "Per second, for lack of room: give --prefix-memory.",
    ),
    Panel(
        "Engines",
        "short",
        {"ready": f"sum(sc2onnx:ready{_SELECT})", "there": f"count(sc2onnx:ready{_SELECT})"},
    ),
    Panel(
        "Memory",
        "bytes",
        {"{{pod}}": f"process_resident_memory_bytes{_SELECT}"},
        "Resident, mapped weights included.",
    ),
    Panel("Processors", "short", {"{{pod}}": _rate("process_cpu_seconds_total")}),
    Panel(
        "Bundles",
        "short",
        {
            ("{{model}}: {{precision}}, {{revision}}"): (
                f"count by (model, precision, revision) (sc2onnx:bundle_info{_SELECT})"
            )
        },
    ),
    Panel(
        "Versions", "short", {"{{version}}": f"count by (version) (sc2onnx:build_info{_SELECT})"}
    ),
)


def dashboard() -> dict[str, Any]:
    """The file's contents."""
    return {
        "uid": "sc2onnx",
        "title": "sc2onnx",
        "tags": ["sc2onnx"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    for name, query in (
        ("namespace", "sc2onnx:ready"),
        ("pod", 'sc2onnx:ready{namespace=~"$namespace"}'),
    ):
        yield {
            "name": name,
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": f"label_values({query},{name})", "refId": name},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",  # also where there is no such label, as outside Kubernetes
            "current": {"text": "All", "value": "$__all"},
        }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    across = _ROW // _WIDTH
    drawn = {
        "lineWidth": 1,
        "fillOpacity": 10,
        "stacking": {"mode": "normal" if panel.stacked else "none"},
    }
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.told,
        "datasource": _SOURCE,
        "gridPos": {
            "x": number % across * _WIDTH,
            "y": number // across * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": drawn},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": name,
            }
            for place, (name, expression) in enumerate(panel.lines.items())
        ],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
