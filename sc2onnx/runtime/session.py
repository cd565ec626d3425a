"""The only room that knows onnxruntime's API: providers, options, binding."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.contract import GREEDY_IDS, LINEAR, RING, WEIGHTS_FILE
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.steps import ANY, EVEN, NONE, agreeing_steps
from sc2onnx.errors import CancelledError, DeviceError, InferenceError
from sc2onnx.hints import install
from sc2onnx.runtime.arguments import shown
from sc2onnx.runtime.bundle import Bundle
from sc2onnx.runtime.cache import InMemory, Storage
from sc2onnx.runtime.device import Device, cuda_libraries, driver, missing_libraries, unsuitable
from sc2onnx.runtime.exits import computing
from sc2onnx.runtime.forks import Process, keep_for_ever, outlive
from sc2onnx.runtime.limits import processors
from sc2onnx.runtime.ort.kernels import Kernels
from sc2onnx.runtime.ort.library import ort
from sc2onnx.runtime.step import BFLOAT16, Graph, Step
from sc2onnx.runtime.wire import with_places

SPIN: Final = 0.001
"""Seconds that idle threads look for work by default: as fast as ONNX Runtime's own default, at a tenth of its idle work (docs/measurements.md)."""


def default_threads() -> int:
    """One thread per processor that this process may use: by its affinity, and by the quotas of the groups that it is in."""
    return processors()


def chosen_devices(device: str, device_map: Sequence[str] | None, manifest: Manifest) -> tuple[Device, ...]:
    """A device for each graph. ``auto``: the first GPU where that works and the bundle is for one, else the CPU.

    Raises :class:`DeviceError` for names that mean nothing and maps of another length than the bundle has stages.
    """
    stages = len(manifest.graphs)
    if device_map is None:
        if isinstance(device, str) and device == "auto":
            wanted = manifest.made_for.device
            device = wanted if wanted == "cpu" or cuda_trouble(Device(wanted)) is None else "cpu"
        return (Device.named(device),) * stages
    if isinstance(device_map, str) or len(device_map) != stages:
        expected = f"expected a list of {stages}, one for each stage of the bundle (`sc2onnx export --stages` makes more)"
        raise DeviceError(f"device_map is {shown(device_map)}, {expected}")
    return tuple(Device.named(name) for name in device_map)


def check_suits(manifest: Manifest, devices: Sequence[Device]) -> None:
    """Warn (:class:`UserWarning`) of a bundle that is slow on the CPU; raise :class:`DeviceError` for one without kernels on its device."""
    for device in devices:
        if device.kind == "cuda" and manifest.cache.kind != LINEAR:
            raise DeviceError(
                f"device is '{device}' and the bundle is {manifest.precision} for {manifest.target}, which runs on the CPU: "
                'export it for a GPU (--target cuda, in fp16, bf16, int8 or int4), or use device="cpu"'
            )
    if manifest.made_for.device == "cpu" or all(device.kind == "cuda" for device in devices):
        return
    if manifest.cache.dtype == "bfloat16":
        raise DeviceError(
            f"the bundle is {manifest.precision} for {manifest.target}, and onnxruntime's CPU provider has no kernels for that: "
            'export it as fp32 to run it here, or run it on a GPU (device="cuda"); `sc2onnx verify` can check its numbers'
        )
    warnings.warn(
        f"the bundle is {manifest.precision} for {manifest.target}: on the CPU it is good for checking its numbers, but slow "
        "(export it for target cpu to use it here)",
        stacklevel=3,
    )


def steps_agree(manifest: Manifest) -> bool:
    """Whether a step of several tokens gives the tokens of as many steps of one, on the CPU.

    In float32 the logits differ by rounding alone, 1e-5 of the largest; in integers they are the same to the last bit, or the last bit
    decides how the next activations are rounded to int8, and they differ by up to a per cent (:mod:`sc2onnx.bundle.steps`). Bundles of
    earlier versions are not written for it. In half precision every kernel rounds in its own way (docs/decisions/0013-cuda.md).
    """
    if manifest.cache.dtype != "float32":
        return False
    return manifest.quantization is None or _agreeing(manifest) == ANY


