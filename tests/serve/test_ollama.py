"""Ollama's paths, by Ollama's own client."""

from __future__ import annotations

import json

import httpx
import ollama
import pytest

from tests.serve.conftest import Served

PROMPT = "def add(a, b):\n    return"
GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture
def client(served: Served) -> ollama.Client:
    return ollama.Client(host=served.url)


def test_whole_and_streamed(client: ollama.Client, served: Served) -> None:
    expected = served.model.generate(PROMPT, max_new_tokens=12)
    whole = client.generate(model="mini", prompt=PROMPT, options=GREEDY)
    assert whole.response == expected.text
    assert whole.done_reason == "length"
    assert whole.eval_count == len(expected.tokens)
    assert whole.prompt_eval_count == expected.prompt_tokens
    parts = list(client.generate(model="mini:latest", prompt=PROMPT, options=GREEDY, stream=True))
    assert "".join(part.response or "" for part in parts) == expected.text
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].response == ""  # litellm reads no text there


def test_a_suffix_is_filled_in_before(client: ollama.Client, served: Served) -> None:
    expected = served.model.infill(
        PROMPT, "\n\nprint(add(1, 2))\n", max_new_tokens=12, order="spm", heal=True
    )
    found = client.generate(
        model="mini", prompt=PROMPT, suffix="\n\nprint(add(1, 2))\n", options=GREEDY
    )
    assert found.response == expected.text


def test_what_there_is_to_know(client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == ["mini"]
    assert [model.model for model in client.ps().models] == ["mini"]
    shown = client.show("mini")
    # by which Continue sees that the middle can be filled in
    assert ".Suffix" in (shown.template or "")
    assert shown.capabilities == ["completion", "insert"]


def test_an_empty_prompt_asks_whether_it_is_loaded(served: Served) -> None:
    answer = served.post("/api/generate", {"model": "mini"}).json()
    assert answer["done_reason"] == "load"


def test_mistakes_are_told_of(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="template is not supported"):
        client.generate(model="mini", prompt=PROMPT, template="{{ .Prompt }}")
    with pytest.raises(ollama.ResponseError, match="does not chat"):
        client.chat(model="mini", messages=[{"role": "user", "content": "hello"}])


@pytest.mark.parametrize(("path", "host"), [("generate", "elsewhere"), ("absent", "localhost")])
def test_refusals_before_its_routes_are_texts_too(served: Served, path: str, host: str) -> None:
    refused = served.post(
        f"/api/{path}", {"model": "mini", "prompt": PROMPT}, headers={"host": host}
    )
    assert refused.status_code in (403, 404)
    assert isinstance(refused.json()["error"], str)  # its client for Node.js shows nothing else


def test_lines_are_what_continue_reads(served: Served) -> None:
    body = {
        "model": "mini",
        "prompt": PROMPT,
        "raw": True,
        "options": {**GREEDY, "num_ctx": 4096},
        "keep_alive": 1800,
    }
    with httpx.stream("POST", f"{served.url}/api/generate", json=body, timeout=60) as reply:
        lines = [json.loads(line) for line in reply.iter_lines()]
    assert (
        "".join(line["response"] for line in lines)
        == served.model.generate(PROMPT, max_new_tokens=12).text
    )
