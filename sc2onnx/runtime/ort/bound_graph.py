"""One graph with a cache bound in place.

What the arrays of a step are bound to is decided here, by device: on the CPU they are read and
written where they lie; elsewhere they are copied into values that stay on the device, at addresses
that stay, as captured CUDA graphs need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.contract import (
    HIDDEN,
    INPUT_IDS,
    NEXT_HIDDEN,
    NUM_LOGITS,
    past_name,
    present_name,
)
from sc2onnx.runtime.ort.graph import Graph
from sc2onnx.runtime.ort.resident import Resident

if TYPE_CHECKING:
    from sc2onnx.runtime.ort.library import ort

BFLOAT16: Final = 16
"""``onnx.TensorProto.BFLOAT16``: how ONNX Runtime is told of a type that numpy has not."""

_RESIDENT: Final = 64
"""Results of at most so many positions get a place of their own on the device; of more, which are
rare, they are copied out as they come.
"""


class BoundGraph:
    """One graph with the cache of its layers bound.
    ``buffers``: (key, value) by layer, arrays or OrtValues; uint16 holds bfloat16.
    """

    def __init__(
        self, graph: Graph, buffers: Sequence[Any], adapters: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        self._graph = graph
        self._options = {-1: graph.new_options(-1)}  # by CUDA graph
        self._cancelled = False
        self._binding = graph.session.io_binding()
        self._buffers = buffers
        if NEXT_HIDDEN in graph.outputs:  # first, so that it is the first of the outputs
            self._binding.bind_output(NEXT_HIDDEN, graph.device.kind, graph.device.index)
        self._bind_cache()
        self._bind_adapters(adapters)
        self._wanted = ""
        self._resident = Resident(graph.new_value, graph.device)

    def _bind_cache(self) -> None:
        device = (self._graph.device.kind, self._graph.device.index)
        names = [(layer, kind) for layer in self._graph.layers for kind in ("key", "value")]
        for (layer, kind), buffer in zip(names, self._buffers, strict=True):
            if isinstance(buffer, np.ndarray):
                bound = (
                    BFLOAT16 if buffer.dtype == np.uint16 else buffer.dtype.type,
                    buffer.shape,
                    buffer.ctypes.data,
                )
            else:
                bound = (buffer.element, buffer.shape, buffer.address)
            self._binding.bind_input(past_name(layer, kind), *device, *bound)
            self._binding.bind_output(present_name(layer, kind), *device, *bound)

    def _bind_adapters(self, adapters: Mapping[str, npt.NDArray[Any]]) -> None:
        """Bind the matrices of adapters, which are the same in every step."""
        graph, self._adapters = self._graph, adapters  # which must outlive the binding
        where = graph.device.kind, graph.device.index
        for name, array in adapters.items():
            if name in graph.inputs and array.size:  # else there is nothing by default
                element = BFLOAT16 if array.dtype == np.uint16 else array.dtype.type
                address = graph.address(name, array)
                self._binding.bind_input(name, *where, element, array.shape, address)

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self._graph.device.on_gpu

    def run(
        self,
        feeds: Mapping[str, npt.NDArray[Any]],
        hidden: Any,
        result: npt.NDArray[Any] | None,
        wanted: str,
    ) -> Any:
        """Hidden states for the next part, or ``wanted`` of its outputs in ``result``."""
        graph, binding = self._graph, self._binding
        home = self._home(feeds, result) if graph.device.on_gpu else None
        self._feed(feeds, home)
        if hidden is not None:
            # a session fetches nothing from a device that it does not know
            if not self.on_gpu and hidden.device_name() != "cpu":
                hidden = graph.new_value(hidden.numpy(), graph.device)
            binding.bind_ortvalue_input(HIDDEN, hidden)
        place = None
        if self._wanted not in ("", wanted):  # what was bound for the other would be computed into
            binding.clear_binding_outputs()
            self._bind_cache()
        self._wanted = wanted
        if result is None:
            binding.bind_output(NEXT_HIDDEN, graph.device.kind, graph.device.index)
        elif home is None or result.shape[0] * result.shape[1] > _RESIDENT:
            binding.bind_output(
                wanted, "cpu", 0, result.dtype.type, result.shape, result.ctypes.data
            )
        else:
            place = home.place(wanted, result.shape, result.dtype)
            binding.bind_ortvalue_output(wanted, place)
        graph.run(binding, self._options_for(-1 if home is None else home.number))
        if result is None:
            return binding.get_outputs()[0]
        # which may be the place itself, and the next step writes there
        return result if place is None else place.numpy().copy()

    def _home(
        self, feeds: Mapping[str, npt.NDArray[Any]], result: npt.NDArray[Any] | None
    ) -> Resident:
        """Where this step's inputs and outputs lie on the device: those of a CUDA graph, for a step
        of one token that may be captured.
        """
        graph, tokens = self._graph, feeds[INPUT_IDS]
        if not graph.captures or tokens.shape[1] != 1 or result is None or result.shape[1] != 1:
            return self._resident
        return (
            graph.resident(
                (tokens.shape, result.dtype.char, *(buffer.address for buffer in self._buffers))
            )
            or self._resident
        )

    def _options_for(self, number: int) -> ort.RunOptions:
        if number not in self._options:
            self._options[number] = self._graph.new_options(number)
            if self._cancelled:
                self.cancel()
        return self._options[number]

    def cancel(self) -> None:
        """Stop a running and every later run."""
        # before the options are looked at: those that another thread is
        # making look at it afterwards
        self._cancelled = True
        for options in list(self._options.values()):
            options.terminate = True

    def _feed(self, feeds: Mapping[str, npt.NDArray[Any]], home: Resident | None) -> None:
        for name, array in feeds.items():
            if name not in self._graph.inputs:
                continue
            if home is None or name == NUM_LOGITS:  # a shape, which is read on the CPU
                element = BFLOAT16 if array.dtype == np.uint16 else array.dtype.type
                self._binding.bind_input(name, "cpu", 0, element, array.shape, array.ctypes.data)
            elif array.dtype == np.uint16:  # bfloat16, as adapters' lanes are
                value, device = home.filled(name, array), self._graph.device
                where = device.kind, device.index
                self._binding.bind_input(name, *where, BFLOAT16, array.shape, value.data_ptr())
            else:
                self._binding.bind_ortvalue_input(name, home.filled(name, array))