def _agreeing(manifest: Manifest) -> str:
    """What a bundle of integers says of its steps, as far as its schemes allow it."""
    quantization, facts = manifest.quantization, manifest.model
    if quantization is None or manifest.cache.kind != RING:
        return NONE
    possible = agreeing_steps(quantization.schemes.values(), facts.num_heads, facts.num_kv_heads, facts.head_dim)
    return possible if possible == manifest.agreeing_steps else NONE


@dataclass(frozen=True, slots=True)
class Substitute:
    """A serialised graph in the place of the bundle's file. ``folder``: what the locations of its weights are relative to."""

    graph: bytes
    folder: Path


class Session:
    """Loaded graphs, on their devices. Several threads may run them at once, each with buffers of its own."""

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
        """``threads``: intra-op threads of one step, which look for work for ``spin`` seconds before they sleep. ``devices``: one for each graph.

        ``instead``: graphs in the place of the bundle's. ``cuda_graphs``: steps of one token become CUDA graphs, where there is one stage.
        ``kernels``: run the bundle's graphs for them, on their weights in the file ``packed``, or packed into private memory.
        Raises :class:`InferenceError` and :class:`DeviceError`.
        """
        assert kernels is None or not instead
        self.kernels = kernels
        facts = bundle.manifest.model
        counts = bundle.manifest.stages or (facts.num_layers,)
        self.steps_agree = kernels is not None or steps_agree(bundle.manifest)
        """Whether a step of several tokens gives the tokens of as many steps of one: with the kernels, any step the same bits."""
        self.even_steps = kernels is None and _agreeing(bundle.manifest) == EVEN
        """Whether steps of an even number of tokens agree with each other, to the last bit, but not with steps of one."""
        self._vocab, self._storage = facts.vocab_size, Storages(devices, counts)
        self.process = Process.here()
        """Where its threads are: in a child forked later it cannot run."""
        self._graphs, first = list[Graph](), 0
        graphs = bundle.graphs if kernels is None else bundle.kernel_graphs
        for number, (device, count) in enumerate(zip(devices, counts, strict=True)):
            options = _options(threads, bundle.manifest.quantization is not None and kernels is None, spin)
            if kernels is not None:
                _run_on(kernels, options, threads, packed)
            captures = cuda_graphs and device.away and len(counts) == 1
            session = _opened(graphs[number], options, device, captures, instead[number] if instead else None)
            captures = captures and _captures(session, device)
            lock = threading.Lock() if captures else nullcontext()
            self._graphs.append(Graph(session, device, range(first, first + count), _run_options, _value, captures, lock))
            first += count

    @property
    def storage(self) -> Storage:
        """Where its caches lie: in memory, or on its devices."""
        return self._storage if self._storage.elsewhere else InMemory()

    @property
    def chooses(self) -> bool:
        """Whether its steps can give the most likely tokens instead of logits."""
        return GREEDY_IDS in self._graphs[-1].outputs and self._storage.elsewhere

    def bind(self, buffers: Sequence[Any]) -> Step:
        """A reusable step over these cache buffers: (key, value) by layer, read and written in place. uint16 holds bfloat16."""
        self.process.check()
        return Step(self._graphs, self._vocab, buffers)


@dataclass(frozen=True)
class DeviceBuffer:
    """Part of a cache on a device. ``element``: of what numpy or ONNX type it is."""

    value: ort.OrtValue
    shape: tuple[int, ...]
    element: Any

    @property
    def address(self) -> int:
        """Where it lies."""
        return int(self.value.data_ptr())


