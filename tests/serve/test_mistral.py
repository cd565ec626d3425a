"""Mistral's fill-in-the-middle path, as Continue asks it."""

from __future__ import annotations

import json

import httpx

from tests.serve.conftest import Served

BODY = {
    "model": "mini",
    "prompt": "def add(a, b):\n    return",
    "suffix": "\n\nprint(add(1, 2))\n",
    "max_tokens": 12,
    "stop": [],
}


def test_nothing_to_write_gives_nothing(served: Served) -> None:
    whole = served.post("/v1/fim/completions", {**BODY, "max_tokens": 0}).json()
    assert whole["choices"][0]["message"]["content"] == ""
    streamed = served.post("/v1/fim/completions", {**BODY, "max_tokens": 0, "stream": True})
    assert '"content":""' in streamed.text.splitlines()[0]


def test_whole_and_streamed(served: Served) -> None:
    expected = served.model.infill(
        str(BODY["prompt"]), str(BODY["suffix"]), max_new_tokens=12, order="spm", heal=True
    )
    whole = served.post("/v1/fim/completions", BODY).json()
    assert whole["choices"][0]["message"]["content"] == expected.text
    assert whole["usage"]["completion_tokens"] == len(expected.tokens)
    with httpx.stream(
        "POST", f"{served.url}/v1/fim/completions", json={**BODY, "stream": True}, timeout=60
    ) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert "".join(event["choices"][0]["delta"]["content"] for event in events) == expected.text
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_mistakes_are_told_of(served: Served) -> None:
    assert served.post("/v1/fim/completions", {**BODY, "max_tokens": 10**6}).status_code == 400
    assert (
        served.post("/v1/fim/completions", {**BODY, "prompt": "", "suffix": ""}).status_code == 400
    )
