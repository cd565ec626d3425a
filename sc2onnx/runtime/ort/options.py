"""Options of ONNX Runtime: what a session is told when it is made, and what a run is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sc2onnx.errors import InferenceError
from sc2onnx.runtime.limits import processors
from sc2onnx.runtime.ort.kernels import Kernels
from sc2onnx.runtime.ort.library import ort

SPIN: Final = 0.001
"""Seconds that idle threads look for work by default: as fast as ONNX Runtime's own default, at a
tenth of its idle work (docs/measurements.md).
"""


def default_threads() -> int:
    """One thread per processor that this process may use: by its affinity, and by the quotas of
    the groups that it is in.
    """
    return processors()


def session_options(threads: int, quantised: bool, spin: float = SPIN) -> ort.SessionOptions:
    """Options of a session whose steps take ``threads`` threads, which spin for so many seconds.

    ``quantised``: whether ONNX Runtime's own kernels compute with integers,
    for which they pack weights.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(round(spin * 1e6)))
    if spin == 0:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # their products want them packed; where they are written with standard operators,
    # activations are int8 as well
    if quantised:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
        options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "1")
    # Float weights run as fast from the mapped file as from a private packed copy at batch 1, load
    # at once and stay shared and reclaimable (docs/decisions/0002-weight-layout.md).
    options.add_session_config_entry("session.disable_prepacking", "0" if quantised else "1")
    return options


def add_kernels(
    kernels: Kernels, options: ort.SessionOptions, threads: int, packed: Path | None
) -> None:
    """Have our kernels in a session. What they are told is read while they are registered;
    ``threads`` pack where nothing is packed.

    Raises :class:`InferenceError`, also for packed weights that are none.
    """
    options.add_session_config_entry("sc2onnx.threads", str(threads))
    if packed is not None:
        options.add_session_config_entry("sc2onnx.packed", native(packed))
    try:
        options.register_custom_ops_library(str(kernels.path))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise InferenceError(
            f"onnxruntime {ort.__version__} did not take sc2onnx-kernels {kernels.version}: {error}"
        ) from error


def run_options(number: int) -> ort.RunOptions:
    """Options of runs that are the CUDA graph of this number, -1 for none."""
    options = ort.RunOptions()
    options.log_severity_level = 4  # a cancelled run is not worth an error line
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def native(path: Path) -> str | bytes:
    """A path as onnxruntime's C++ takes it: text if it is UTF-8, else its bytes, where
    Python's text is not the name's.
    """
    try:
        str(path).encode()
        return str(path)
    except UnicodeEncodeError:
        return os.fsencode(path)
