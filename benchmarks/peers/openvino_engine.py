"""OpenVINO for its speed: converted from torch with its cache as state, in the manner of
optimum-intel; weights compressed by NNCF without data.

The cache grows as OpenVINO's does, in the precision that it chooses; the sliding window is in the
mask, and what has left it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from peers import Contender, Setting, Tokens
from sc2onnx.bench import Engine
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config

_GROUP: Final = 128
_FILE: Final = "openvino-int4.xml"


def contenders(setting: Setting) -> list[Contender]:
    """int4 in symmetric groups of 128; embedding and head are int8, NNCF's default."""
    return [
        Contender(
            f"OpenVINO int4, group {_GROUP}", partial(_prepare, setting), partial(_open, setting)
        )
    ]


def _prepare(setting: Setting) -> None:
    import nncf
    import openvino

    path = setting.scratch / _FILE
    if path.exists():
        return
    model = nncf.compress_weights(
        _convert(setting), mode=nncf.CompressWeightsMode.INT4_SYM, group_size=_GROUP, ratio=1.0
    )
    part = setting.scratch / "part.xml"
    openvino.save_model(model, part, compress_to_fp16=False)
    part.with_suffix(".bin").rename(path.with_suffix(".bin"))
    part.rename(path)


def _convert(setting: Setting) -> Any:
    """torch -> OpenVINO: tokens (1, n) after the state's -> logits (1, 1, vocab) of the last."""
    import openvino
    import torch

    from peers import torch_variants

    model = torch_variants.load(setting, torch.float32)
    config = Starcoder2Config.from_dict(Checkpoint.open(setting.checkpoint).config)
    window = config.sliding_window or config.max_position_embeddings

    class Forward(torch.nn.Module):
        """One step. The mask is given, because the one that transformers makes does not trace."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor, *past: torch.Tensor) -> Any:
            cache = _cache(past)
            before, count = past[0].shape[2], tokens.shape[1]
            keys, queries = (
                torch.arange(before + count)[None],
                before + torch.arange(count)[:, None],
            )
            seen = (keys <= queries) & (keys > queries - window)
            mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
            found = self.model(
                tokens,
                attention_mask=mask,
                position_ids=queries.T,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            # as updated
            return found.logits, *(
                tensor for layer in cache.layers for tensor in (layer.keys, layer.values)
            )

    shape = (1, config.num_key_value_heads, 8, config.head_dim)
    layers = config.num_hidden_layers
    names = [f"{kind}.{layer}" for layer in range(layers) for kind in ("key", "value")]
    example = (torch.ones(1, 4, dtype=torch.int64), *(torch.zeros(shape) for _ in names))
    with torch.inference_mode():
        converted = openvino.convert_model(Forward().eval(), example_input=example)
    for port, name in zip(
        converted.inputs, ["tokens", *(f"past.{name}" for name in names)], strict=True
    ):
        port.get_tensor().set_names({name})
        length = (
            [1, -1] if name == "tokens" else [1, config.num_key_value_heads, -1, config.head_dim]
        )
        port.get_node().set_partial_shape(openvino.PartialShape(length))
    for port, name in zip(
        converted.outputs, ["logits", *(f"present.{name}" for name in names)], strict=True
    ):
        port.get_tensor().set_names({name})
    converted.validate_nodes_and_infer_types()
    _keep_state(converted, names)
    return converted


def _cache(past: Sequence[Any]) -> Any:
    """Keys and values by layer as transformers' cache, without the empty tensor that it would begin
    with, which does not convert.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]
        layer.dtype, layer.device, layer.keys, layer.values, layer.is_initialized = (
            keys.dtype,
            keys.device,
            keys,
            values,
            True,
        )
        cache.layers.append(layer)
    return cache


def _keep_state(model: Any, names: list[str]) -> None:
    """Pasts and presents become variables.
    The CPU plugin fuses them with attention where the past is gathered by ``beam_idx``.
    """
    from openvino import PartialShape, Type, opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    beams = opset13.parameter(PartialShape([1]), Type.i32, name="beam_idx")
    beams.output(0).get_tensor().add_names({"beam_idx"})
    model.add_parameters([beams])
    for name in names:
        port = model.input(f"past.{name}")
        readers = port.get_target_inputs()
        gathered = opset13.gather(port, beams, opset13.constant(0))
        for reader in readers:
            reader.replace_source_output(gathered.output(0))
    model.validate_nodes_and_infer_types()
    # no tokens
    shape = [dim.min_length for dim in model.input(f"past.{names[0]}").get_partial_shape()]
    apply_make_stateful_transformation(model, {f"past.{name}": f"present.{name}" for name in names})
    empty = opset13.broadcast(
        opset13.constant(np.float32(0)), opset13.constant(np.array(shape, dtype=np.int64))
    )
    for node in model.get_ops():
        # the CPU plugin wants to be told what a state is at first
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty])
    model.validate_nodes_and_infer_types()


@contextmanager
def _open(setting: Setting) -> Iterator[Engine]:
    yield _Engine(setting)


class _Engine:
    """A compiled model and its state, placed like ours: keys and values are noise."""

    def __init__(self, setting: Setting) -> None:
        import openvino

        path = setting.scratch / _FILE
        self._config = Starcoder2Config.from_dict(Checkpoint.open(setting.checkpoint).config)
        self._request = (
            openvino.Core()
            .compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": setting.threads})
            .create_infer_request()
        )
        self._size = _weight_bytes(path)
        self._depth = 0

    @property
    def weights_read(self) -> int:
        """The weights file, without an embedding in int8 that is not the head as well."""
        unread = (
            0
            if self._config.tie_word_embeddings
            else self._config.vocab_size * self._config.hidden_size
        )
        return self._size - unread

    def place(self, depth: int) -> None:
        """A state of ``depth`` tokens of noise."""
        import openvino

        self._depth = depth
        self._request.reset_state()
        if depth:
            shape = (1, self._config.num_key_value_heads, depth, self._config.head_dim)
            noise = 0.1 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            for state in self._request.query_state():
                state.state = openvino.Tensor(noise)

    def append(self, tokens: Tokens) -> None:
        """One inference."""
        self._request.infer({"tokens": tokens[None], "beam_idx": np.zeros(1, dtype=np.int32)})

    def rewind(self, count: int) -> None:
        """To where it was placed, which is all that is ever asked for."""
        self.place(self._depth)


def _weight_bytes(path: Path) -> int:
    return path.with_suffix(".bin").stat().st_size
