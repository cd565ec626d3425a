"""A loaded bundle: its graphs on their devices, and the steps that they compute."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from sc2onnx.bundle.contract import GREEDY_IDS, WEIGHTS_FILE
from sc2onnx.bundle.kernels import ADAPTER_WEIGHTS
from sc2onnx.bundle.steps import EVEN
from sc2onnx.errors import AdapterError, BundleIntegrityError, InferenceError
from sc2onnx.runtime.cache.storage import InMemory, Storage
from sc2onnx.runtime.forks import Process
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.ort.adapter_bank import AdapterBank, KernelBank, LaneBank
from sc2onnx.runtime.ort.binding import Step
from sc2onnx.runtime.ort.cuda import captures_graphs
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.graph import Graph
from sc2onnx.runtime.ort.kernels import Kernels
from sc2onnx.runtime.ort.loading import Substitute, load_on
from sc2onnx.runtime.ort.options import SPIN, add_kernels, run_options, session_options
from sc2onnx.runtime.ort.steps import agreeing, steps_agree
from sc2onnx.runtime.ort.storage import Storages, ort_value


class Session:
    """Loaded graphs, on their devices. Several threads may run them at once,
    each with buffers of its own.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int,
        devices: Sequence[Device] = (Device(),),
        *,
        instead: Sequence[Substitute] = (),
        cuda_graphs: bool = True,
        spin: float = SPIN,
        kernels: Kernels | None = None,
        packed: Path | None = None,
    ) -> None:
        """``threads``: intra-op threads of one step, which look for work for ``spin`` seconds
        before they sleep. ``devices``: one for each graph.

        ``instead``: graphs in the place of the bundle's. ``cuda_graphs``: steps of one token become
        CUDA graphs, where there is one stage. ``kernels``: run the bundle's graphs for them, on
        their weights in the file ``packed``, or packed into private memory. Raises
        :class:`InferenceError` and :class:`DeviceError`.
        """
        assert kernels is None or not instead
        self.kernels = kernels
        facts = bundle.manifest.model
        counts = bundle.manifest.stages or (facts.num_layers,)
        self.steps_agree = kernels is not None or steps_agree(bundle.manifest)
        """Whether a step of several tokens gives the tokens of as many steps of one: with the
        kernels, any step the same bits.
        """
        self.even_steps = kernels is None and agreeing(bundle.manifest) == EVEN
        """Whether steps of an even number of tokens agree with each other, to the last bit,
        but not with steps of one.
        """
        self._vocab, self._storage = facts.vocab_size, Storages(devices, counts)
        self.process = Process.here()
        """Where its threads are: in a child forked later it cannot run."""
        graphs = bundle.graphs if kernels is None else bundle.kernel_graphs
        quantised = bundle.manifest.quantization is not None and kernels is None

        def opened(files: Sequence[Path], instead: Sequence[Substitute], free: bool) -> list[Graph]:
            found = list[Graph]()
            for number, (device, layers) in enumerate(zip(devices, _ranges(counts), strict=True)):
                options = session_options(threads, quantised, spin)
                if kernels is not None:
                    add_kernels(kernels, options, threads, packed)
                captures = free and cuda_graphs and device.on_gpu and len(counts) == 1
                session = load_on(
                    files[number], options, device, captures, instead[number] if instead else None
                )
                found.append(_graph(session, device, layers, captures))
            return found

        self._opened, self._bundle, self._replaced = opened, bundle, bool(instead)
        self.graphs = opened(graphs, instead, True)
        """One for each stage."""
        dtype = bundle.manifest.cache.dtype
        self.adapters: AdapterBank = (
            LaneBank(facts, dtype) if kernels is None else KernelBank(facts)
        )
        """The adapters that are loaded."""
        self._adapted = False

    @property
    def storage(self) -> Storage:
        """Where its caches lie: in memory, or on its devices."""
        return self._storage if self.on_gpu else InMemory()

    @property
    def on_gpu(self) -> bool:
        """Whether there is a stage on a GPU."""
        return self._storage.on_gpu

    @property
    def chooses(self) -> bool:
        """Whether its steps can give the most likely tokens instead of logits."""
        return GREEDY_IDS in self.graphs[-1].outputs and self.on_gpu

    def bind(self, buffers: Sequence[Any]) -> Step:
        """A reusable step over these cache buffers: (key, value) by layer, read and written in
        place. uint16 holds bfloat16.
        """
        self.process.check()
        return Step(self.graphs, self._vocab, buffers, self.adapters.fixed)

    def adapt(self, on: bool) -> None:
        """Have graphs that take adapters, or those that take none, which cost less. Whoever has
        bound steps binds them anew.

        Raises :class:`AdapterError` where the bundle has none, and :class:`InferenceError`.
        """
        if self.kernels is not None:
            if on and ADAPTER_WEIGHTS not in self.graphs[0].inputs:
                raise AdapterError(
                    "the bundle's graphs for sc2onnx-kernels take no adapters: export it again "
                    "with this version, or merge the adapter (sc2onnx export --adapter)"
                )
            return
        if on == self._adapted:
            return
        if self._replaced or not self._bundle.manifest.adapter_graphs:
            raise AdapterError(
                "the bundle has no graph that takes adapters: export it again with this version, "
                "or merge the adapter at export (sc2onnx export --adapter)"
            )
        files = self._bundle.adapter_graphs if on else self._bundle.graphs
        self.graphs = self._opened(files, (), not on)
        self._bundle.check_unchanged(*(file.name for file in files), WEIGHTS_FILE)
        self._adapted = on

    def settle(self) -> bool:
        """Give the memory back of adapters that nobody has any more. Whether steps are to be bound
        anew.
        """
        changed = self.adapters.settle()
        if changed and self.adapters.empty:
            with suppress(InferenceError, BundleIntegrityError):  # those that it has do as well
                self.adapt(on=False)
        return changed


def _graph(session: Any, device: Device, layers: range, captures: bool) -> Graph:
    """A loaded graph; on a GPU with a thread of its own, which all its passes are computed in."""
    captures = captures and captures_graphs(session, device)
    thread = ThreadPoolExecutor(1, "sc2onnx-gpu") if device.on_gpu else None
    return Graph(session, device, layers, run_options, ort_value, captures, thread)


def _ranges(counts: Sequence[int]) -> list[range]:
    """The layers of each stage, by how many it has: of 2 and 3 they are 0 to 1 and 2 to 4."""
    return [range(*ends) for ends in pairwise([0, *accumulate(counts)])]
