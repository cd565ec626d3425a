"""A loaded graph: what it computes and where, and what it keeps on its device."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy.typing as npt

from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.resident import Resident

if TYPE_CHECKING:
    from sc2onnx.runtime.ort.library import ort

MOST_CAPTURED: Final = 64
"""CUDA graphs that a session captures at most: each belongs to the buffers of one cache, and
stays as long as the session.
"""


@dataclass(slots=True)
class Graph:
    """A loaded graph, the layers that it computes, and where.
    ``captures``: its decode steps become CUDA graphs.
    """

    session: ort.InferenceSession
    device: Device
    layers: range
    # for steps that are the CUDA graph of this number, -1 for none
    new_options: Callable[[int], ort.RunOptions]
    # an OrtValue with these contents on that device
    new_value: Callable[[npt.NDArray[Any], Device], Any]
    captures: bool = False
    # of one thread, which all passes are computed in; None: the caller's
    thread: Executor | None = None
    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    captured: dict[tuple[Any, ...], Resident] = field(default_factory=dict)
    # of adapters, with what lies on the device of them
    matrices: dict[str, tuple[npt.NDArray[Any], Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        optional = self.session.get_overridable_initializers()
        self.inputs = frozenset(value.name for value in (*self.session.get_inputs(), *optional))
        self.outputs = frozenset(value.name for value in self.session.get_outputs())

    def run(self, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        """A forward pass. Whoever is interrupted while it is computed elsewhere waits for
        it: it writes to buffers.

        onnxruntime keeps what belongs to a GPU by thread: each new one would capture every graph
        again, 20 ms at the 3B shape.
        """
        if self.thread is None:
            self.session.run_with_iobinding(binding, options)
            return
        computed = self.thread.submit(self.session.run_with_iobinding, binding, options)
        try:
            computed.result()
        finally:
            wait([computed])

    def address(self, name: str, array: npt.NDArray[Any]) -> int:
        """Where a matrix of an adapter lies: where it is, or a copy on the device, which is made
        once.
        """
        if not self.device.on_gpu:
            return int(array.ctypes.data)
        if name not in self.matrices or self.matrices[name][0] is not array:
            self.matrices[name] = array, self.new_value(array, self.device)
        return int(self.matrices[name][1].data_ptr())

    def resident(self, key: tuple[Any, ...]) -> Resident | None:
        """The values and the number of the CUDA graph of these addresses and shapes; None if there
        are as many as there may be.
        """
        if key not in self.captured and len(self.captured) < MOST_CAPTURED:
            self.captured[key] = Resident(self.new_value, self.device, len(self.captured) + 1)
        return self.captured.get(key)
