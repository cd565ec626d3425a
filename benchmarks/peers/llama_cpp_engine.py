"""llama.cpp for its speed: its own defaults (flash attention where it thinks best, cache in fp16,
batches of 2,048 by 512).

It has no way to place a sequence, so a depth is computed once, to the deepest, and kept in a file
from which every variant goes on: what a token costs does not depend on what is in the cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import numpy as np

from peers import Contender, Setting, Tokens, gguf_file
from peers.llama_cpp import SOURCE, quantise
from sc2onnx.bench import Engine
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config

_BITS: Final = {"Q4_0": 4.5, "Q8_0": 8.5}
"""Of a weight, its block's fp16 scale included."""

_WORTH_KEEPING: Final = 512
"""Computed tokens from which a file is quicker than computing them again."""


def contenders(setting: Setting) -> list[Contender]:
    """The plain 4- and 8-bit formats, which are llama.cpp's fastest on a CPU."""
    return [
        Contender(
            f"llama.cpp {kind}", partial(_prepare, setting, kind), partial(_open, setting, kind)
        )
        for kind in _BITS
    ]


def _prepare(setting: Setting, kind: str) -> None:
    import llama_cpp  # noqa: F401 - better missed before 12 GB are written

    source, out = setting.scratch / SOURCE, setting.scratch / f"{kind}.gguf"
    if out.exists():
        return
    unfinished = setting.scratch / "unfinished.gguf"
    if not source.exists():
        gguf_file.write(setting.checkpoint, unfinished)
        unfinished.rename(source)
    quantise(source, unfinished, kind, setting.threads)
    unfinished.rename(out)


@contextmanager
def _open(setting: Setting, kind: str) -> Iterator[Engine]:
    engine = _Engine(setting, kind)
    try:
        yield engine
    finally:
        engine.close()


class _Engine:
    """A GGUF file and one sequence."""

    def __init__(self, setting: Setting, kind: str) -> None:
        import llama_cpp

        self._api: Any = llama_cpp
        self._kept = setting.scratch / "llama.cpp-sequence"
        # must live as long as llama.cpp may call it
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        path = setting.scratch / f"{kind}.gguf"
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp could not load {path.name}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_threads, options.n_threads_batch = (
            setting.length,
            setting.threads,
            setting.threads,
        )
        self._batch = int(options.n_batch)
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp could not make a context of {setting.length} tokens")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._config = Starcoder2Config.from_dict(Checkpoint.open(setting.checkpoint).config)
        self._kind, self._length = kind, 0

    @property
    def weights_read(self) -> int:
        """All tensors, without the embedding unless it is the head as well."""
        unread = (
            0
            if self._config.tie_word_embeddings
            else self._config.vocab_size * self._config.hidden_size * _BITS[self._kind] / 8
        )
        return int(self._api.llama_model_size(self._model)) - int(unread)

    def place(self, depth: int) -> None:
        """Back quickly; on from the file if it goes farther, else by computing."""
        if depth > self._length:
            self._load()
        if depth < self._length:
            self.rewind(self._length - depth)
        missing = depth - self._length
        if missing:
            self.append(np.random.default_rng(0).integers(0, self._config.vocab_size, missing))
        if missing >= _WORTH_KEEPING:
            self._save()

    def append(self, tokens: Tokens) -> None:
        """In llama.cpp's batches; it computes the logits of each one's last token."""
        ids = tokens.astype(np.int32)
        for start in range(0, len(ids), self._batch):
            part = np.ascontiguousarray(ids[start : start + self._batch])
            pointer = part.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            if status := self._api.llama_decode(
                self._context, self._api.llama_batch_get_one(pointer, len(part))
            ):
                raise RuntimeError(
                    f"llama_decode returned {status} for {len(part)} tokens after {self._length}"
                )
            self._length += len(part)
        if not self._api.llama_get_logits_ith(self._context, -1):
            raise RuntimeError("llama.cpp gives no logits")

    def rewind(self, count: int) -> None:
        """Drop the last tokens."""
        if not self._api.llama_memory_seq_rm(self._memory, 0, self._length - count, -1):
            raise RuntimeError(f"llama.cpp cannot drop {count} of {self._length} tokens")
        self._length -= count

    def close(self) -> None:
        """Free the context and the model."""
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def _save(self) -> None:
        """Keep the sequence for other variants and processes; the tokens that a file
        wants with it only count here.
        """
        tokens = (ctypes.c_int32 * self._length)()
        path = self._kept.with_suffix(".part")
        if not self._api.llama_state_seq_save_file(
            self._context, str(path).encode(), 0, tokens, self._length
        ):
            raise RuntimeError("llama.cpp could not write its sequence to a file")
        path.rename(self._kept)

    def _load(self) -> None:
        if not self._kept.exists():
            return
        capacity = int(self._api.llama_n_ctx(self._context))
        tokens, count = (ctypes.c_int32 * capacity)(), ctypes.c_size_t(0)
        self._api.llama_memory_clear(self._memory, True)
        self._length = 0
        if self._api.llama_state_seq_load_file(
            self._context, str(self._kept).encode(), 0, tokens, capacity, ctypes.byref(count)
        ):
            self._length = count.value
