"""Adapters behind HTTP: each goes as a model, and by its number in llama.cpp's ``lora``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.errors import AdapterError
from sc2onnx.serve.configuration import Configuration
from sc2onnx.serve.loading import loaded
from tests.adapters import ATTENTION, random_adapter
from tests.serve.conftest import Served, serving

PROMPT = "import os\n\nfor name in "
BEFORE, AFTER = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"


@pytest.fixture(scope="module")
def paths(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    facts = sc2onnx.load(bundle).manifest.model
    made = tmp_path_factory.mktemp("adapters")
    return {
        "sql": random_adapter(made / "sql", facts, 8, seed=1),
        "docs": random_adapter(made / "docs", facts, 4, ATTENTION, seed=2),
    }


@pytest.fixture(scope="module")
def served(bundle: Path, paths: dict[str, Path]) -> Iterator[Served]:
    adapters = {name: str(path) for name, path in paths.items()}
    (model,) = loaded(Configuration(models={"mini": str(bundle)}, adapters=adapters)).values()
    with serving(model) as running:
        yield running


@pytest.fixture(scope="module")
def expected(served: Served) -> dict[str | None, str]:
    """What the model says to the prompt with each adapter, and to code around a cursor."""
    found = dict[str | None, str]()
    for name in (None, "sql", "docs"):
        found[name] = served.model.generate(PROMPT, adapter=name, max_new_tokens=12).text
    assert len(set(found.values())) == 3
    return found


def openai(model: str) -> tuple[str, dict[str, Any]]:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    return "/v1/completions", body


def llama(model: str, **more: Any) -> tuple[str, dict[str, Any]]:
    body = {"model": model, "prompt": PROMPT, "n_predict": 12, "temperature": 0, **more}
    return "/completion", body


def ollama(model: str) -> tuple[str, dict[str, Any]]:
    options = {"num_predict": 12, "temperature": 0}
    body = {"model": model, "prompt": PROMPT, "stream": False, "options": options}
    return "/api/generate", body


def test_an_adapter_goes_as_a_model_in_every_dialect(
    served: Served, expected: dict[str | None, str]
) -> None:
    for name in ("sql", "mini", "docs", ""):
        text = expected[name if name in ("sql", "docs") else None]
        done = served.post(*openai(name)).json()
        assert done["choices"][0]["text"] == text
        assert done["model"] == (name or "mini")
        assert served.post(*llama(name)).json()["content"] == text
        assert served.post(*ollama(name)).json()["response"] == text
        parameters = {"max_tokens": 12, "temperature": 0}
        body = {"text_input": PROMPT, "parameters": parameters}
        done = served.post(f"/v2/models/{name or 'mini'}/generate", body).json()
        assert done["text_output"] == text


def test_models_lists_adapters_with_their_base(served: Served) -> None:
    found = {each["id"]: each.get("parent") for each in served.get("/v1/models").json()["data"]}
    assert found == {"mini": None, "sql": "mini", "docs": "mini"}
    tags = served.get("/api/tags").json()["models"]
    assert [each["name"] for each in tags] == ["mini", "sql", "docs"]


def test_llamas_lora_chooses_by_number(served: Served, expected: dict[str | None, str]) -> None:
    listed = served.get("/lora-adapters").json()
    assert listed == [
        {"id": 0, "path": "sql", "scale": 0.0},
        {"id": 1, "path": "docs", "scale": 0.0},
    ]
    cases: list[tuple[list[dict[str, float]], str | None]] = [
        ([{"id": 0, "scale": 1}], "sql"),
        ([{"id": 0, "scale": 0}, {"id": 1, "scale": 1.0}], "docs"),
        ([{"id": 0, "scale": 0}], None),
        ([], None),
    ]
    for lora, name in cases:
        assert served.post(*llama("", lora=lora)).json()["content"] == expected[name]
    # a number says more than the name of the model
    both = served.post(*llama("docs", lora=[{"id": 0, "scale": 1}])).json()
    assert both["content"] == expected["sql"]
    half = served.model.generate(PROMPT, adapter="sql", adapter_scale=0.5, max_new_tokens=12)
    told = served.post(*llama("", lora=[{"id": 0, "scale": 0.5}])).json()
    assert told["content"] == half.text


def test_infilling_takes_an_adapter(served: Served) -> None:
    body = {"input_prefix": BEFORE, "input_suffix": AFTER, "n_predict": 8, "temperature": 0}
    plain = served.post("/infill", body).json()["content"]
    named = served.post("/infill", {**body, "model": "sql"}).json()["content"]
    numbered = served.post("/infill", {**body, "lora": [{"id": 0, "scale": 1}]}).json()["content"]
    assert named == numbered != plain
    stream = served.post("/infill", {**body, "model": "sql", "stream": True}).text
    assert stream.count("data: ") > 1


@pytest.mark.parametrize(
    ("lora", "status", "told"),
    [
        ([{"id": 2, "scale": 1}], 400, "lora has the id 2, expected one of the 2"),
        ([{"id": 0, "scale": 1}, {"id": 1, "scale": 1}], 400, "2 adapters with a scale"),
        ([{"id": -1, "scale": 1}], 400, "lora"),
        ([{"id": 0, "scale": 1e9}], 400, "lora"),
        ([{"scale": 1}], 400, "lora"),
        ("sql", 400, "lora"),
    ],
)
def test_a_lora_that_cannot_be_used(served: Served, lora: object, status: int, told: str) -> None:
    reply = served.post(*llama("", lora=lora))
    assert reply.status_code == status
    assert told in reply.json()["error"]["message"]


def test_scales_for_all_requests_are_refused(served: Served) -> None:
    reply = served.post("/lora-adapters", [{"id": 0, "scale": 1}])
    assert reply.status_code == 501
    assert "send lora, [{id, scale}], with each" in reply.json()["error"]["message"]


def test_an_adapter_that_cannot_be_loaded_ends_the_server(bundle: Path, tmp_path: Path) -> None:
    configuration = Configuration(models={"mini": str(bundle)}, adapters={"a": str(tmp_path)})
    with pytest.raises(AdapterError, match="is no converted adapter"):
        loaded(configuration)
