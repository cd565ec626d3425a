"""What torch computes: transformers' ``Starcoder2ForCausalLM`` in float32."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import DynamicCache, Starcoder2Config, Starcoder2ForCausalLM

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.wrappers import RENAMED
from sc2onnx.errors import CheckpointError
from sc2onnx.evaluate.measure import Floats
from sc2onnx.verify.criterion import ACTIVATIONS, UNIT_ROUNDOFF
from sc2onnx.verify.dequantised import parameters
from sc2onnx.verify.merged import Merged

_FARTHEST: Final = 0.5
"""Norm of a matrix's change, of its own norm: 10 % is usual for 4 bits, 0.6 % for 8;
another matrix is 141 % away.
"""

_FARTHEST_BIAS: Final = 0.25
"""Norm of a calibrated bias's change, of its product's norm: the product's change times the mean
input; measured: 0.09 at most.
"""


class Reference:
    """The torch model. A context manager: leaving it frees the weights, so that a bundle of the
    same size fits afterwards.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        revision: str | None = None,
        attention: str = "sdpa",
        *,
        exact_rotary: bool = True,
    ) -> None:
        """``checkpoint``: directory or hub id.
        ``attention``: ``sdpa`` or ``eager``. Raises :class:`CheckpointError`.

        ``exact_rotary``: round the rotary frequencies correctly (:func:`correct_rotary`);
        False leaves torch as it is.
        """
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            config = Starcoder2Config.from_pretrained(checkpoint, revision=revision or "main")
            if hasattr(config, "rope_theta"):
                # transformers 4 keeps what transformers 5 wrote, but does not read it
                config.rope_theta = rope_theta(config)
            pair: Any = Starcoder2ForCausalLM.from_pretrained(
                checkpoint,
                config=config,
                revision=revision or "main",
                dtype=torch.float32,
                attn_implementation=attention,
                output_loading_info=True,
                key_mapping=dict(RENAMED),
            )
        except Exception as error:
            # transformers, safetensors and huggingface_hub each have their own
            raise CheckpointError(
                f"transformers could not load {checkpoint}: {str(error).strip().splitlines()[0]}"
            ) from error
        model: Starcoder2ForCausalLM = pair[0]
        if missing := sorted(pair[1]["missing_keys"]):  # made of random numbers instead
            raise CheckpointError(
                f"transformers finds no {missing[0]} in {checkpoint} ({len(missing)} tensors "
                "missing): save the checkpoint under the names that transformers writes"
            )
        self.model = model.eval()  # type: ignore[no-untyped-call]
        """As transformers has it; gone once the ``with`` block is left."""
        self._corrected = correct_rotary(model) if exact_rotary else 0
        self._adapters = self._weights = ""

    @property
    def description(self) -> str:
        """Versions of what computes, and what was corrected in it."""
        corrected = (
            f" ({self._corrected} rotary frequencies rounded correctly)" if self._corrected else ""
        )
        return (
            f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}, "
            f"float32{corrected}{self._adapters}{self._weights}"
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, a tied one once."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    @property
    def vocab_size(self) -> int:
        """Tokens that it gives logits for."""
        return int(self.model.config.vocab_size)

    @property
    def context_length(self) -> int:
        """Tokens that it was made for."""
        return int(self.model.config.max_position_embeddings)

    def check_same_model(self, facts: ModelFacts) -> None:
        """Raise :class:`CheckpointError` if this cannot be what a bundle with
        these facts was made from.
        """
        config = self.model.config
        pairs = {
            "vocab_size": (config.vocab_size, facts.vocab_size),
            "hidden_size": (config.hidden_size, facts.hidden_size),
            "num_hidden_layers": (config.num_hidden_layers, facts.num_layers),
            "num_attention_heads": (config.num_attention_heads, facts.num_heads),
            "num_key_value_heads": (config.num_key_value_heads, facts.num_kv_heads),
            "sliding_window": (config.sliding_window, facts.sliding_window),
        }
        for name, (found, expected) in pairs.items():
            if found != expected:
                raise CheckpointError(
                    f"the checkpoint has {name} {found}, the bundle {expected}: give the "
                    "checkpoint that the bundle was made from"
                )

    def merge(self, adapters: Merged) -> None:
        """Merge adapters into the model, by peft.

        Raises :class:`CheckpointError` where peft cannot, and
        :class:`~sc2onnx.errors.MissingDependencyError` where there is no peft.
        """
        if adapters:
            self.model = adapters.into(self.model)
            self._adapters = f", {adapters.description}"

    @torch.no_grad()
    def take_weights(self, bundle: Path, calibrated: bool) -> None:
        """Put the dequantised weights of a bundle in the place of the checkpoint's: the same
        products, but for its integers.

        ``calibrated``: the products' biases were changed as well. Raises :class:`CheckpointError`
        where a matrix is not what rounding makes of the checkpoint's, a bias not what calibration
        makes of it, or anything else not the checkpoint's own.
        """
        own, dtype = dict(self.model.named_parameters()), Manifest.read(bundle).cache.dtype
        farthest = 0.0
        for name, array in parameters(
            bundle, {name: tuple(parameter.shape) for name, parameter in own.items()}
        ):
            new = torch.from_numpy(array)
            change, allowed = (
                float((new - own[name]).norm()),
                _allowed(name, own, calibrated) + _rounded(own[name], dtype),
            )
            if not change <= allowed:
                raise CheckpointError(
                    f"the bundle's {name} is {change:.3g} away from the checkpoint's (norm of the "
                    f"difference), expected at most {allowed:.3g}: give the checkpoint that the "
                    "bundle was made from, or export it again"
                )
            if new.ndim == 2:
                farthest = max(farthest, change / max(float(own[name].norm()), 1e-30))
            own[name].copy_(new)
        self._weights = (
            f", with the bundle's weights (at most {farthest:.2%} from the checkpoint's)"
        )

    @torch.inference_mode()
    def logits(self, tokens: npt.NDArray[np.int64]) -> Floats:
        """tokens (batch, n) in one forward pass, without a cache -> logits (batch, n, vocab).

        Causal attention makes this the reference for every shorter length and every split as well.
        """
        result = self.model(torch.from_numpy(tokens), use_cache=False).logits.numpy()
        return np.asarray(result, dtype=np.float32)

    def greedy(self, prompt: npt.NDArray[np.int64], count: int) -> tuple[list[int], Floats]:
        """``count`` most likely tokens after prompt (n,), past any end-of-text, and the logits
        (count, vocab) that chose them.
        """
        logits = (
            np.stack(list(islice(self._steps(prompt), count)))
            if count
            else np.empty((0, self.model.config.vocab_size), dtype=np.float32)
        )
        return logits.argmax(-1).tolist(), logits

    def continuation(self, prompt: npt.NDArray[np.int64]) -> Iterator[int]:
        """The most likely tokens after prompt (n,), each computed when it is
        asked for; it never ends.
        """
        return (int(logits.argmax()) for logits in self._steps(prompt))

    @torch.inference_mode()
    def _steps(self, prompt: npt.NDArray[np.int64]) -> Iterator[Floats]:
        """Logits (vocab,) of each position of greedy decoding, from the prompt's last on.

        With a cache that keeps every position and leaves the window to the mask: transformers'
        default cache for sliding windows (5.23: ``keys[:, :, -sliding_window + 1 :]``) keeps
        everything unmasked when the window is 1.
        """
        ids, cache = torch.from_numpy(prompt)[None], DynamicCache()
        while True:
            output = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits = output.logits[0, -1].float()
            ids = logits.argmax()[None, None]
            yield logits.numpy()

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *exception: object) -> None:
        del self.model
        gc.collect()


