"""Bundles for other devices, on the CPU: caches in half precision, one
warning, or a reason why not.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import sc2onnx
from sc2onnx.errors import BundleIntegrityError, DeviceError
from sc2onnx.runtime.cache.ring import RingCache
from sc2onnx.runtime.cache.shape import STORAGE, CacheShape
from sc2onnx.runtime.memory_need import memory_need
from sc2onnx.runtime.opening import bundle as bundle_module
from tests.runtime.caches import rows_of, stacked


def made_for(bundle: Path, out: Path, precision: str, dtype: str) -> Path:
    """A copy of the fp32 bundle that says it is something else, for cuda."""
    copy = Path(shutil.copytree(bundle, out))
    raw = json.loads((copy / "sc2onnx.json").read_text())
    raw.update(precision=precision, target="cuda")
    raw["cache"]["dtype"] = dtype
    (copy / "sc2onnx.json").write_text(json.dumps(raw))
    return copy


@pytest.mark.parametrize("dtype", STORAGE)
def test_a_cache_keeps_its_type_however_it_changes(dtype: str) -> None:
    shape = CacheShape(
        layers=2, kv_heads=1, width=2, window=100, context=1000, capacity=228, dtype=dtype
    )
    cache, other = RingCache(shape, rows=1), RingCache(shape, rows=2)
    width = np.dtype(STORAGE[dtype]).itemsize
    assert cache.nbytes == 2 * 2 * 64 * 2 * width
    cache.by_slot[3][0, 0, 7] = 5
    cache.begin(200)
    cache.commit(200)
    assert cache.capacity == 228
    joined = stacked([cache, other])
    joined = rows_of(joined, [0])
    assert [buffer.dtype for buffer in joined.buffers] == [np.dtype(STORAGE[dtype])] * 4
    assert joined.nbytes == 2 * 2 * 228 * 2 * width
    assert (joined.by_slot[3][0, 0, 7] == 5).all()


def test_a_cuda_bundle_that_runs_on_the_cpu_warns_once_and_computes(
    bundle: Path, tmp_path: Path
) -> None:
    copy = made_for(bundle, tmp_path / "copy", "fp32", "float32")
    with pytest.warns(
        UserWarning,
        match=(
            "the bundle is fp32 for cuda: on the CPU it is good for checking its numbers, but slow"
        ),
    ) as caught:
        model = sc2onnx.load(copy)
    assert len(caught) == 1
    tokens = [token.id for token in model.generate_tokens([5, 6, 7], max_new_tokens=8)]
    assert caught[0].filename == __file__
    assert tokens == [
        token.id for token in sc2onnx.load(bundle).generate_tokens([5, 6, 7], max_new_tokens=8)
    ]


def test_a_cpu_bundle_does_not_warn(bundle: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sc2onnx.load(bundle)


def test_a_bf16_bundle_says_what_to_do_instead(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its graph is not in bf16
    monkeypatch.setattr(bundle_module, "check_agreement", lambda directory, manifest: None)
    copy = made_for(bundle, tmp_path / "copy", "bf16", "bfloat16")
    with pytest.raises(
        DeviceError,
        match=(
            r"bf16 for cuda, and onnxruntime's CPU provider has no kernels.*export it "
            r"as fp32.*sc2onnx verify"
        ),
    ):
        sc2onnx.load(copy)


def test_a_graph_that_is_not_of_the_type_of_the_manifest_is_an_error(
    bundle: Path, tmp_path: Path
) -> None:
    copy = made_for(bundle, tmp_path / "copy", "fp16", "float16")
    with pytest.raises(
        BundleIntegrityError, match=r"is float32 .* in model\.onnx, the manifest says float16"
    ):
        sc2onnx.load(copy)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_the_memory_it_needs_follows_the_type(
    bundle: Path, tmp_path: Path, dtype: str, width: int
) -> None:
    copy = made_for(bundle, tmp_path / "copy", "fp32", dtype)
    need = memory_need(sc2onnx.bundle.manifest.Manifest.read(copy), context=2048)
    assert need.cache == 512 * 2 * 6 * 2 * 64 * width
