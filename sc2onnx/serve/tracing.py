"""Traces of requests for OpenTelemetry, off unless somebody asks for them.

While they are off nothing of OpenTelemetry is imported, no thread runs and nothing is sent.
They tell when a request waited, had its prompt computed and its tokens written, and how many
these were; no text. The engine knows nothing of them: its spans are made afterwards, of
times that it notes anyway.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sc2onnx import __version__
from sc2onnx.errors import MissingDependencyError
from sc2onnx.hints import install
from sc2onnx.runtime.results import Usage
from sc2onnx.serve.entry import Entry, entry_or_none
from sc2onnx.serve.logs import PROBES
from sc2onnx.serve.settings import Traces
from sc2onnx.serve.threads import in_daemon

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, Tracer

_SENDS: Final = 3.0
"""Seconds in which the last traces are sent."""

_MOST: Final = 8
"""Completions of one request that have spans of their own."""

_ROUTED: Final = frozenset({400, 408, 413, 429, 499, 500, 501, 502})
"""Statuses of refusals that only a path that is one gives: any other
may be a client's invention.
"""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "OPTIONS"})

_SPAN: ContextVar[tuple[Tracer, Span] | None] = ContextVar("sc2onnx.span", default=None)
"""The span of the request that is being answered, and what makes others; None: traces are off."""


def provider(how: Traces) -> TracerProvider | None:
    """What makes spans and sends them: ``otlp`` to where the standard ``OTEL_*`` variables of the
    environment say, ``console`` to standard output; None for ``off``. Whoever has it calls
    ``shutdown()`` in the end, which sends what is left.

    Raises :class:`~sc2onnx.errors.MissingDependencyError`.
    """
    if how == "off":
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        sends = _sending(how)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"traces need {error.name}: {install('otel')}") from error
    made = TracerProvider(resource=Resource.create(_resource()), shutdown_on_exit=False)
    made.add_span_processor(sends)
    return made


async def sent(traces: TracerProvider) -> None:
    """Send the spans that are left, and end. One that nobody takes is waited for no longer than a
    moment.
    """
    with suppress(TimeoutError):
        await asyncio.wait_for(in_daemon(traces.shutdown), _SENDS)


def _sending(how: Traces) -> SpanProcessor:
    """What takes spans that have ended."""
    from opentelemetry.sdk.trace import export

    if how == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return export.BatchSpanProcessor(OTLPSpanExporter())
    printed = export.ConsoleSpanExporter(
        out=sys.stdout, formatter=lambda span: f"{span.to_json(indent=None)}\n"
    )
    return export.SimpleSpanProcessor(printed)


def _resource() -> dict[str, str]:
    """What all spans say of their sender. OpenTelemetry prefers it to what the environment says."""
    told = {"service.version": __version__}
    given = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not given and "OTEL_SERVICE_NAME" not in os.environ:
        told["service.name"] = "sc2onnx"
    return told


class _Clock:
    """The engine's clock, :func:`time.perf_counter`, as nanoseconds of the time of day."""

    def __init__(self) -> None:
        self._ahead = time.time_ns() - time.perf_counter_ns()

    @property
    def now(self) -> int:
        return self._ahead + time.perf_counter_ns()

    def at(self, seconds: float) -> int:
        return self._ahead + round(1e9 * seconds)


