"""The front: answers are the members' own, and what becomes of them when members are not."""

from __future__ import annotations

import json as js
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

import sc2onnx
from sc2onnx.fleet.passing import TRIES
from sc2onnx.serve.settings import Settings
from sc2onnx.serve.tracing import Traced
from tests.fleet.conftest import Fronted, fronting, until
from tests.fleet.fakes import STREAM, Fake, chunk, faking, going_on, json, nothing, saying
from tests.serve.conftest import Served, serving

CODE = "".join(f"def f_{number}(x):\n    return x + {number}\n\n" for number in range(40))
BODY = {"prompt": CODE, "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def members(bundle: Path) -> Iterator[list[Served]]:
    with ExitStack() as stack:
        models = [sc2onnx.load(bundle, prefix_memory=1 << 30) for _ in range(2)]
        yield [stack.enter_context(serving(model)) for model in models]


@pytest.fixture(scope="module")
def front(members: list[Served]) -> Iterator[Fronted]:
    with fronting(*(member.url for member in members)) as running:
        yield running


def computed(members: list[Served]) -> list[int]:
    """Tokens of prompts that each member has computed."""
    return [_figure(member, "llamacpp:prompt_tokens_total") for member in members]


def _figure(member: Served, name: str) -> int:
    families = text_string_to_metric_families(member.get("/metrics").text)
    return int(
        next(each.value for family in families for each in family.samples if each.name == name)
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", BODY),
        ("/infill", {"input_prefix": CODE, "input_suffix": "\n", "n_predict": 8, "temperature": 0}),
        ("/api/generate", {"prompt": CODE, "stream": False, "options": {"temperature": 0}}),
        ("/v1/fim/completions", BODY),
        ("/tokenize", {"content": CODE}),
        ("/v1/completions", {"prompt": 5}),
        ("/v1/chat/completions", {"messages": []}),
        ("/nothing", {}),
    ],
)
def test_answers_are_those_of_a_member(
    front: Fronted, members: list[Served], path: str, body: dict[str, Any]
) -> None:
    given, alone = front.post(path, body), members[0].post(path, body)
    assert given.status_code == alone.status_code
    assert _lasting(given.json()) == _lasting(alone.json())
    assert set(given.headers) == set(alone.headers)


def _lasting(answer: Any) -> Any:
    """An answer without its number, its times and what was reused."""
    if isinstance(answer, list):
        return [_lasting(each) for each in answer]
    if not isinstance(answer, dict):
        return answer
    passing = ("id", "created", "created_at", "timings", "tokens_cached", "prompt_tokens_details")
    kept = {
        name: each
        for name, each in answer.items()
        if name not in passing and "duration" not in name
    }
    return {name: _lasting(each) for name, each in kept.items()}


def test_streams_are_passed_on_as_they_come(front: Fronted, members: list[Served]) -> None:
    parts: list[str] = []
    body = {**BODY, "stream": True}
    with httpx.stream("POST", f"{front.url}/v1/completions", json=body, timeout=60) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        parts += [line[6:] for line in reply.iter_lines() if line.startswith("data: {")]
    text = "".join(js.loads(part)["choices"][0]["text"] for part in parts)
    assert len(parts) == 12
    assert text == members[1].post("/v1/completions", BODY).json()["choices"][0]["text"]


def test_typing_meets_the_cache_of_the_file(front: Fronted, members: list[Served]) -> None:
    files = [CODE.replace("x", f"y{number}") for number in range(8)]
    for text in files:
        front.post("/v1/completions", {**BODY, "prompt": text, "max_tokens": 1})
    before = computed(members)
    for typed in ("d", "de", "def", "def g"):
        for text in files:
            front.post("/v1/completions", {**BODY, "prompt": text + typed, "max_tokens": 1})
    assert sum(computed(members)) - sum(before) < 4 * 8 * 8  # a few tokens a key, not a file
    assert min(before) > 500  # and both of them have files


def test_a_client_that_goes_ends_what_is_computed() -> None:
    body = {**BODY, "stream": True}
    with faking(going_on) as member, fronting(member.url) as front:
        with httpx.stream("POST", f"{front.url}/v1/completions", json=body, timeout=60) as reply:
            lines = reply.iter_lines()  # kept: a response closes with the iterator over it
            next(lines)
            assert member.gone == 0
        until(lambda: member.gone == 1)
    with faking(nothing) as member, fronting(member.url) as front:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{front.url}/v1/completions", json=BODY, timeout=0.5)
        until(lambda: member.gone == 1)


def test_health_and_figures_are_of_all(front: Fronted) -> None:
    assert front.get("/health").json() == {"status": "ok", "members": {"ready": 2, "known": 2}}
    assert front.get("/livez").status_code == 200
    found = {
        family.name: family for family in text_string_to_metric_families(front.get("/metrics").text)
    }
    labels = {each.labels["member"] for each in found["llamacpp:prompt_tokens"].samples}
    assert labels == {"member-0", "member-1"}
    assert found["sc2onnx:front_members_ready"].samples[0].value == 2


