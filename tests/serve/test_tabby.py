"""Tabby's paths, with the bodies that its agent sends."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.serve.conftest import Served

SEGMENTS: dict[str, Any] = {
    "prefix": "def total(items):\n    result = 0\n    for item in items:\n        result",
    "suffix": "\n    return result\n",
    "filepath": "src/total.py",
    "git_url": "https://example.com/repo.git",
    "declarations": [{"filepath": "src/item.py", "body": "class Item:\n    price = 1\n"}],
    "relevant_snippets_from_changed_files": [
        {"filepath": "src/a.py", "body": "a = 1\n", "score": 0.5},
        {"filepath": "src/a.py", "body": "b = 2\n"},
    ],
    "relevant_snippets_from_recently_opened_files": None,
    "clipboard": None,
    "edit_history": None,
}
BODY = {
    "language": "python",
    "segments": SEGMENTS,
    "user": "somebody",
    "temperature": 0.0,
    "seed": 2**63 + 1,
    "mode": "standard",
}


def test_a_completion_is_what_the_model_gives_in_the_repositorys_format(served: Served) -> None:
    answer = served.post("/v1/completions", BODY).json()
    files = {"src/item.py": "class Item:\n    price = 1\n", "src/a.py": "a = 1\n\nb = 2\n"}
    expected = served.model.infill(
        SEGMENTS["prefix"],
        SEGMENTS["suffix"],
        path="src/total.py",
        files=files,
        order="spm",
        heal=True,
        max_new_tokens=64,
        ends="block",
    )
    assert answer["choices"] == [{"index": 0, "text": expected.text}]
    assert answer["mode"] == "standard"
    assert answer["id"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": '"segments"'},
        {"prompt": "a", "stop": ["segments"]},
        {"prompt": "a", "user": {"segments": 1}},
    ],
)
def test_the_word_alone_is_no_sign(served: Served, body: dict[str, object]) -> None:
    reply = served.post("/v1/completions", {**body, "max_tokens": 1})
    assert reply.status_code == 200
    assert reply.json()["object"] == "text_completion"


def test_what_the_agent_asks_besides(served: Served) -> None:
    for health in (served.get("/v1/health"), served.post("/v1/health", {})):
        assert health.json()["model"] == "mini"
        assert health.json()["version"]["git_describe"].startswith("v0.18.0-sc2onnx")
    assert (
        served.post("/v1/events", {"type": "view", "completion_id": "x", "choice_index": 0}).json()
        == {}
    )
    assert served.get("/v1beta/server_setting").json() == {"disable_client_side_telemetry": True}


def test_a_newer_request_of_the_same_user_and_file_takes_the_place_of_the_older(
    served: Served,
) -> None:
    """The older one is long: its prompt is, and it is not yet computed when the newer one comes."""
    answers = list[Any]()
    older = {**BODY, "segments": {**SEGMENTS, "prefix": "x = 1\n" * 400 + "def f():\n    "}}
    waiting = threading.Thread(
        target=lambda: answers.append(served.post("/v1/completions", older).json())
    )
    served.model.engine.turn.take()
    try:
        waiting.start()
        while not served.service.under_way:
            time.sleep(0.005)
        newer = threading.Thread(
            target=lambda: answers.append(served.post("/v1/completions", BODY).json())
        )
        newer.start()
        while len(served.service.under_way) < 2:
            time.sleep(0.005)
    finally:
        served.model.engine.turn.give()
    waiting.join(60)
    newer.join(60)
    texts = sorted(len(answer["choices"][0]["text"]) for answer in answers)
    assert texts[0] == 0
    assert texts[1] > 0


def test_mistakes_are_told_of(served: Served) -> None:
    assert served.post("/v1/completions", {"segments": {}}).status_code == 400
    many = {**SEGMENTS, "declarations": [{"filepath": "x", "body": "y"}] * 100}
    assert served.post("/v1/completions", {"segments": many}).status_code == 400