class Storages:
    """The caches of a model, each layer's where its stage runs.

    Buffers that are given up are used again, those of one cache together: a CUDA graph belongs to addresses.
    """

    _FREE: Final = 2
    """Sets of buffers of one size that wait to be used again."""

    def __init__(self, devices: Sequence[Device], counts: Sequence[int]) -> None:
        self._devices = [device for device, count in zip(devices, counts, strict=True) for _ in range(2 * count)]  # by buffer
        self._free: dict[tuple[Any, ...], list[tuple[int, ort.OrtValue]]] = {}
        self._made: dict[tuple[Any, ...], int] = {}
        self._lock, self._process = threading.RLock(), Process.here()

    @property
    def elsewhere(self) -> bool:
        """Whether there is a device that is not the CPU."""
        return any(device.away for device in self._devices)

    def put(self, number: int, array: npt.NDArray[Any]) -> Any:
        """A buffer of layer ``number // 2`` with these contents."""
        device = self._devices[number]
        if not device.away:
            return array
        key = (number, array.shape, array.dtype.str)
        with self._lock:
            waiting = self._free.get(key, [])
            order, value = waiting.pop(0) if waiting else (self._made.get(key, 0), None)
            if value is None:
                self._made[key] = order + 1
        if value is None:
            value = _value(array, device)
        else:
            value.update_inplace(np.ascontiguousarray(array))
        buffer = DeviceBuffer(value, array.shape, BFLOAT16 if array.dtype == np.uint16 else array.dtype.type)
        weakref.finalize(buffer, self._release, key, order, value).atexit = False
        return buffer

    def get(self, number: int, buffer: Any) -> npt.NDArray[Any]:
        """The contents of a buffer."""
        return buffer if isinstance(buffer, np.ndarray) else np.asarray(buffer.value.numpy())

    def _release(self, key: tuple[Any, ...], order: int, value: ort.OrtValue) -> None:
        if self._process.forked:  # where the device cannot be used, not even to free what is on it
            keep_for_ever(value)
            return
        with self._lock:
            waiting = self._free.setdefault(key, [])
            waiting.append((order, value))
            waiting.sort(key=lambda entry: entry[0])
            del waiting[self._FREE :]


def open_graph(graph: Path, *, quantised: bool = False, instead: bytes | None = None) -> ort.InferenceSession:
    """A graph by itself, on the CPU, for callers that drive it on their own. Raises :class:`InferenceError`."""
    options = _options(default_threads(), quantised)
    return _opened(graph, options, Device(), False, None if instead is None else Substitute(instead, graph.parent))


def tensor(array: npt.NDArray[Any]) -> ort.OrtValue:
    """An array as onnxruntime holds it; uint16 is bfloat16."""
    if array.dtype == np.uint16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), BFLOAT16)
    return _value(array, Device())


def _options(threads: int, quantised: bool, spin: float = SPIN) -> ort.SessionOptions:
    """``quantised``: whether ONNX Runtime's own kernels compute with integers, for which they pack weights."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(round(spin * 1e6)))
    if spin == 0:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if quantised:  # their products want them packed; where they are written with standard operators, activations are int8 as well
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
        options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "1")
    # Float weights run as fast from the mapped file as from a private packed copy at batch 1, load at once and stay
    # shared and reclaimable (docs/decisions/0002-weight-layout.md).
    options.add_session_config_entry("session.disable_prepacking", "0" if quantised else "1")
    return options


def _run_on(kernels: Kernels, options: ort.SessionOptions, threads: int, packed: Path | None) -> None:
    """Have our kernels in a session. What they are told is read while they are registered; ``threads`` pack where nothing is packed.

    Raises :class:`InferenceError`, also for packed weights that are none.
    """
    options.add_session_config_entry("sc2onnx.threads", str(threads))
    if packed is not None:
        options.add_session_config_entry("sc2onnx.packed", native(packed))
    try:
        options.register_custom_ops_library(str(kernels.path))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise InferenceError(f"onnxruntime {ort.__version__} did not take sc2onnx-kernels {kernels.version}: {error}") from error


def _opened(graph: Path, options: ort.SessionOptions, device: Device, captures: bool, instead: Substitute | None) -> ort.InferenceSession:
    instead = _followed(graph, instead)
    folder = graph.parent if instead is None else instead.folder
    options.add_session_config_entry(_FOLDER, native(folder))
    source = None if instead is None else instead.graph
    if device.kind == "cpu":
        return _load(graph, options, source)
    check_cuda(device)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = _load(graph, options, source, [_provider(device, captures)])
    except InferenceError as error:
        if not captures:
            raise
        session = _load(graph, options, source, [_provider(device, captures=False)])
        warnings.warn(f"onnxruntime {ort.__version__} cannot capture CUDA graphs of the bundle, so its steps run as they are ({error})", stacklevel=4)
    _check_on_device(session, device)
    return session


def _followed(graph: Path, instead: Substitute | None) -> Substitute | None:
    """The same over the file that the weights are a link to, as in the hub's cache: onnxruntime follows none that leads out of the directory."""
    weights = (graph.parent if instead is None else instead.folder) / WEIGHTS_FILE
    if not weights.is_symlink():
        return instead
    real = weights.resolve()
    source = graph.read_bytes() if instead is None else instead.graph
    return Substitute(with_places(source, lambda _, place: {**place, "location": real.name}), real.parent)