def test_what_the_guard_refuses_reaches_nobody(members: list[Served]) -> None:
    keyed = Settings(port=0, keys=("a-key-of-the-front",), body_bytes=1000)
    with (
        faking(saying(json("200 OK", "{}"))) as member,
        fronting(member.url, settings=keyed) as front,
    ):
        key = {"authorization": "Bearer a-key-of-the-front"}
        assert front.post("/v1/completions", {}).status_code == 401
        assert front.post("/v1/completions", {"prompt": "x" * 1000}, headers=key).status_code == 413
        assert front.post("/v1/completions", {}, headers={**key, "host": "evil"}).status_code == 403
        assert member.asked == []
        assert front.post("/v1/completions", {}, headers=key).status_code == 200


def asked(fakes: list[Fake]) -> int:
    return sum(len(fake.asked) for fake in fakes)


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\nhalf an answer",),
        (b"no server",),
        (json("503 Service Unavailable", "{}"),),
        (json("429 Too Many Requests", "{}", "retry-after: 1"),),
    ],
    ids=["closed", "half", "nonsense", "ends", "busy"],
)
def test_another_member_is_asked(parts: tuple[bytes, ...]) -> None:
    with faking(saying(*parts)) as bad, faking(saying(json("200 OK", '{"a": 1}'))) as good:
        with fronting(bad.url, good.url) as front:
            for number in range(12):
                reply = front.post(
                    "/v1/completions", {"prompt": f"a\nb{number}\nc\nd\ne{number}\nf"}
                )
                assert (reply.status_code, reply.json()) == (200, {"a": 1})
        assert bad.asked
        assert len(good.asked) == 12


def test_where_all_are_busy_clients_are_told_so() -> None:
    busy = saying(json("429 Too Many Requests", '{"error": "busy"}', "retry-after: 7"))
    with faking(busy) as one, faking(busy) as two, fronting(one.url, two.url) as front:
        reply = front.post("/v1/completions", BODY)
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
        assert asked([one, two]) == 2


def test_what_ends_each_member_ends_not_all_of_them() -> None:
    with ExitStack() as stack:
        fakes = [stack.enter_context(faking(saying())) for _ in range(TRIES + 2)]
        with fronting(*(fake.url for fake in fakes)) as front:
            reply = front.post("/v1/completions", BODY)
        assert reply.status_code == 502
        assert "ask again" in reply.json()["error"]["message"]
        assert sum(bool(fake.asked) for fake in fakes) == TRIES


@pytest.mark.parametrize(
    ("path", "kind", "part", "last"),
    [
        ("/v1/completions", b"text/event-stream", b'data: {"a": 1}\n\n', 'data: {"error":'),
        ("/api/generate", b"application/x-ndjson", b'{"response": "a"}\n', '{"error":"'),
    ],
)
def test_a_stream_that_is_cut_ends_with_an_error(
    path: str, kind: bytes, part: bytes, last: str
) -> None:
    answer = saying(STREAM % kind + chunk(part), chunk(part))
    with faking(answer) as member, fronting(member.url) as front:
        reply = front.post(path, {"prompt": "x"})
        lines = [line for line in reply.text.split("\n") if line]
        assert reply.status_code == 200
        assert lines[:2] == [part.decode().strip()] * 2
        assert lines[2].startswith(last)
        assert "ask again" in lines[2]
        assert len(lines) == 3
        assert member.asked == [path]  # what has begun is not begun again


def test_a_member_that_hangs_is_given_up_and_another_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sc2onnx.fleet.member.PROBE", 0.2)
    monkeypatch.setattr("sc2onnx.fleet.members.EVERY", 0.1)
    with faking(nothing) as bad, faking(saying(json("200 OK", "{}"))) as good:
        with fronting(bad.url, good.url) as front:
            prompts = iter(f"a\nb{number}\nc\nd\ne{number}\nf" for number in range(40))
            replies: list[httpx.Response] = []

            def ask() -> None:
                replies.append(front.post("/v1/completions", {"prompt": next(prompts)}))

            threads = []
            while not bad.asked:
                threads.append(threading.Thread(target=ask))
                threads[-1].start()
                threads[-1].join(0.2)
            member = front.members.all[0]
            bad.silent = True
            for thread in threads:
                thread.join(20)
            assert all(reply.status_code == 200 for reply in replies)
            assert member.going == 0
        until(lambda: bad.gone == 1)


def test_nobody_is_ready() -> None:
    with faking(saying(json("200 OK", "{}"))) as member, fronting(member.url) as front:
        member.healthy = False
        until(lambda: not front.members.ready())
        assert front.get("/health").status_code == 503
        reply = front.post("/v1/completions", BODY)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
        member.healthy = True
        assert front.post("/v1/completions", BODY).status_code == 200  # it waits for one to come


def test_a_member_s_span_is_a_child_of_the_front_s() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    given = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with (
        faking(saying(json("200 OK", "{}"))) as member,
        fronting(member.url, around=lambda app: Traced(app, provider)) as front,
    ):
        assert front.post("/v1/completions", {"prompt": "x"}, headers=given).status_code == 200
    sent, answered = exporter.get_finished_spans()
    assert sent.name == "forward"
    assert sent.parent is not None
    assert sent.parent.span_id == answered.context.span_id
    [told] = [line for line in member.heads[-1].split("\r\n") if line.startswith("traceparent")]
    assert told.split("-")[1:3] == [
        "0af7651916cd43dd8448eb211c80319c",
        f"{sent.context.span_id:016x}",
    ]