class Traced:
    """Has a span for each request but those of probes: a child of its client's, where
    ``traceparent`` names one.

    Of a request that the engine computes there are children, for each completion: ``queue``,
    ``prefill`` and ``decode``.
    """

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self._app, self._tracer = app, provider.get_tracer("sc2onnx", __version__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the specification of ASGI."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        clock, status = _Clock(), None
        span = self._begun(scope, clock)
        before = _SPAN.set((self._tracer, span))

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            _SPAN.reset(before)
            self._end(span, scope, status or 499, clock)

    def _begun(self, scope: Scope, clock: _Clock) -> Span:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = Headers(scope=scope)
        given = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        parent = TraceContextTextMapPropagator().extract(given)
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        told = {
            "http.request.method": method,
            "url.path": scope["path"][:200],
            "url.scheme": scope.get("scheme", "http"),
        }
        return self._tracer.start_span(method, parent, SpanKind.SERVER, told, start_time=clock.now)

    def _end(self, span: Span, scope: Scope, status: int, clock: _Clock) -> None:
        from opentelemetry.trace import StatusCode

        span.set_attribute("http.response.status_code", status)
        if scope["method"] != "OPTIONS" and (status < 400 or status in _ROUTED):
            span.update_name(f"{scope['method']} {scope['path'][:200]}")
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
        entry = entry_or_none(scope)
        if entry is not None and span.is_recording():
            span.set_attributes(_attributes(entry))
            self._children(span, entry, clock)
        span.end(clock.now)

    def _children(self, span: Span, entry: Entry, clock: _Clock) -> None:
        from opentelemetry.trace import set_span_in_context

        inside = set_span_in_context(span)
        for number, handle in enumerate(entry.handles[:_MOST]):
            self._steps(inside, handle.usage, (clock.at(entry.submitted), clock.now), number)

    def _steps(self, inside: Context, used: Usage, within: tuple[int, int], number: int) -> None:
        """One after the other. ``within``: when the first began, and the
        last ended at the latest.
        """
        at, latest = within
        counts = {
            "queue": {},
            "prefill": {
                "gen_ai.usage.input_tokens": used.prompt,
                "gen_ai.usage.cache_read.input_tokens": used.reused,
            },
            "decode": {
                "gen_ai.usage.output_tokens": used.generated,
                "sc2onnx.drafted": used.drafted,
                "sc2onnx.accepted": used.accepted,
            },
        }
        lasted = (used.waited, used.prefill, used.decode)
        for (name, found), seconds in zip(counts.items(), lasted, strict=True):
            ends = min(at + max(0, round(1e9 * seconds)), latest)
            told = {"sc2onnx.completion": number, **found}
            span = self._tracer.start_span(name, inside, attributes=told, start_time=at)
            span.end(ends)
            at = ends


def _attributes(entry: Entry) -> dict[str, Any]:
    """Of a request, in the words of OpenTelemetry's conventions for generative models."""
    told: dict[str, Any] = {"sc2onnx.request_id": entry.id}
    if entry.model:
        told |= {
            "gen_ai.operation.name": "chat" if entry.chats else "text_completion",
            "gen_ai.provider.name": "sc2onnx",
            "gen_ai.request.model": entry.model,
        }
    used = [handle.usage for handle in entry.handles]
    if used:
        told |= {
            "gen_ai.usage.input_tokens": sum(each.prompt for each in used),
            "gen_ai.usage.cache_read.input_tokens": sum(each.reused for each in used),
            "gen_ai.usage.output_tokens": sum(each.generated for each in used),
            "gen_ai.response.finish_reasons": [
                str(each.finish_reason or "error") for each in entry.handles
            ],
        }
    return told


def inject(headers: MutableMapping[str, str]) -> None:
    """Add ``traceparent`` to the headers of a request that is sent while another is answered, so
    that its callee's span is a child of this one's. Where traces are off, nothing.
    """
    current = _SPAN.get()
    if current is not None:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers, set_span_in_context(current[1]))


@contextmanager
def calling(headers: MutableMapping[str, str], name: str, **told: str | int) -> Iterator[None]:
    """Have a client span while the block sends a request on.
    ``headers``: those that it sends, which get its ``traceparent``. ``told``: attributes, with
    ``_`` for a dot. Where traces are off, nothing.
    """
    current = _SPAN.get()
    if current is None:
        yield
        return
    from opentelemetry.trace import SpanKind, set_span_in_context

    tracer, outer = current
    attributes = {key.replace("_", "."): value for key, value in told.items()}
    inside = set_span_in_context(outer)
    with tracer.start_as_current_span(name, inside, SpanKind.CLIENT, attributes) as span:
        before = _SPAN.set((tracer, span))
        try:
            inject(headers)
            yield
        finally:
            _SPAN.reset(before)
