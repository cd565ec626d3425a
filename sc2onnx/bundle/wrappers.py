"""What wrappers of a model put into the names of its tensors, and what is left out again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

WRAPPERS: Final[Mapping[str, str]] = {
    "_orig_mod": "torch.compile",
    "module": "DistributedDataParallel or DeepSpeed",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_fpw_module": "FairScale",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning Fabric",
    "_dmp_wrapped_module": "torchrec",
}
"""Attributes under which wrappers keep the module, in whole models and single layers, and whose."""

_ANY: Final = "|".join(WRAPPERS)

RENAMED: Final[Mapping[str, str]] = {
    rf"^(?:(?:{_ANY}|base_model\.model|pretrained_model)\.)+": "",
    rf"(?<=\.)(?:(?:{_ANY})\.)+": "",
}
"""Expressions for what is in front of a name and inside it, each to be replaced once."""
