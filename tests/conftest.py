"""Fixtures that need neither torch nor the exporter where ``SC2ONNX_FIXTURE`` names a directory
that make_fixture.py made.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.errors import MissingDependencyError
from sc2onnx.runtime.ort.cuda import cuda_trouble
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.kernels import Missing, look

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU or the kernels are skipped where there are none, with what
    is missing as the reason.
    """
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and (trouble := cuda_trouble(Device("cuda"))):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=trouble))
    if isinstance(found := look(), Missing):
        for item in items:
            if item.get_closest_marker("kernels"):
                item.add_marker(pytest.mark.skip(reason=found.reason))


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return ROOT / "examples" / "starcoder2-mini"


@pytest.fixture(scope="session")
def fixture_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if made := os.environ.get("SC2ONNX_FIXTURE"):
        return Path(made).resolve()
    out = tmp_path_factory.mktemp("fixture") / "made"
    try:
        fixture_maker().make(out)
    except (MissingDependencyError, ModuleNotFoundError) as error:
        if (getattr(error, "name", None) or "").startswith("sc2onnx"):
            raise
        pytest.skip(f"needs the exporter ({error}), or SC2ONNX_FIXTURE with what it made")
    return out


def fixture_maker() -> Any:
    """The module ``scripts/make_fixture.py``."""
    spec = importlib.util.spec_from_file_location(
        "make_fixture", ROOT / "scripts" / "make_fixture.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bundle(fixture_directory: Path) -> Path:
    """The mini checkpoint in fp32. Not to be written to."""
    return fixture_directory / "bundle"


@pytest.fixture(scope="session")
def int8_bundle(fixture_directory: Path) -> Path:
    """The mini checkpoint in int8. Not to be written to."""
    return fixture_directory / "int8"


@pytest.fixture(scope="session")
def int8_bundle_before(fixture_directory: Path) -> Path:
    """The same as of format 7: scales are float32. Not to be written to."""
    return fixture_directory / "int8-before"


@pytest.fixture(scope="session")
def int4_bundle(fixture_directory: Path) -> Path:
    """The mini checkpoint in int4, rounded to the nearest. Not to be written to."""
    return fixture_directory / "int4"


@pytest.fixture(scope="session")
def token_bundle(fixture_directory: Path) -> Path:
    """The same without a tokenizer."""
    return fixture_directory / "tokens"


@pytest.fixture(scope="session")
def reference(fixture_directory: Path) -> Mapping[str, npt.NDArray[Any]]:
    """What torch computed: tokens (n,), logits (n, vocab), and greedy, which
    follows the first 40 tokens.
    """
    return dict(np.load(fixture_directory / "reference.npz"))


@pytest.fixture(scope="session")
def model(bundle: Path) -> sc2onnx.Model:
    return sc2onnx.load(bundle)


@pytest.fixture(scope="session")
def forgetful(bundle: Path) -> sc2onnx.Model:
    """The same, but it keeps nothing between requests: its caches are those of what is open."""
    return sc2onnx.load(bundle, prefix_memory=0)


@pytest.fixture(scope="session", autouse=True)
def _no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nor do fixtures that are made once for many tests, before :func:`_own_cache`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SC2ONNX_CACHE", str(tmp_path_factory.mktemp("sc2onnx-cache")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache; and digests are remembered also where
    temporary files lie in memory.
    """
    monkeypatch.setenv("SC2ONNX_CACHE", str(tmp_path / "sc2onnx-cache"))
    monkeypatch.setattr("sc2onnx.runtime.opening.stamps.MOUNTS", tmp_path / "no-table-of-mounts")
