"""torch for its speed: transformers' StarCoder2 in bf16, eager, with the cache that it makes for
the model (it stops at the window).
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from peers import Contender, Setting, Tokens
from peers.torch_variants import load
from sc2onnx.bench import Engine


def contenders(setting: Setting) -> list[Contender]:
    """bf16 only: float32 reads twice the bytes."""
    return [Contender("torch bf16", _nothing, partial(_open, setting))]


def _nothing() -> None:
    """The checkpoint is read as it is."""


@contextmanager
def _open(setting: Setting) -> Iterator[Engine]:
    torch.set_num_threads(setting.threads)
    yield Eager(load(setting, torch.bfloat16))
    gc.collect()


class Eager:
    """A model, on whatever device, and the cache of one sequence, placed like ours:
    keys and values are noise.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._device = model, model.device
        self._placed = self._cache = self._fresh()

    @property
    def weights_read(self) -> int:
        """Bytes of the parameters, a tied one once, without an embedding
        that is not the head as well.
        """
        parameters: dict[int, int] = {
            parameter.data_ptr(): parameter.nbytes for parameter in self._model.parameters()
        }
        embedding, head = (
            self._model.get_input_embeddings().weight,
            self._model.get_output_embeddings().weight,
        )
        return sum(parameters.values()) - (
            0 if embedding.data_ptr() == head.data_ptr() else int(embedding.nbytes)
        )

    def place(self, depth: int) -> None:
        """A cache that holds ``depth`` tokens of noise."""
        config, self._placed = self._model.config, self._fresh()
        if depth:
            head = (
                getattr(config, "head_dim", None)
                or config.hidden_size // config.num_attention_heads
            )
            shape = (1, config.num_key_value_heads, depth, head)
            for layer in range(config.num_hidden_layers):
                keys, values = (
                    0.1 * torch.randn(shape, dtype=self._model.dtype, device=self._device)
                    for _ in range(2)
                )
                self._placed.update(keys, values, layer)
        self._cache = self._copy()

    @torch.inference_mode()
    def append(self, tokens: Tokens) -> None:
        """Logits of the last only, as in generation."""
        ids = torch.from_numpy(np.asarray(tokens))[None].to(self._device)
        result = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        if not bool(torch.isfinite(result.logits).all()):
            raise RuntimeError("torch's logits are not finite")

    def rewind(self, count: int) -> None:
        """To where it was placed, which is all that is ever asked for: a step makes new tensors,
        the old ones are still there.
        """
        self._cache = self._copy()

    def _fresh(self) -> Any:
        return DynamicCache(config=self._model.config)

    def _copy(self) -> Any:
        cache = copy.copy(self._placed)
        cache.layers = [copy.copy(layer) for layer in self._placed.layers]
        return cache
