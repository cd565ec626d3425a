"""What each setting of ``config.json`` means: read, of one value only, of no effect, or unknown.

Sources: ``Starcoder2Config``, ``PreTrainedConfig`` and ``GenerationConfig`` of transformers 4 and 5
for what they write, and its ``modeling_starcoder2`` for what is read. A leftover of another model
is of no effect because that module does not read it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from sc2onnx.errors import RequestError
from sc2onnx.export.shown import brief, name_of

READ: Final = frozenset(
    """head_dim hidden_act hidden_size intermediate_size max_position_embeddings model_type
    norm_epsilon num_attention_heads num_hidden_layers num_key_value_heads rope_parameters
    rope_scaling rope_theta sliding_window tie_word_embeddings use_bias vocab_size""".split()
)
"""Settings that the equations read."""

_PACKED: Final = (
    "null (its weights are packed: give the one in floats, and quantise it with --precision)"
)

_SINGLE_VALUED: Final[Mapping[str, tuple[Any, ...]]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "attention_type": ("gqa", "default"),
    "chunk_size_feed_forward": (0,),
    "do_layer_norm_before": (True,),
    "embedding_multiplier": (1,),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "layer_norm_elementwise_affine": (True,),
    "learned_pos_emb": (False,),
    "lm_head_bias": (False,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mlp_type": ("default",),
    "new_decoder_architecture": (False,),
    "norm_type": ("layer_norm",),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "num_nextn_predict_layers": (0,),
    "parallel_attn": (False,),
    "partial_rotary_factor": (1,),
    "per_layer_config": ({},),
    "pruned_heads": ({},),
    "qk_layernorm": (False,),
    "residual_multiplier": (1,),
    "rope_interleaved": (False,),
    "rotary_pct": (1,),
    "rotary_percentage": (1,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "scale_embedding": (False,),
    "transformers_weights": ("model.safetensors", "model.safetensors.index.json"),
    "use_cache": (True, False),
    "use_parallel_residual": (False,),
    "use_qk_norm": (False,),
    "use_rope": (True,),
}
"""Settings of which only these values, or null, mean the computation that the graph performs."""

_PACKINGS: Final = frozenset({"compression_config", "quantization", "quantization_config"})
"""Where quantisers (AWQ, GPTQ, bitsandbytes, MLX and others) say how they packed the weights."""

_SYNONYMS: Final[Mapping[str, str]] = {
    "activation": "hidden_act",
    "activation_function": "hidden_act",
    "d_ff": "intermediate_size",
    "d_model": "hidden_size",
    "dim": "hidden_size",
    "enable_bias": "use_bias",
    "ffn_dim": "intermediate_size",
    "ffn_hidden_size": "intermediate_size",
    "hidden_activation": "hidden_act",
    "layer_norm_eps": "norm_epsilon",
    "layer_norm_epsilon": "norm_epsilon",
    "n_ctx": "max_position_embeddings",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_kv_heads": "num_key_value_heads",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "norm_eps": "norm_epsilon",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "num_layers": "num_hidden_layers",
    "padded_vocab_size": "vocab_size",
    "qkv_bias": "use_bias",
    "rope_base": "rope_theta",
    "rotary_base": "rope_theta",
    "rotary_dim": "head_dim",
    "rotary_emb_base": "rope_theta",
    "use_qkv_bias": "use_bias",
    "word_embed_proj_dim": "hidden_size",
}
"""Names of other models, StarCoder 1 above all, that must say the same as StarCoder2's own."""

_WINDOWS: Final = frozenset({"layer_types", "max_window_layers", "use_sliding_window"})
"""Settings of Qwen, Gemma and caches: which layers slide. Here all do, or none."""

