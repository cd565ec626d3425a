"""What works on this machine, what does not, and what to install. Imports everything lazily: it must run where little is."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from sc2onnx.errors import Sc2onnxError

if TYPE_CHECKING:
    from sc2onnx.runtime.session import ProviderStatus

EXTRAS = {
    "export": ("onnx", "onnx_ir", "safetensors", "scipy", "ml_dtypes", "huggingface_hub", "filelock", "tqdm"),
    "verify": ("torch", "transformers", "ml_dtypes", "onnx_ir"),
    "evaluate": ("rapidfuzz", "matplotlib"),
}
"""What each extra of ``pyproject.toml`` installs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``ok`` None: absent, and not needed for running bundles. ``advice`` is empty where all is well."""

    subject: str
    ok: bool | None
    detail: str
    advice: str = ""


def diagnose() -> list[Finding]:
    """Everything that decides whether sc2onnx works here; running bundles comes first."""
    system = Finding("system", True, f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    return [system, *_packages(), *_providers(), _packed(), *(_extra(name, needed) for name, needed in EXTRAS.items())]


def _packages() -> list[Finding]:
    found = [_required(name) for name in ("sc2onnx", "numpy", "tokenizers")]
    cpu, gpu = version("onnxruntime"), version("onnxruntime-gpu")
    if cpu and gpu:
        advice = "pip uninstall onnxruntime onnxruntime-gpu, then install one of the extras cpu and gpu"
        found.append(Finding("onnxruntime", False, f"both onnxruntime {cpu} and onnxruntime-gpu {gpu}: each overwrites the other's files", advice))
    elif not cpu and not gpu:
        found.append(Finding("onnxruntime", False, "not installed", 'pip install "sc2onnx[cpu]"'))
    else:
        found.append(Finding("onnxruntime", True, f"onnxruntime {cpu}" if cpu else f"onnxruntime-gpu {gpu}"))
    return found


def _required(package: str) -> Finding:
    installed = version(package)
    return Finding(package, installed is not None, installed or "not installed", "" if installed else f"pip install {package}")


def _providers() -> list[Finding]:
    try:
        from sc2onnx.runtime import session
    except (Sc2onnxError, ImportError) as error:
        return [Finding("cpu", False, str(error))]
    status = session.probe()
    detail = f"works, {session.default_threads()} threads by default" if status.works else status.detail
    return [Finding("cpu", status.works, detail, "" if status.works else 'pip install --upgrade "onnxruntime>=1.32"'), _cuda(session.probe_cuda())]


def _cuda(status: ProviderStatus) -> Finding:
    """Whether bundles for a GPU run, and what stands in the way. Others run without."""
    from sc2onnx.runtime import device

    found = device.driver()
    if not status.works or isinstance(found, str):
        return Finding("cuda", None, f"does not work: {status.detail}")
    shown = f"{found.devices} GPU" + ("s" if found.devices > 1 else "")
    return Finding("cuda", True, f"works, {status.detail}: {shown}, the driver runs CUDA {'.'.join(map(str, found.cuda))}")


def _packed() -> Finding:
    """What the cache of packed weights takes, and where it is. Bundles run without it."""
    from sc2onnx.runtime.prepacked import PackedCache

    try:
        cache = PackedCache.open()
        with suppress(FileNotFoundError):  # made when it is needed
            cache.check()
        sizes = [form.nbytes for form in cache.forms()]
    except (Sc2onnxError, OSError) as error:
        return Finding("packed weights", None, "none can be kept", str(error))
    detail = f"{len(sizes)} kept, {sum(sizes) / 1e9:.2f} GB of at most {cache.limit / 1e9:.2f} GB, in {cache.directory}"
    return Finding("packed weights", True, detail)


def _extra(name: str, needed: Sequence[str]) -> Finding:
    missing = [package for package in needed if version(package.replace("_", "-")) is None]
    if missing:
        return Finding(f"sc2onnx {name}", None, f"needs {', '.join(missing)}", f'pip install "sc2onnx[{name}]"')
    return Finding(f"sc2onnx {name}", True, ", ".join(f"{package} {version(package.replace('_', '-'))}" for package in needed))


def version(package: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether bundles can run here."""
    return all(finding.ok is not False for finding in findings) and sys.version_info >= (3, 11)
