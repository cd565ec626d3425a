"""How a bundle may be loaded. Each keyword stands once, here, with its default and its check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, get_args

from sc2onnx.errors import RequestError
from sc2onnx.runtime.arguments import (
    check_keywords,
    flag,
    one_of,
    optional_text,
    shown,
    whole_number,
)
from sc2onnx.runtime.cache.shape import CHUNK
from sc2onnx.runtime.opening.bundle import Check
from sc2onnx.runtime.ort.kernels import CacheType, Use
from sc2onnx.runtime.ort.options import SPIN
from sc2onnx.runtime.ort.packing import Packed

MOST_THREADS: Final = 1024
"""Of one step: onnxruntime starts as many as it is told, whether or not the machine has them."""


class LoadKeywords(TypedDict, total=False):
    """The keywords of :class:`LoadOptions`, as type checkers see them."""

    revision: str | None
    device: str
    device_map: Sequence[str] | None
    threads: int | None
    spin: float
    cache_capacity: int | None
    prefill_chunk: int
    speculate: bool | None
    max_batch: int
    check: Check
    prefix_memory: int | None
    packed: Packed
    cuda_graphs: bool
    kernels: Use
    cache_type: CacheType


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What a model runs on, and how it goes about its work.

    ``revision``: branch, tag or commit of a hub id.
    ``device``: ``cpu``, ``cuda``, ``cuda:1`` (the second GPU) or ``auto``. ``device_map``:
    instead, one for each stage of a bundle that is cut. ``threads``: for one step; by
    default one per processor this process may use, quotas of its control groups respected.
    ``spin``: seconds that they look for work after a step before they sleep; 0 lets them
    sleep at once. ``cache_capacity``: the most slots of a sequence's cache, at least the
    sliding window; by default window + prefill_chunk - 1 (rounded up), at most the context,
    which a bundle for a GPU needs.
    ``prefill_chunk``: tokens of a prompt computed at once. ``speculate``: whether tokens that the
    text suggests are computed ahead, several in one step; they count only where the model draws the
    same. None: where a step of several gives the same numbers
    (:attr:`sc2onnx.runtime.ort.session.Session.steps_agree`), so that the tokens are those of
    decoding one by one; True: also where near ties may go the other way. ``max_batch``: the most
    requests that are computed together. ``check``: how the files are checked, see
    :data:`sc2onnx.runtime.opening.bundle.Check`. ``prefix_memory``: bytes of finished requests'
    caches to keep for later requests that begin alike; by default what two sequences of full
    capacity take, 0 keeps none. ``kernels``: whether a quantised bundle runs on the kernels of
    ``sc2onnx-kernels``, see :data:`sc2onnx.runtime.ort.kernels.Use`. ``cache_type``: what they keep
    of keys and values, ``int8`` (with a scale) or ``float32``; ``auto`` is int8. ``packed``:
    whether the weights that are packed for them are kept in the user's cache directory, for memory
    that processes share and a faster start, see :data:`sc2onnx.runtime.ort.packing.Packed`.
    ``cuda_graphs``: whether a GPU's steps of one token are captured and replayed.

    Raises :class:`~sc2onnx.errors.RequestError` on construction.
    """

    revision: str | None = None
    device: str = "cpu"
    device_map: Sequence[str] | None = None
    threads: int | None = None
    spin: float = SPIN
    cache_capacity: int | None = None
    prefill_chunk: int = CHUNK
    speculate: bool | None = None
    max_batch: int = 8
    check: Check = "auto"
    prefix_memory: int | None = None
    packed: Packed = "auto"
    cuda_graphs: bool = True
    kernels: Use = "auto"
    cache_type: CacheType = "auto"

    def __post_init__(self) -> None:
        one_of("packed", self.packed, get_args(Packed))
        one_of("check", self.check, get_args(Check))
        for name, least, most in _SIZES:
            if (value := getattr(self, name)) is not None or name in _NEEDED:
                object.__setattr__(self, name, whole_number(name, value, least, most))
        spin = self.spin
        if isinstance(spin, bool) or not isinstance(spin, (int, float)) or not 0 <= spin <= 1:
            raise RequestError(f"spin is {shown(spin)}, expected 0 to 1 second")
        if self.speculate is not None:
            flag("speculate", self.speculate)
        flag("cuda_graphs", self.cuda_graphs)
        devices = self.device_map
        if devices is not None and not isinstance(devices, (list, tuple)):
            raise RequestError(
                f"device_map is {shown(devices)}, expected a list of devices, one for each stage"
            )
        optional_text("revision", self.revision)

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> LoadOptions:
        """The options of a call's keywords. Raises :class:`TypeError` for others."""
        check_keywords(cls, keywords)
        return cls(**keywords)


_SIZES: Final = (
    ("prefill_chunk", 1, None),
    ("max_batch", 1, None),
    ("threads", 1, MOST_THREADS),
    ("cache_capacity", 1, None),
    ("prefix_memory", 0, None),
)

_NEEDED: Final = ("prefill_chunk", "max_batch")
"""Sizes that are not None."""
