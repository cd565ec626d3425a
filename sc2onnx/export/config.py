"""``config.json`` -> :class:`Starcoder2Config`; refuses what the exporter does not compute."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Final

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import UnsupportedModelError
from sc2onnx.export import settings
from sc2onnx.export.shown import brief

MODEL_TYPE: Final = "starcoder2"

ACTIVATIONS: Final = {
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu": "none",
}
"""``hidden_act`` -> the ``approximate`` attribute of ONNX Gelu (opset 20)."""

_MOST: Final[Mapping[str, int]] = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "num_hidden_layers": 512,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "head_dim": 1 << 12,
    "max_position_embeddings": 1 << 22,
}
"""Sizes, and the most of each that is believed: 13 to 340 times the 15B's. Names, tables and plans
are made in proportion to them, before a byte of weights is read."""

_WIDEST_WINDOW: Final = (1 << 31) - 1

_EPSILONS: Final = (1e-30, 1.0)
_THETAS: Final = (1e-6, 1e18)
"""What stays a positive number in float32, with the powers and inverses that are made of it."""

_ROPE_KEYS: Final = frozenset(
    {"rope_type", "type", "rope_theta", "original_max_position_embeddings"}
)
_UNSCALED: Final[Mapping[str, float]] = dict.fromkeys(
    ("attention_factor", "factor", "mscale", "partial_rotary_factor"), 1
)
"""Entries of a rotary embedding that is not scaled: what is read, and what changes nothing at 1."""

_MOST_END_TOKENS: Final = 256


@dataclass(frozen=True, slots=True)
class Starcoder2Config:
    """The settings of a StarCoder2 that shape its graph; field names are those of the checkpoint.

    Source: ``Starcoder2Config`` of transformers, whose defaults hold where
    ``config.json`` is silent.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    max_position_embeddings: int
    norm_epsilon: float
    rope_theta: float
    sliding_window: int | None
    use_bias: bool
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _refuse(_field_problems({f.name: getattr(self, f.name) for f in fields(self)}))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], allowed: Collection[str] = ()) -> Starcoder2Config:
        """Read ``config.json``.

        ``allowed``: names of unknown settings that the user vouches for. Raises
        :class:`UnsupportedModelError` with everything in it that the graph would not honour, and
        :class:`~sc2onnx.errors.RequestError` for names that nobody can vouch for.
        """
        model_type = raw.get("model_type")
        if model_type != MODEL_TYPE:
            raise UnsupportedModelError(
                f"config.json: model_type is {brief(model_type)}, expected {MODEL_TYPE!r}: "
                "this exporter knows StarCoder2 only (StarCoder 1 is 'gpt_bigcode')"
            )
        settings.check_allowed(raw, allowed)
        written = _written(raw)
        _refuse(
            [
                *_field_problems(written),
                *_rope_problems(raw),
                *settings.synonym_problems(raw, written),
                *settings.problems(raw, allowed),
            ]
        )
        return cls(**written)

    @property
    def query_size(self) -> int:
        """Channels of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Channels of all key (or all value) heads together."""
        return self.num_key_value_heads * self.head_dim

    @property
    def group_size(self) -> int:
        """Query heads that share one key-value head."""
        return self.num_attention_heads // self.num_key_value_heads

    def facts(self, parameters: int, eos_token_ids: tuple[int, ...]) -> ModelFacts:
        """What the runtime must know of it."""
        return ModelFacts(
            architecture=MODEL_TYPE,
            num_layers=self.num_hidden_layers,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            context_length=self.max_position_embeddings,
            sliding_window=self.sliding_window,
            rope_theta=float(self.rope_theta),
            tied_embeddings=self.tie_word_embeddings,
            parameters=parameters,
            eos_token_ids=eos_token_ids,
        )


def token_ids(value: Any) -> tuple[int, ...]:
    """Tokens of ``eos_token_id`` in ``config.json`` or ``generation_config.json``.

    It may be absent, a number or a list. Raises :class:`UnsupportedModelError`.
    """
    tokens = _listed(value)
    _refuse(_token_problems(tokens))
    return tokens


