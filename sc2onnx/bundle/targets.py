"""What a bundle is made for: one record for each runtime, with everything that differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sc2onnx.bundle.contract import GROWING, LINEAR, RING
from sc2onnx.errors import RequestError

Attention = Literal["ring", "scattered-ring", "grouped-query", "masked-grouped-query", "growing"]
"""``ring`` and ``scattered-ring`` are of standard operators over a ring, the second without
``TensorScatter``; ``grouped-query`` is ONNX Runtime's operator, ``masked-grouped-query`` the same
behind an attention mask; ``growing`` is of standard operators over a cache that grows."""

Products = Literal["nbits", "nbits-apart", "standard"]
"""``nbits`` is ``MatMulNBits`` with the bias inside and activations in 8 bits, ``nbits-apart`` the
same operator with the bias behind it, ``standard`` is ``DequantizeLinear`` and ``MatMul``."""

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a bundle for one runtime has that those for others have not.

    ``runner`` runs it: ``sc2onnx``, or the name of another program. ``device`` is where it can run
    fast. ``cache`` is the kind of the cache (:mod:`sc2onnx.bundle.contract`); ``floats`` are the
    precisions without integers that it may have; ``floating`` is the type of everything beside
    integers that is none, and ``scales`` that of their scales as stored. ``attention`` and
    ``products`` say which operators the graph has. ``package`` installs what runs it,
    ``half_package`` the same for half precision. ``kernels``: integers get a second graph for
    sc2onnx-kernels. ``chooses``: the graph gives the most likely tokens as well. ``config_file`` is
    a file of its own that the runner reads, if it is not empty; such a runner knows one chat
    template. ``adapters``: there is a
    second graph that takes adapters (:mod:`sc2onnx.bundle.adapters`).
    """

    name: str
    runner: str
    device: Device
    cache: str
    floats: tuple[str, ...]
    floating: str
    scales: str
    attention: Attention
    products: Products
    package: str
    half_package: str
    kernels: bool = False
    chooses: bool = False
    config_file: str = ""
    adapters: bool = False

    @property
    def own(self) -> bool:
        """Whether sc2onnx runs it.

        Other runtimes take an ``attention_mask`` instead of lengths, one graph only, and how many
        positions of a row are seen is their own business.
        """
        return self.runner == _OURS

    @property
    def transposed(self) -> bool:
        """Whether codes and scales are stored by input, as standard operators take them."""
        return self.products == "standard"

    def installed_by(self, dtype: str) -> str:
        """Return the package for pip that runs a bundle whose cache is of this type."""
        return self.package if dtype == "float32" else self.half_package


_OURS: Final = "sc2onnx"

CPU: Final = Target(
    name="cpu",
    runner=_OURS,
    device="cpu",
    cache=RING,
    floats=("fp32",),
    floating="float32",
    scales="bfloat16",
    attention="ring",
    products="nbits",
    package=".[cpu]",
    half_package=".[cpu]",
    kernels=True,
    adapters=True,
)
"""ONNX Runtime on a CPU, with its own operators."""

PORTABLE: Final = Target(
    name="portable",
    runner=_OURS,
    device="cpu",
    cache=RING,
    floats=("fp32",),
    floating="float32",
    scales="float32",
    attention="scattered-ring",
    products="standard",
    package=".[cpu]",
    half_package=".[cpu]",
    adapters=True,
)
"""Standard operators only."""

CUDA: Final = Target(
    name="cuda",
    runner=_OURS,
    device="cuda",
    cache=LINEAR,
    floats=("fp16", "bf16"),
    floating="float16",
    scales="float16",
    attention="grouped-query",
    products="nbits-apart",
    package=".[gpu]",
    half_package=".[gpu]",
    chooses=True,
    adapters=True,
)
"""ONNX Runtime on a GPU."""

GENAI: Final = Target(
    name="genai",
    runner="onnxruntime-genai",
    device="cpu",
    cache=LINEAR,
    floats=("fp32", "fp16", "bf16"),
    floating="float32",
    scales="float32",
    attention="masked-grouped-query",
    products="nbits",
    package="onnxruntime-genai",
    half_package="onnxruntime-genai-cuda",
    config_file="genai_config.json",
    adapters=True,
)
"""onnxruntime-genai, in half precision on a GPU."""

OPTIMUM: Final = Target(
    name="optimum",
    runner="optimum's ORTModelForCausalLM",
    device="cpu",
    cache=GROWING,
    floats=("fp32",),
    floating="float32",
    scales="float32",
    attention="growing",
    products="nbits",
    package="optimum-onnx[onnxruntime]",
    half_package="optimum-onnx[onnxruntime]",
)
"""optimum, and whatever else calls a model as transformers does."""

TARGETS: Final[Mapping[str, Target]] = {
    target.name: target for target in (CPU, PORTABLE, CUDA, GENAI, OPTIMUM)
}
"""Every target by the name that the command line and the manifest give it."""

OWN_TARGETS: Final = tuple(target for target in TARGETS.values() if target.own)
"""Targets whose bundles sc2onnx runs."""


def target(name: str) -> Target:
    """Return a target by its name. Raises :class:`~sc2onnx.errors.RequestError` with the list."""
    if name not in TARGETS:
        raise RequestError(f"target is {name!r}, expected one of {', '.join(TARGETS)}")
    return TARGETS[name]
