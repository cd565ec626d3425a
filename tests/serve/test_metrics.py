"""Figures for Prometheus: what is counted, and what is read when somebody asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sc2onnx import __version__
from sc2onnx.runtime.engine.task import Task
from sc2onnx.runtime.results import Usage
from sc2onnx.serve.ask import Ask
from sc2onnx.serve.making import made
from sc2onnx.serve.metrics import Metrics
from sc2onnx.serve.service import Service
from sc2onnx.serve.settings import Settings
from tests.serve.conftest import Served

LONG = "".join(f"def f{number}(x):\n    return x + {number}\n" for number in range(12))
COMPLETIONS = "/v1/completions"


def figures(page: str) -> dict[str, float]:
    """Samples by name, those of several labels added up."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def grown(served: Served, name: str, before: dict[str, float]) -> float:
    """How much a figure has grown."""
    return figures(served.get("/metrics").text)[name] - before.get(name, 0.0)


@pytest.fixture
def alone(served: Served) -> dict[str, float]:
    """Figures before the test, when nothing is kept."""
    served.model.engine.forget()
    return figures(served.get("/metrics").text)


def test_a_request_that_finds_its_prompt_computed_is_a_hit(
    served: Served, alone: dict[str, float]
) -> None:
    body = {"prompt": LONG, "max_tokens": 4, "temperature": 0}
    served.post(COMPLETIONS, body)
    assert grown(served, "sc2onnx:requests_reusing_total", alone) == 0
    used = served.post(COMPLETIONS, body).json()["usage"]
    assert grown(served, "sc2onnx:requests_reusing_total", alone) == 1
    assert grown(served, "vllm:time_to_first_token_seconds_count", alone) == 2
    assert (
        grown(served, "vllm:prefix_cache_hits_total", alone)
        == used["prompt_tokens_details"]["cached_tokens"]
    )
    assert grown(served, "vllm:prefix_cache_queries_total", alone) == 2 * used["prompt_tokens"]


def test_seconds_of_a_token_are_without_the_first(service: Service) -> None:
    metrics = Metrics(service)
    usage = Usage(prompt=8, generated=5, waited=0.5, prefill=1.0, decode=2.0)
    metrics.took([usage, replace(usage, generated=1), replace(usage, generated=0)])
    found = read(metrics)
    assert found["vllm:request_time_per_output_token_seconds_sum"] == pytest.approx(0.5)
    assert found["vllm:request_time_per_output_token_seconds_count"] == 1
    assert found["vllm:time_to_first_token_seconds_count"] == 2  # the last was given up before
    assert found["vllm:request_queue_time_seconds_count"] == 3


def test_requests_that_wait_are_told_from_those_that_are_computed(
    served: Served, service: Service
) -> None:
    """The engine of this model does not run here: nothing enters by itself."""
    model = served.model
    rows = [made(model, Ask((LONG,)), "whole", service.settings).rows[0] for _ in range(3)]
    tasks = [Task(model.engine, row) for row in rows]
    service.under_way.update(tasks)
    rows[0].moments.mark("enter")
    found = read(Metrics(service))
    assert found["llamacpp:requests_processing"] == 1
    assert found["llamacpp:requests_deferred"] == 2


def test_caches_that_are_kept_and_those_that_had_to_go(
    served: Served, alone: dict[str, float]
) -> None:
    store = served.model.engine.store
    limit, texts = store.limit, [LONG, f"# another file\n{LONG}"]
    assert alone["sc2onnx:prefix_cache_bytes"] == 0
    assert alone["sc2onnx:prefix_cache_limit_bytes"] == limit
    try:
        served.post(COMPLETIONS, {"prompt": texts[0], "max_tokens": 2})
        kept = grown(served, "sc2onnx:prefix_cache_bytes", alone)
        assert kept == store.nbytes > 0
        assert grown(served, "sc2onnx:prefix_cache_sequences", alone) == 1
        assert grown(served, "sc2onnx:prefix_cache_evictions_total", alone) == 0
        store.limit = int(1.5 * kept)
        served.post(COMPLETIONS, {"prompt": texts[1], "max_tokens": 2})
        assert grown(served, "sc2onnx:prefix_cache_evictions_total", alone) == 1
        assert grown(served, "sc2onnx:prefix_cache_sequences", alone) == 1
    finally:
        store.limit = limit


def test_what_is_served_is_told(served: Served) -> None:
    page = served.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    (build,) = families["sc2onnx:build_info"].samples
    assert build.labels == {"version": __version__}
    (bundle,) = families["sc2onnx:bundle_info"].samples
    manifest = served.model.manifest
    assert (bundle.labels["model"], bundle.labels["precision"]) == ("mini", manifest.precision)
    assert figures(page)["process_resident_memory_bytes"] > 10e6
    assert figures(page)["sc2onnx:ready"] == 1


def test_a_server_that_loads_has_figures_too() -> None:
    found = read(Metrics(Service(Settings())))
    assert found["sc2onnx:ready"] == 0
    assert "sc2onnx:prefix_cache_bytes" not in found


@pytest.fixture
def service() -> Service:
    """One without an engine."""
    return Service(Settings())


def read(metrics: Metrics) -> dict[str, float]:
    """The figures without a server."""
    return figures(generate_latest(metrics.registry).decode())
