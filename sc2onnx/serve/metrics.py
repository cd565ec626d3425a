"""What a server has done, for Prometheus, under the names that llama.cpp's server and vLLM
have where they have one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from starlette.requests import Request
from starlette.responses import Response

from sc2onnx.runtime.results import Usage
from sc2onnx.serve.readings import Readings
from sc2onnx.serve.service import Service

_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_TOKEN_SECONDS: Final = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1.0)


# a time beside each count, for which nobody asks
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counts of one server. They are added to when a request ends, not with its tokens."""

    def __init__(self, service: Service) -> None:
        self.registry = registry = CollectorRegistry()
        self._read = Counter(
            "llamacpp:prompt_tokens", "Tokens of prompts that were computed.", registry=registry
        )
        self._read_seconds = Counter(
            "llamacpp:prompt_seconds", "Seconds that prompts took.", registry=registry
        )
        self._asked = Counter("vllm:prefix_cache_queries", "Tokens of prompts.", registry=registry)
        self._reused = Counter(
            "vllm:prefix_cache_hits",
            "Tokens of prompts that an earlier request had left computed.",
            registry=registry,
        )
        half = "Requests that found half of their prompt computed, or more."
        self._hits = Counter("sc2onnx:requests_reusing", half, registry=registry)
        self._written = Counter(
            "llamacpp:tokens_predicted", "Tokens that were generated.", registry=registry
        )
        self._written_seconds = Counter(
            "llamacpp:tokens_predicted_seconds", "Seconds that generating took.", registry=registry
        )
        self._drafted = Counter(
            "sc2onnx:tokens_drafted",
            "Tokens that were computed ahead as guesses.",
            registry=registry,
        )
        self._accepted = Counter(
            "sc2onnx:tokens_accepted", "Guesses that were right.", registry=registry
        )
        self._first = Histogram(
            "vllm:time_to_first_token_seconds",
            "From a request to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._queued = Histogram(
            "vllm:request_queue_time_seconds",
            "From a request to its first step.",
            buckets=_SECONDS,
            registry=registry,
        )
        each = "Of a request, seconds from one token to the next in the mean."
        self._token = Histogram(
            "vllm:request_time_per_output_token_seconds",
            each,
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        answers = "Answers by their status; 499: the client was gone before."
        self._answers = Counter("sc2onnx:answers", answers, ["status"], registry=registry)
        registry.register(Readings(service))
        ProcessCollector(registry=registry)

    def took(self, each: Iterable[Usage]) -> None:
        """Requests have ended."""
        for used in each:
            self._read.inc(max(0, used.prompt - used.reused))
            self._asked.inc(used.prompt)
            self._reused.inc(used.reused)
            self._read_seconds.inc(max(0.0, used.prefill))
            self._written.inc(used.generated)
            self._written_seconds.inc(max(0.0, used.decode))
            self._drafted.inc(used.drafted)
            self._accepted.inc(used.accepted)
            self._queued.observe(max(0.0, used.waited))
            if used.generated:  # one that was given up before has no first token, and found nothing
                self._answering(used)

    def _answering(self, used: Usage) -> None:
        self._first.observe(max(0.0, used.waited + used.prefill))
        self._hits.inc(2 * used.reused >= used.prompt)
        if used.generated > 1:
            self._token.observe(max(0.0, used.decode) / (used.generated - 1))

    def answered(self, status: int) -> None:
        """A request was answered, or refused."""
        self._answers.labels(status).inc()

    async def page(self, request: Request) -> Response:
        """The figures, as Prometheus reads them."""
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")
