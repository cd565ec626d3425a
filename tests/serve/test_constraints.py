"""What an answer has to be, in the words of each dialect."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ollama
import openai
import pytest

from sc2onnx.runtime.options import GenerationKeywords
from sc2onnx.serve.dialects.constraints import Guided, ResponseFormat, guided, response_format
from sc2onnx.serve.refusal import RefusedError
from tests.serve.conftest import Served

pytest.importorskip("llguidance")

PROMPT = "config = "
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}, "count": {"type": "integer", "maximum": 99}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}
NAMED = {"name": "config", "strict": True, "schema": SCHEMA}


def fits(text: str) -> bool:
    found = json.loads(text)
    return found.keys() == {"kind", "count"} and found["kind"] in "ab" and found["count"] <= 99


def anything(text: str) -> bool:
    return isinstance(json.loads(text), dict)


def word(text: str) -> bool:
    return text in ("yes", "no")


COMPLETIONS = [
    ({"response_format": {"type": "json_schema", "json_schema": NAMED}}, fits),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, fits),
    ({"guided_json": SCHEMA}, fits),
    ({"guided_json": json.dumps(SCHEMA)}, fits),
    ({"guided_regex": "yes|no"}, word),
    ({"guided_choice": ["yes", "no"]}, word),
    ({"guided_grammar": 'root ::= "yes" | "no"'}, word),
    ({"structured_outputs": {"json": SCHEMA}}, fits),
    ({"structured_outputs": {"regex": "yes|no"}}, word),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, word),
    ({"structured_outputs": {"grammar": 'start: "yes" | "no"'}}, word),
]


@pytest.mark.parametrize(("asked", "right"), COMPLETIONS)
def test_openais_completions(served: Served, asked: dict[str, Any], right: Any) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    found = client.completions.create(
        model="mini", prompt=PROMPT, max_tokens=100, temperature=0, extra_body=asked
    )
    assert right(found.choices[0].text)
    assert found.choices[0].finish_reason == "stop"
    pieces = client.completions.create(
        model="mini", prompt=PROMPT, max_tokens=100, temperature=0, extra_body=asked, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == found.choices[0].text


@pytest.mark.parametrize(
    ("path", "body", "right"),
    [
        ("/infill", {"json_schema": SCHEMA, "input_prefix": PROMPT, "input_suffix": "\n"}, fits),
        ("/infill", {"grammar": 'root ::= "yes" | "no"', "input_prefix": PROMPT}, word),
        ("/completion", {"json_schema": SCHEMA, "prompt": PROMPT}, fits),
        ("/completion", {"grammar": 'root ::= "yes" | "no"', "prompt": PROMPT}, word),
    ],
)
def test_llama_cpps(served: Served, path: str, body: dict[str, Any], right: Any) -> None:
    done = served.post(path, {**body, "n_predict": 100, "temperature": 0}).json()
    assert right(done["content"])
    assert done["stop_type"] == "eos"


@pytest.mark.parametrize("format", [SCHEMA, "json"])
def test_ollamas(served: Served, format: Any) -> None:
    client = ollama.Client(served.url)
    found = client.generate("mini", PROMPT, format=format, options={"num_predict": 200, "seed": 1})
    if found.done_reason == "stop":
        assert found.response is not None
        assert (anything if format == "json" else fits)(found.response)
    assert format == "json" or found.done_reason == "stop"


def test_mistrals(served: Served) -> None:
    body = {"prompt": PROMPT, "suffix": "\n", "max_tokens": 100}
    how = {"type": "json_schema", "json_schema": NAMED}
    done = served.post("/v1/fim/completions", {**body, "response_format": how}).json()
    assert fits(done["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/completions", {"guided_json": {"not": {}}}, 'Unimplemented keys: ["not"]'),
        ("/v1/completions", {"guided_regex": "("}, "unclosed group"),
        ("/v1/completions", {"guided_regex": "a" * 5000}, "expected at most 2048"),
        ("/v1/completions", {"response_format": {"type": "structural_tag"}}, "another type"),
        ("/v1/completions", {"response_format": {"type": "json_schema"}}, "no schema"),
        ("/v1/completions", {"structured_outputs": {"structural_tag": "a"}}, "structural_tag"),
        ("/v1/completions", {"guided_regex": "a", "guided_choice": ["b"]}, "regex and choices"),
        (
            "/v1/completions",
            {"guided_regex": "a", "response_format": {"type": "json_object"}},
            "response_format and guided_* are given",
        ),
        ("/completion", {"grammar": "root ::= absent"}, "absent"),
        ("/completion", {"grammar": 'root ::= "a"', "json_schema": {}}, "grammar and json_schema"),
        ("/api/generate", {"format": "yaml"}, "expected json or a schema"),
    ],
)
def test_what_is_wrong_is_said(served: Served, path: str, body: dict[str, Any], said: str) -> None:
    reply = served.post(path, {"prompt": PROMPT, **body})
    assert reply.status_code == 400
    assert said in json.dumps(reply.json()).replace('\\"', '"')


def test_hostile_ones_keep_nobody_waiting(served: Served) -> None:
    """They are compiled in threads of their own, one after the other."""
    hostile = {"prompt": PROMPT, "guided_regex": ".?" * 1000, "max_tokens": 8}
    with ThreadPoolExecutor(6) as pool:
        bad = [
            pool.submit(
                served.post, "/v1/completions", {**hostile, "guided_regex": f"{n}" + ".?" * 1000}
            )
            for n in range(6)
        ]
        began = time.perf_counter()
        reply = served.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 2})
        alone = time.perf_counter() - began
        assert reply.status_code == 200
        assert alone < 20  # of which most is other work on this machine
        for each in bad:
            assert each.result().status_code == 400


def test_an_error_while_it_streams_is_told_in_the_stream(served: Served) -> None:
    ambiguous = 'start: start start | "a" | ""\n'
    body = {"prompt": PROMPT, "guided_grammar": ambiguous, "stream": True, "ignore_eos": True}
    reply = served.post("/v1/completions", {**body, "max_tokens": 1500})
    assert reply.status_code == 200
    assert re.search(r"takes too long|max is", reply.text)


def test_the_words_are_read_alike() -> None:
    """So that other paths can use them."""
    assert guided(Guided()) == {}
    assert guided(Guided(guided_regex="a")) == GenerationKeywords(regex="a")
    assert response_format(None) == response_format(ResponseFormat()) == {}
    found = response_format(ResponseFormat("json_object"))
    assert found == {"json_schema": '{"type":"object"}'}
    with pytest.raises(RefusedError):
        response_format(ResponseFormat("json_schema"))
