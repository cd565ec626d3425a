"""``ORTModelForCausalLM`` makes an empty cache with a head for each query head, unless
it knows the architecture.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from optimum.onnxruntime import ORTModelForCausalLM


def knows_key_value_heads() -> None:
    """Tell it of StarCoder2's key-value heads. Does nothing the second time."""
    made = ORTModelForCausalLM.__init__
    if getattr(made, "knows_starcoder2", False):
        return

    @wraps(made)
    def init(self: ORTModelForCausalLM, **arguments: Any) -> None:
        made(self, **arguments)
        if self.config.model_type == "starcoder2":
            self.num_key_value_heads = self.config.num_key_value_heads

    init.knows_starcoder2 = True  # type: ignore[attr-defined]
    ORTModelForCausalLM.__init__ = init
