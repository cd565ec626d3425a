"""The runtime stays lean: quick to import, and at home where the exporter's
packages cannot be imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = (
    "torch",
    "transformers",
    "onnx",
    "onnx_ir",
    "safetensors",
    "ml_dtypes",
    "huggingface_hub",
    "filelock",
    "tqdm",
)

GUARD = f"""
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (forbidden here)", name=name)

sys.meta_path.insert(0, Guard())
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_runtime_works_where_the_exporters_packages_cannot_be_imported(bundle: Path) -> None:
    code = GUARD + (
        "import sc2onnx\n"
        "model = sc2onnx.load(sys.argv[1])\n"
        "print(len(model.generate('def f(', max_new_tokens=5).tokens), len(model.infill('a', 'b', "
        "max_new_tokens=3).tokens) <= 3)\n"
    )
    done = run(code, str(bundle))
    assert done.stdout.split() == ["5", "True"], done.stderr


@pytest.mark.parametrize(
    ("module", "packages"),
    [("sc2onnx.export", '"onnx>=1.19" '), ("sc2onnx.verify", '"onnxruntime>=1.32" "torch>=2.6" ')],
)
def test_the_other_halves_say_what_to_install(module: str, packages: str) -> None:
    done = run(GUARD + f"import {module}")
    assert "MissingDependencyError" in done.stderr
    assert f"pip install {packages}" in done.stderr


def test_the_command_line_says_what_to_install_in_one_line(tmp_path: Path) -> None:
    code = GUARD + (
        "from sc2onnx.cli.main import main; sys.exit(main(['export', 'x', "
        f"{str(tmp_path / 'out')!r}]))"
    )
    done = run(code)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'pip install "onnx>=1.19"' in done.stderr


def test_every_public_name_can_be_had() -> None:
    import sc2onnx

    assert all(getattr(sc2onnx, name) is not None for name in sc2onnx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sc2onnx.nonsense


def test_importing_the_package_imports_nothing_heavy() -> None:
    done = run(
        "import sys, sc2onnx; print(*sorted(name for name in sys.modules if '.' not in name))"
    )
    loaded = set(done.stdout.split())
    assert not loaded & {*FORBIDDEN, "numpy", "onnxruntime", "tokenizers"}, done.stderr


def test_the_package_imports_in_a_quarter_of_a_second() -> None:
    """The fastest of three, so that a busy machine does not fail it."""
    times = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import sc2onnx"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
            timeout=60,
        )
        last = done.stderr.strip().splitlines()[-1]  # import time: self [us] | cumulative | package
        assert last.endswith("sc2onnx")
        times.append(int(last.split("|")[1]))
    assert min(times) < 250_000