def _listed(value: Any) -> tuple[Any, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def _token_problems(tokens: tuple[Any, ...]) -> Iterator[str]:
    if len(tokens) > _MOST_END_TOKENS:
        yield f"eos_token_id is {len(tokens):,} tokens, expected at most {_MOST_END_TOKENS}"
    wrong = (token for token in tokens if not _is_size(token, _MOST["vocab_size"], least=0))
    for token in islice(wrong, 1):
        yield f"eos_token_id is {brief(token)}, expected token ids"


def _written(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as ``config.json`` has them, unchecked, or as transformers takes what is absent."""
    sizes = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads"
    found = {name: raw.get(name, "missing") for name in sizes.split()}
    hidden, heads = found["hidden_size"], found["num_attention_heads"]
    head_dim = raw.get("head_dim")
    if head_dim is None and _is_size(hidden) and _is_size(heads) and hidden % heads == 0:
        head_dim = hidden // heads
    return found | {
        "num_key_value_heads": raw.get("num_key_value_heads", 2),
        "head_dim": head_dim,
        "hidden_act": raw.get("hidden_act", "gelu_pytorch_tanh"),
        "max_position_embeddings": raw.get("max_position_embeddings", 4096),
        "norm_epsilon": raw.get("norm_epsilon", 1e-5),
        "rope_theta": next(iter(_thetas(raw)), 10000.0),
        "sliding_window": raw.get("sliding_window"),
        "use_bias": raw.get("use_bias", True),
        "tie_word_embeddings": raw.get("tie_word_embeddings", True),
        "eos_token_ids": _listed(raw.get("eos_token_id")),
    }


def _field_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the fields of a configuration, each as a clause."""
    hidden, head_dim = values["hidden_size"], values["head_dim"]
    heads, kv_heads = values["num_attention_heads"], values["num_key_value_heads"]
    for name, most in _MOST.items():
        value = values[name]
        if name == "head_dim" and value is None:
            if _is_size(hidden) and _is_size(heads):
                yield (
                    f"num_attention_heads is {heads}, expected a divisor of hidden_size ({hidden})"
                )
        elif not _is_size(value):
            yield f"{name} is {brief(value)}, expected a positive integer"
        elif value > most:
            yield f"{name} is {brief(value)}, expected a positive integer of at most {most:,}"
    if _is_size(heads) and _is_size(kv_heads) and heads % kv_heads:
        yield (
            f"num_key_value_heads is {brief(kv_heads)}, expected a divisor of "
            f"num_attention_heads ({heads})"
        )
    if _is_size(head_dim) and head_dim % 2:
        yield (
            f"head_dim is {brief(head_dim)}, expected an even number (rotary embedding turns pairs)"
        )
    act = values["hidden_act"]
    if not isinstance(act, str) or act not in ACTIVATIONS:
        yield f"hidden_act is {brief(act)}, expected one of {sorted(ACTIVATIONS)}"
    for name, (least, largest) in (("norm_epsilon", _EPSILONS), ("rope_theta", _THETAS)):
        if not _is_number(values[name]) or not least <= values[name] <= largest:
            yield (
                f"{name} is {brief(values[name])}, expected a positive number "
                f"({least:g} to {largest:g})"
            )
    window = values["sliding_window"]
    if window is not None and not _is_size(window, _WIDEST_WINDOW):
        yield f"sliding_window is {brief(window)}, expected a positive integer or null"
    for name in ("use_bias", "tie_word_embeddings"):
        if not isinstance(values[name], bool):
            yield f"{name} is {brief(values[name])}, expected true or false"
    yield from _token_problems(values["eos_token_ids"])


def _thetas(raw: Mapping[str, Any]) -> list[Any]:
    """Bases of the rotary embedding wherever one is written."""
    places = (raw.get("rope_parameters"), raw.get("rope_scaling"), raw)
    found = [place.get("rope_theta") for place in places if isinstance(place, Mapping)]
    return [theta for theta in found if theta is not None]


def _rope_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with ``rope_parameters`` (transformers 5) and ``rope_scaling`` (4)."""
    for name in ("rope_scaling", "rope_parameters"):
        value = raw.get(name)
        if value is None:
            continue
        if not isinstance(value, dict):
            yield f"{name} is {brief(value)}, expected an object or null"
            continue
        for key in ("rope_type", "type"):
            if value.get(key, "default") != "default":
                yield (
                    f"{name}.rope_type is {brief(value[key])}, expected 'default' (StarCoder2 was "
                    "trained without RoPE scaling)"
                )
        unread = {
            key: setting
            for key, setting in value.items()
            if setting is not None and setting != _UNSCALED.get(key)
        }
        if extra := sorted(set(unread) - _ROPE_KEYS):
            yield f"{name} is {brief(extra)}, expected only rope_type and rope_theta"
    thetas = _thetas(raw)
    if any(theta != thetas[0] for theta in thetas):
        yield f"rope_theta is {brief(thetas)}, expected one value wherever it is written"


def _refuse(problems: Iterable[str]) -> None:
    if found := list(problems):
        raise UnsupportedModelError(
            f"config.json: {'; '.join(found)}: correct it, or use another checkpoint"
        )


def _is_size(value: Any, most: int | None = None, least: int = 1) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and least <= value and (most is None or value <= most)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
