"""``genai_config.json``: what onnxruntime-genai must know of a bundle.

Source: onnxruntime-genai's configuration reference, version 0.18, whose generic ``decoder`` is a
model that says everything of itself here; it has no ``starcoder2``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sc2onnx.bundle import contract
from sc2onnx.bundle.facts import ModelFacts

_CHUNK: Final = 256
"""Tokens of a prompt computed at once: genai asks for the logits of all of them (50 MB for the 3B
model, 805 MB for 4,096).
"""


def genai_config(facts: ModelFacts, settings: Mapping[str, Any], *, on_a_gpu: bool) -> str:
    """Text of the file. ``settings``: the checkpoint's config.json, for the token that begins a
    text. ``on_a_gpu``: run it on CUDA.

    The window is the attention's own, so the cache and the inputs must not slide as well, which is
    what genai does unless told not to. Threads are left to ONNX Runtime (0: a thread for each
    core); genai's own default is half of them.
    """
    eos = list(facts.eos_token_ids)
    model = {
        "type": "decoder",
        "bos_token_id": _beginning(facts, settings),
        "eos_token_id": eos or [0],
        "pad_token_id": eos[0] if eos else 0,
        "context_length": facts.context_length,
        "vocab_size": facts.vocab_size,
        "decoder": _session(on_a_gpu) | _decoder(facts) | _window(facts),
    }
    return json.dumps({"model": model, "search": _search(facts)}, indent=2) + "\n"


def _beginning(facts: ModelFacts, settings: Mapping[str, Any]) -> int:
    """The token that begins a text; where the checkpoint names none of its vocabulary, the end."""
    begins = settings.get("bos_token_id")
    if type(begins) is int and 0 <= begins < facts.vocab_size:
        return begins
    return facts.eos_token_ids[0] if facts.eos_token_ids else 0


def _session(on_a_gpu: bool) -> dict[str, Any]:
    """Where ONNX Runtime computes, and on how many threads."""
    options = {
        "log_id": "onnxruntime-genai",
        "intra_op_num_threads": 0,
        "provider_options": [{"cuda": {}}] if on_a_gpu else [],
    }
    return {"session_options": options}


def _decoder(facts: ModelFacts) -> dict[str, Any]:
    """The graph: its file, its sizes and what its tensors are called."""
    return {
        "filename": contract.GRAPH_FILE,
        "head_size": facts.head_dim,
        "hidden_size": facts.hidden_size,
        "num_attention_heads": facts.num_heads,
        "num_hidden_layers": facts.num_layers,
        "num_key_value_heads": facts.num_kv_heads,
        "inputs": {
            "input_ids": contract.INPUT_IDS,
            "attention_mask": contract.ATTENTION_MASK,
            "past_key_names": contract.past_name("%d", "key"),
            "past_value_names": contract.past_name("%d", "value"),
        },
        "outputs": {
            "logits": contract.LOGITS,
            "present_key_names": contract.present_name("%d", "key"),
            "present_value_names": contract.present_name("%d", "value"),
        },
    }


def _window(facts: ModelFacts) -> dict[str, Any]:
    """The sliding window, if there is one, which nothing but attention is to know."""
    if facts.sliding_window is None:
        return {}
    window = {
        "window_size": facts.sliding_window,
        "slide_key_value_cache": False,
        "slide_inputs": False,
        "cache_slack": facts.context_length - facts.sliding_window,
    }
    return {"sliding_window": window}


def _search(facts: ModelFacts) -> dict[str, Any]:
    """How genai generates unless it is told otherwise: greedily, up to the context."""
    return {
        "max_length": facts.context_length,
        "past_present_share_buffer": True,
        "chunk_size": _CHUNK,
        "do_sample": False,
        "num_beams": 1,
        "top_k": 1,
    }
