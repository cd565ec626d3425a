"""Graphs become sessions of ONNX Runtime, on the device that they are for, with
their weights where they lie.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sc2onnx.bundle.contract import WEIGHTS_FILE
from sc2onnx.errors import CancelledError, InferenceError
from sc2onnx.hints import install
from sc2onnx.runtime.exits import computing
from sc2onnx.runtime.forks import outlive
from sc2onnx.runtime.opening.protobuf import with_places
from sc2onnx.runtime.ort.cuda import check_cuda, check_on_device, provider_of
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.library import ort
from sc2onnx.runtime.ort.options import default_threads, native, session_options


@dataclass(frozen=True, slots=True)
class Substitute:
    """A serialised graph in the place of the bundle's file.
    ``folder``: what the locations of its weights are relative to.
    """

    graph: bytes
    folder: Path


def open_graph(
    graph: Path, *, quantised: bool = False, instead: bytes | None = None
) -> ort.InferenceSession:
    """A graph by itself, on the CPU, for callers that drive it on their own.
    Raises :class:`InferenceError`.
    """
    options = session_options(default_threads(), quantised)
    return load_on(
        graph,
        options,
        Device(),
        False,
        None if instead is None else Substitute(instead, graph.parent),
    )


def load_on(
    graph: Path,
    options: ort.SessionOptions,
    device: Device,
    captures: bool,
    instead: Substitute | None,
) -> ort.InferenceSession:
    """A session of a graph on a device, or of the one ``instead`` of it.

    ``captures``: its steps of one token become CUDA graphs. Warns (:class:`UserWarning`) where
    onnxruntime cannot do that for the graph. Raises :class:`InferenceError` and
    :class:`~sc2onnx.errors.DeviceError`.
    """
    instead = _followed(graph, instead)
    folder = graph.parent if instead is None else instead.folder
    options.add_session_config_entry(_FOLDER, native(folder))
    source = None if instead is None else instead.graph
    if device.kind == "cpu":
        return load_session(graph, options, source)
    check_cuda(device)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = load_session(graph, options, source, [provider_of(device, captures)])
    except InferenceError as error:
        if not captures:
            raise
        session = load_session(graph, options, source, [provider_of(device, captures=False)])
        warnings.warn(
            f"onnxruntime {ort.__version__} cannot capture CUDA graphs of the bundle, so its steps "
            f"run as they are ({error})",
            stacklevel=4,
        )
    check_on_device(session, device)
    return session


def load_session(
    graph: Path,
    options: ort.SessionOptions,
    instead: bytes | None = None,
    providers: Sequence[Any] = (),
) -> ort.InferenceSession:
    """A session of a serialised graph, in a file or ``instead`` of it, by default on the CPU.
    Raises :class:`InferenceError`.
    """
    try:
        # as the name of a model, bytes would be the model
        if instead is None and isinstance(native(graph), bytes):
            instead = graph.read_bytes()  # and the options say where its weights are
        with computing(lambda: None):
            session = ort.InferenceSession(
                instead or str(graph),
                options,
                providers=list(providers) or ["CPUExecutionProvider"],
                enable_fallback=0,
            )
    except CancelledError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise InferenceError(
            f"onnxruntime {ort.__version__} could not load {graph}{_too_old()}: {error}"
        ) from error
    outlive(session)
    return session


_FOLDER: Final = "session.model_external_initializers_file_folder_path"


def _followed(graph: Path, instead: Substitute | None) -> Substitute | None:
    """The same over the file that the weights are a link to, as in the hub's cache: onnxruntime
    follows none that leads out of the directory.
    """
    weights = (graph.parent if instead is None else instead.folder) / WEIGHTS_FILE
    if not weights.is_symlink():
        return instead
    real = weights.resolve()
    source = graph.read_bytes() if instead is None else instead.graph
    return Substitute(
        with_places(source, lambda _, place: {**place, "location": real.name}), real.parent
    )


def _too_old() -> str:
    """A hint where the installed onnxruntime is older than what the ``cpu`` extra asks for."""
    version = tuple(int(part) for part in ort.__version__.split(".")[:2])
    return (
        f" (bundles need onnxruntime 1.32: {install('cpu', upgrade=True)})"
        if version < (1, 32)
        else ""
    )
