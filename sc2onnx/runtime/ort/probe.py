"""What can be tried of the installed onnxruntime: whether a provider runs a graph, and
how fast a device copies.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sc2onnx.runtime.ort.cuda import cuda_trouble, provider_of
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.library import ort
from sc2onnx.runtime.ort.loading import load_session
from sc2onnx.runtime.ort.options import session_options
from sc2onnx.runtime.ort.storage import ort_value


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """An execution provider of the installed onnxruntime, and whether it just ran a graph with the
    operator that bundles need.
    """

    name: str
    works: bool
    detail: str


_PROBE: Final = base64.b64decode(
    "CAs67wEKbQoEcGFzdAoGdXBkYXRlCgRzbG90EgdwcmVzZW50GhRub2RlX1RlbnNvclNjYXR0ZXJfMCINVGVuc29yU2Nhd"
    "HRlcioUCgRheGlzGP7//////////wGgAQIqEwoEbW9kZSIIY2lyY3VsYXKgAQMSBXByb2JlWh4KBHBhc3QSFgoUCAESEA"
    "oCCAEKAggBCgIIBAoCCAFaIAoGdXBkYXRlEhYKFAgBEhAKAggBCgIIAQoCCAEKAggBWhIKBHNsb3QSCgoICAcSBAoCCAF"
    "iIQoHcHJlc2VudBIWChQIARIQCgIIAQoCCAEKAggECgIIAUIECgAQGA=="
)
"""A graph of one TensorScatter (opset 24, circular): ``past (1, 1, 4, 1), update (1, 1, 1,
1), slot (1,) -> present``.
"""


_COPY: Final = base64.b64decode(
    "CAs6ZworCgZzb3VyY2USBnRhcmdldBoPbm9kZV9JZGVudGl0eV8wIghJZGVudGl0eRIEY29weVoYCgZzb3VyY2USDgoMC"
    "AESCAoGEgRzaXplYhgKBnRhcmdldBIOCgwIARIICgYSBHNpemVCBAoAEBU="
)
"""A graph of one Identity (opset 21): ``source (size,) -> target (size,)``, float32."""


def copy_rate(device: Device, nbytes: int = 1 << 30, passes: int = 9) -> float:
    """Bytes per second that a device reads and writes, together, copying from its memory to its
    memory: the best of some passes.
    """
    session = load_session(
        Path("copy"),
        session_options(1, quantised=False),
        _COPY,
        [provider_of(device, captures=False)],
    )
    binding = session.io_binding()
    source, target = (ort_value(np.zeros(nbytes // 4, np.float32), device) for _ in range(2))
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
    return (
        probe("CUDAExecutionProvider")
        if trouble is None
        else ProviderStatus("CUDAExecutionProvider", False, trouble)
    )


def probe(provider: str = "CPUExecutionProvider") -> ProviderStatus:
    """Try a provider on a small graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    feeds = {
        "past": np.zeros((1, 1, 4, 1), np.float32),
        "update": np.ones((1, 1, 1, 1), np.float32),
        "slot": np.array([3]),
    }
    try:
        session = ort.InferenceSession(_PROBE, options, providers=[provider])
        present = session.run(None, feeds)[0]
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        return ProviderStatus(provider, False, str(error).splitlines()[0])
    if provider not in session.get_providers():
        return ProviderStatus(
            provider,
            False,
            "listed, but onnxruntime fell back to the CPU: its libraries or its device are missing",
        )
    return ProviderStatus(
        provider, bool(present[0, 0, 3, 0] == 1.0), f"onnxruntime {ort.__version__}"
    )
