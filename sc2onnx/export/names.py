"""Names of tensors as StarCoder2 writes them, whatever the model was
wrapped in when it was saved.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Final

from sc2onnx.bundle.wrappers import WRAPPERS
from sc2onnx.errors import TensorError
from sc2onnx.export.shown import brief, name_of

_HOLDERS: Final[Mapping[str, str]] = {
    "model": "a class around the model, such as Lightning's",
    "base_model": "peft",
    "pretrained_model": "trl",
}

_BODY: Final = frozenset({"layers", "embed_tokens", "norm", "rotary_emb"})
_HEAD: Final = "lm_head"

ROTARY_BUFFERS: Final = tuple(
    f"rotary_emb.{buffer}"
    for buffer in ("inv_freq", "original_inv_freq", "cos_cached", "sin_cached")
)
"""Ends of the names of tables that versions of transformers saved, and that are computed anew."""

_LONGEST_COMPARED: Final = 200


def own_names(names: Iterable[str]) -> dict[str, str]:
    """Name in the checkpoint -> StarCoder2's own, for every tensor; others keep their name.

    The bare ``Starcoder2Model`` writes ``layers.0...`` for ``model.layers.0...``; what wrappers put
    in front is dropped where every tensor has it, and inside a name wherever it is: wrapped as
    ``_orig_mod.model.layers.0._checkpoint_wrapped_module.mlp.c_fc.bias``, own
    ``model.layers.0.mlp.c_fc.bias``. Raises :class:`TensorError` where only some have it, or where
    two names come to be one.
    """
    parts = {name: _split(name) for name in names}
    body = Counter(prefix for prefix, rest in parts.values() if rest and rest[0] != _HEAD)
    if not body:
        return {name: name for name in parts}
    prefix = _only(body)
    for before, rest in parts.values():
        if rest and rest[0] == _HEAD and before not in (prefix, _above(prefix)):
            raise _mixed(prefix, before, f"{_HEAD}.weight")
    own: dict[str, str] = {}
    for name, (_, rest) in parts.items():
        new = (
            name if not rest else ".".join(rest) if rest[0] == _HEAD else ".".join(("model", *rest))
        )
        if new in own:
            raise TensorError(
                f"tensors {name_of(own[new])} and {name_of(name)} are both {name_of(new)}: save "
                "the model without its wrapper, and export again"
            )
        own[new] = name
    return {name: new for new, name in own.items()}


def own_name(name: str) -> str:
    """StarCoder2's own name for one tensor of an adapter, or the name as it is.

    It is what :func:`own_names` makes of a name of a model, whatever others begin with:
    ``base_model.model.model.layers.0.mlp.c_fc.lora_A.weight`` becomes
    ``model.layers.0.mlp.c_fc.lora_A.weight``.
    """
    _, rest = _split(name)
    if not rest:
        return name
    return ".".join(rest if rest[0] == _HEAD else ("model", *rest))


def instead(missing: list[str], found: Iterable[str], layers: int) -> str:
    """What a checkpoint that lacks tensors has in their place, in a clause."""
    names = list(found)
    there = {
        int(match[1]) for name in names if (match := re.match(r"model\.layers\.(\d{1,9})\.", name))
    }
    numbers = [int(name.split(".")[2]) for name in missing if name.startswith("model.layers.")]
    if there and len(numbers) == len(missing) and min(numbers) > max(there):
        return f"it has layers 0 to {max(there)}, config.json num_hidden_layers {layers}"
    first = next(iter(names), "").split(".")[0]
    if first != "model" and names and all(name.startswith(f"{first}.") for name in names):
        return (
            f"all its {len(names):,} tensors begin with {brief(f'{first}.')}, "
            "which is to be removed"
        )
    close = [name for name in names if len(name) <= _LONGEST_COMPARED][:2000]
    if nearest := get_close_matches(missing[0], close, n=1, cutoff=0.85):
        return f"it has {len(names):,} tensors, the nearest name is {name_of(nearest[0])}"
    few = ", ".join(map(name_of, islice(names, 3))) or "none"
    return f"it has {len(names):,} tensors ({few}{', ...' if len(names) > 3 else ''})"


_Segments = tuple[str, ...]


def _split(name: str) -> tuple[_Segments, _Segments]:
    """What stands in front of StarCoder2's own part of a name, and that part without wrappers."""
    segments = name.split(".")
    for number, segment in enumerate(segments):
        if segment in _BODY or segment == _HEAD:
            rest = (part for part in segments[number:] if part not in WRAPPERS)
            return tuple(segments[:number]), tuple(rest)
        if segment not in WRAPPERS and segment not in _HOLDERS:
            break
    return (), ()


def _above(prefix: _Segments) -> _Segments:
    """What stands before the head, which is beside the last ``model`` and not in it."""
    below = next((i for i, segment in enumerate(reversed(prefix)) if segment == "model"), -1)
    return prefix[: len(prefix) - 1 - below]


def _only(prefixes: Counter[_Segments]) -> _Segments:
    """The one prefix that all tensors have."""
    (first, _), *others = prefixes.most_common()
    if others:
        raise _mixed(first, others[0][0], f"{sum(count for _, count in others)} others")
    return first


def _mixed(prefix: _Segments, other: _Segments, whose: str) -> TensorError:
    wrapped = max(prefix, other, key=lambda segments: len(set(segments) & set(WRAPPERS)))
    origins = {**WRAPPERS, **_HOLDERS}
    whence = ", ".join(dict.fromkeys(origins[segment] for segment in wrapped)) or "nothing"
    return TensorError(
        f"tensors begin with {_shown(prefix)}, {whose} with {_shown(other)} (from {whence}), "
        "expected one beginning: save the model without its wrapper, and export again"
    )


def _shown(prefix: _Segments) -> str:
    return repr("".join(f"{segment}." for segment in prefix))