def _captures(session: ort.InferenceSession, device: Device) -> bool:
    """Whether its provider was told to capture CUDA graphs; what is only called away captures nothing, and is told so."""
    return device.kind != "cuda" or session.get_provider_options()["CUDAExecutionProvider"].get("enable_cuda_graph") == "1"


def _provider(device: Device, captures: bool) -> Any:
    """The execution provider of a device, as onnxruntime is told of it."""
    if device.kind == "cpu":
        return "CPUExecutionProvider"
    return "CUDAExecutionProvider", {"device_id": str(device.index), "enable_cuda_graph": "1" if captures else "0"}


def _load(graph: Path, options: ort.SessionOptions, instead: bytes | None = None, providers: Sequence[Any] = ()) -> ort.InferenceSession:
    try:
        if instead is None and isinstance(native(graph), bytes):  # as the name of a model, bytes would be the model
            instead = graph.read_bytes()  # and the options say where its weights are
        with computing(lambda: None):
            session = ort.InferenceSession(instead or str(graph), options, providers=list(providers) or ["CPUExecutionProvider"], enable_fallback=0)
    except CancelledError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise InferenceError(f"onnxruntime {ort.__version__} could not load {graph}{_too_old()}: {error}") from error
    outlive(session)
    return session


_FOLDER: Final = "session.model_external_initializers_file_folder_path"


def native(path: Path) -> str | bytes:
    """A path as onnxruntime's C++ takes it: text if it is UTF-8, else its bytes, where Python's text is not the name's."""
    try:
        str(path).encode()
        return str(path)
    except UnicodeEncodeError:
        return os.fsencode(path)


def _too_old() -> str:
    """A hint where the installed onnxruntime is older than what the ``cpu`` extra asks for."""
    version = tuple(int(part) for part in ort.__version__.split(".")[:2])
    return f" (bundles need onnxruntime 1.32: {install('cpu', upgrade=True)})" if version < (1, 32) else ""


def _check_on_device(session: ort.InferenceSession, device: Device) -> None:
    """Raise :class:`DeviceError` if a node that computes was left to the CPU. Arithmetic of shapes belongs there."""
    if "CUDAExecutionProvider" not in session.get_providers():
        raise DeviceError(f"onnxruntime could not start its CUDA provider on {device}: {_LIBRARIES}")
    left = nodes_left_to_cpu(session)
    if left:
        shown = ", ".join(left[:4]) + (", ..." if len(left) > 4 else "")
        raise DeviceError(
            f"{len(left)} nodes of the graph would run on the CPU instead of {device} ({shown}): "
            f"onnxruntime-gpu {ort.__version__} has no CUDA kernels for them, upgrade it, or export the bundle again with this version"
        )


def nodes_left_to_cpu(session: ort.InferenceSession) -> list[str]:
    """Names of the nodes that its CPU provider computes, but for arithmetic of shapes. Needs ``record_ep_graph_assignment_info``."""
    subgraphs = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == "CPUExecutionProvider"]
    nodes = [node for part in subgraphs for node in part.get_nodes()]
    return [f"{node.op_type} {node.name}".strip() for node in nodes if node.op_type not in _SHAPES]


_SHAPES: Final = frozenset({"Shape", "Squeeze", "Unsqueeze", "Concat", "Cast", "Sub"})
"""What graphs compute of shapes; ONNX Runtime does it on the CPU, where the shapes are."""


def _run_options(number: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.log_severity_level = 4  # a cancelled run is not worth an error line
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def _value(array: npt.NDArray[Any], device: Device) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device.kind, device.index)


