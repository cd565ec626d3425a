"""llama.cpp through llama-cpp-python: its own quantiser, without an importance
matrix, and its own kernels.

What users get from ``llama-quantize model.gguf Q4_K_M``. The cache is float32 and flash attention
off, so that only weights (and, in its kernels, activations) lose precision. llama.cpp runs
StarCoder2 without its sliding window: only windows within it compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from peers import Floats, Peer, Setting, Tokens, Variant, gguf_file

F32: Final = "llama.cpp F32"
TYPES: Final = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q4_0")
QUANTISED: Final = tuple(f"llama.cpp {kind}" for kind in TYPES)
SOURCE: Final = "f32.gguf"


def variants(setting: Setting) -> list[Variant]:
    """F32 first: the rest is quantised from its file, and worth comparing
    only if it agrees with torch.
    """
    return [
        Variant(F32, partial(_open_source, setting)),
        *(
            Variant(name, partial(_open_quantised, setting, kind))
            for name, kind in zip(QUANTISED, TYPES, strict=True)
        ),
    ]


@contextmanager
def _open_source(setting: Setting) -> Iterator[Peer]:
    gguf_file.write(setting.checkpoint, setting.scratch / SOURCE)
    with closing(_Model(setting.scratch / SOURCE, setting)) as model:
        yield model


@contextmanager
def _open_quantised(setting: Setting, kind: str) -> Iterator[Peer]:
    path = setting.scratch / f"{kind}.gguf"
    try:
        quantise(setting.scratch / SOURCE, path, kind, setting.threads)
        with closing(_Model(path, setting)) as model:
            yield model
    finally:
        path.unlink(missing_ok=True)


def quantise(source: Path, out: Path, kind: str, threads: int) -> None:
    """Write ``out``, as ``llama-quantize`` does. Raises RuntimeError."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = threads
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if status := llama_cpp.llama_model_quantize(
        str(source).encode(), str(out).encode(), parameters
    ):
        raise RuntimeError(f"llama_model_quantize returned {status}")


class _Model:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: Path, setting: Setting) -> None:
        import llama_cpp

        self._model: Any = llama_cpp.Llama(
            str(path),
            n_ctx=setting.length,
            n_batch=setting.length,
            n_ubatch=setting.length,
            n_threads=setting.threads,
            n_threads_batch=setting.threads,
            logits_all=True,
            flash_attn=False,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )
        self._bytes = int(llama_cpp.llama_model_size(self._model.model))

    @property
    def bytes(self) -> int:
        """Bytes of all tensors of the file."""
        return self._bytes

    def logits(self, tokens: Tokens) -> Floats:
        """Of one window, in an emptied context."""
        self._model.reset()
        self._model.eval(tokens.tolist())
        return np.array(self._model.scores[: len(tokens)], dtype=np.float32)

    def close(self) -> None:
        """Free the model and its context."""
        self._model.close()
