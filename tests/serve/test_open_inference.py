"""The Open Inference Protocol: shapes of its specification
(generate_rest.yaml, inference_rest.md).
"""

from __future__ import annotations

import json

import httpx
import pytest

from sc2onnx.serve.settings import Settings
from tests.serve.conftest import Served, serving

PROMPT, SUFFIX = "def add(a, b):\n    return", "\n\nprint(add(1, 2))\n"
GENERATE = "/v2/models/mini/generate"


def test_what_the_server_and_its_models_are(served: Served) -> None:
    assert set(served.get("/v2").json()) == {"name", "version", "extensions"}
    assert served.get("/v2/health/live").json() == {"live": True}
    assert served.get("/v2/health/ready").json() == {"ready": True}
    assert served.get("/v2/models/mini/ready").json() == {"name": "mini", "ready": True}
    facts = served.get("/v2/models/mini").json()
    assert facts["inputs"] == [{"name": "text_input", "datatype": "BYTES", "shape": [1]}]
    assert [each["name"] for each in facts["outputs"]] == ["text_output"]


def test_whole_and_streamed(served: Served) -> None:
    body = {"text_input": PROMPT, "parameters": {"max_tokens": 12}}
    expected = served.model.generate(PROMPT, max_new_tokens=12).text
    assert served.post(GENERATE, body).json() == {"model_name": "mini", "text_output": expected}
    reply = served.post(f"{GENERATE}_stream", body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line]
    assert "".join(each["text_output"] for each in events) == expected
    assert [each["done"] for each in events] == [False] * (len(events) - 1) + [True]


def test_the_middle(served: Served) -> None:
    expected = served.model.infill(PROMPT, SUFFIX, max_new_tokens=20, order="spm", heal=True).text
    body = {"text_input": PROMPT, "parameters": {"suffix": SUFFIX}}
    assert served.post(GENERATE, body).json()["text_output"] == expected


def test_nothing_to_write_gives_nothing(served: Served) -> None:
    body = {"text_input": PROMPT, "parameters": {"max_tokens": 0}}
    assert served.post(GENERATE, body).json()["text_output"] == ""


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (GENERATE, {}, 400),
        (GENERATE, {"text_input": PROMPT, "parameters": {"max_tokens": 10**6}}, 400),
        (GENERATE, {"text_input": PROMPT, "parameters": {"temperature": -1}}, 400),
        (GENERATE, {"text_input": PROMPT, "parameters": {"best_of": 3}}, 501),
        ("/v2/models/other/generate", {"text_input": PROMPT}, 404),
        ("/v2/models/mini/infer", {"inputs": []}, 404),
    ],
)
def test_mistakes_are_texts(served: Served, path: str, body: object, status: int) -> None:
    reply = served.post(path, body)
    assert reply.status_code == status
    assert isinstance(reply.json()["error"], str)


def test_an_unknown_model_is_not_ready(served: Served) -> None:
    assert served.get("/v2/models/other/ready").status_code == 404


def test_probes_need_no_key_and_tell_of_its_end(served: Served) -> None:
    with serving(served.model, Settings(port=0, keys=("a-key-of-some-length",))) as keyed:
        assert keyed.get("/v2/health/ready").status_code == 200
        reply = keyed.get("/v2/models/mini")
        assert reply.status_code == 401
        assert isinstance(reply.json()["error"], str)
        keyed.service.state = "draining"
        assert httpx.get(f"{keyed.url}/v2/health/ready").status_code == 503
        assert httpx.get(f"{keyed.url}/v2/health/live").status_code == 200
