"""A fine-tune in ChatML, as transformers saves it: exported, it says what transformers says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.runtime.chat_options import ChatOptions
from tests.instruct import said
from tests.runtime.chat.conftest import ADDED
from tests.runtime.chat.templates import CHATML

pytest.importorskip("jinja2", reason="needs the chat extra")

pytestmark = pytest.mark.torch
MESSAGES = said("Write a function.", "def f():\n    return 1\n", "Another.", system="You code.")


def saved(checkpoint: Path, to: Path) -> Path:
    """The mini checkpoint with two tokens and a template more. No file says that one of the tokens
    ends a turn.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_special_tokens({"additional_special_tokens": list(ADDED)})
    tokenizer.chat_template = CHATML
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    return to


def test_it_says_what_transformers_says(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir", reason="needs the export extra")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sc2onnx.export import export

    source = saved(checkpoint, tmp_path / "checkpoint")
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    ids = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():
        whole = model.generate(**ids, do_sample=False, max_new_tokens=24)
    expected = whole[0, ids["input_ids"].shape[1] :].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        export(source, tmp_path / "bundle", precision="fp32")
    ours = sc2onnx.load(tmp_path / "bundle")
    done = ours.chat(MESSAGES, max_new_tokens=24)
    usual = sorted({turn_end, *ours.requests.usual_stops} & set(expected), key=expected.index)
    end = expected.index(usual[0]) if usual else len(expected)
    assert list(done.tokens) == expected[:end]
    assert turn_end not in ours.manifest.model.eos_token_ids  # it ends by the template alone
    assert ours.chats.row(MESSAGES, ChatOptions(), "whole").rules.stop_tokens >= {turn_end}
    ours.chats.renderer.close()
