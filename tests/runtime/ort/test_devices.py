"""Devices by name, and what is said where CUDA does not work.
Nothing here needs a GPU; what does is in tests/cuda.
"""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

import sc2onnx
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.cli.doctor import diagnose
from sc2onnx.errors import DeviceError, InferenceError, RequestError
from sc2onnx.hints import install
from sc2onnx.runtime.ort import cuda, device_map, loading, probe
from sc2onnx.runtime.ort.cuda import (
    Driver,
    captures_graphs,
    check_on_device,
    cuda_libraries,
    cuda_trouble,
    driver,
    missing_libraries,
    nodes_left_to_cpu,
    unsuitable,
)
from sc2onnx.runtime.ort.device_map import chosen_devices
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.probe import ProviderStatus, copy_rate, probe_cuda

HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()
without_cuda = pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")


def test_names() -> None:
    assert Device.named("cpu") == Device("cpu", 0)
    assert Device.named("cuda") == Device.named("cuda:0") == Device("cuda", 0)
    assert Device.named("cuda:12") == Device("cuda", 12)
    assert [str(Device.named(name)) for name in ("cpu", "cuda", "cuda:1")] == [
        "cpu",
        "cuda:0",
        "cuda:1",
    ]
    assert [Device.named(name).on_gpu for name in ("cpu", "cuda")] == [False, True]


def written(place: Any, value: int) -> None:
    ctypes.cast(place, ctypes.POINTER(ctypes.c_int)).contents.value = value


class Library:
    """Stands in for libcuda."""

    def __init__(self, status: int = 0, version: int = 13000, count: int = 1) -> None:
        self.status, self.version, self.count = status, version, count

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDriverGetVersion(self, place: Any) -> int:
        written(place, self.version)
        return 0

    def cuDeviceGetCount(self, place: Any) -> int:
        written(place, self.count)
        return 0


def test_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(version=12040, count=2))
    assert driver() == Driver(2, (12, 4))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(status=100))
    assert "the NVIDIA driver does not start (cuInit gives 100): see what nvidia-smi says" in str(
        driver()
    )

    def absent(name: str) -> Library:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert "there is no NVIDIA driver (libcuda.so.1 is not to be found): install it" in str(
        driver()
    )
    assert missing_libraries(["libcublas.so.13"]) == ["libcublas.so.13"]


def test_what_a_driver_cannot_do() -> None:
    one = Driver(1, (12, 8))
    assert unsuitable(one, Device("cuda"), (12, 4)) is None
    assert unsuitable(one, Device("cuda"), ()) is None
    assert unsuitable("no driver", Device("cuda"), (13,)) == "no driver"
    assert (
        "the NVIDIA driver runs CUDA 12.8 at most, and onnxruntime-gpu was "
        "built for CUDA 13: update"
    ) in str(unsuitable(one, Device("cuda"), (13, 0)))
    assert "there is no cuda:1: the driver shows 1 GPU (CUDA_VISIBLE_DEVICES may hide some)" in str(
        unsuitable(one, Device("cuda", 1), (12,))
    )


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime that was built for CUDA 13, as far as it says."""
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(cuda, "preload_libraries", lambda: None)


@pytest.mark.usefixtures("gpu_build")
def test_every_trouble_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = [
        "there is no NVIDIA driver",
        Driver(1, (12, 4)),
        Driver(1, (13, 0)),
        Driver(1, (13, 0)),
    ]
    monkeypatch.setattr(cuda, "driver", lambda: found.pop(0))
    monkeypatch.setattr(
        cuda, "missing_libraries", lambda names: [name for name in names if "cublas." in name]
    )
    assert cuda_trouble(Device("cuda")) == "there is no NVIDIA driver"
    assert "built for CUDA 13" in str(cuda_trouble(Device("cuda")))
    assert cuda_trouble(Device("cuda")) == (
        "libcublas.so.13 cannot be loaded, which onnxruntime-gpu for CUDA 13 needs: "
        + install("gpu")
    )
    monkeypatch.setattr(cuda, "missing_libraries", lambda names: [])
    assert cuda_trouble(Device("cuda")) is None


@without_cuda
def test_onnxruntime_without_cuda_is_said_to_be_so(gpu_bundle: Path) -> None:
    """Never a silent run on the CPU."""
    with pytest.raises(
        DeviceError,
        match=(
            r"'cuda:0', which does not work here: the installed onnxruntime .* without "
            r"CUDA: .*onnxruntime-gpu\["
        ),
    ):
        sc2onnx.load(gpu_bundle, device="cuda")
    with pytest.raises(DeviceError, match="'cuda:1', which does not work here"):
        sc2onnx.load(gpu_bundle, device="cuda:1")


@pytest.mark.usefixtures("gpu_build")
def test_a_provider_that_does_not_start_is_an_error(
    gpu_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime itself only warns, and runs on the CPU."""
    monkeypatch.setattr(cuda, "cuda_trouble", lambda device: None)
    with pytest.raises(
        DeviceError,
        match=r"onnxruntime could not start its CUDA provider on cuda:0: `sc2onnx doctor` says",
    ):
        sc2onnx.load(gpu_bundle, device="cuda")


class Loaded:
    """Stands in for a session on a GPU."""

    def __init__(self, how: dict[str, str]) -> None:
        self.how = how

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {"CUDAExecutionProvider": self.how}

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return []


