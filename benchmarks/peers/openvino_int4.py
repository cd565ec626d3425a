"""OpenVINO with weights compressed by NNCF, without data: int4 in groups of 128, and int8.

The model is converted from torch. NNCF's defaults: embedding and head of an int4 model are int8.
Inference precision is float32, what OpenVINO chooses on CPUs without faster half precision; its
kernels' dynamic quantisation of activations is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from peers import Floats, Peer, Setting, Tokens, Variant

_GROUP = 128


def variants(setting: Setting) -> list[Variant]:
    """float32, which shows that the conversion is right, int8, and int4, symmetric and not."""
    grouped = {"group_size": _GROUP, "ratio": 1.0}
    return [
        Variant("OpenVINO fp32", partial(_open, setting, None, {})),
        Variant("OpenVINO int8", partial(_open, setting, "INT8_ASYM", {})),
        Variant(
            "OpenVINO int4, symmetric, group 128", partial(_open, setting, "INT4_SYM", grouped)
        ),
        Variant(
            "OpenVINO int4, asymmetric, group 128", partial(_open, setting, "INT4_ASYM", grouped)
        ),
    ]


@contextmanager
def _open(setting: Setting, mode: str | None, options: dict[str, Any]) -> Iterator[Peer]:
    import nncf
    import openvino

    model = _convert(setting)
    if mode is not None:
        model = nncf.compress_weights(
            model, mode=getattr(nncf.CompressWeightsMode, mode), **options
        )
    path = setting.scratch / "openvino.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    del model
    try:
        yield _Model(path, setting.threads)
    finally:
        for file in (path, path.with_suffix(".bin")):
            file.unlink(missing_ok=True)


def _convert(setting: Setting) -> Any:
    """torch -> OpenVINO, tokens (1, n) -> logits (1, n, vocab)."""
    import openvino
    import torch

    from peers import torch_variants

    model = torch_variants.load(setting, torch.float32)

    class Forward(torch.nn.Module):
        """One forward pass with the causal mask given, because the one that
        transformers makes does not trace.
        """

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor) -> Any:
            count = tokens.shape[1]
            mask = torch.full((count, count), torch.finfo(torch.float32).min).triu(1)[None, None]
            return self.model(tokens, attention_mask=mask, use_cache=False).logits

    example = torch.arange(setting.length)[None] % int(model.config.vocab_size)
    with torch.inference_mode():
        return openvino.convert_model(
            Forward().eval(), example_input=(example,), input=[("tokens", [1, -1], np.int64)]
        )


class _Model:
    """A compiled OpenVINO model."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        self._bytes = path.with_suffix(".bin").stat().st_size
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._compiled = openvino.Core().compile_model(path, "CPU", options)

    @property
    def bytes(self) -> int:
        """Size of the weights file."""
        return self._bytes

    def logits(self, tokens: Tokens) -> Floats:
        """Of one window."""
        return np.array(self._compiled([tokens[None]])[0][0], dtype=np.float32)
