"""``config.json`` -> :class:`Starcoder2Config`; refuses what the exporter does not compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from sc2onnx.errors import UnsupportedModelError
from sc2onnx.manifest import ModelFacts

MODEL_TYPE: Final = "starcoder2"

ACTIVATIONS: Final = {"gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu": "none"}
"""``hidden_act`` -> the ``approximate`` attribute of ONNX Gelu (opset 20)."""

_SINGLE_VALUED: Final[Mapping[str, tuple[Any, ...]]] = {
    "norm_type": ("layer_norm",),
    "mlp_type": ("default",),
    "attention_type": ("gqa", "default"),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "use_cache": (True, False),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "layer_types": (None,),
    "scale_attn_weights": (True,),
}
"""Settings of which only these values mean the computation that the graph performs."""

_ALIASES: Final = {"layer_norm_epsilon": "norm_epsilon", "activation_function": "hidden_act"}
"""Names from StarCoder 1 that early configurations carry along: they must say the same as StarCoder2's own."""

_BOOKKEEPING: Final = frozenset(
    """_attn_implementation_autoset _commit_hash _name_or_path architectures attention_dropout attn_implementation auto_map
    attention_softmax_in_fp32 bad_words_ids begin_suppress_tokens bos_token_id cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample dtype early_stopping embedding_dropout encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label initializer_range label2id
    length_penalty max_length min_length model_type no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix problem_type remove_invalid_values repetition_penalty
    residual_dropout resid_pdrop return_dict return_dict_in_generate scale_attention_softmax_in_fp32 sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p torch_dtype torchscript transformers_version
    typical_p unsloth_version unsloth_fixed use_bfloat16""".split()
)
"""Settings that do not change the logits of a forward pass in inference."""

_USED: Final = frozenset(
    """head_dim hidden_act hidden_size intermediate_size max_position_embeddings norm_epsilon num_attention_heads num_hidden_layers
    num_key_value_heads rope_parameters rope_scaling rope_theta sliding_window tie_word_embeddings use_bias vocab_size""".split()
)


@dataclass(frozen=True, slots=True)
class Starcoder2Config:
    """The settings of a StarCoder2 that shape its graph; field names are those of the checkpoint.

    Source: ``Starcoder2Config`` of transformers, whose defaults hold where ``config.json`` is silent.
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
        for name in (
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim max_position_embeddings"
        ).split():
            _check(_is_int(getattr(self, name)) and getattr(self, name) > 0, name, getattr(self, name), "a positive integer")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        _check(heads % kv_heads == 0, "num_key_value_heads", kv_heads, f"a divisor of num_attention_heads ({heads})")
        _check(self.head_dim % 2 == 0, "head_dim", self.head_dim, "an even number (rotary embedding turns pairs)")
        _check(isinstance(self.hidden_act, str) and self.hidden_act in ACTIVATIONS, "hidden_act", self.hidden_act, f"one of {sorted(ACTIVATIONS)}")
        _check(_is_number(self.norm_epsilon) and self.norm_epsilon > 0, "norm_epsilon", self.norm_epsilon, "a positive number")
        _check(_is_number(self.rope_theta) and self.rope_theta > 0, "rope_theta", self.rope_theta, "a positive number")
        window = self.sliding_window
        _check(window is None or (_is_int(window) and window > 0), "sliding_window", window, "a positive integer or null")
        for name in ("use_bias", "tie_word_embeddings"):
            _check(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Starcoder2Config:
        """Read ``config.json``. Raises :class:`UnsupportedModelError` for anything that the graph would not honour."""
        model_type = raw.get("model_type")
        if model_type != MODEL_TYPE:
            raise UnsupportedModelError(
                f"config.json: model_type is {model_type!r}, expected {MODEL_TYPE!r}: "
                "this exporter knows StarCoder2 only (StarCoder 1 is 'gpt_bigcode')"
            )
        _refuse_unknown(raw)
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            _check(name in raw, name, "missing", "a positive integer")
            _check(_is_int(raw[name]) and raw[name] > 0, name, raw[name], "a positive integer")
        heads = raw["num_attention_heads"]
        if raw.get("head_dim") is None:
            _check(raw["hidden_size"] % heads == 0, "num_attention_heads", heads, f"a divisor of hidden_size ({raw['hidden_size']})")
        config = cls(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_hidden_layers=raw["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=raw.get("num_key_value_heads", 2),
            head_dim=raw["hidden_size"] // heads if raw.get("head_dim") is None else raw["head_dim"],
            hidden_act=raw.get("hidden_act", "gelu_pytorch_tanh"),
            max_position_embeddings=raw.get("max_position_embeddings", 4096),
            norm_epsilon=raw.get("norm_epsilon", 1e-5),
            rope_theta=_rope_theta(raw),
            sliding_window=raw.get("sliding_window"),
            use_bias=raw.get("use_bias", True),
            tie_word_embeddings=raw.get("tie_word_embeddings", True),
            eos_token_ids=token_ids(raw.get("eos_token_id")),
        )
        for old, own in _ALIASES.items():
            value = getattr(config, own)
            _check(raw.get(old, value) == value, old, raw.get(old), f"the same as {own} ({value!r})")
        return config

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
    """``eos_token_id`` as ``config.json`` and ``generation_config.json`` may write it: absent, a number or a list."""
    tokens = () if value is None else tuple(value) if isinstance(value, list) else (value,)
    for token in tokens:
        _check(_is_int(token) and token >= 0, "eos_token_id", token, "token ids")
    return tokens


def _rope_theta(raw: Mapping[str, Any]) -> Any:
    """The base of the rotary embedding, from ``rope_parameters`` (transformers 5) or the top level (4), unscaled only."""
    scaling = raw.get("rope_scaling")
    parameters = raw.get("rope_parameters")
    for name, value in (("rope_scaling", scaling), ("rope_parameters", parameters)):
        _check(value is None or isinstance(value, dict), name, value, "an object or null")
        for key in ("rope_type", "type"):
            kind = (value or {}).get(key, "default")
            _check(kind == "default", f"{name}.rope_type", kind, "'default' (StarCoder2 was trained without RoPE scaling)")
        extra = sorted(set(value or {}) - {"rope_type", "type", "rope_theta"})
        _check(not extra, name, extra, "only rope_type and rope_theta")
    written = [value["rope_theta"] for value in (parameters, scaling, raw) if value and value.get("rope_theta") is not None]
    _check(all(theta == written[0] for theta in written), "rope_theta", written, "one value wherever it is written")
    return written[0] if written else 10000.0


def _refuse_unknown(raw: Mapping[str, Any]) -> None:
    for name, allowed in _SINGLE_VALUED.items():
        if name in raw:
            _check(raw[name] in allowed, name, raw[name], " or ".join(repr(value) for value in allowed))
    known = _USED | _BOOKKEEPING | set(_SINGLE_VALUED) | set(_ALIASES)
    if unknown := sorted(name for name in set(raw) - known if raw[name] is not None):  # null sets nothing
        raise UnsupportedModelError(
            f"config.json: unknown setting {', '.join(f'{name}={raw[name]!r}' for name in unknown)}, expected StarCoder2's own: "
            "if it does not change what the model computes, remove it from config.json and export again"
        )


def _check(ok: bool, name: str, found: Any, expected: str) -> None:
    if not ok:
        raise UnsupportedModelError(f"config.json: {name} is {found!r}, expected {expected}: correct it, or use another checkpoint")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
