"""Checkpoint names -> graph names, lazily: packing q, k and v, tying, casting; and whether
the checkpoint is complete.

Every matrix keeps the checkpoint's own layout, (out, in): nothing is transposed, so a weight
streams from disk to disk a few rows at a time (docs/decisions/0002-weight-layout.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from sc2onnx.errors import TensorError
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.names import ROTARY_BUFFERS, instead
from sc2onnx.export.shown import brief, name_of
from sc2onnx.export.stored import Readable

CHUNK_BYTES: Final = 16 << 20
"""Stored bytes read at once: large enough for the disk, small enough
not to be noticed in memory.
"""

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"
COS_CACHE: Final = "rotary.cos_cache"
SIN_CACHE: Final = "rotary.sin_cache"


@dataclass(frozen=True, slots=True)
class LazyWeight:
    """A weight of the graph that is made when it is written: ``chunks()`` yields
    it row block by row block.

    ``shares``: the name of an earlier weight whose bytes are this one's too, under another shape;
    nothing is written then. ``parts``: the tensors of the checkpoint that it is made of, one below
    the other, and their numbers of rows.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: Callable[[], Iterator[npt.NDArray[Any]]]
    shares: str | None = None
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes that it refers to; two elements of 4 bits share one."""
        bits = 4 if self.dtype == ml_dtypes.int4 else 8 * self.dtype.itemsize
        return prod(self.shape) * bits // 8


def total_bytes(weights: Iterable[LazyWeight]) -> int:
    """Bytes in the bundle, shared ones counted once."""
    return sum(weight.nbytes for weight in weights if weight.shares is None)


def checkpoint_shapes(config: Starcoder2Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint with this configuration must have."""
    hidden, inner = config.hidden_size, config.intermediate_size
    linears = {
        "self_attn.q_proj": (config.query_size, hidden),
        "self_attn.k_proj": (config.kv_size, hidden),
        "self_attn.v_proj": (config.kv_size, hidden),
        "self_attn.o_proj": (hidden, config.query_size),
        "mlp.c_fc": (inner, hidden),
        "mlp.c_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        for name, shape in linears.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            if config.use_bias:
                shapes[f"{prefix}.{name}.bias"] = shape[:1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{prefix}.{norm}.weight": (hidden,), f"{prefix}.{norm}.bias": (hidden,)}
    shapes |= {"model.norm.weight": (hidden,), "model.norm.bias": (hidden,)}
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, hidden)
    return shapes


def check_complete(checkpoint: Checkpoint, config: Starcoder2Config) -> None:
    """Raise :class:`TensorError` unless the checkpoint has exactly the tensors that ``config``
    asks for, in their shapes.
    """
    expected, found = checkpoint_shapes(config), checkpoint.tensors
    if missing := [name for name in expected if name not in found]:
        raise TensorError(
            f"the checkpoint lacks {some_tensors(missing)}, expected by config.json: "
            f"{_instead(missing, found, config)}: save it again whole, or correct config.json"
        )
    extra = [name for name in found if name not in expected and not name.endswith(ROTARY_BUFFERS)]
    if extra:
        raise TensorError(
            f"the checkpoint has {some_tensors(extra)}, which config.json leaves no place for: it "
            f"has {config.num_hidden_layers} layers with{'' if config.use_bias else 'out'} biases; "
            "correct it, or save the language model alone"
        )
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise TensorError(
                f"tensor {name} has shape {brief(found[name].shape)}, expected {shape} by "
                "config.json: correct whichever is wrong"
            )


def _instead(missing: list[str], found: Mapping[str, Readable], config: Starcoder2Config) -> str:
    """What is there in the place of missing tensors, in a clause."""
    if missing == [HEAD]:
        return "a model whose head is its embedding has tie_word_embeddings true there"
    if all(name.endswith(".bias") for name in missing) and not any(
        name.endswith("_proj.bias") for name in found
    ):
        return "it has no biases, use_bias is true there"
    return instead(missing, found, config.num_hidden_layers)


def graph_weights(
    checkpoint: Checkpoint, config: Starcoder2Config, dtype: np.dtype[Any]
) -> dict[str, LazyWeight]:
    """Every weight of the graph by its name there, in the order in which they are
    written, cast to ``dtype``.
    """
    tensors = checkpoint.tensors
    weights = [_cast(EMBEDDING, [tensors[EMBEDDING]], dtype)]
    weights += rotary_tables(config, dtype)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        for kind in ("weight", "bias"):
            weights += [
                _cast(f"{prefix}.{name}.{kind}", [tensors[f"{prefix}.{name}.{kind}"]], dtype)
                for name in ("input_layernorm", "post_attention_layernorm")
            ]
            if kind == "bias" and not config.use_bias:
                continue
            qkv = [tensors[f"{prefix}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            weights.append(_cast(f"{prefix}.self_attn.qkv_proj.{kind}", qkv, dtype))
            weights += [
                _cast(f"{prefix}.{name}.{kind}", [tensors[f"{prefix}.{name}.{kind}"]], dtype)
                for name in ("self_attn.o_proj", "mlp.c_fc", "mlp.c_proj")
            ]
    names = [
        "model.norm.weight",
        "model.norm.bias",
        *([] if config.tie_word_embeddings else [HEAD]),
    ]
    weights += [_cast(name, [tensors[name]], dtype) for name in names]
    return {weight.name: weight for weight in weights}


def rotary_tables(config: Starcoder2Config, dtype: np.dtype[Any]) -> list[LazyWeight]:
    """Cosine and sine of every position, each (context, head_dim / 2).

    Transformers computes ``position * (1 / theta ** (2 i / head_dim))`` in float32, and that
    rounding is part of the reference: at position 16000 the phase is off by up to 5e-4 against
    exact arithmetic. So theta, the power, its inverse and the product round to float32 here as
    they do there, each correctly, so that every machine gives the same bytes
    (docs/decisions/0005-rotary-rounding.md). Both are then rounded to the type of the
    activations, as transformers does.
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    powers = np.power(
        np.float64(np.float32(config.rope_theta)), exponents.astype(np.float64)
    ).astype(np.float32)
    inverse_frequencies = np.float32(1) / powers
    shape = (config.max_position_embeddings, config.head_dim // 2)

    def table(
        function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    ) -> Iterator[npt.NDArray[Any]]:
        for first in range(0, shape[0], 1024):
            positions = np.arange(first, min(first + 1024, shape[0]), dtype=np.float32)
            phases = positions[:, None] * inverse_frequencies
            yield function(phases.astype(np.float64)).astype(np.float32).astype(dtype)

    return [
        LazyWeight(COS_CACHE, shape, dtype, lambda: table(np.cos)),
        LazyWeight(SIN_CACHE, shape, dtype, lambda: table(np.sin)),
    ]


def recast(weight: LazyWeight, dtype: np.dtype[Any]) -> LazyWeight:
    """The same weight in another type of float.
    What is beyond its range is an error when it is written (:class:`TensorError`).
    """
    return (
        weight
        if weight.dtype == dtype
        else replace(
            weight,
            dtype=dtype,
            chunks=lambda: (_rounded(weight.name, rows, dtype) for rows in weight.chunks()),
        )
    )


def _cast(name: str, parts: list[Readable], dtype: np.dtype[Any]) -> LazyWeight:
    """One weight from tensors stacked along their first axis."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def chunks() -> Iterator[npt.NDArray[Any]]:
        for part in parts:
            row = max(1, prod(part.shape[1:]) * part.itemsize)
            yield from (
                _rounded(part.name, rows, dtype) for rows in part.rows(max(1, CHUNK_BYTES // row))
            )

    return LazyWeight(
        name, shape, dtype, chunks, parts=tuple((part.name, part.shape[0]) for part in parts)
    )


def _rounded(name: str, rows: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """``rows`` in ``dtype``. Raises :class:`TensorError` for numbers that are not finite, or beyond
    its range, which would not stay so.
    """
    with np.errstate(over="ignore"):
        cast = rows.astype(dtype)
    if not np.isfinite(rows).all():
        broken = rows[~np.isfinite(rows)]
        raise TensorError(
            f"tensor {name} holds {float(broken[0])} ({len(broken)} such numbers), expected finite "
            "ones: the checkpoint is damaged"
        )
    if (
        dtype == np.float16
        and rows.dtype != dtype
        and (lost := np.isinf(cast) & np.isfinite(rows)).any()
    ):
        raise TensorError(
            f"tensor {name} holds {float(rows[lost][0])}, expected at most 65504 in fp16: export "
            "it as bf16 (--precision bf16)"
        )
    return cast


def some_tensors(names: list[str]) -> str:
    """``tensor a``, ``tensors a, b``; of more than 4, the first and how many there are."""
    shown = ", ".join(map(name_of, names[:4]))
    return (
        f"{len(names)} tensors ({shown}, ...)"
        if len(names) > 4
        else f"tensor {shown}"
        if len(names) == 1
        else f"tensors {shown}"
    )


def total_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Parameters of the checkpoint, each counted once."""
    return sum(map(prod, shapes.values()))
