"""The only room that imports onnxruntime: providers, options, binding."""

from __future__ import annotations

import base64
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import CancelledError, DeviceError, InferenceError, MissingDependencyError
from sc2onnx.manifest import INPUT_IDS, LOGITS, NUM_LOGITS, PAST_LENGTHS, Manifest, ModelFacts, past_name, present_name

try:
    import onnxruntime as ort
except ImportError as error:
    raise MissingDependencyError(f'running a bundle needs onnxruntime ({error}): pip install "sc2onnx[cpu]"') from error


_BFLOAT16: Final = 16
"""``onnx.TensorProto.BFLOAT16``: how ONNX Runtime is told of a type that numpy has not."""


def default_threads() -> int:
    """One thread per processor that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_device(device: str) -> None:
    """Raise :class:`DeviceError` unless bundles of this version run on ``device``."""
    if device != "cpu":
        raise DeviceError(f"device is {device!r}, this version runs bundles on 'cpu' only: use device=\"cpu\"")


def check_runs_on_cpu(manifest: Manifest) -> None:
    """Warn (:class:`UserWarning`) of a bundle that is slow here; raise :class:`DeviceError` for one without kernels here."""
    if manifest.target != "cuda":
        return
    if manifest.cache.dtype == "bfloat16":
        raise DeviceError(
            f"the bundle is {manifest.precision} for {manifest.target}, and onnxruntime's CPU provider has no kernels for that: "
            "export it as fp32 to run it here; `sc2onnx verify` can check its numbers"
        )
    warnings.warn(
        f"the bundle is {manifest.precision} for {manifest.target}: on the CPU it is good for checking its numbers, but slow "
        "(export it for target cpu to use it here)",
        stacklevel=3,
    )


_SAME_FOR_ANY_STEP: Final = frozenset({"int4 in blocks of 32", "int8 in blocks of 32", "int8 in blocks of 64"})
"""Schemes whose products are the same to the last bit for one row of activations and for several (ONNX Runtime 1.32, x86-64 with AVX-512)."""


def steps_agree(manifest: Manifest) -> bool:
    """Whether a step of several tokens gives the logits of as many steps of one, on the CPU, but for rounding in float32.

    ``MatMulNBits`` sums the products of longer blocks in another order for one row than for several. That is the last bit of a float32, but
    activations are then rounded to int8: what comes out differs by half a percent, as it would by any other rounding, and near ties
    may go the other way (docs/decisions/0009-speculation.md).
    """
    return manifest.quantization is None or set(manifest.quantization.schemes.values()) <= _SAME_FOR_ANY_STEP


@dataclass(frozen=True, slots=True)
class Substitute:
    """A serialised graph in the place of the bundle's file. ``folder``: what the locations of its weights are relative to.

    ``optimised``: by this onnxruntime on this processor, so that it need not be again.
    """

    graph: bytes
    folder: Path
    optimised: bool = False


class Session:
    """A loaded graph. Several threads may run it at once, each with buffers of its own."""

    def __init__(self, graph: Path, facts: ModelFacts, threads: int, *, quantised: bool = False, instead: Substitute | None = None) -> None:
        """``threads``: intra-op threads of one step. ``quantised``: its matrices are integers. Raises :class:`InferenceError`."""
        options = _options(threads, quantised)
        if instead is not None and instead.optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        folder = graph.parent if instead is None else instead.folder
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self._session = _load(graph, options, None if instead is None else instead.graph)
        self._facts = facts

    def bind(self, buffers: Sequence[npt.NDArray[Any]]) -> Step:
        """A reusable step over these cache buffers: (key, value) by layer, read and written in place. uint16 holds bfloat16."""
        return Step(self._session, self._facts, buffers)


def build() -> str:
    """Version and build of onnxruntime: what it writes for itself is for that one alone."""
    return f"onnxruntime {ort.__version__} {ort.get_build_info()}"


def save_packed(graph: Path, optimised: Path, data: str) -> None:
    """Write the optimised graph of a quantised bundle, and beside it, to ``data``, its weights as they are and as packed.

    Takes the memory and the time of loading it, and the disk for both. Raises :class:`InferenceError`.
    """
    options = _options(1, quantised=True)
    options.optimized_model_filepath = str(optimised)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    _load(graph, options)


def _options(threads: int, quantised: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if quantised:  # their products want them packed; where they are written with standard operators, activations are int8 as well
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
    # Float weights run as fast from the mapped file as from a private packed copy at batch 1, load at once and stay
    # shared and reclaimable (docs/decisions/0002-weight-layout.md).
    options.add_session_config_entry("session.disable_prepacking", "0" if quantised else "1")
    return options


def _load(graph: Path, options: ort.SessionOptions, instead: bytes | None = None) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(instead or str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise InferenceError(f"onnxruntime {ort.__version__} could not load {graph}{_too_old()}: {error}") from error


def _too_old() -> str:
    """A hint where the installed onnxruntime is older than what the ``cpu`` extra asks for."""
    version = tuple(int(part) for part in ort.__version__.split(".")[:2])
    return ' (bundles need onnxruntime 1.32: pip install --upgrade "sc2onnx[cpu]")' if version < (1, 32) else ""


class Step:
    """One forward pass with the cache bound in place. Not for two threads at once; :meth:`cancel` is for any thread."""

    def __init__(self, session: ort.InferenceSession, facts: ModelFacts, buffers: Sequence[npt.NDArray[Any]]) -> None:
        self._session, self._vocab = session, facts.vocab_size
        self._options = ort.RunOptions()
        self._options.log_severity_level = 4  # a cancelled run is not worth an error line
        self._binding = session.io_binding()
        self._held = list(buffers)  # the binding knows addresses only: the arrays must outlive it
        names = [(layer, kind) for layer in range(facts.num_layers) for kind in ("key", "value")]
        for (layer, kind), buffer in zip(names, buffers, strict=True):
            element = _BFLOAT16 if buffer.dtype == np.uint16 else buffer.dtype.type
            self._binding.bind_input(past_name(layer, kind), "cpu", 0, element, buffer.shape, buffer.ctypes.data)
            self._binding.bind_output(present_name(layer, kind), "cpu", 0, element, buffer.shape, buffer.ctypes.data)

    def run(self, tokens: npt.NDArray[np.int64], past: npt.NDArray[np.int64], num_logits: int) -> npt.NDArray[np.float32]:
        """tokens (batch, step) after past (batch,) cached ones -> logits float32 (batch, num_logits, vocab).

        Raises :class:`InferenceError`, or :class:`CancelledError` after :meth:`cancel`.
        """
        inputs = {INPUT_IDS: tokens, PAST_LENGTHS: past, NUM_LOGITS: np.array([num_logits], dtype=np.int64)}
        inputs = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        logits = np.empty((tokens.shape[0], num_logits, self._vocab), dtype=np.float32)
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._binding.bind_output(LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            if self._options.terminate:
                raise CancelledError("the sequence was closed while it was computing") from None
            raise InferenceError(f"onnxruntime could not run the graph: {error}") from error
        return logits

    def cancel(self) -> None:
        """Make a running and every later :meth:`run` stop with :class:`CancelledError`, within about one operator."""
        self._options.terminate = True


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """An execution provider of the installed onnxruntime, and whether it ran a graph just now."""

    name: str
    works: bool
    detail: str


_PROBE: Final = base64.b64decode(
    "CAs67wEKbQoEcGFzdAoGdXBkYXRlCgRzbG90EgdwcmVzZW50GhRub2RlX1RlbnNvclNjYXR0ZXJfMCINVGVuc29yU2NhdHRlcioUCgRheGlzGP7//////////wGgAQIqEwoEbW9kZSIIY2lyY3VsYXKgAQMSBXByb2JlWh4KBHBhc3QSFgoUCAESEAoCCAEKAggBCgIIBAoCCAFaIAoGdXBkYXRlEhYKFAgBEhAKAggBCgIIAQoCCAEKAggBWhIKBHNsb3QSCgoICAcSBAoCCAFiIQoHcHJlc2VudBIWChQIARIQCgIIAQoCCAEKAggECgIIAUIECgAQGA=="
)
"""A graph of one TensorScatter (opset 24, circular): ``past (1, 1, 4, 1), update (1, 1, 1, 1), slot (1,) -> present``."""


def probe_providers() -> list[ProviderStatus]:
    """Try every provider that this onnxruntime offers on a small graph; the CPU must run the operator that bundles need."""
    local = (name for name in ort.get_available_providers() if name != "AzureExecutionProvider")  # that one calls a remote service
    return [_probe(name) for name in local]


def _probe(provider: str) -> ProviderStatus:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    feeds = {"past": np.zeros((1, 1, 4, 1), np.float32), "update": np.ones((1, 1, 1, 1), np.float32), "slot": np.array([3])}
    try:
        session = ort.InferenceSession(_PROBE, options, providers=[provider])
        present = session.run(None, feeds)[0]
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        return ProviderStatus(provider, False, str(error).splitlines()[0])
    if provider not in session.get_providers():
        return ProviderStatus(provider, False, "listed, but onnxruntime fell back to the CPU: its libraries or its device are missing")
    return ProviderStatus(provider, bool(present[0, 0, 3, 0] == 1.0), f"onnxruntime {ort.__version__}")
