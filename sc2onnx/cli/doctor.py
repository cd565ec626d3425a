"""What works on this machine, what does not, and what to install.
Imports everything lazily: it must run where little is.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import sc2onnx
from sc2onnx.errors import Sc2onnxError
from sc2onnx.hints import EXTRAS, KERNELS, install

if TYPE_CHECKING:
    from sc2onnx.runtime.ort.probe import ProviderStatus
    from sc2onnx.runtime.ort.telemetry import Telemetry

_PARTS: Final = {
    "export": "sc2onnx.export",
    "verify": "sc2onnx.verify",
    "evaluate": "sc2onnx.evaluate",
    "serve": "sc2onnx.serve",
    "lsp": "sc2onnx.serve.lsp",
    "batch": "sc2onnx.batch",
}
"""Parts of sc2onnx that need more than the runtime does: extras, and their packages."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``ok`` None: absent, and not needed for running bundles.
    ``advice`` is empty where all is well.
    """

    subject: str
    ok: bool | None
    detail: str
    advice: str = ""


def diagnose() -> list[Finding]:
    """Everything that decides whether sc2onnx works here; running bundles comes first."""
    system = Finding(
        "system",
        True,
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    )
    parts = [extra for extra, package in _PARTS.items() if _is_there(package)]
    return [
        system,
        _ours(whole=bool(parts)),
        *_packages(),
        *_providers(),
        _kernels(),
        _packed(),
        _part("chat"),
        *map(_part, parts),
    ]


def _ours(*, whole: bool) -> Finding:
    """What is running, however it came here: installed, whole or as the
    runtime alone, or from a clone.
    """
    return Finding("sc2onnx", True, sc2onnx.__version__ + ("" if whole else ", the runtime alone"))


def _packages() -> list[Finding]:
    found = [_required(name) for name in ("numpy", "tokenizers")]
    cpu, gpu = version("onnxruntime"), version("onnxruntime-gpu")
    if cpu and gpu:
        advice = (
            f"pip uninstall onnxruntime onnxruntime-gpu, then {install('cpu')}, or for "
            f"CUDA {install('gpu')}"
        )
        found.append(
            Finding(
                "onnxruntime",
                False,
                f"both onnxruntime {cpu} and onnxruntime-gpu {gpu}: each "
                "overwrites the other's files",
                advice,
            )
        )
    elif not cpu and not gpu:
        found.append(Finding("onnxruntime", False, "not installed", install("cpu")))
    else:
        found.append(
            Finding("onnxruntime", True, f"onnxruntime {cpu}" if cpu else f"onnxruntime-gpu {gpu}")
        )
    return found


def _required(package: str) -> Finding:
    installed = version(package)
    return Finding(
        package,
        installed is not None,
        installed or "not installed",
        "" if installed else f"pip install {package}",
    )


def _providers() -> list[Finding]:
    try:
        from sc2onnx.runtime.ort import probe
        from sc2onnx.runtime.ort.options import default_threads
    except (Sc2onnxError, ImportError) as error:
        return [Finding("cpu", False, str(error))]
    from sc2onnx.runtime.ort.library import TELEMETRY

    status = probe.probe()
    detail = f"works, {default_threads()} threads by default" if status.works else status.detail
    cpu = Finding("cpu", status.works, detail, "" if status.works else install("cpu", upgrade=True))
    return [cpu, _cuda(probe.probe_cuda()), _telemetry(TELEMETRY)]


_TELEMETRY: Final[Mapping[str, tuple[str, str]]] = {
    "off": ("off: onnxruntime reports nothing home", ""),
    "allowed": (
        "allowed: onnxruntime may report home",
        "unset ORT_DISABLE_TELEMETRY, which is 0, to turn it off",
    ),
    "imported before": (
        "may be on: onnxruntime was imported before sc2onnx",
        "set ORT_DISABLE_TELEMETRY=1 in the environment to turn it off",
    ),
}


def _telemetry(state: Telemetry) -> Finding:
    """Whether onnxruntime reports home. Bundles run either way."""
    detail, advice = _TELEMETRY[state]
    return Finding("telemetry", None if advice else True, detail, advice)


def _cuda(status: ProviderStatus) -> Finding:
    """Whether bundles for a GPU run, and what stands in the way. Others run without."""
    from sc2onnx.runtime.ort import cuda

    found = cuda.driver()
    if not status.works or isinstance(found, str):
        return Finding("cuda", None, f"not used (for an NVIDIA GPU alone): {status.detail}")
    shown = f"{found.devices} GPU" + ("s" if found.devices > 1 else "")
    return Finding(
        "cuda",
        True,
        f"works, {status.detail}: {shown}, the driver runs CUDA {'.'.join(map(str, found.cuda))}",
    )


def _kernels() -> Finding:
    """Whether bundles of integers run on our own kernels, and on which instructions.
    All run without.
    """
    try:
        from sc2onnx.runtime.ort.kernels import Missing, look
    except (Sc2onnxError, ImportError):
        return Finding("kernels", None, "not looked for, as there is no onnxruntime")
    found = look()
    if isinstance(found, Missing):
        gain = "with it int8 and int4 run faster, prompts twice as fast and more"
        return Finding("kernels", None, f"{found.reason}: {gain}", KERNELS)
    return Finding("kernels", True, f"sc2onnx-kernels {found.version}, {found.instructions}")


def _packed() -> Finding:
    """What the cache of packed weights takes, and where it is. Bundles run without it."""
    from sc2onnx.runtime.ort.packed_cache import PackedCache

    try:
        cache = PackedCache.open()
        with suppress(FileNotFoundError):  # made when it is needed
            cache.check()
        sizes = [form.nbytes for form in cache.forms()]
    except (Sc2onnxError, OSError) as error:
        return Finding("packed weights", None, "none can be kept", str(error))
    detail = (
        f"{len(sizes)} kept, {sum(sizes) / 1e9:.2f} GB of at most {cache.limit / 1e9:.2f} "
        f"GB, in {cache.directory}"
    )
    return Finding("packed weights", True, detail)


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # nor is the package around it
        return False


def _part(name: str) -> Finding:
    needed = [re.split(r"[^\w.-]", requirement)[0] for requirement in EXTRAS[name]]
    missing = [package for package in needed if version(package) is None]
    if missing:
        return Finding(f"sc2onnx {name}", None, f"needs {', '.join(missing)}", install(name))
    return Finding(
        f"sc2onnx {name}", True, ", ".join(f"{package} {version(package)}" for package in needed)
    )


def rows(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    """Return rows of a table for a person: verdict, subject, detail; advice on a row of its own."""
    found = []
    for finding in findings:
        found.append((f"{_MARKS[finding.ok]:<7}", finding.subject, finding.detail))
        if finding.advice:
            found.append(("", "", finding.advice))
    return found


_MARKS: Final[Mapping[bool | None, str]] = {True: "ok", False: "MISSING", None: "-"}


def version(package: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether bundles can run here."""
    return all(finding.ok is not False for finding in findings) and sys.version_info >= (3, 11)