@pytest.mark.usefixtures("gpu_build")
def test_where_graphs_cannot_be_captured_steps_run_as_they_are(
    gpu_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "cuda_trouble", lambda device: None)

    def load(graph: Path, options: Any, instead: bytes | None, providers: list[Any]) -> Loaded:
        ((name, how),) = providers
        assert (name, how["device_id"]) == ("CUDAExecutionProvider", "1")
        if how["enable_cuda_graph"] == "1":
            raise InferenceError("not all nodes are on the device")
        return Loaded(how)

    monkeypatch.setattr(loading, "load_session", load)
    graph, device = gpu_bundle / "model.onnx", Device("cuda", 1)
    with pytest.warns(
        UserWarning,
        match=(
            r"cannot capture CUDA graphs of the bundle, so its steps run as "
            r"they are \(not all nodes"
        ),
    ):
        found = loading.load_on(graph, ort.SessionOptions(), device, True, None)
    assert not captures_graphs(found, device)
    assert captures_graphs(Loaded({"enable_cuda_graph": "1"}), device)

    def refuse(*arguments: Any) -> Loaded:
        raise InferenceError("broken")

    monkeypatch.setattr(loading, "load_session", refuse)
    with pytest.raises(InferenceError, match="broken"):
        loading.load_on(graph, ort.SessionOptions(), device, False, None)


def test_auto(gpu_bundle: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for_gpu, for_cpu = Manifest.read(gpu_bundle), Manifest.read(bundle)
    monkeypatch.setattr(device_map, "cuda_trouble", lambda device: "no GPU")
    assert chosen_devices("auto", None, for_gpu) == (Device(),)
    monkeypatch.setattr(device_map, "cuda_trouble", lambda device: None)
    assert chosen_devices("auto", None, for_gpu) == (Device("cuda"),)
    assert chosen_devices("auto", None, for_cpu) == (Device(),)


def test_a_bundle_for_the_cpu_is_not_run_on_a_gpu(bundle: Path) -> None:
    with pytest.raises(
        DeviceError,
        match=(
            r"device is 'cuda:0' and the bundle is fp32 for cpu, which runs on the "
            r"CPU: export it for a GPU"
        ),
    ):
        sc2onnx.load(bundle, device="cuda")


@pytest.fixture
def gpu_bundle(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that says that it is for a GPU; its graph is another, which none of this
    gets to run or to compare.
    """
    monkeypatch.setattr(
        "sc2onnx.runtime.opening.bundle.check_agreement", lambda path, manifest: None
    )
    copy = Path(shutil.copytree(bundle, tmp_path / "gpu"))
    raw = json.loads((copy / "sc2onnx.json").read_text())
    raw.update(precision="fp16", target="cuda", cache={"kind": "linear", "dtype": "float16"})
    (copy / "sc2onnx.json").write_text(json.dumps(raw))
    return copy


def test_a_node_that_is_left_to_the_cpu_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU provider all are; arithmetic of shapes belongs there."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    found = ort.InferenceSession(
        str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    left = nodes_left_to_cpu(found)
    assert any(name.startswith("TensorScatter node_TensorScatter_") for name in left)
    assert not any(name.startswith("Shape") for name in left)
    monkeypatch.setattr(
        type(found), "get_providers", lambda self: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(
        DeviceError,
        match=(
            r"\d+ nodes of the graph .* on the CPU instead of cuda:0 \(\w+ node_\w+, .*, "
            r"\.\.\.\): .*no CUDA kernels"
        ),
    ):
        check_on_device(found, Device("cuda"))


def test_what_a_device_moves_copying() -> None:
    """Here the processors' memory, which moves between a gigabyte and a terabyte a second."""
    assert 1e9 < copy_rate(Device(), nbytes=64 << 20, passes=3) < 1e12


@pytest.mark.cuda
def test_the_first_gpu_runs_a_graph() -> None:
    assert probe_cuda().works


@without_cuda
def test_doctor_finds_the_same() -> None:
    (finding,) = (finding for finding in diagnose() if finding.subject == "cuda")
    assert finding.ok is None
    assert finding.detail.startswith(
        "not used (for an NVIDIA GPU alone): the installed onnxruntime"
    )


def test_doctor_says_where_a_gpu_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        probe,
        "probe_cuda",
        lambda: ProviderStatus("CUDAExecutionProvider", True, "onnxruntime 1.31.1"),
    )
    monkeypatch.setattr(cuda, "driver", lambda: Driver(2, (13, 0)))
    (finding,) = (finding for finding in diagnose() if finding.subject == "cuda")
    assert (finding.ok, finding.detail) == (
        True,
        "works, onnxruntime 1.31.1: 2 GPUs, the driver runs CUDA 13.0",
    )


def test_libraries() -> None:
    assert cuda_libraries(13) == (
        "libcudart.so.13",
        "libcublas.so.13",
        "libcublasLt.so.13",
        "libcurand.so.10",
    )
    assert missing_libraries(["libsc2onnx-has-no-such.so.1"]) == ["libsc2onnx-has-no-such.so.1"]
    assert missing_libraries([]) == []


@pytest.mark.parametrize("spin", [-0.1, 1.1, "1", None])
def test_spin_is_seconds(bundle: Path, spin: Any) -> None:
    with pytest.raises(RequestError, match=r"spin is .*, expected 0 to 1 second"):
        sc2onnx.load(bundle, spin=spin)


@pytest.mark.parametrize("spin", [0, 0.0005, 1])
def test_spinning_changes_no_token(bundle: Path, model: sc2onnx.Model, spin: float) -> None:
    assert sc2onnx.load(bundle, spin=spin).generate("import", max_new_tokens=4) == model.generate(
        "import", max_new_tokens=4
    )
