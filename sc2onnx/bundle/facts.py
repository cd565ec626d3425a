"""The numbers of a model that the runtime must know, and how its key-value cache is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sc2onnx.bundle.contract import RING
from sc2onnx.errors import BundleError

MOST_LAYERS: Final = 10_000

_MOST: Final = (1 << 31) - 1
"""The largest size of anything in a model: operators count in 32 bits."""

MOST_BYTES: Final = (1 << 63) - 1
"""The largest number of bytes or parameters that a manifest may state."""

_LIMITS: Final = {
    "num_layers": MOST_LAYERS,
    "hidden_size": _MOST,
    "intermediate_size": _MOST,
    "num_heads": _MOST,
    "num_kv_heads": _MOST,
    "head_dim": _MOST,
    "vocab_size": _MOST,
    "context_length": _MOST,
    "parameters": MOST_BYTES,
}

_WIDTHS: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Type of a cache -> bytes of an element."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the runtime must know of the model. Sizes count tokens, heads or channels.

    ``sliding_window`` counts the current token too: position q sees q - window < p <= q. None is
    full causal attention. ``context_length`` is ``max_position_embeddings`` of the checkpoint.
    Raises :class:`BundleError` for sizes that no model has.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    sliding_window: int | None
    rope_theta: float
    tied_embeddings: bool
    parameters: int
    eos_token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, most in _LIMITS.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                expected = "at least 1" if value < 1 else f"at most {most:,}"
                found = f"model.{name} is {value}"
                raise BundleError(f"{found}, expected {expected}: export the bundle again")
        if self.sliding_window is not None and self.sliding_window < 1:
            found = f"model.sliding_window is {self.sliding_window}"
            raise BundleError(f"{found}, expected at least 1 or null: export the bundle again")
        if not self.rope_theta > 0:
            found = f"model.rope_theta is {self.rope_theta}"
            raise BundleError(f"{found}, expected a positive number: export the bundle again")

    @property
    def window(self) -> int:
        """Tokens that one position sees, itself included: the sliding window or the context."""
        return min(self.sliding_window or self.context_length, self.context_length)


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How the key-value cache is laid out, and the type of its elements.

    ``kind`` is one of :data:`~sc2onnx.bundle.contract.RING`,
    :data:`~sc2onnx.bundle.contract.LINEAR` and :data:`~sc2onnx.bundle.contract.GROWING`. Raises
    :class:`BundleError` for a ``dtype`` that no cache has.
    """

    kind: str
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in _WIDTHS:
            found, expected = f"cache.dtype is {self.dtype!r}", ", ".join(_WIDTHS)
            raise BundleError(f"{found}, expected one of {expected}: export the bundle again")

    def window(self, facts: ModelFacts) -> int:
        """Tokens that it must keep: in a ring those that one position sees, else the context."""
        return facts.window if self.kind == RING else facts.context_length

    def bytes_per_token(self, facts: ModelFacts) -> int:
        """Cache bytes of one position of one row over all layers."""
        return 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * _WIDTHS[self.dtype]
