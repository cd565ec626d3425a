"""Chats in every dialect that has them, by an instruct model, and by a base model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

import sc2onnx
from sc2onnx.runtime.chat.process import Bounds, Renderer
from sc2onnx.serve.settings import Settings
from tests.instruct import CHATML, instruct, said
from tests.serve.conftest import Served, serving
from tests.serve.test_logs import awaited, logged

pytest.importorskip("jinja2", reason="needs the chat extra")

HELLO = said("Write a function that adds.", system="You write code.")
TOKENS = 16
CHATS = "/v1/chat/completions"


@pytest.fixture(scope="module")
def chatting(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = sc2onnx.load(instruct(bundle, tmp_path_factory.mktemp("instruct") / "bundle"))
    with serving(model) as running:
        yield running
    model.chats.renderer.close()


@pytest.fixture
def client(chatting: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{chatting.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def asked(client: openai.OpenAI, **options: Any) -> Any:
    usual = {"model": "mini", "messages": HELLO, "max_tokens": TOKENS, "temperature": 0}
    return client.chat.completions.create(**{**usual, **options})


def expected(chatting: Served, messages: Any = HELLO, **options: Any) -> sc2onnx.Completion:
    return chatting.model.chat(messages, max_new_tokens=TOKENS, **options)


def test_a_chat_is_what_the_model_answers(chatting: Served, client: openai.OpenAI) -> None:
    done = asked(client)
    choice = done.choices[0]
    assert (done.object, choice.message.role) == ("chat.completion", "assistant")
    assert choice.message.content == expected(chatting).text
    assert choice.finish_reason == "length"
    assert done.usage.completion_tokens == TOKENS
    assert done.usage.prompt_tokens == expected(chatting).prompt_tokens


def test_a_stream_says_who_speaks_and_what_it_took(chatting: Served, client: openai.OpenAI) -> None:
    events = list(asked(client, stream=True, n=2, stream_options={"include_usage": True}))
    assert {event.object for event in events} == {"chat.completion.chunk"}
    for index in (0, 1):
        deltas = [each for event in events for each in event.choices if each.index == index]
        assert deltas[0].delta.role == "assistant"
        text = "".join(each.delta.content or "" for each in deltas)
        assert text == expected(chatting).text
        reasons = [each.finish_reason for each in deltas]
        assert reasons == [None] * (len(reasons) - 1) + ["length"]
    assert events[-1].choices == []
    assert events[-1].usage.completion_tokens == 2 * TOKENS


def test_raw_events_end_as_clients_expect(chatting: Served) -> None:
    body = {"messages": HELLO, "max_completion_tokens": 2, "stream": True}
    with httpx.stream("POST", chatting.url + CHATS, json=body, timeout=60) as reply:
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") for line in lines[:-1])


def test_log_probabilities_are_rows(chatting: Served, client: openai.OpenAI) -> None:
    done = asked(client, logprobs=True, top_logprobs=2, max_tokens=4)
    rows = done.choices[0].logprobs.content
    assert len(rows) == 4
    assert b"".join(bytes(row.bytes) for row in rows).decode() == done.choices[0].message.content
    for row in rows:
        assert math.isclose(row.logprob, row.top_logprobs[0].logprob)
        assert len(row.top_logprobs) == 2
    events = list(asked(client, logprobs=True, max_tokens=4, stream=True))
    streamed = [
        row
        for event in events
        for choice in event.choices
        if choice.logprobs
        for row in choice.logprobs.content
    ]
    assert [row.token for row in streamed] == [row.token for row in rows]


@pytest.mark.parametrize(
    ("options", "messages", "kept"),
    [
        ({"stop": ["\n"]}, HELLO, {"stop": "\n"}),
        ({"seed": 7, "temperature": 0.9}, HELLO, {"seed": 7, "temperature": 0.9}),
        ({"extra_body": {"special_tokens": "text"}}, HELLO, {"special_tokens": "text"}),
        ({"max_tokens": None, "max_completion_tokens": TOKENS}, HELLO, {}),
        ({"prediction": {"type": "content", "content": "def add"}}, HELLO, {}),
        (
            {"extra_body": {"continue_final_message": True}},
            [*HELLO, {"role": "assistant", "content": "def add("}],
            {"continue_final_message": True},
        ),
    ],
)
def test_options_are_those_of_the_model(
    chatting: Served,
    client: openai.OpenAI,
    options: dict[str, Any],
    messages: Any,
    kept: dict[str, Any],
) -> None:
    given = {name: value for name, value in options.items() if value is not None}
    usual: dict[str, Any] = {"model": "mini", "messages": messages, "temperature": 0}
    usual |= {} if "max_completion_tokens" in given else {"max_tokens": TOKENS}
    done = client.chat.completions.create(**{**usual, **given})
    assert done.choices[0].message.content == expected(chatting, messages, **kept).text


def test_parts_are_joined_and_a_developer_is_the_system(
    chatting: Served, client: openai.OpenAI
) -> None:
    parts = [{"type": "text", "text": "Write"}, {"type": "text", "text": "code."}]
    messages = [{"role": "developer", "content": "Be."}, {"role": "user", "content": parts}]
    same = said("Write\ncode.", system="Be.")
    assert asked(client, messages=messages).choices[0].message.content == (
        expected(chatting, same).text
    )


def test_a_next_turn_reuses_what_was_computed(chatting: Served, client: openai.OpenAI) -> None:
    first = asked(client)
    answer = first.choices[0].message.content
    second = asked(client, messages=[*HELLO, *said("Now subtract.", answer)[::-1]])
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"messages": []}, "there are no messages"),
        ({"tools": [{"type": "function"}]}, "tools is not supported"),
        ({"functions": [{}]}, "functions is not supported"),
        ({"tool_choice": "required"}, "tool_choice is not supported"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\] is about a tool"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            r"messages\[0\] is about a tool",
        ),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] has no content"),
        ({"messages": [{"role": "a\n<|im_end|>", "content": "x"}]}, "matching regex"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "a part of type 'image_url', expected texts only",
        ),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "Nobody may not speak"),
        ({"messages": said("x = 1\n" * 4000)}, "the model's context holds"),
        ({"top_logprobs": 2}, "top_logprobs is given without logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "<= 20"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens is 5000, expected at most 4096"),
        ({"modalities": ["audio"]}, "modalities has other things than text"),
        ({"n": 9}, "n is 9, expected at most 8"),
        ({"chat_template_kwargs": [1]}, "Expected `object"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    chatting: Served, body: dict[str, Any], told: str
) -> None:
    reply = chatting.post(CHATS, {"messages": HELLO, "max_tokens": 1, **body})
    assert reply.status_code == 400
    assert re.search(told, reply.json()["error"]["message"])


def test_nothing_written_leaves_the_prompt_computed(chatting: Served) -> None:
    messages = said("Nobody asked this before.")
    first = chatting.post(CHATS, {"messages": messages, "max_tokens": 0}).json()
    assert first["choices"][0]["message"]["content"] == ""
    assert first["usage"]["completion_tokens"] == 0
    second = chatting.post(CHATS, {"messages": messages, "max_tokens": 1}).json()
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_ollama_chats(chatting: Served) -> None:
    client = ollama.Client(host=chatting.url)
    options = {"temperature": 0, "num_predict": TOKENS}
    done = client.chat("mini:latest", HELLO, options=options)
    assert done.message.role == "assistant"
    assert done.message.content == expected(chatting).text
    assert (done.done, done.done_reason, done.eval_count) == (True, "length", TOKENS)
    assert done.total_duration
    parts = list(client.chat("mini", HELLO, options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == expected(chatting).text
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == TOKENS
    assert client.chat("mini", []).done_reason == "load"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"tools": [{"type": "function"}]}, 400, "tools is not supported"),
        ({"think": True}, 501, "think is not supported"),
        ({"messages": [{"role": "user", "content": "x", "images": ["a"]}]}, 400, "images"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "is about a tool"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, 400, "Nobody may not speak"),
    ],
)
def test_ollama_is_told_what_cannot_be_done(
    chatting: Served, body: dict[str, Any], status: int, told: str
) -> None:
    reply = chatting.post("/api/chat", {"messages": HELLO, "stream": False, **body})
    assert reply.status_code == status
    assert told in reply.json()["error"]


def test_a_template_is_applied_and_shown(chatting: Served, served: Served) -> None:
    reply = chatting.post("/apply-template", {"messages": HELLO})
    assert reply.json()["prompt"].endswith("adds.<fim_pad>\n<repo_name>assistant\n")
    assert chatting.get("/props").json()["chat_template"] == CHATML
    assert served.get("/props").json()["chat_template"] == ""


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        (CHATS, "/v1/completions or /infill"),
        ("/chat/completions", "/v1/completions or /infill"),
        ("/api/chat", "/api/generate"),
        ("/apply-template", "/completion or /infill"),
    ],
)
def test_a_base_model_says_that_it_does_not_chat(served: Served, path: str, instead: str) -> None:
    reply = served.post(path, {"messages": HELLO})
    assert reply.status_code == 501
    assert f"does not chat: use {instead}" in json.dumps(reply.json())


def test_a_hostile_template_stops_nobody_else(bundle: Path, tmp_path: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model = sc2onnx.load(instruct(bundle, tmp_path / "bundle", endless))
    model.chats.renderer = Renderer(Bounds(seconds=0.5))
    with serving(model) as running:
        reply = running.post(CHATS, {"messages": HELLO})
        assert reply.status_code == 501
        assert "do not trust this bundle" in reply.json()["error"]["message"]
        assert running.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).is_success


def test_messages_are_logged_where_prompts_are(bundle: Path, tmp_path: Path) -> None:
    model = sc2onnx.load(instruct(bundle, tmp_path / "bundle"))
    with serving(model, Settings(port=0, log_prompts=True)) as running, logged() as lines:
        running.post(CHATS, {"messages": HELLO, "max_tokens": 1})
        (line,) = awaited(lines)
        assert line["prompts"] == [{"messages": HELLO}]
    model.chats.renderer.close()
