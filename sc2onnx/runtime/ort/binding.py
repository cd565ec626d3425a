"""One forward pass with the cache bound in place: through one graph, or through the
stages of a model that is cut.

What the arrays of a step are bound to is decided here, by device: on the CPU they are read and
written where they lie; elsewhere they are copied into values that stay on the device, at addresses
that stay, as captured CUDA graphs need them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.contract import (
    GREEDY_IDS,
    HIDDEN,
    INPUT_IDS,
    LOGITS,
    NEXT_HIDDEN,
    NUM_LOGITS,
    PAST_LENGTHS,
    past_name,
    present_name,
)
from sc2onnx.bundle.kernels import CACHE_ROWS, STEP_LENGTHS
from sc2onnx.errors import CancelledError, InferenceError
from sc2onnx.runtime.exits import computing
from sc2onnx.runtime.ort.devices import Device

if TYPE_CHECKING:
    from sc2onnx.runtime.ort.library import ort

BFLOAT16: Final = 16
"""``onnx.TensorProto.BFLOAT16``: how ONNX Runtime is told of a type that numpy has not."""

_RESIDENT: Final = 64
"""Results of at most so many positions get a place of their own on the device; of more, which are
rare, they are copied out as they come.
"""

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


class Resident:
    """Values that stay on a device, by name and shape.
    ``number``: of the CUDA graph that reads and writes them; -1 for none.
    """

    def __init__(
        self, new_value: Callable[[npt.NDArray[Any], Device], Any], device: Device, number: int = -1
    ) -> None:
        self.number = number
        self._new_value, self._device = new_value, device
        self._values: dict[tuple[Any, ...], Any] = {}

    def filled(self, name: str, array: npt.NDArray[Any]) -> Any:
        """The value of that name and shape, with these contents."""
        key = (name, array.shape)
        if key in self._values:
            self._values[key].update_inplace(array)
        else:
            self._values[key] = self._new_value(array, self._device)
        return self._values[key]

    def place(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """The value of that name and shape, with whatever it holds."""
        key = (name, shape)
        if key not in self._values:
            self._values[key] = self._new_value(np.zeros(shape, dtype), self._device)
        return self._values[key]


class _Part:
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


class Step:
    """One forward pass with the cache bound in place.
    Not for two threads at once; :meth:`cancel` is for any thread.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        vocab: int,
        buffers: Sequence[Any],
        adapters: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """``graphs``: in order; ``buffers``: (key, value) by layer, over all of them;
        ``adapters``: the matrices of those that there are, by input.
        """
        self._held = list(buffers)  # the binding knows addresses only: the arrays must outlive it
        self._vocab = vocab
        self._parts = [
            _Part(graph, buffers[2 * graph.layers.start : 2 * graph.layers.stop], adapters or {})
            for graph in graphs
        ]
        self._cancelled = False

    def run(
        self,
        tokens: npt.NDArray[np.int64],
        past: npt.NDArray[np.int64],
        num_logits: int,
        *,
        ids: bool = False,
        ragged: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
        adapters: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> npt.NDArray[Any]:
        """tokens (batch, step) after past (batch,) cached ones -> logits float32
        (batch, num_logits, vocab).

        ``ids``: instead the most likely tokens, int64 (batch, num_logits), -1 where logits are no
        numbers; for graphs that choose. ``ragged``: of the runs that the tokens (1, n) are, their
        lengths and their rows of the cache; for graphs for the kernels. ``adapters``: inputs that
        say which token is computed with which adapter. Raises
        :class:`InferenceError`, or :class:`CancelledError` after :meth:`cancel`.
        """
        if num_logits == 0 and self._parts[-1].on_gpu:  # kernels of a GPU need not take nothing
            return self.run(tokens, past, 1, ids=ids, adapters=adapters)[:, :0]
        inputs = {
            INPUT_IDS: tokens,
            PAST_LENGTHS: past,
            NUM_LOGITS: np.array([num_logits], dtype=np.int64),
        }
        if ragged is not None:
            inputs[STEP_LENGTHS], inputs[CACHE_ROWS] = ragged
        inputs |= adapters or {}
        feeds = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        shape = (tokens.shape[0], num_logits)
        result = (
            np.empty(shape, dtype=np.int64)
            if ids
            else np.empty((*shape, self._vocab), dtype=np.float32)
        )
        hidden: Any = None
        try:
            with computing(self.cancel):
                for part in self._parts[:-1]:
                    hidden = part.run(feeds, hidden, None, "")
                return np.asarray(
                    self._parts[-1].run(feeds, hidden, result, GREEDY_IDS if ids else LOGITS)
                )
        except CancelledError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            if self._cancelled:
                raise CancelledError("the sequence was closed while it was computing") from None
            raise InferenceError(f"onnxruntime could not run the graph: {error}") from error

    def cancel(self) -> None:
        """Make a running and every later :meth:`run` stop with :class:`CancelledError`,
        within about one operator.
        """
        self._cancelled = True
        for part in self._parts:
            part.cancel()
