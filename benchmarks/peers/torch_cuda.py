"""transformers' StarCoder2 on a GPU in fp16: eager with its usual cache, and
compiled with a static one.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import StaticCache

from peers import Contender, Setting, Tokens
from peers.torch_engine import Eager
from peers.torch_variants import load
from sc2onnx.bench import Engine

NAMES = ("eager", "compiled")


def contenders(setting: Setting) -> dict[str, Contender]:
    """Both, by how they run, with scaled dot product attention, which is flash attention there."""
    return {
        name: Contender(
            f"transformers {name} fp16",
            _nothing,
            partial(_open, setting, compiled=name == "compiled"),
        )
        for name in NAMES
    }


def _nothing() -> None:
    """The checkpoint is read as it is."""


@contextmanager
def _open(setting: Setting, compiled: bool) -> Iterator[Engine]:
    model = load(setting, torch.float16).to("cuda")
    yield _Compiled(model, setting.length + 64) if compiled else Eager(model)
    del model
    gc.collect()
    torch.cuda.empty_cache()


class _Compiled(Eager):
    """Steps of one token through ``torch.compile`` with CUDA graphs, over a cache of fixed
    size; prompts as they are.
    """

    def __init__(self, model: Any, length: int) -> None:
        self._length, self._position = length, 0
        super().__init__(model)
        # the cache counts in place
        torch._inductor.config.triton.cudagraph_support_input_mutation = True
        self._decode = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)

    def place(self, depth: int) -> None:
        """At so many tokens, of which nobody knows: what a step costs does not depend on them."""
        self._position = depth

    @torch.inference_mode()
    def append(self, tokens: Tokens) -> None:
        """Logits of the last only, as in generation."""
        ids = torch.from_numpy(np.asarray(tokens))[None].to(self._device)
        positions = torch.arange(self._position, self._position + len(tokens), device=self._device)
        forward = self._decode if len(tokens) == 1 else self._model
        where = {"cache_position": positions, "position_ids": positions[None]}
        result = forward(
            ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1, **where
        )
        self._position += len(tokens)
        if not bool(torch.isfinite(result.logits).all()):
            raise RuntimeError("torch's logits are not finite")

    def rewind(self, count: int) -> None:
        """Where the next token goes; a static cache forgets nothing."""
        self._position -= count

    def _fresh(self) -> Any:
        return StaticCache(config=self._model.config, max_cache_len=self._length)

    def _copy(self) -> Any:
        return self._placed
