"""Which device each graph of a bundle runs on, and whether the bundle is for it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from sc2onnx.bundle.contract import LINEAR
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.errors import DeviceError
from sc2onnx.runtime.arguments import shown
from sc2onnx.runtime.ort.cuda import cuda_trouble
from sc2onnx.runtime.ort.devices import Device


def chosen_devices(
    device: str, device_map: Sequence[str] | None, manifest: Manifest
) -> tuple[Device, ...]:
    """A device for each graph. ``auto``: the first GPU where that works and the bundle
    is for one, else the CPU.

    Raises :class:`DeviceError` for names that mean nothing and maps of another length
    than the bundle has stages.
    """
    stages = len(manifest.graphs)
    if device_map is None:
        if isinstance(device, str) and device == "auto":
            device = (
                "cuda"
                if manifest.target == "cuda" and cuda_trouble(Device("cuda")) is None
                else "cpu"
            )
        return (Device.named(device),) * stages
    if isinstance(device_map, str) or len(device_map) != stages:
        expected = (
            f"expected a list of {stages}, one for each stage of the bundle (`sc2onnx "
            "export --stages` makes more)"
        )
        raise DeviceError(f"device_map is {shown(device_map)}, {expected}")
    return tuple(Device.named(name) for name in device_map)


def check_suits(manifest: Manifest, devices: Sequence[Device]) -> None:
    """Warn (:class:`UserWarning`) of a bundle that is slow on the CPU; raise :class:`DeviceError`
    for one without kernels on its device.
    """
    for device in devices:
        if device.kind == "cuda" and manifest.cache.kind != LINEAR:
            raise DeviceError(
                f"device is '{device}' and the bundle is {manifest.precision} for "
                f"{manifest.target}, which runs on the CPU: "
                "export it for a GPU (--target cuda, in fp16, bf16, int8 or "
                'int4), or use device="cpu"'
            )
    if manifest.target != "cuda" or all(device.kind == "cuda" for device in devices):
        return
    if manifest.cache.dtype == "bfloat16":
        raise DeviceError(
            f"the bundle is {manifest.precision} for {manifest.target}, and onnxruntime's CPU "
            "provider has no kernels for that: "
            'export it as fp32 to run it here, or run it on a GPU (device="cuda"); `sc2onnx '
            "verify` can check its numbers"
        )
    warnings.warn(
        f"the bundle is {manifest.precision} for {manifest.target}: on the CPU it is good for "
        "checking its numbers, but slow (export it for target cpu to use it here)",
        stacklevel=3,
    )
