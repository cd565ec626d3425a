"""torch on the CPU: bf16 and fp16, and bitsandbytes' int8 and nf4, all through transformers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import BitsAndBytesConfig, Starcoder2Config, Starcoder2ForCausalLM

from peers import Floats, Peer, Setting, Tokens, Variant
from sc2onnx.verify.reference import correct_rotary, rope_theta


def variants(setting: Setting) -> list[Variant]:
    """Half precisions; bitsandbytes quantises the layers' matrices, and leaves embedding and
    head as they are, here fp16.
    """
    int8 = partial(BitsAndBytesConfig, load_in_8bit=True)
    nf4 = partial(
        BitsAndBytesConfig,
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float16,
    )
    return [
        Variant("torch bf16", partial(_open, setting, torch.bfloat16, None)),
        Variant("torch fp16", partial(_open, setting, torch.float16, None)),
        Variant("bitsandbytes int8", partial(_open, setting, torch.float16, int8)),
        Variant("bitsandbytes nf4", partial(_open, setting, torch.float16, nf4)),
    ]


@contextmanager
def _open(
    setting: Setting, dtype: torch.dtype, quantization: partial[Any] | None
) -> Iterator[Peer]:
    yield _Model(setting, dtype, quantization)
    gc.collect()


def load(setting: Setting, dtype: torch.dtype, **quantized: Any) -> Any:
    """The torch model, its rotary frequencies those of the reference."""
    config = Starcoder2Config.from_pretrained(setting.checkpoint)
    if hasattr(config, "rope_theta"):
        config.rope_theta = rope_theta(config)  # as in sc2onnx.verify.reference
    model: Any = Starcoder2ForCausalLM.from_pretrained(
        setting.checkpoint, config=config, dtype=dtype, attn_implementation="sdpa", **quantized
    )
    correct_rotary(model)
    return model.eval()


class _Model:
    """A model in torch."""

    def __init__(
        self, setting: Setting, dtype: torch.dtype, quantization: partial[Any] | None
    ) -> None:
        quantized = (
            {"quantization_config": quantization(), "device_map": "cpu"} if quantization else {}
        )
        self._model = load(setting, dtype, **quantized)

    @property
    def bytes(self) -> int:
        """Bytes of the state, tied tensors once: bitsandbytes keeps its scales there too."""
        state = {
            value.data_ptr(): value.nbytes
            for value in self._model.state_dict().values()
            if isinstance(value, torch.Tensor)
        }
        return sum(state.values())

    @torch.inference_mode()
    def logits(self, tokens: Tokens) -> Floats:
        """Of one window, without a cache."""
        result = self._model(torch.from_numpy(tokens)[None], use_cache=False).logits
        return np.asarray(result[0].float().numpy(), dtype=np.float32)
