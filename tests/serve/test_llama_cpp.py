"""llama.cpp's paths, with the bodies that llama.vim and llama.vscode send."""

from __future__ import annotations

import json

import httpx
import pytest

from sc2onnx.runtime.results import Usage
from sc2onnx.serve.dialects.llama_cpp_answers import timings
from tests.serve.conftest import Served

BEFORE = "import os\n\n\ndef add(a, b):\n"
LINE = "    return "
AFTER = "\n\n\nprint(add(1, 2))\n"

VIM = {
    "id_slot": 0,
    "input_prefix": BEFORE,
    "input_suffix": AFTER,
    "input_extra": [
        {"text": "def sub(a, b):\n    return a - b\n", "time": 1, "filename": "sub.py"}
    ],
    "prompt": LINE,
    "n_predict": 16,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/predicted_n",
        "truncated",
        "tokens_cached",
        "no_such_field",
    ],
    "model": "",
}


def test_llama_vim_gets_what_it_looks_for(served: Served) -> None:
    reply = served.post("/infill", VIM)
    assert reply.status_code == 200
    assert '"content":"' in reply.text  # without a space, which it looks for
    answer = reply.json()
    assert set(answer) == {
        "content",
        "timings/prompt_n",
        "timings/predicted_n",
        "truncated",
        "tokens_cached",
    }
    extra = {"sub.py": "def sub(a, b):\n    return a - b\n"}
    expected = served.model.infill(
        BEFORE + LINE, AFTER, files=extra, order="spm", heal=True, max_new_tokens=16
    )
    assert expected.text.startswith(answer["content"])
    assert answer["content"]


def test_a_warm_up_answers_nothing_and_leaves_the_prompt_computed(served: Served) -> None:
    served.model.forget()
    body = {
        **VIM,
        "prompt": "    total = ",
        "n_predict": 0,
        "samplers": [],
        "t_max_predict_ms": 1,
        "response_fields": [""],
    }
    reply = served.post("/infill", body)
    assert reply.text == "{}"
    after = served.post("/infill", {**VIM, "prompt": "    total = ", "response_fields": []}).json()
    assert after["timings"]["cache_n"] > 0.9 * after["tokens_evaluated"]


