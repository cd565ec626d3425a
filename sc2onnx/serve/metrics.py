"""What a server has done, for Prometheus, under the names that llama.cpp's server and vLLM have where they have one."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from sc2onnx.runtime.results import Usage
from sc2onnx.serve.service import Service

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


disable_created_metrics()  # type: ignore[no-untyped-call] # a time beside each count, for which nobody asks


class Metrics:
    """Counts of one server."""

    def __init__(self, service: Service) -> None:
        self._registry = registry = CollectorRegistry()
        self._read = Counter("llamacpp:prompt_tokens", "Tokens of prompts that were computed.", registry=registry)
        self._read_seconds = Counter("llamacpp:prompt_seconds", "Seconds that prompts took.", registry=registry)
        self._reused = Counter("sc2onnx:prompt_tokens_reused", "Tokens of prompts that an earlier request had left computed.", registry=registry)
        self._written = Counter("llamacpp:tokens_predicted", "Tokens that were generated.", registry=registry)
        self._written_seconds = Counter("llamacpp:tokens_predicted_seconds", "Seconds that generating took.", registry=registry)
        self._drafted = Counter("sc2onnx:tokens_drafted", "Tokens that were computed ahead as guesses.", registry=registry)
        self._accepted = Counter("sc2onnx:tokens_accepted", "Guesses that were right.", registry=registry)
        self._first = Histogram("vllm:time_to_first_token_seconds", "From a request to its first token.", buckets=_SECONDS, registry=registry)
        self._queued = Histogram("vllm:request_queue_time_seconds", "From a request to its first step.", buckets=_SECONDS, registry=registry)
        answers = "Answers by their status; 499: the client was gone before."
        self._answers = Counter("sc2onnx:answers", answers, ["status"], registry=registry)
        Gauge("llamacpp:requests_processing", "Requests under way.", registry=registry).set_function(lambda: len(service.under_way))

    def took(self, each: Iterable[Usage]) -> None:
        """Requests have ended."""
        for used in each:
            self._read.inc(max(0, used.prompt - used.reused))
            self._reused.inc(used.reused)
            self._read_seconds.inc(max(0.0, used.prefill))
            self._written.inc(used.generated)
            self._written_seconds.inc(max(0.0, used.decode))
            self._drafted.inc(used.drafted)
            self._accepted.inc(used.accepted)
            self._first.observe(max(0.0, used.waited + used.prefill))
            self._queued.observe(max(0.0, used.waited))

    def answered(self, status: int) -> None:
        """A request was answered, or refused."""
        self._answers.labels(status).inc()

    async def page(self, request: Request) -> Response:
        """The figures, as Prometheus reads them."""
        return Response(generate_latest(self._registry), media_type="text/plain; version=0.0.4")
