"""What there is of a server at the moment that somebody asks for its figures: requests, caches, bundles."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from sc2onnx import __version__
from sc2onnx.runtime.model import Model
from sc2onnx.serve.service import Service


class Readings(Collector):
    """Figures that nobody counts: they are read when Prometheus asks, and cost nothing otherwise."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """See :class:`prometheus_client.registry.Collector`."""
        handles = list(self._service.under_way)
        waiting = sum(handle.waiting for handle in handles)
        yield GaugeMetricFamily("llamacpp:requests_processing", "Requests that are computed.", len(handles) - waiting)
        yield GaugeMetricFamily("llamacpp:requests_deferred", "Requests that wait for their first step.", waiting)
        yield GaugeMetricFamily("sc2onnx:ready", "1 while requests are taken, else 0.", self._service.state == "ready")
        yield InfoMetricFamily("sc2onnx:build", "The version that serves.", {"version": __version__})
        models = dict(self._service.loaded)
        yield _bundles(models)
        yield from _caches(models)


def _bundles(models: dict[str, Model]) -> Metric:
    found = InfoMetricFamily("sc2onnx:bundle", "What is served, by the name that it goes by.", labels=["model"])
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
    bytes_kept = GaugeMetricFamily("sc2onnx:prefix_cache_bytes", "Bytes of caches that are kept.", labels=["model"])
    limit = GaugeMetricFamily("sc2onnx:prefix_cache_limit_bytes", "Bytes of caches that may be kept.", labels=["model"])
    kept = GaugeMetricFamily("sc2onnx:prefix_cache_sequences", "Texts whose caches are kept.", labels=["model"])
    told = "Texts whose caches were let go for lack of room."
    evicted = CounterMetricFamily("sc2onnx:prefix_cache_evictions", told, labels=["model"])
    for name, model in models.items():
        store = model.engine.store
        bytes_kept.add_metric([name], store.nbytes)
        limit.add_metric([name], store.limit)
        kept.add_metric([name], len(store.sequences))
        evicted.add_metric([name], store.evicted)
    yield from (bytes_kept, limit, kept, evicted)