def test_a_few_warm_ups_at_a_time_are_enough(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {**VIM, "input_prefix": "x = 1\n" * 20, "n_predict": 0, "response_fields": []}
    monkeypatch.setattr("sc2onnx.serve.service.MOST_WARMING", 0)
    left_out = served.post("/infill", body)
    assert (left_out.status_code, left_out.json()["tokens_evaluated"]) == (200, 0)
    monkeypatch.undo()
    assert served.post("/infill", body).json()["tokens_evaluated"] > 0


def test_a_completion_may_go_on_after_its_end(served: Served) -> None:
    end = served.model.codec.special_id("<|endoftext|>")
    body = {"prompt": BEFORE, "n_predict": 8, "temperature": 0, "logit_bias": [[end, 100]]}
    assert served.post("/completion", body).json()["tokens_predicted"] == 0
    assert served.post("/completion", {**body, "ignore_eos": True}).json()["tokens_predicted"] == 8


def test_several_completions_are_an_array(served: Served) -> None:
    answers = served.post(
        "/infill", {**VIM, "n_cmpl": 3, "response_fields": [], "temperature": 0.8, "seed": 1}
    ).json()
    assert [answer["index"] for answer in answers] == [0, 1, 2]


def test_parts_are_data(served: Served) -> None:
    tricked = served.post(
        "/infill", {**VIM, "input_prefix": "<fim_suffix>" + BEFORE, "response_fields": []}
    ).json()
    plain = served.post("/infill", {**VIM, "response_fields": []}).json()
    spelt = len(served.model.codec.encode("<fim_suffix>", special=False))
    assert tricked["tokens_evaluated"] >= plain["tokens_evaluated"] + spelt - 2


def test_completion_whole_and_streamed(served: Served) -> None:
    body = {"prompt": BEFORE, "n_predict": 12, "temperature": 0, "min_p": 0}
    whole = served.post("/completion", body).json()
    assert whole["content"] == served.model.generate(BEFORE, max_new_tokens=12).text
    assert whole["stop"] is True
    assert whole["stop_type"] in ("limit", "eos")
    with httpx.stream(
        "POST", f"{served.url}/completion", json={**body, "stream": True}, timeout=60
    ) as reply:
        events = [json.loads(line.removeprefix("data: ")) for line in reply.iter_lines() if line]
    assert "".join(event["content"] for event in events) == whole["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]


def test_why_it_ended(served: Served) -> None:
    body = {"prompt": BEFORE, "n_predict": 12, "temperature": 0, "min_p": 0}
    whole = served.post("/completion", body).json()
    assert (whole["stop_type"], whole["stopping_word"]) == ("limit", "")
    word = whole["content"][3:5]
    for stream in (False, True):
        reply = served.post("/completion", {**body, "stop": ["@@", word], "stream": stream})
        last = json.loads(reply.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert (last["stop_type"], last["stopping_word"]) == ("word", word)


@pytest.mark.parametrize("form", ["pairs", "map", "ruled out"])
def test_tokens_that_are_ruled_out(served: Served, form: str) -> None:
    body = {"prompt": BEFORE, "n_predict": 6, "temperature": 0, "min_p": 0, "return_tokens": True}
    first = served.post("/completion", body).json()["tokens"][0]
    bias = {"pairs": [[first, -1000.0]], "map": {str(first): -100}, "ruled out": [[first, False]]}[
        form
    ]
    found = served.post("/completion", {**body, "logit_bias": bias}).json()["tokens"]
    assert first not in found
    assert found == list(
        served.model.generate(BEFORE, max_new_tokens=6, logit_bias={first: -100}).tokens
    )


def test_a_bias_of_texts_is_refused(served: Served) -> None:
    assert (
        served.post("/completion", {"prompt": "x", "logit_bias": [["def", -1]]}).status_code == 400
    )


def test_a_cursor_inside_a_word_is_completed_as_if_the_word_were_whole(served: Served) -> None:
    before = BEFORE + "    retur"
    content = served.post(
        "/infill",
        {**VIM, "input_prefix": before, "prompt": "", "n_indent": 0, "response_fields": []},
    ).json()["content"]
    options = {
        "order": "spm",
        "max_new_tokens": 16,
        "files": {"sub.py": VIM["input_extra"][0]["text"]},  # type: ignore[index]
    }
    assert (
        content
        == served.model.infill(
            before,
            AFTER,
            heal=True,
            **options,  # type: ignore[arg-type]
        ).text
    )
    assert content.startswith("n")


def test_the_cursors_own_file_and_pieces_of_others(served: Served) -> None:
    pieces = [
        {"filename": "sub.py", "text": "def sub(a, b):"},
        {"filename": "x.py", "text": "x = 1"},
        {"filename": "sub.py", "text": "y = 2"},
    ]
    body = {
        **VIM,
        "filename": "add.py",
        "input_extra": pieces,
        "n_indent": 0,
        "ends": "line",
        "response_fields": [],
    }
    files = {"x.py": "x = 1", "sub.py": "def sub(a, b):\ny = 2"}
    expected = served.model.infill(
        BEFORE + LINE,
        AFTER,
        path="add.py",
        files=files,
        order="spm",
        heal=True,
        max_new_tokens=16,
        ends="line",
    )
    answer = served.post("/infill", body).json()
    assert (answer["content"], answer["tokens_evaluated"]) == (
        expected.text,
        expected.prompt_tokens,
    )
    assert served.post("/infill", {**body, "ends": "nowhere"}).status_code == 400


def test_a_stream_says_that_the_code_was_cut(served: Served) -> None:
    for text, cut in ((BEFORE, False), (BEFORE * 300, True)):
        reply = served.post(
            "/infill",
            {**VIM, "input_prefix": text, "n_predict": 2, "stream": True, "response_fields": []},
        )
        assert (
            json.loads(reply.text.strip().split("\n\n")[-1].removeprefix("data: "))["truncated"]
            is cut
        )


def test_tokenizing_there_and_back(served: Served) -> None:
    tokens = served.post("/tokenize", {"content": BEFORE}).json()["tokens"]
    assert tokens == served.model.codec.encode(BEFORE)
    assert served.post("/detokenize", {"tokens": tokens}).json() == {"content": BEFORE}
    assert served.post("/detokenize", {"tokens": [-1]}).status_code == 400


def test_what_there_is_to_know(served: Served) -> None:
    assert served.get("/health").json() == {"status": "ok"}
    assert served.get("/props").json()["default_generation_settings"]["n_ctx"] == 2048
    assert len(served.get("/slots").json()) == served.get("/props").json()["total_slots"]
    assert "llamacpp:tokens_predicted_total" in served.get("/metrics").text


def test_timings_tell_of_drafts_where_there_were_some() -> None:
    """Whether there are some depends on what they cost: so without a model."""
    told = timings(Usage(prompt=8, generated=6, drafted=5, accepted=3))
    assert (told["draft_n"], told["draft_n_accepted"]) == (5, 3)
    assert "draft_n" not in timings(Usage(prompt=8, generated=6))