_HARMLESS: Final = frozenset(
    # bookkeeping of transformers
    """architectures auto_map base_model_fsdp_plan base_model_pp_plan base_model_tp_plan
    cross_attention_hidden_size decoder_start_token_id distributed_config dtype finetuning_task
    id2label ignore_keys_at_rope_validation keys_to_ignore_at_inference label2id name_or_path
    num_labels output_attentions output_hidden_states prefix problem_type return_dict
    task_specific_params tf_legacy_loss tie_encoder_decoder tie_last_hidden_states tokenizer_class
    torch_dtype torchscript transformers.js_config transformers_version trust_remote_code
    use_bfloat16 use_return_dict"""
    # generation, which once stood in config.json
    """ assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight
    assistant_lookbehind bad_words_ids begin_suppress_tokens constraints
    continuous_batching_config diversity_penalty do_sample dola_layers early_stopping
    encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff
    exponential_decay_length_penalty force_words_ids forced_bos_token_id forced_decoder_ids
    forced_eos_token_id generation_config guidance_scale is_assistant length_penalty low_memory
    max_length max_matching_ngram_size max_new_tokens max_time min_length min_new_tokens min_p
    no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule num_beam_groups
    num_beams num_return_sequences output_logits output_scores penalty_alpha
    prompt_lookup_num_tokens remove_invalid_values renormalize_logits repetition_penalty
    return_dict_in_generate sequence_bias speculation_type stop_strings suppress_tokens
    target_lookbehind temperature token_healing top_h top_k top_p typical_p use_mtp
    watermarking_config"""
    # tokenizers
    """ add_bos_token add_eos_token bos_token bos_token_id chat_template
    clean_up_tokenization_spaces cls_token_id eos_token eos_token_id mask_token_id
    model_max_length pad_to_multiple_of pad_token pad_token_id padding_side
    sep_token_id unk_token unk_token_id"""
    # training
    """ attention_dropout attention_dropout_prob attention_probs_dropout_prob attn_pdrop bf16
    classifier_dropout ddp_timeout dropout dropout_rate emb_pdrop embd_pdrop embedding_dropout
    ffn_dropout fp16 gradient_accumulation_steps gradient_checkpointing
    gradient_checkpointing_kwargs hidden_dropout hidden_dropout_prob ignore_index init_device
    init_method init_std initializer_factor initializer_range label_smoothing layerdrop
    learning_rate lora_alpha lora_dropout lora_rank loss_type max_seq_len max_seq_length
    max_sequence_length mlp_dropout neftune_noise_alpha num_train_epochs optimizer packing
    per_device_train_batch_size resid_pdrop residual_dropout router_aux_loss_coef seed seq_len
    seq_length sequence_length summary_activation summary_first_dropout summary_proj_to_labels
    summary_type summary_use_proj train_batch_size training_args use_reentrant warmup_ratio
    warmup_steps weight_decay"""
    # ways to compute the same attention and products
    """ attention_backend attention_softmax_in_fp32 attn_impl attn_implementation
    attn_implementation_autoset experts_implementation flash_attention flash_attn
    flash_attn_version fp32_residual_connection fused_bias_fc fused_dropout_add_ln fused_mlp
    pretraining_tp reorder_and_upcast_attn scale_attention_softmax_in_fp32 slow_but_exact
    use_cut_cross_entropy use_efficient_attention use_flash_attention use_flash_attention_2
    use_flash_attention_3 use_flash_attn use_flex_attention use_fused_rms_norm use_fused_rope
    use_kernels use_liger_kernel use_memory_efficient_attention use_sdpa use_sdpa_attention
    use_xformers"""
    # caches
    """ cache_config cache_implementation compile_config disable_compile inference_runner
    kv_cache_dtype max_batch_size max_cache_len pre_allocate_kv_cache prefill_chunk_size
    return_legacy_cache validate_runner_input"""
    # leftovers of other models
    """ attention_bias mlp_bias multi_query num_experts_per_tok original_max_position_embeddings
    output_router_logits rms_norm_eps router_jitter_noise"""
    # notes of tools
    """ author base_model base_model_name_or_path commit_hash created_at datasets description
    finetuning_type fsdp fsdp_config fsdp_transformer_layer_cls_to_wrap language library_name
    license merge_config merge_method model_id model_name original_vocab_size
    pad_vocab_size_multiple pipeline_tag revision tags version""".split()
)
"""Settings that do not change the logits of a forward pass in inference."""

_NOTES: Final = re.compile(
    r"_|(?:accelerate|awq|axolotl|deepspeed|ds|gptq|hqq|liger|llama_?factory|mergekit|mlx|neuron"
    r"|openvino|optimum|peft|swift|trl|unsloth|wandb)(?:[._-]|$)",
    re.IGNORECASE,
)
"""Beginnings of private keys, and of the names under which tools leave notes of themselves."""


