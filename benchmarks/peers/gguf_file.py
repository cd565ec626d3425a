"""Checkpoint -> GGUF in float32, as llama.cpp reads it.

Names of tensors and metadata: the package ``gguf`` and the loader of the architecture
``starcoder2`` in llama.cpp. The weights go from disk to disk one tensor at a time. StarCoder2's
rotary embedding pairs channels i and i + head_dim / 2, which llama.cpp calls NEOX and does for this
architecture: nothing is permuted. A tied head is left out; llama.cpp then takes the embedding, and
its quantiser treats that as it would the head.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from peers import Floats
from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.stored import Readable
from sc2onnx.export.tying import settle
from sc2onnx.export.weights import check_complete, checkpoint_shapes

_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """``model.layers.3.mlp.c_fc.bias`` -> ``blk.3.ffn_up.bias``."""
    module, kind = name.rsplit(".", 1)
    if module in _TOP:
        return f"{_TOP[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{_LAYER[inner]}.{kind}"


def write(checkpoint: Path, out: Path) -> None:
    """Write ``out``. Raises :class:`~sc2onnx.errors.CheckpointError`, or ValueError for what
    llama.cpp's StarCoder2 cannot hold.
    """
    from gguf import GGUFWriter

    opened = Checkpoint.open(checkpoint)
    config = Starcoder2Config.from_dict(opened.config)
    opened, config = settle(opened, config)
    check_complete(opened, config)
    if config.query_size != config.hidden_size:
        raise ValueError(
            f"{config.num_attention_heads} heads of {config.head_dim} are not hidden_size "
            f"{config.hidden_size}, as llama.cpp expects"
        )
    with closing(GGUFWriter(out, "starcoder2")) as writer:
        _add_model(writer, config)
        _add_vocabulary(
            writer,
            json.loads((checkpoint / TOKENIZER_FILE).read_text(encoding="utf-8")),
            config.vocab_size,
        )
        tensors = [opened.tensors[name] for name in checkpoint_shapes(config)]
        for tensor in tensors:
            dtype = np.dtype(np.float32)
            writer.add_tensor_info(
                gguf_name(tensor.name),
                tensor.shape,
                dtype,
                int(np.prod(tensor.shape)) * dtype.itemsize,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_float32(tensor))


def _float32(tensor: Readable) -> Floats:
    return np.concatenate([rows.astype(np.float32) for rows in tensor.rows(tensor.shape[0])])


def _add_model(writer: Any, config: Starcoder2Config) -> None:
    from gguf import LlamaFileType

    writer.add_name("starcoder2")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: Any, tokenizer: dict[str, Any], size: int) -> None:
    """Enough for llama.cpp to load: it is only ever given token ids."""
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    names = {number: token for token, number in tokenizer["model"]["vocab"].items()} | special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("starcoder")
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(list(_token_types(special, names, size)))
    writer.add_token_merges(
        [
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in tokenizer["model"]["merges"]
        ]
    )
    for add in (writer.add_bos_token_id, writer.add_eos_token_id):
        add(0)


def _token_types(special: dict[int, str], names: dict[int, str], size: int) -> Iterator[int]:
    from gguf import TokenType

    for number in range(size):
        kind = (
            TokenType.CONTROL
            if number in special
            else TokenType.NORMAL
            if number in names
            else TokenType.UNUSED
        )
        yield int(kind)
