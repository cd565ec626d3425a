"""What to install, as a command that works from a clone as from a wheel: packages by name, never
this project's own extras.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "cpu": ("onnxruntime>=1.32",),
    "gpu": ("onnxruntime-gpu[cuda,cudnn]>=1.31.1", "nvidia-cublas>=13"),
    "export": (
        "onnx>=1.19",
        "onnx-ir>=0.1.12",
        "safetensors>=0.4.3",
        "flatbuffers>=24",
        "scipy>=1.11",
        "ml_dtypes>=0.5",
        "huggingface_hub>=0.34",
        "filelock>=3.13",
        "tqdm>=4.66",
    ),
    "verify": (
        "torch>=2.6",
        "transformers>=4.57,<5.24",
        "peft>=0.18",
        "ml_dtypes>=0.5",
        "onnx-ir>=0.1.12",
    ),
    "evaluate": ("rapidfuzz>=3", "matplotlib>=3.8"),
    "serve": (
        "starlette>=0.47",
        "httpcore[asyncio]>=1",
        "uvicorn>=0.34",
        "msgspec>=0.19",
        "prometheus-client>=0.21",
    ),
    "otel": ("opentelemetry-sdk>=1.30", "opentelemetry-exporter-otlp-proto-http>=1.30"),
    "batch": ("pyarrow>=17",),
    "chat": ("jinja2>=3.1.6",),
    "constrained": ("llguidance>=1.9,<2",),
    "lsp": ("pygls>=2,<3", "httpx>=0.27"),
    "terminal": ("rich>=13.7", "shtab>=1.13"),
    "kernels": ("sc2onnx-kernels>=0.1",),
}
"""The extras of ``pyproject.toml``, which a test compares with it: extra -> requirements."""


KERNELS: Final = "in a clone of this project: pip install ./native, which takes a C++ compiler"
"""How to install ``sc2onnx-kernels``, which are in no index yet."""


def install(*extras: str, upgrade: bool = False) -> str:
    """The command that installs what these extras list:
    ``pip install "onnxruntime>=1.32"`` for ``cpu``.
    """
    requirements = dict.fromkeys(requirement for extra in extras for requirement in EXTRAS[extra])
    return " ".join(
        [
            "pip install",
            *(["--upgrade"] if upgrade else []),
            *(f'"{requirement}"' for requirement in requirements),
        ]
    )
