"""What figures belong to: processor, system, versions."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "sc2onnx",
    "onnxruntime",
    "torch",
    "transformers",
    "llama-cpp-python",
    "gguf",
    "openvino",
    "nncf",
    "bitsandbytes",
    "numpy",
)


def cpu() -> str:
    """Its name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def system() -> str:
    """Kind of system, architecture, Python."""
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    return {name: found for name in PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
