"""What is verified: a bundle of our own runtime, or a graph that others drive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import DeviceError
from sc2onnx.evaluate.measure import Floats
from sc2onnx.runtime.arguments import shown
from sc2onnx.runtime.loading import Place, open_model
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.ort.device_map import check_suits, chosen_devices
from sc2onnx.runtime.ort.kernels import Use
from sc2onnx.runtime.results import Token
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.verify.emulate import emulated
from sc2onnx.verify.foreign import Foreign, is_export


class Played(Protocol):
    """A sequence that cases are played on."""

    def append(self, tokens: npt.NDArray[np.int64]) -> Floats | None:
        """tokens (n,) -> logits (n, vocab)."""
        ...

    def rewind(self, count: int) -> None:
        """Drop the last tokens."""
        ...


class Subject(Protocol):
    """What a comparison needs of a model."""

    @property
    def manifest(self) -> Manifest:
        """What is known of it."""
        ...

    @property
    def codec(self) -> Codec:
        """Its tokenizer."""
        ...

    @property
    def rewindable(self) -> int:
        """Tokens that can be rewound at any depth."""
        ...

    def sequence(self) -> AbstractContextManager[Played]:
        """An empty sequence."""
        ...

    def generate_tokens(
        self,
        prompt: npt.NDArray[np.int64],
        *,
        max_new_tokens: int,
        stop_tokens: Iterable[int] | None,
    ) -> Iterator[Token]:
        """Greedy tokens after prompt (n,)."""
        ...


def open_subject(directory: Path, kernels: Use = "off", device: str = "cpu") -> Subject:
    """What is in a directory, on the CPU, also where the runtime refuses it: in half precision,
    its roundings are emulated.

    ``kernels``: whether the graph for them is the subject. ``device``: a GPU computes a bundle for
    one as it is, and nothing is emulated.
    Raises :class:`~sc2onnx.errors.BundleError` and its subclasses, and
    :class:`~sc2onnx.errors.DeviceError`.
    """
    on_gpu = device != "cpu"
    if is_export(directory):
        if on_gpu:
            raise DeviceError(
                f"device is {shown(device)}, and what optimum wrote is verified on the CPU alone"
            )
        return Foreign.of_export(directory)
    opened = Bundle.open(directory, others=not on_gpu)
    if on_gpu:
        devices = chosen_devices(device, None, opened.manifest)
        check_suits(opened.manifest, devices)
        return open_model(opened, place=Place(devices, kernels=kernels))
    halves = opened.manifest.cache.dtype != "float32"
    graphs = [emulated(graph) for graph in opened.graphs] if halves else []
    if not opened.manifest.made_for.own:
        return Foreign.of_bundle(directory, opened.manifest, *graphs)
    return open_model(opened, graphs, place=Place(kernels=kernels))