def _allowed(name: str, own: Mapping[str, torch.Tensor], calibrated: bool) -> float:
    """Norm of what an export may change in a parameter: matrices by rounding, their biases by what
    makes up for that, norms not at all.
    """
    if own[name].ndim == 2:
        return _FARTHEST * float(own[name].norm())
    product = own.get(f"{name.removesuffix('.bias')}.weight")
    return (
        _FARTHEST_BIAS * float(product.norm())
        if calibrated and product is not None and product.ndim == 2
        else 0.0
    )


def _rounded(parameter: torch.Tensor, dtype: str) -> float:
    """Norm of what rounding a parameter to the type of half-precision activations may change; in
    float16 the smallest step is 2^-24.
    """
    smallest: float = 2.0**-13 * parameter.numel() ** 0.5
    return UNIT_ROUNDOFF.get(ACTIVATIONS[dtype], 0.0) * (float(parameter.norm()) + smallest)


def rope_theta(config: Starcoder2Config) -> float:
    """Base of the rotary embedding, from where transformers 5 writes it, else from
    where transformers 4 does.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    theta = parameters.get("rope_theta")
    return float(config.rope_theta if theta is None else theta)


def correct_rotary(model: Starcoder2ForCausalLM) -> int:
    """Replace rotary frequencies that torch's ``pow`` rounds wrongly by the correctly
    rounded ones; returns how many.

    On x86, torch 2.13 is off by one unit in the last place for some bases, two of the 64 of
    StarCoder2-3B among them. At position 8000 that alone moves logits by 3e-5 of the largest, so
    torch on two kinds of machine would not pass as equal (docs/decisions/0005-rotary-rounding.md).
    Larger differences are left alone: they would be a different model.
    """
    frequencies = model.model.rotary_emb.inv_freq
    theta = torch.tensor(rope_theta(model.config), dtype=torch.float32).double()
    exponents = torch.arange(0, 2 * len(frequencies), 2, dtype=torch.float32) / (
        2 * len(frequencies)
    )
    exact = 1.0 / (theta ** exponents.double()).float()
    close = (frequencies / exact - 1).abs() < 2.5e-7  # two units in the last place
    wrong = close & (frequencies != exact)
    frequencies[wrong] = exact[wrong]
    return int(wrong.sum())
