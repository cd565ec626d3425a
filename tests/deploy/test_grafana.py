"""The dashboard: what its script writes, and of nothing that the server does not tell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import sc2onnx
from tests.conftest import ROOT
from tests.serve.conftest import Served, serving

FILE = ROOT / "deploy" / "grafana" / "sc2onnx.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
TARGETS = [(panel["title"], target) for panel in DASHBOARD["panels"] for target in panel["targets"]]
LABELS = {"namespace", "pod"}
"""Of the scrape, not of the server."""


@pytest.fixture(scope="module")
def told(bundle: Path) -> Iterator[dict[str, set[str]]]:
    """Names of samples, and their labels, of a server that has answered."""
    with serving(sc2onnx.load(bundle)) as served:
        yield _told(served)


def _told(served: Served) -> dict[str, set[str]]:
    served.post("/v1/completions", {"prompt": "def f():\n", "max_tokens": 4})
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{served.url}/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_it_is_what_the_script_writes() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "grafana_dashboard.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("title", "target"), TARGETS, ids=lambda each: each if isinstance(each, str) else each["refId"]
)
def test_expressions_ask_for_what_the_server_tells(
    title: str, target: dict[str, str], told: dict[str, set[str]]
) -> None:
    names = re.findall(r"([\w:]+)\{", target["expr"])
    assert names
    assert set(names) <= set(told)
    assert target["expr"].count("(") == target["expr"].count(")")
    grouped = {
        label.strip()
        for each in re.findall(r"by \(([^)]*)\)", target["expr"])
        for label in each.split(",")
    }
    shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    for labels in (grouped, shown):
        assert labels <= LABELS.union(*(told[name] for name in names))
    assert not grouped or shown <= grouped


def test_what_is_to_be_seen_can_be_seen() -> None:
    text = " ".join(target["expr"] for _, target in TARGETS)
    for name in (
        "vllm:time_to_first_token_seconds_bucket",
        "llamacpp:requests_deferred",
        "llamacpp:tokens_predicted_total",
        "vllm:prefix_cache_hits_total",
        "sc2onnx:answers_total",
        "process_resident_memory_bytes",
        "sc2onnx:ready",
    ):
        assert name in text
    assert {"0.5", "0.95"} <= set(re.findall(r"histogram_quantile\(([\d.]+),", text))


def test_grafana_can_read_it() -> None:
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= set(DASHBOARD)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == variables
    for panel in DASHBOARD["panels"]:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
