"""``adapter_config.json`` of peft -> :class:`LoraSettings`; refuses what is not merged here.

Source: ``LoraConfig`` of peft 0.21, its defaults, and its ``tuners/lora`` for what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Any, Final

from sc2onnx.errors import UnsupportedModelError
from sc2onnx.export.settings import is_note
from sc2onnx.export.shown import brief, name_of

KIND: Final = "LORA"

MERGE: Final = (
    "peft.AutoPeftModelForCausalLM.from_pretrained(DIR).merge_and_unload().save_pretrained(OUT)"
)
"""How peft merges what is not merged here."""

_FROM_THE_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of ``init_lora_weights`` that change the base's weights as well."""

_INITS: Final = (True, False, None, "gaussian", "eva", "orthogonal", "mica")

_UNSET: Final = """alora_invocation_tokens arrow_config enable_lora kasa_config layer_replication
    monteclora_config target_parameters use_bdlora use_qalora""".split()
"""Settings that ask for another computation than products of low rank."""

_HARMLESS: Final = frozenset(
    """auto_mapping base_model_name_or_path bias corda_config eva_config fan_in_fan_out
    inference_mode lora_dropout lora_ga_config loftq_config megatron_config megatron_core
    merge_weights peft_type peft_version qalora_group_size revision runtime_config task_type
    velora_config""".split()
)
"""Settings that are read here by name, or that no merged weight depends on: peft itself takes
``fan_in_fan_out`` back for products and embeddings of this model."""

_MOST: Final = 10_000
"""Entries of a list or of a mapping. The 15B has 240 products."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What of an adapter's configuration shapes its weights; the names are peft's.

    ``target_modules``: names, or one expression. ``trainable_token_indices``: name of a module ->
    ids. Raises :class:`UnsupportedModelError` with everything that is wrong.
    """

    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    ensure_weight_tying: bool = False
    init_lora_weights: bool | str | None = True
    target_modules: tuple[str, ...] | str | None = None
    exclude_modules: tuple[str, ...] | str | None = None
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    trainable_token_indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], whose: str) -> LoraSettings:
        """Read ``adapter_config.json``; ``whose`` names the adapter in errors."""
        kind = raw.get("peft_type")
        if kind != KIND:
            raise UnsupportedModelError(
                f"{whose}: peft_type is {brief(kind)}, expected {KIND!r}: where peft can merge it, "
                f"{MERGE}, and export OUT"
            )
        read = {name: _READERS[name](raw[name]) for name in _READERS if raw.get(name) is not None}
        wrong = [
            f"{name} is {brief(raw[name])}, expected {_EXPECTED[_READERS[name]]}"
            for name, value in read.items()
            if value is None
        ]
        if found := [*wrong, *_problems(raw)]:
            raise UnsupportedModelError(
                f"{whose}: {'; '.join(found)}: where peft can merge it, {MERGE}, and export OUT"
            )
        return cls(**read)

    @property
    def kind(self) -> str:
        """What it is called: LoRA, rsLoRA, DoRA, or the last with the scale of the second."""
        return (
            ("rsDoRA" if self.use_dora else "rsLoRA")
            if self.use_rslora
            else ("DoRA" if self.use_dora else "LoRA")
        )

    def scale(self, rank: int, alpha: float) -> float:
        """By what the product of the two matrices is multiplied."""
        return alpha / (sqrt(rank) if self.use_rslora else rank)


def _problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """What asks for another computation, each as a clause. What is empty or false sets nothing."""
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(_FROM_THE_BASE):
        yield (
            f"init_lora_weights is {brief(init)}, with which the base's weights were changed too "
            "(peft converts it: save_pretrained(OUT, path_initial_model_for_weight_conversion=...))"
        )
    elif init not in _INITS:
        yield f"init_lora_weights is {brief(init)}, expected one of {brief(list(_INITS))}"
    if raw.get("bias") not in (None, "none", "all", "lora_only"):
        yield f"bias is {brief(raw['bias'])}, expected 'none', 'all' or 'lora_only'"
    if raw.get("use_dora") and raw.get("lora_bias"):
        yield "use_dora and lora_bias are both true, expected one of them"
    for name in _UNSET:
        if raw.get(name):
            yield f"{name} is {brief(raw[name])}, expected none"
    known = _HARMLESS | _READERS.keys() | set(_UNSET)
    for name in sorted(raw.keys() - known):
        if raw[name] and not is_note(name):
            yield f"unknown setting {name_of(name)}={brief(raw[name])}, expected LoraConfig's own"


Reader = Callable[[Any], Any]
"""A value of JSON -> what it means, None for another type."""


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _rank(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 < value <= 1 << 20 else None


def _number(value: Any) -> float | None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if fits and isfinite(value) else None


def _init(value: Any) -> bool | str | None:
    return value if isinstance(value, (bool, str)) else None


def _names(value: Any) -> tuple[str, ...] | None:
    listed = isinstance(value, list) and len(value) <= _MOST
    return tuple(value) if listed and all(isinstance(name, str) for name in value) else None


def _names_or_pattern(value: Any) -> tuple[str, ...] | str | None:
    return value if isinstance(value, str) else _names(value)


def _patterns(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,) if value else ()
    return _names(value)


def _ids(value: Any) -> tuple[int, ...] | None:
    ids = value if isinstance(value, list) else [value]
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in ids)
    return tuple(ids) if whole and all(0 <= number < 1 << 24 for number in ids) else None


def _layers(value: Any) -> tuple[int, ...] | None:
    return _ids(value)


def _tokens(value: Any) -> dict[str, tuple[int, ...]] | None:
    by_module = value if isinstance(value, dict) else {"embed_tokens": value}
    found = {name: _ids(ids) for name, ids in by_module.items()}
    return (
        {name: ids for name, ids in found.items() if ids is not None}
        if all(ids is not None for ids in found.values())
        else None
    )


def _mapped(read: Reader) -> Reader:
    def mapping(value: Any) -> dict[str, Any] | None:
        if not isinstance(value, dict) or len(value) > _MOST:
            return None
        found = {name: read(number) for name, number in value.items()}
        return None if None in found.values() else found

    return mapping


_ranks, _alphas = _mapped(_rank), _mapped(_number)

_READERS: Final[Mapping[str, Reader]] = {
    "r": _rank,
    "lora_alpha": _number,
    "use_rslora": _flag,
    "use_dora": _flag,
    "lora_bias": _flag,
    "ensure_weight_tying": _flag,
    "init_lora_weights": _init,
    "target_modules": _names_or_pattern,
    "exclude_modules": _names_or_pattern,
    "modules_to_save": _names,
    "layers_to_transform": _layers,
    "layers_pattern": _patterns,
    "rank_pattern": _ranks,
    "alpha_pattern": _alphas,
    "trainable_token_indices": _tokens,
}
"""Setting -> how it is read."""

_EXPECTED: Final[Mapping[Reader, str]] = {
    _flag: "true or false",
    _rank: "a rank, a whole number from 1",
    _number: "a number",
    _init: "true, false or a name",
    _names: "a list of names",
    _names_or_pattern: "a list of names, or an expression",
    _patterns: "a name, or a list of names",
    _layers: "numbers of layers",
    _ranks: "ranks by name",
    _alphas: "numbers by name",
    _tokens: "ids of tokens, or by module",
}
