"""What there is of a server when somebody asks for its figures: requests, caches, bundles."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from sc2onnx import __version__
from sc2onnx.runtime.model import Model
from sc2onnx.serve.service import Service


class Readings(Collector):
    """Figures that nobody counts: they are read when Prometheus asks, and cost nothing before."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        handles = list(self._service.under_way)
        waiting = sum(handle.waiting for handle in handles)
        told = (
            ("llamacpp:requests_processing", "Requests that are computed.", len(handles) - waiting),
            ("llamacpp:requests_deferred", "Requests that wait for their first step.", waiting),
            (
                "sc2onnx:ready",
                "1 while requests are taken, else 0.",
                self._service.state == "ready",
            ),
        )
        yield from (GaugeMetricFamily(*each) for each in told)
        version = {"version": __version__}
        yield InfoMetricFamily("sc2onnx:build", "The version that serves.", version)
        models = dict(self._service.loaded)
        yield _bundles(models)
        yield from _caches(models)


def _bundles(models: dict[str, Model]) -> Metric:
    told = "What is served, by the name that it goes by."
    found = InfoMetricFamily("sc2onnx:bundle", told, labels=["model"])
    for name, model in models.items():
        manifest = model.manifest
        facts = {
            "source": manifest.provenance.source or "",
            "revision": manifest.provenance.revision or "",
            "precision": manifest.precision,
            "target": manifest.target,
            "exporter": manifest.provenance.exporter,
        }
        found.add_metric([name], facts)
    return found


def _caches(models: dict[str, Model]) -> Iterator[Metric]:
    """Caches that finished requests left for later ones, of each model."""
    found: tuple[GaugeMetricFamily | CounterMetricFamily, ...]
    evictions = "Texts whose caches were let go for lack of room."
    found = (
        GaugeMetricFamily("sc2onnx:prefix_cache_bytes", "Bytes that are kept.", labels=["model"]),
        GaugeMetricFamily("sc2onnx:prefix_cache_limit_bytes", "Bytes at most.", labels=["model"]),
        GaugeMetricFamily(
            "sc2onnx:prefix_cache_sequences", "Texts that are kept.", labels=["model"]
        ),
        CounterMetricFamily("sc2onnx:prefix_cache_evictions", evictions, labels=["model"]),
    )
    for name, model in models.items():
        store = model.engine.store
        values = (store.nbytes, store.limit, len(store.sequences), store.evicted)
        for place, value in enumerate(values):
            found[place].add_metric([name], value)
    yield from found