def is_note(name: str) -> bool:
    """Whether a setting has the name of a private key, or of a tool's note of itself."""
    return _NOTES.match(name) is not None


def problems(raw: Mapping[str, Any], allowed: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with settings that are not fields of a StarCoder2, each as a clause.

    ``allowed``: unknown settings that the user vouches for. Null sets nothing, whatever its name.
    """
    for name, values in _SINGLE_VALUED.items():
        if raw.get(name) is not None and raw[name] not in values:
            yield _wrong(name, raw[name], " or ".join(map(repr, values)))
    for name in sorted(_PACKINGS):
        if raw.get(name) not in (None, {}):
            yield _wrong(name, raw[name], _PACKED)
    yield from _window_problems(raw)
    if unknown := sorted(unknown_settings(raw) - set(allowed)):
        shown = ", ".join(f"{name_of(name)}={brief(raw[name])}" for name in unknown[:20])
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        yield (
            f"unknown setting {shown}{more}, expected StarCoder2's own (vouch for what changes "
            "nothing that the model computes: --allow-setting KEY)"
        )


def synonym_problems(raw: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    """Where another model's name says something else than StarCoder2's own (``fields``)."""
    for name, own in _SYNONYMS.items():
        if raw.get(name) is not None and raw[name] != fields[own]:
            yield _wrong(name, raw[name], f"the same as {own} ({brief(fields[own])})")


def unknown_settings(raw: Mapping[str, Any]) -> set[str]:
    """Names of settings of which nothing is known, and that set something."""
    known = READ | _HARMLESS | _PACKINGS | _WINDOWS | set(_SINGLE_VALUED) | set(_SYNONYMS)
    return {name for name in set(raw) - known if raw[name] is not None and not is_note(name)}


def check_allowed(raw: Mapping[str, Any], allowed: Collection[str]) -> tuple[str, ...]:
    """Return the names of unknown settings that the user vouches for, each once, in order.

    Raises :class:`RequestError` for names that are not in ``config.json``, and for settings that
    are checked, which nobody can vouch for.
    """
    if isinstance(allowed, str) or not all(isinstance(name, str) for name in allowed):
        raise RequestError(f"allow_settings is {brief(allowed)}, expected a tuple of names")
    checked = READ | _PACKINGS | _WINDOWS | set(_SINGLE_VALUED) | set(_SYNONYMS)
    for name in allowed:
        if name not in raw:
            raise RequestError(
                f"--allow-setting {name_of(name)} is not in config.json: leave it out"
            )
        if name in checked:
            raise RequestError(
                f"--allow-setting {name_of(name)}: that setting is checked, it changes what is "
                "computed: correct config.json if it is wrong"
            )
    return tuple(sorted(set(allowed) & unknown_settings(raw)))


def _window_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """Where settings that say which layers slide contradict the window, which every layer has.

    ``max_window_layers`` has meant the first layers that slide, and the first that do not: of 30
    layers, 0 and 30 may both mean all of them, 12 means neither all nor none.
    """
    window, layers = raw.get("sliding_window"), raw.get("num_hidden_layers")
    context = raw.get("max_position_embeddings")
    slides = window is not None
    both = isinstance(window, int) and isinstance(context, int) and window >= context
    if (types := raw.get("layer_types")) is not None:
        kinds = {"sliding_attention"} if slides else {"full_attention", "attention"}
        kinds |= {"full_attention", "attention"} if both else set()
        fits = isinstance(types, list) and len(types) == layers
        if not fits or not all(isinstance(kind, str) and kind in kinds for kind in types):
            meant = "sliding_attention" if slides else "full_attention"
            yield _wrong("layer_types", types, f"{meant!r} for each layer, as sliding_window says")
    uses = raw.get("use_sliding_window")
    if uses is not None and not both and uses is not slides:
        yield _wrong("use_sliding_window", uses, f"{slides}, as sliding_window says")
    first = raw.get("max_window_layers")
    if first is not None and slides and not both and not (_whole(first) and first in (0, layers)):
        yield _wrong("max_window_layers", first, f"0 or {brief(layers)}, as sliding_window says")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(name: str, found: Any, expected: str) -> str:
    return f"{name} is {brief(found)}, expected {expected}"