_LIBRARIES: Final = "`sc2onnx doctor` says which of its libraries is missing"


def check_cuda(device: Device) -> None:
    """Raise :class:`DeviceError`, saying what is missing, unless onnxruntime can run graphs on this GPU."""
    if reason := cuda_trouble(device):
        raise DeviceError(f"device is '{device}', which does not work here: {reason}")


def cuda_trouble(device: Device) -> str | None:
    """What stands in the way of a GPU: onnxruntime, the driver, the device, or a library. None: nothing that can be seen from here."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return f"the installed onnxruntime {ort.__version__} is the one without CUDA: pip uninstall onnxruntime, then {install('gpu')}"
    needed = tuple(int(part) for part in str(getattr(ort, "cuda_version", "") or "").split(".") if part.isdigit())
    if reason := unsuitable(driver(), device, needed):
        return reason
    _preload()
    missing = missing_libraries(cuda_libraries(needed[0])) if needed and sys.platform != "win32" else []
    if missing:
        return f"{', '.join(missing)} cannot be loaded, which onnxruntime-gpu for CUDA {needed[0]} needs: {install('gpu')}"
    return None


@functools.cache
def _preload() -> None:
    """Load the libraries of pip's ``nvidia-*`` packages, so that the provider finds them; torch has no part in it."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses; what matters of that is said by cuda_trouble
            ort.preload_dlls(directory="")


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """An execution provider of the installed onnxruntime, and whether it just ran a graph with the operator that bundles need."""

    name: str
    works: bool
    detail: str


_PROBE: Final = base64.b64decode(
    "CAs67wEKbQoEcGFzdAoGdXBkYXRlCgRzbG90EgdwcmVzZW50GhRub2RlX1RlbnNvclNjYXR0ZXJfMCINVGVuc29yU2NhdHRlcioUCgRheGlzGP7//////////wGgAQIqEwoEbW9kZSIIY2lyY3VsYXKgAQMSBXByb2JlWh4KBHBhc3QSFgoUCAESEAoCCAEKAggBCgIIBAoCCAFaIAoGdXBkYXRlEhYKFAgBEhAKAggBCgIIAQoCCAEKAggBWhIKBHNsb3QSCgoICAcSBAoCCAFiIQoHcHJlc2VudBIWChQIARIQCgIIAQoCCAEKAggECgIIAUIECgAQGA=="
)
"""A graph of one TensorScatter (opset 24, circular): ``past (1, 1, 4, 1), update (1, 1, 1, 1), slot (1,) -> present``."""


_COPY: Final = base64.b64decode(
    "CAs6ZworCgZzb3VyY2USBnRhcmdldBoPbm9kZV9JZGVudGl0eV8wIghJZGVudGl0eRIEY29weVoYCgZzb3VyY2USDgoMCAESCAoGEgRzaXplYhgKBnRhcmdldBIOCgwIARIICgYSBHNpemVCBAoAEBU="
)
"""A graph of one Identity (opset 21): ``source (size,) -> target (size,)``, float32."""


def copy_rate(device: Device, nbytes: int = 1 << 30, passes: int = 9) -> float:
    """Bytes per second that a device reads and writes, together, copying from its memory to its memory: the best of some passes."""
    session = _load(Path("copy"), _options(1, quantised=False), _COPY, [_provider(device, captures=False)])
    binding = session.io_binding()
    source, target = (_value(np.zeros(nbytes // 4, np.float32), device) for _ in range(2))
    binding.bind_ortvalue_input("source", source)
    binding.bind_ortvalue_output("target", target)
    found = []
    for _ in range(passes + 1):  # the first one also prepares
        began = time.perf_counter()
        session.run_with_iobinding(binding)
        found.append(time.perf_counter() - began)
    return 2 * nbytes / min(found[1:])


def probe_cuda() -> ProviderStatus:
    """Whether the first GPU runs a small graph, and if not, what is missing."""
    trouble = cuda_trouble(Device("cuda"))
    return probe("CUDAExecutionProvider") if trouble is None else ProviderStatus("CUDAExecutionProvider", False, trouble)


def probe(provider: str = "CPUExecutionProvider") -> ProviderStatus:
    """Try a provider on a small graph."""
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
