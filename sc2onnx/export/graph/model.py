"""The whole model: embedding, layers, final norm, head. Attention and the linear products are passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from sc2onnx import manifest
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.attention import Attention
from sc2onnx.export.graph.layers import Linear, Lookup, Products, layer_norm, mlp
from sc2onnx.export.graph.ops import IR_VERSION, Recorder

MakeAttention = Callable[[Recorder, Starcoder2Config, ir.Value, ir.Value], Attention]
"""(recorder, config, input_ids (batch, step), past_lengths (batch,)) -> the attention of one layer."""


def build(
    config: Starcoder2Config, weights: Mapping[str, ir.TensorProtocol], make_attention: MakeAttention, products: Products, activations: Activations
) -> ir.Model:
    """The graph of one step: ``step`` new tokens per row after ``past_lengths`` cached ones, logits for the last ``num_logits``.

    ``num_logits`` is an input with a default of 1, so that other runtimes need not know it; 0 skips the head. Logits are float32
    whatever the activations are, which is the type that the weights come in.
    """
    op = Recorder("starcoder2", weights)
    input_ids = op.input(manifest.INPUT_IDS, ir.DataType.INT64, ("batch", "step"))
    past = op.input(manifest.PAST_LENGTHS, ir.DataType.INT64, ("batch",))
    num_logits = op.input(manifest.NUM_LOGITS, ir.DataType.INT64, (1,))
    op.default(num_logits, np.array([1], dtype=np.int64))
    attention = make_attention(op, config, input_ids, past)

    flat = op.Reshape(input_ids, op.ints(-1))
    x = products.embed(op, flat)  # (batch * step, hidden)
    for layer in range(config.num_hidden_layers):
        x = _layer(op, x, layer, config, attention, products.linear)

    logits = activations.widen(op, _head(op, x, input_ids, num_logits, config, products.head))
    op.output(logits, manifest.LOGITS, ir.DataType.FLOAT, ("batch", "num_logits", config.vocab_size))
    # The contract lists logits first, the caches after.
    outputs = list(op.graph.outputs)
    op.graph.outputs[:] = [outputs[-1], *outputs[:-1]]
    return ir.Model(op.graph, ir_version=IR_VERSION, producer_name="sc2onnx")


def _layer(op: Recorder, x: ir.Value, layer: int, config: Starcoder2Config, attention: Attention, product: Linear) -> ir.Value:
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""
    name = f"model.layers.{layer}"
    normed = layer_norm(op, x, f"{name}.input_layernorm", config.norm_epsilon)
    mixed = attention(layer, product(op, normed, f"{name}.self_attn.qkv_proj"))
    x = op.Add(x, product(op, mixed, f"{name}.self_attn.o_proj"))
    normed = layer_norm(op, x, f"{name}.post_attention_layernorm", config.norm_epsilon)
    return op.Add(x, mlp(op, normed, f"{name}.mlp", config, product))


def _head(op: Recorder, x: ir.Value, input_ids: ir.Value, num_logits: ir.Value, config: Starcoder2Config, head: Lookup) -> ir.Value:
    """Logits (batch, num_logits, vocab) of the last ``num_logits`` positions of each row."""
    rows = op.Reshape(x, op.Concat(op.Shape(input_ids), op.ints(config.hidden_size), axis=0))  # (batch, step, hidden)
    step = op.Shape(input_ids, start=1, end=2)
    wanted = op.Slice(rows, op.Sub(step, num_logits), step, op.ints(1))  # (batch, num_logits, hidden)
    normed = layer_norm(op, op.Reshape(wanted, op.ints(-1, config.hidden_size)), "model.norm", config.norm_epsilon)
    logits = head(op, normed)
    batch = op.Shape(input_ids, start=0, end=1)
    return op.Reshape(logits, op.Concat(batch, num_logits, op.ints(config.vocab_size), axis=0), allowzero=1)
