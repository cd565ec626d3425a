"""Traces: off without a trace, and otherwise a span for each request, with what
the engine did inside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

import sc2onnx
from sc2onnx.serve.app import application
from sc2onnx.serve.service import Service
from sc2onnx.serve.settings import Settings
from sc2onnx.serve.tracing import Traced, calling, inject, provider
from tests.instruct import instruct, said
from tests.serve.conftest import Served
from tests.serve.test_run import BODY, started

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "def a_name_that_nobody_may_see(x):\n"


class Traces:
    """Spans that were made."""

    def __init__(self) -> None:
        self.exporter, self.provider = InMemorySpanExporter(), TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.fixture
def traced(served: Served, traces: Traces) -> Iterator[httpx.Client]:
    """Asks an application with traces, over the engine of the server that runs."""
    service = Service(Settings())
    service.ready({"mini": served.model})
    app = Traced(application(service), traces.provider)
    with _Client(app) as client:
        yield client


class _Client(httpx.Client):
    """A client of an application, without a network."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)
        super().__init__(base_url="http://127.0.0.1")

    def send(self, request: httpx.Request, **how: object) -> httpx.Response:
        async def sent() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._inner) as client:
                return await client.send(request)

        return asyncio.run(sent())


def test_a_request_has_a_span_and_its_steps_are_inside(
    traced: httpx.Client, traces: Traces
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
    body = {"prompt": SECRET, "max_tokens": 4, "temperature": 0}
    usage = traced.post("/v1/completions", json=body, headers=headers).json()["usage"]
    (outer,) = traces.named("POST /v1/completions")
    assert outer.kind is SpanKind.SERVER
    assert outer.parent is not None
    assert (f"{outer.parent.trace_id:032x}", f"{outer.parent.span_id:016x}") == (TRACE, PARENT)
    told = dict(outer.attributes or {})
    assert told["http.response.status_code"] == 200
    assert told["sc2onnx.request_id"] == "mine"
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == (
        "text_completion",
        "mini",
    )
    assert told["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 4
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    _inside(outer, [traces.named(name)[0] for name in ("queue", "prefill", "decode")])


def test_a_chat_is_called_one(bundle: Path, tmp_path: Path, traces: Traces) -> None:
    pytest.importorskip("jinja2", reason="needs the chat extra")
    service, model = Service(Settings()), sc2onnx.load(instruct(bundle, tmp_path / "bundle"))
    service.ready({"mini": model})
    with _Client(Traced(application(service), traces.provider)) as client:
        body = {"messages": said("Hello"), "max_tokens": 1}
        assert client.post("/v1/chat/completions", json=body).is_success
    model.stop()
    model.chats.renderer.close()
    (outer,) = traces.named("POST /v1/chat/completions")
    assert dict(outer.attributes or {})["gen_ai.operation.name"] == "chat"


def _inside(outer: ReadableSpan, steps: list[ReadableSpan]) -> None:
    """One begins where the one before it ends, and all are inside."""
    at = outer.start_time or 0
    for step in steps:
        assert step.parent is not None
        assert step.parent.span_id == outer.context.span_id
        assert at <= (step.start_time or 0) <= (step.end_time or 0)
        at = step.end_time or 0
    assert [step.start_time for step in steps[1:]] == [step.end_time for step in steps[:-1]]
    assert at <= (outer.end_time or 0)
    assert steps[1].end_time != steps[1].start_time


def test_no_text_is_in_a_trace(traced: httpx.Client, traces: Traces) -> None:
    text = traced.post("/v1/completions", json={"prompt": SECRET, "max_tokens": 8}).json()[
        "choices"
    ][0]["text"]
    assert traces.spans
    told = "".join(span.to_json() for span in traces.spans)
    assert "nobody_may_see" not in told
    assert json.dumps(text)[1:-1] not in told


def test_each_completion_has_its_steps(traced: httpx.Client, traces: Traces) -> None:
    traced.post("/v1/completions", json={"prompt": ["a = 1\n", "b = 2\n"], "max_tokens": 2, "n": 2})
    assert [(span.attributes or {})["sc2onnx.completion"] for span in traces.named("decode")] == [
        0,
        1,
        2,
        3,
    ]


def test_probes_have_none_and_unknown_paths_no_names(traced: httpx.Client, traces: Traces) -> None:
    for path in ("/health", "/livez", "/metrics", "/v2/health/ready"):
        traced.get(path)
    assert not traces.spans
    traced.get("/a/path/of/somebody")
    traced.request("BREW", "/health/")
    traced.options("/another/path")
    assert [span.name for span in traces.spans] == ["GET", "_OTHER", "OPTIONS"]


def test_a_fault_is_an_error(traces: Traces) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("no", 503)(scope, receive, send)

    with _Client(Traced(fails, traces.provider)) as client:
        client.post("/infill")
    (span,) = traces.spans
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "503"


def test_what_stands_before_a_server_is_its_parent(traced: httpx.Client, traces: Traces) -> None:
    """As a front does: a server span, a client span in it, and the engine's server span in that."""

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(Request(scope).headers)
        with calling(headers, "forward", server_address="engine-0"):
            reply = await asyncio.to_thread(
                traced.post,
                "/v1/completions",
                json=BODY,
                headers={"traceparent": headers["traceparent"]},
            )
        await PlainTextResponse(reply.text)(scope, receive, send)

    with _Client(Traced(front, traces.provider)) as client:
        client.post("/v1/completions", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    inner, outer = traces.named("POST /v1/completions")
    (between,) = traces.named("forward")
    assert (between.kind, dict(between.attributes or {})) == (
        SpanKind.CLIENT,
        {"server.address": "engine-0"},
    )
    for parent, child in ((outer, between), (between, inner)):
        assert child.parent is not None
        assert child.parent.span_id == parent.context.span_id
    assert f"{inner.context.trace_id:032x}" == TRACE


def test_off_is_nothing() -> None:
    headers: dict[str, str] = {}
    inject(headers)
    with calling(headers, "forward"):
        pass
    assert (headers, provider("off")) == ({}, None)


@pytest.mark.parametrize(("traces", "imported"), [("off", False), ("console", True)])
def test_nothing_of_it_is_imported_unless_it_is_on(
    tmp_path: Path, traces: str, imported: bool
) -> None:
    program = """
import os, signal, sys, threading
from sc2onnx.serve.run import serve
from sc2onnx.serve.settings import Settings

def load():
    os.kill(os.getpid(), signal.SIGTERM)
    return {}

serve(Settings(port=0, traces=sys.argv[1]), load)
print(any(name.startswith("opentelemetry") for name in sys.modules), [each.name for each in \
threading.enumerate() if "Otel" in each.name])
"""
    command = [sys.executable, "-c", program, traces]
    done = subprocess.run(
        command, timeout=60, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == f"{imported} []\n"


def test_they_go_where_the_environment_says(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is left when the server ends goes too."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with Collector() as (address, came):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "code-of-a-team")
        with started(bundle, "--traces", "otlp", cwd=tmp_path) as (process, url):
            assert httpx.post(f"{url}/v1/completions", json=BODY, timeout=60).status_code == 200
            process.terminate()
            assert process.wait(30) == 0
    sent = b"".join(came)
    for text in (
        b"code-of-a-team",
        b"POST /v1/completions",
        b"prefill",
        b"gen_ai.usage.output_tokens",
    ):
        assert text in sent
    assert b"/health" not in sent


def test_a_collector_that_is_not_there_delays_no_end(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with started(bundle, "--traces", "otlp", cwd=tmp_path) as (process, url):
        assert httpx.post(f"{url}/v1/completions", json=BODY, timeout=60).status_code == 200
        process.terminate()
        assert process.wait(20) == 0


def test_without_the_extra_a_line_says_what_to_install(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    # a package that has nothing, before the real one
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    command = [
        sys.executable,
        "-m",
        "sc2onnx",
        "serve",
        str(bundle),
        "--port",
        "0",
        "--traces",
        "otlp",
    ]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 2
    assert "opentelemetry-sdk" in done.stderr
    assert done.stderr.count("\n") == 1


class Collector:
    """Takes what is sent to it, on a port of its own."""

    def __enter__(self) -> tuple[str, list[bytes]]:
        came: list[bytes] = []

        class Takes(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                came.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *told: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Takes)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}", came

    def __exit__(self, *ended: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_console_prints_them(traces: Traces, capsys: pytest.CaptureFixture[str]) -> None:
    made = provider("console")
    assert made is not None
    made.get_tracer("t").start_span("a name").end()
    made.shutdown()
    assert '"name": "a name"' in capsys.readouterr().out


def test_a_refusal_is_no_error_of_the_server(traced: httpx.Client, traces: Traces) -> None:
    traced.post("/v1/completions", json={"prompt": SECRET, "max_tokens": 10**6})
    (span,) = traces.spans
    assert (span.attributes or {})["http.response.status_code"] == 400
    assert span.status.status_code is StatusCode.UNSET
