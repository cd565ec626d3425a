"""The whole model: embedding, layers, final norm, head.
Attention and the linear products are passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sc2onnx.bundle import contract
from sc2onnx.export.config import ACTIVATIONS, Starcoder2Config
from sc2onnx.export.graph.activations import Activations
from sc2onnx.export.graph.attention import Attention
from sc2onnx.export.graph.caches import Pair
from sc2onnx.export.graph.layers import Head, Norm, Product, Products
from sc2onnx.export.graph.ops import IR_VERSION, OPSET, Recorder

MakeAttention = Callable[[Recorder, Starcoder2Config, ir.Value, ir.Value, range], Attention]
"""(recorder, config, input_ids (batch, step), what says where the step is, layers) -> the attention
of these layers, whose caches are inputs of the graph then."""

Where = Callable[[Recorder], ir.Value]
"""Declares the input that says where the step is in the sequence."""


def past_lengths(op: Recorder) -> ir.Value:
    """(batch,): tokens already in the cache."""
    return op.input(contract.PAST_LENGTHS, ir.DataType.INT64, ("batch",))


def attention_mask(op: Recorder) -> ir.Value:
    """(batch, past + step), as transformers gives it."""
    return op.input(contract.ATTENTION_MASK, ir.DataType.INT64, ("batch", "total"))


@dataclass(frozen=True, slots=True)
class Form:
    """With what a model is built.

    ``chooses``: it also gives the most likely tokens, so that a device need not hand
    out logits. ``asks``: for how many last positions to give logits, by an input;
    otherwise all of them get some.
    """

    attention: MakeAttention
    products: Products
    activations: Activations
    opset: int = OPSET
    chooses: bool = False
    where: Where = past_lengths
    asks: bool = True


def build(
    config: Starcoder2Config,
    weights: Mapping[str, ir.TensorProtocol],
    form: Form,
    layers: range | None = None,
) -> ir.Model:
    """The graph of one step: ``step`` new tokens per row after those that are cached, logits
    for the last ``num_logits``.

    ``num_logits`` is an input with a default of 1, so that other runtimes need not know it; 0
    skips the head. Logits are float32 whatever the activations are, which is the type that the
    weights come in. ``layers``: a stage of these alone, by default all. One that does not begin
    the model takes hidden states beside the tokens, of which it reads the shape; one that does
    not end it hands them on.
    """
    layers = range(config.num_hidden_layers) if layers is None else layers
    op = Recorder("starcoder2", weights, form.opset)
    input_ids = op.input(contract.INPUT_IDS, ir.DataType.INT64, ("batch", "step"))
    where = form.where(op)
    x = _entry(op, input_ids, config, form, begins=layers.start == 0)  # (batch * step, hidden)
    ends = layers.stop == config.num_hidden_layers
    num_logits = _num_logits(op) if ends and form.asks else None
    attention = form.attention(op, config, input_ids, where, layers)
    present = dict[int, Pair]()
    for layer in layers:
        x, present[layer] = _layer(op, x, layer, config, attention, form.products.product)
    if not ends:
        op.output(x, contract.NEXT_HIDDEN, form.activations.onnx, ("tokens", config.hidden_size))
    else:
        logits = form.activations.widen(
            op, _head(op, x, input_ids, num_logits, config, form.products.head)
        )
        op.output(
            logits,
            contract.LOGITS,
            ir.DataType.FLOAT,
            ("batch", "num_logits" if form.asks else "step", config.vocab_size),
        )
        if form.chooses:
            op.output(
                _greedy(op, logits), contract.GREEDY_IDS, ir.DataType.INT64, ("batch", "num_logits")
            )
    attention.caches.hand_back(op, present)
    return ir.Model(op.graph, ir_version=IR_VERSION, producer_name="sc2onnx")


def _entry(
    op: Recorder, input_ids: ir.Value, config: Starcoder2Config, form: Form, begins: bool
) -> ir.Value:
    if begins:
        return form.products.embed(op, op.Reshape(input_ids, op.ints(-1)))
    return op.input(contract.HIDDEN, form.activations.onnx, ("tokens", config.hidden_size))


def _num_logits(op: Recorder) -> ir.Value:
    num_logits = op.input(contract.NUM_LOGITS, ir.DataType.INT64, (1,))
    op.default(num_logits, np.array([1], dtype=np.int64))
    return num_logits


def _layer(
    op: Recorder,
    x: ir.Value,
    layer: int,
    config: Starcoder2Config,
    attention: Attention,
    product: Product,
) -> tuple[ir.Value, Pair]:
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; and the layer's keys and values."""
    name, epsilon = f"model.layers.{layer}", config.norm_epsilon
    norm = Norm(f"{name}.input_layernorm", epsilon)
    qkv = product(op, x, f"{name}.self_attn.qkv_proj", norm=norm)
    mixed, present = attention.attend(layer, qkv)
    x = product(op, mixed, f"{name}.self_attn.o_proj", residual=x)
    norm = Norm(f"{name}.post_attention_layernorm", epsilon)
    inner = product(op, x, f"{name}.mlp.c_fc", norm=norm, gelu=ACTIVATIONS[config.hidden_act])
    return product(op, inner, f"{name}.mlp.c_proj", residual=x), present


def _head(
    op: Recorder,
    x: ir.Value,
    input_ids: ir.Value,
    num_logits: ir.Value | None,
    config: Starcoder2Config,
    head: Head,
) -> ir.Value:
    """Logits (batch, num_logits, vocab) of the last ``num_logits`` positions
    of each row; None: of all.
    """
    norm = Norm("model.norm", config.norm_epsilon)
    if num_logits is None:
        logits = head(op, x, norm)
        return op.Reshape(
            logits, op.Concat(op.Shape(input_ids), op.ints(config.vocab_size), axis=0)
        )
    # (batch, step, hidden)
    rows = op.Reshape(x, op.Concat(op.Shape(input_ids), op.ints(config.hidden_size), axis=0))
    step = op.Shape(input_ids, start=1, end=2)
    # (batch, num_logits, hidden)
    wanted = op.Slice(rows, op.Sub(step, num_logits), step, op.ints(1))
    logits = head(op, op.Reshape(wanted, op.ints(-1, config.hidden_size)), norm)
    batch = op.Shape(input_ids, start=0, end=1)
    return op.Reshape(
        logits, op.Concat(batch, num_logits, op.ints(config.vocab_size), axis=0), allowzero=1
    )


def _greedy(op: Recorder, logits: ir.Value) -> ir.Value:
    """The most likely token of each position (batch, num_logits); -1 where a logit is infinite or
    not a number: 0 times it is no 0.
    """
    nothing = op.ReduceSum(op.Mul(logits, op.scalar(0.0, np.float32)), op.ints(-1), keepdims=0)
    numbers = op.Equal(nothing, op.scalar(0.0, np.float32))
    return op.Where(numbers, op.ArgMax(logits, axis=-1, keepdims=0), op.scalar(-1, np.int64))
