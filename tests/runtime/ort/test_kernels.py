"""Whether the kernels can be used, and what happens where they cannot: with no library, and
with libraries that are none.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sc2onnx
from sc2onnx.bundle.kernels import OLDEST, VARIABLE, VERSION
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.cli.doctor import diagnose
from sc2onnx.errors import MissingDependencyError, RequestError
from sc2onnx.runtime.description import on_kernels
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.kernels import Kernels, Missing, kept_slots, look, usable

PROMPT = "def fib(n):"


@pytest.fixture(autouse=True)
def _looked_for_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(VARIABLE, raising=False)
    look.cache_clear()
    yield
    look.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """A package in the place of sc2onnx_kernels."""
    monkeypatch.setitem(sys.modules, "sc2onnx_kernels", module)


def package(library: object, operators: object = VERSION) -> ModuleType:
    module = ModuleType("sc2onnx_kernels")
    vars(module).update(__version__="0.0.1", OPERATORS=operators, library=lambda: library)
    return module


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, None)


@pytest.fixture
def manifest(int4_bundle: Path) -> Manifest:
    return replace(Manifest.read(int4_bundle), kernels=VERSION)


def test_none_is_installed(absent: None) -> None:
    assert look() == Missing("sc2onnx-kernels is not installed")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (package("/nowhere/library.so"), "0.0.1 cannot be loaded by onnxruntime .*nowhere"),
        (package(__file__), "0.0.1 cannot be loaded by onnxruntime "),
        (package(3), "0.0.1 cannot be loaded by onnxruntime "),
        (
            package(__file__, operators=0),
            f"too old .its operators are of version 0, expected {OLDEST} to {VERSION}",
        ),
        (
            package(__file__, operators=VERSION + 1),
            f"too new .its operators are of version {VERSION + 1}, expected {OLDEST} to",
        ),
        (ModuleType("sc2onnx_kernels"), "of unknown version is too old"),
    ],
)
def test_what_is_installed_is_no_library(
    monkeypatch: pytest.MonkeyPatch, found: ModuleType, reason: str
) -> None:
    installed(monkeypatch, found)
    missing = look()
    assert isinstance(missing, Missing)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(missing.reason)


@pytest.mark.skipif(sys.platform != "linux", reason="names a library of Linux")
def test_another_library_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, package("libc.so.6"))
    missing = look()
    assert isinstance(missing, Missing)
    assert "is too old" in missing.reason
    assert "sc2onnx_kernels_" in missing.reason


def test_a_bundle_runs_without(int4_bundle: Path, absent: None) -> None:
    model = sc2onnx.load(int4_bundle)
    assert (model.kernels, model.packed) == (False, False)
    assert model.generate(PROMPT, max_new_tokens=4).text


def test_they_are_asked_for_and_absent(manifest: Manifest, absent: None) -> None:
    assert usable("auto", manifest) is None
    with pytest.raises(
        MissingDependencyError,
        match=(
            r"sc2onnx-kernels is not installed: in a clone of this project: pip install \./native"
        ),
    ):
        usable("on", manifest)


def test_a_bundle_of_floats_has_no_graph_for_them(bundle: Path) -> None:
    assert not sc2onnx.load(bundle).kernels
    with pytest.raises(
        RequestError,
        match=r"kernels is 'on', and the bundle \(fp32 for cpu\) has no graph for them: export it",
    ):
        sc2onnx.load(bundle, kernels="on")


def test_graphs_of_another_version(manifest: Manifest) -> None:
    later = replace(manifest, kernels=VERSION + 1)
    assert usable("auto", later) is None
    with pytest.raises(RequestError, match=f"has graphs for version {VERSION + 1} of them"):
        usable("on", later)


@pytest.mark.kernels
def test_a_library_of_the_version_before(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs the bundles that were written for it, and says of others that it is too old."""
    import sc2onnx_kernels

    installed(monkeypatch, package(sc2onnx_kernels.library(), operators=OLDEST))
    assert usable("on", replace(manifest, kernels=OLDEST)) is not None
    assert usable("auto", manifest) is None
    said = (
        rf"0\.0\.1 is too old for the bundle \(its operators are of version {OLDEST}, the "
        rf"bundle's graph is for version {VERSION}\): in a clone of this project: pip install"
    )
    with pytest.raises(MissingDependencyError, match=said):
        usable("on", manifest)
    _, described = on_kernels(manifest)
    assert "is too old for the bundle" in described


def test_they_are_for_the_processor(manifest: Manifest) -> None:
    devices = (Device(), Device("cuda"))
    assert usable("auto", manifest, devices) is None
    with pytest.raises(RequestError, match="they are for the CPU, not for a GPU"):
        usable("on", manifest, devices)


def test_what_the_environment_says_is_what_auto_means(
    manifest: Manifest, absent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "on")
    with pytest.raises(MissingDependencyError):
        usable("auto", manifest)
    assert usable("off", manifest) is None
    monkeypatch.setenv(VARIABLE, "off")
    assert usable("auto", manifest) is None
    with pytest.raises(MissingDependencyError):
        usable("on", manifest)
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(RequestError, match=f"{VARIABLE} is 'yes', expected 'auto', 'on' or 'off'"):
        usable("auto", manifest)


@pytest.mark.parametrize(
    "words", [{"kernels": "yes"}, {"kernels": True}, {"cache_type": "int4"}, {"cache_type": None}]
)
def test_unknown_words(int4_bundle: Path, words: dict[str, Any]) -> None:
    [name] = words
    with pytest.raises(RequestError, match=f"{name} is {words[name]!r}, expected 'auto'"):
        sc2onnx.load(int4_bundle, **words)


def test_what_is_kept_without_them_is_the_graphs(bundle: Path, absent: None) -> None:
    assert sc2onnx.load(bundle, cache_type="float32").cache_shape.dtype == "float32"
    with pytest.raises(
        RequestError,
        match=(
            "cache_type is 'int8', and without kernels the cache is float32: load with kernels='on'"
        ),
    ):
        sc2onnx.load(bundle, cache_type="int8")


def test_doctor_says_what_is_gained(absent: None) -> None:
    finding = next(finding for finding in diagnose() if finding.subject == "kernels")
    assert (finding.ok, "pip install ./native" in finding.advice) == (None, True)
    assert "not installed" in finding.detail
    assert "faster" in finding.detail


@pytest.mark.kernels
def test_the_library_that_is_installed(manifest: Manifest) -> None:
    found = look()
    assert isinstance(found, Kernels)
    assert found.path.is_file()
    assert found.layout >= 1
    assert usable("auto", manifest) == usable("on", manifest) == found
    assert (kept_slots("auto"), kept_slots("float32")) == ("int8", "float32")
    finding = next(finding for finding in diagnose() if finding.subject == "kernels")
    assert finding.ok
    assert found.instructions in finding.detail


FEW_THREADS = """
import resource
import numpy as np
from sc2onnx.runtime.ort.kernels import MatrixShape, look

shape = MatrixShape(16 * 16 * 400, 32, 8, 32, 4)
random = np.random.default_rng(0)
codes, scales = (random.integers(0, 256, size, np.uint8) for size in (shape.codes, shape.scales))
expected = look().packed(shape, codes, scales, 1)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
most = used + 100_000_000  # the stacks of some threads
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print(np.array_equal(look().packed(shape, codes, scales, 300), expected))
"""


@pytest.mark.kernels
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_packing_where_there_are_no_more_threads() -> None:
    """A packing thread that cannot be had is done without: the process goes on,
    and the bytes are the same.
    """
    done = subprocess.run(
        [sys.executable, "-c", FEW_THREADS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
