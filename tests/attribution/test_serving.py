"""The field ``attribution`` of a server's answers, in all dialects, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.attribution import Index, Rules
from sc2onnx.attribution.attribution import Attribution
from sc2onnx.errors import RequestError
from sc2onnx.serve.configuration import Configuration, of_file
from sc2onnx.serve.settings import Settings
from tests.attribution.conftest import PROMPT, RULES, TOKENS
from tests.serve.conftest import Served, serving

OPENAI = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
LLAMA = {"prompt": PROMPT, "n_predict": TOKENS, "temperature": 0}


@pytest.fixture(scope="module")
def marking(bundle: Path, copied: Index) -> Iterator[Served]:
    """A server that was started with the index."""
    settings = Settings(port=0, attribution=Attribution(copied, RULES))
    with serving(sc2onnx.load(bundle), settings) as running:
        yield running


@pytest.fixture(scope="module")
def plain(bundle: Path) -> Iterator[Served]:
    with serving(sc2onnx.load(bundle)) as running:
        yield running


@pytest.fixture(scope="module")
def told(copied: Index, completion: str) -> list[dict[str, Any]]:
    """What is told of the completion."""
    found: list[dict[str, Any]] = json.loads(
        json.dumps([match.as_json() for match in copied.matches(completion, rules=RULES)])
    )
    assert len(found) == 1
    return found


def events(served: Served, path: str, body: dict[str, object]) -> list[dict[str, Any]]:
    lines = served.post(path, {**body, "stream": True}).text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def test_openai_says_it_of_each_choice(marking: Served, told: list[dict[str, Any]]) -> None:
    body = {**OPENAI, "prompt": [PROMPT, "import os\n"], "n": 2}
    choices = marking.post("/v1/completions", body).json()["choices"]
    assert [choice["attribution"] for choice in choices] == [told, told, [], []]


def test_openai_says_it_in_the_last_event(marking: Served, told: list[dict[str, Any]]) -> None:
    choices = [event["choices"][0] for event in events(marking, "/v1/completions", OPENAI)]
    assert [choice.get("attribution") for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["attribution"] == told


@pytest.mark.parametrize("stream", [False, True])
def test_places_are_those_of_the_text_that_the_client_has(
    stream: bool, marking: Served, completion: str, told: list[dict[str, Any]]
) -> None:
    body = {**OPENAI, "echo": True}
    if stream:
        choices = [event["choices"][0] for event in events(marking, "/v1/completions", body)]
    else:
        choices = marking.post("/v1/completions", body).json()["choices"]
    text = "".join(choice["text"] for choice in choices)
    (match,) = choices[-1]["attribution"]
    assert text == PROMPT + completion
    assert text[match["begin"] : match["end"]] == completion[told[0]["begin"] : told[0]["end"]]


def test_llama_cpp_says_it_whole_and_streamed(marking: Served, told: list[dict[str, Any]]) -> None:
    assert marking.post("/completion", LLAMA).json()["attribution"] == told
    *before, last = events(marking, "/completion", LLAMA)
    assert last["attribution"] == told
    assert not any("attribution" in event for event in before)
    some = {**LLAMA, "response_fields": ["content"]}
    assert list(marking.post("/completion", some).json()) == ["content"]


def test_mistral_says_it_whole_and_streamed(marking: Served) -> None:
    body = {"prompt": PROMPT, "suffix": "\n", "max_tokens": TOKENS}
    whole = marking.post("/v1/fim/completions", body).json()["choices"][0]["attribution"]
    *before, last = events(marking, "/v1/fim/completions", body)
    assert last["choices"][0]["attribution"] == whole
    assert not any("attribution" in event["choices"][0] for event in before)


def lines(served: Served, path: str, body: dict[str, object]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in served.post(path, body).text.splitlines()]


def test_ollama_says_it_whole_and_in_the_last_line(
    marking: Served, told: list[dict[str, Any]]
) -> None:
    options = {"num_predict": TOKENS, "temperature": 0}
    body: dict[str, object] = {"prompt": PROMPT, "options": options}
    assert marking.post("/api/generate", {**body, "stream": False}).json()["attribution"] == told
    *before, last = lines(marking, "/api/generate", body)
    assert last["attribution"] == told
    assert not any("attribution" in line for line in before)


def test_open_inference_says_it_whole_and_in_the_last_event(
    marking: Served, told: list[dict[str, Any]]
) -> None:
    name = marking.get("/v1/models").json()["data"][0]["id"]
    body: dict[str, object] = {"text_input": PROMPT, "parameters": {"max_tokens": TOKENS}}
    assert marking.post(f"/v2/models/{name}/generate", body).json()["attribution"] == told
    *before, last = events(marking, f"/v2/models/{name}/generate_stream", body)
    assert last["attribution"] == told
    assert not any("attribution" in event for event in before)
    body["parameters"] = {"max_tokens": 0}
    assert marking.post(f"/v2/models/{name}/generate", body).json()["attribution"] == []


def test_tabby_says_it_of_each_choice(marking: Served, bundle: Path, tmp_path: Path) -> None:
    """An index of the very completion, which ends with a block here."""
    segments = {"prefix": "class Stack:\n    def push(self, item):\n", "suffix": ""}
    body = {"language": "python", "segments": segments, "temperature": 1.0, "seed": 8}
    (plain,) = marking.post("/v1/completions", body).json()["choices"]
    assert isinstance(plain["attribution"], list)
    (tmp_path / "copy.py").write_text(plain["text"])
    index = Index.build([tmp_path / "copy.py"], tmp_path / "index")
    least = Rules(least=23)
    found = [each.as_json() for each in index.matches(plain["text"], rules=least)]
    assert len(found) == 1
    settings = Settings(port=0, attribution=Attribution(index, least))
    with serving(sc2onnx.load(bundle), settings) as running:
        (choice,) = running.post("/v1/completions", body).json()["choices"]
    assert choice["text"] == plain["text"]
    assert choice["attribution"] == json.loads(json.dumps(found))


def test_token_ids_are_a_prompt_as_well(marking: Served, completion: str) -> None:
    ids = marking.post("/tokenize", {"content": f"{completion}\n\n\n{completion[:100]}"}).json()
    body = {**OPENAI, "prompt": ids["tokens"]}
    assert marking.post("/v1/completions", body).json()["choices"][0]["attribution"] == []


def test_code_around_a_cursor_is_a_prompt_as_well(
    marking: Served, completion: str, told: list[dict[str, Any]]
) -> None:
    body = {"input_prefix": PROMPT, "input_suffix": "", "n_predict": TOKENS}
    found = marking.post("/infill", body).json()
    assert isinstance(found["attribution"], list)
    extra = [{"filename": "a.py", "text": found["content"] + completion}]
    assert marking.post("/infill", {**body, "input_extra": extra}).json()["attribution"] == []


def test_no_answer_has_the_field_where_nobody_asked(plain: Served) -> None:
    assert "attribution" not in plain.post("/v1/completions", OPENAI).json()["choices"][0]
    assert "attribution" not in plain.post("/completion", LLAMA).json()
    assert "attribution" not in plain.post("/api/generate", {"prompt": PROMPT}).text
    segments = {"segments": {"prefix": PROMPT}}
    assert "attribution" not in plain.post("/v1/completions", segments).text
    assert not any("attribution" in event for event in events(plain, "/completion", LLAMA))


def test_a_configuration_names_the_index(copied: Index, tmp_path: Path) -> None:
    said = f'attribution = "{copied.path.name}"\nleast_repeated = 30\nmost_files = 0\n'
    given = of_file(copied.path.parent / "serve.toml", said, {})
    found = Configuration(**given).settings(()).attribution
    assert found is not None
    assert (len(found.index), found.rules) == (1, Rules(least=30, most_files=None))
    with pytest.raises(RequestError, match="nowhere cannot be read"):
        Configuration(attribution=str(tmp_path / "nowhere")).settings(())
