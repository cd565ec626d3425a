"""Which of a model's modules an adapter's configuration names, and with what rank and scale.

Source: ``check_target_module_exists`` and ``get_pattern_key`` of peft 0.21.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from sc2onnx.errors import UnsupportedModelError
from sc2onnx.export.adapters.patterns import matching
from sc2onnx.export.adapters.settings import LoraSettings
from sc2onnx.export.shown import name_of

HEAD: Final = "lm_head"
EMBEDDING: Final = "model.embed_tokens"

_ALL: Final = "all-linear"
"""Every product but the head."""

_AT_THE_END: Final = r"(?:.*\.)?(?:{})"
"""How ``rank_pattern`` and ``alpha_pattern`` name modules."""

_SAVED: Final = r"(?:.*\.)?{}(?:\..*)?"
"""Modules that are saved whole, and what lies in them, get no product of low rank."""


_Value = TypeVar("_Value", int, float)


@dataclass(frozen=True, slots=True)
class Targets:
    """What a configuration names in one model.

    ``ranks`` and ``scales``: of each module with a product of low rank. ``saved``: modules that are
    saved whole. ``tokens``: module -> ids whose rows are saved.
    """

    ranks: Mapping[str, int]
    scales: Mapping[str, float]
    saved: frozenset[str]
    tokens: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(
        cls,
        settings: LoraSettings,
        modules: Collection[str],
        norms: Collection[str],
        *,
        tied: bool,
    ) -> Targets:
        """What the settings name of a model's products, embedding and head (``modules``) and of its
        norms, by their names in it.

        ``tied``: whether the model's head is its embedding. Raises
        :class:`UnsupportedModelError` where the settings name nothing.
        """
        pair = {EMBEDDING, HEAD} if tied and settings.ensure_weight_tying else set[str]()
        chosen = _chosen(settings, modules)
        chosen |= pair if chosen & pair else set()
        ranks = dict.fromkeys(chosen, settings.r) | _by_pattern(settings.rank_pattern, chosen)
        alphas = dict.fromkeys(chosen, settings.lora_alpha)
        alphas |= _by_pattern(settings.alpha_pattern, chosen)
        scales = {name: settings.scale(ranks[name], alphas[name]) for name in chosen}
        saved = frozenset(
            name for name in (*modules, *norms) if name.endswith(settings.modules_to_save)
        )
        saved |= pair if saved & pair else set()
        tokens = {
            name: ids
            for part, ids in settings.trainable_token_indices.items()
            for name in (EMBEDDING, HEAD)
            if name.endswith(part)
        }
        if tied and tokens.get(HEAD) == tokens.get(EMBEDDING):
            tokens.pop(HEAD, None)  # the embedding's rows are the head's
        if not chosen and not saved and not tokens:
            shown = (
                "nothing"
                if settings.target_modules is None
                else name_of(str(settings.target_modules))
            )
            raise UnsupportedModelError(
                f"adapter_config.json: target_modules names {shown}, expected some of "
                f"{', '.join(sorted({name.rpartition('.')[2] for name in modules}))}: it is an "
                "adapter of another model"
            )
        return cls(ranks, scales, saved, tokens)


def _chosen(settings: LoraSettings, modules: Collection[str]) -> frozenset[str]:
    """The modules that get a product of low rank."""
    excluded = _named(settings.exclude_modules, modules)
    for found in matching(settings.modules_to_save, modules, _SAVED).values():
        excluded |= found
    wanted = settings.target_modules
    if wanted == _ALL:
        return frozenset(modules) - {HEAD, EMBEDDING} - excluded
    found = _named(wanted, modules)
    if settings.layers_to_transform:
        found &= _in_layers(settings, modules) | (set(wanted or ()) & set(modules))
    return frozenset(found - excluded)


def _named(names: tuple[str, ...] | str | None, modules: Collection[str]) -> frozenset[str]:
    """Modules by the whole or the end of their names, or by an expression."""
    if isinstance(names, str):
        return matching([names], modules)[names]
    ends = tuple(f".{name}" for name in names or ())
    return frozenset(name for name in modules if name in (names or ()) or name.endswith(ends))


def _in_layers(settings: LoraSettings, modules: Collection[str]) -> frozenset[str]:
    """The modules of the layers that are listed, as far as ``layers_pattern`` names their list."""
    wanted = set(settings.layers_to_transform or ())
    numbers = {name: int(found[1]) for name in modules if (found := re.search(r"\.(\d+)\.", name))}
    inside = frozenset(name for name, number in numbers.items() if number in wanted)
    if not settings.layers_pattern:
        return inside
    listed = matching(settings.layers_pattern, modules, r"(?:.*\.)?{}\.\d+\..*")
    return inside & frozenset().union(*listed.values())


def _by_pattern(values: Mapping[str, _Value], modules: Collection[str]) -> dict[str, _Value]:
    """Module -> the value under the first pattern that matches the end of its name."""
    found = matching(values, modules, _AT_THE_END)
    return {
        name: next(values[pattern] for pattern in values if name in found[pattern])
        for name in modules
        if any(name in found[pattern] for pattern in values)
    }
