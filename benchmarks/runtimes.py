"""Runtimes other than ours that run bundles: how each is installed, and the example that drives it.

Every example takes ``BUNDLE --ids 1,2,3 --max-new-tokens N --threads N --ignore-eos --json`` and
prints an object of ``tokens``, ``seconds_per_token``, ``runtime`` and ``version``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from installed import (
    BUILD,
    EXAMPLES,
    ROOT,
    MissingError,
    chromium,
    headers,
    library,
    npm,
    once,
    python,
    run,
)
from sc2onnx.runtime.ort.kernels import Missing, look

LIBRARY = "SC2ONNX_KERNELS_LIBRARY"
"""Variable that names the kernels' library to the examples; here an option does."""


@dataclass(frozen=True)
class Runtime:
    """``prepare``: installs what it needs, once, and gives the command of its example.
    Raises :class:`MissingError`.

    ``exact``: precisions in which it must give our greedy tokens; in others its kernels round in
    another order, and near ties may go either way. ``convert``: makes what it loads of a bundle or
    a checkpoint, where that is not the bundle. ``kernels``: it runs on those of sc2onnx-kernels,
    and gives what ours does on them.
    """

    name: str
    target: str
    precisions: tuple[str, ...]
    exact: tuple[str, ...]
    prepare: Callable[[], list[str]]
    convert: Callable[[Path, Path], Path] | None = None
    kernels: bool = False

    def __str__(self) -> str:
        """Its name."""
        return self.name


@dataclass(frozen=True)
class Outcome:
    """What an example printed."""

    tokens: list[int]
    seconds_per_token: float
    runtime: str
    version: str


def play(
    command: Sequence[str], bundle: Path, ids: Sequence[int], count: int, threads: int
) -> Outcome:
    """``count`` greedy tokens after ``ids``, whatever they are."""
    asked = [
        "--ids",
        ",".join(map(str, ids)),
        "--max-new-tokens",
        str(count),
        "--threads",
        str(threads),
        "--ignore-eos",
        "--json",
    ]
    environment = {name: value for name, value in os.environ.items() if name != LIBRARY}
    whole = [*command, str(bundle), *asked]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=600, env=environment)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Outcome(found["tokens"], found["seconds_per_token"], found["runtime"], found["version"])


def node() -> list[str]:
    """The Node.js example."""
    return ["node", str(npm("node") / "complete.mjs")]


def web() -> list[str]:
    """The script that drives the page in a browser."""
    os.environ["CHROMIUM"] = chromium()
    return ["node", str(npm("web") / "check.mjs")]


def _cpp() -> list[str]:
    def make(directory: Path) -> None:
        where = [f"-DONNXRUNTIME_INCLUDE={headers()}", f"-DONNXRUNTIME_LIB={library()}"]
        run("cmake", "cmake", "-S", EXAMPLES / "cpp", "-B", directory, *where)

    directory = once("cpp", make)
    with FileLock(BUILD / "cpp.lock"):  # what has changed since is built again
        run("cmake --build", "cmake", "--build", directory, compiles=True)
    return [str(directory / "starcoder2")]


def cargo(command: str) -> Path:
    """Cargo on the Rust example, with ONNX Runtime's headers and library; where it builds."""
    out = BUILD / "rust"
    os.environ.update(ONNXRUNTIME_INCLUDE=str(headers()), ONNXRUNTIME_LIB=library())
    if shutil.which("bindgen") is None:
        raise MissingError("bindgen is not installed (Debian: apt-get install bindgen libclang1)")
    with FileLock(BUILD / "rust.lock"):
        where = ["--manifest-path", str(EXAMPLES / "rust" / "Cargo.toml"), "--target-dir", str(out)]
        run(f"cargo {command}", "cargo", command, "--release", "--offline", *where, compiles=True)
    return out / "release"


def _rust() -> list[str]:
    return [str(cargo("build") / "starcoder2")]


def on_kernels(prepare: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """An example, and the option that has it run on the kernels; where these are installed."""

    def prepared() -> list[str]:
        if isinstance(found := look(), Missing):
            raise MissingError(found.reason)
        return [*prepare(), "--kernels", str(found.path)]

    return prepared


def _genai() -> list[str]:
    return [
        str(python("genai", ["onnxruntime-genai>=0.18"])),
        str(EXAMPLES / "genai" / "complete.py"),
    ]


def _openvino() -> list[str]:
    return [
        str(python("openvino", ["openvino>=2026", "tokenizers"])),
        str(EXAMPLES / "openvino" / "complete.py"),
    ]


def optimum() -> Path:
    """The interpreter of an environment with optimum-onnx, what it needs of
    transformers, and our plug-in.
    """
    rest = (
        ["optimum-onnx[onnxruntime]>=0.1,<0.2"],
        ["--no-deps", str(ROOT / "plugins" / "optimum")],
    )
    try:
        return python("optimum", os.environ.get("TORCH", "torch").split(), *rest)
    except MissingError:  # that build of torch is not for everywhere
        return python("optimum", ["torch"], *rest)


def _optimum() -> list[str]:
    return [str(optimum()), str(EXAMPLES / "optimum" / "complete.py")]


def optimum_cli(checkpoint: Path, out: Path) -> Path:
    """What ``optimum-cli export onnx`` makes of a checkpoint."""
    cli = optimum().parent / "optimum-cli"
    run(
        "optimum-cli export onnx",
        cli,
        "export",
        "onnx",
        "--model",
        checkpoint,
        "--task",
        "text-generation-with-past",
        out,
    )
    return out


def _reference() -> list[str]:
    return [sys.executable, str(EXAMPLES / "onnx-reference" / "complete.py")]


INTEGERS = ("int8", "int4")
RUNTIMES = (
    Runtime("onnxruntime in C++", "cpu", ("fp32", "int8", "int4"), ("fp32", "int8", "int4"), _cpp),
    Runtime(
        "onnxruntime in Rust", "cpu", ("fp32", "int8", "int4"), ("fp32", "int8", "int4"), _rust
    ),
    Runtime("C++, with the kernels", "cpu", INTEGERS, INTEGERS, on_kernels(_cpp), kernels=True),
    Runtime("Rust, with the kernels", "cpu", INTEGERS, INTEGERS, on_kernels(_rust), kernels=True),
    Runtime("onnxruntime-node", "cpu", ("fp32", "int8", "int4"), ("fp32",), node),
    Runtime("onnxruntime-web in Chromium", "cpu", ("fp32", "int4"), ("fp32",), web),
    Runtime("onnxruntime-genai", "genai", ("fp32", "int8", "int4"), ("fp32",), _genai),
    Runtime("optimum-onnx", "optimum", ("fp32", "int8", "int4"), ("fp32",), _optimum),
    Runtime(
        "optimum-onnx, exported by optimum-cli",
        "optimum",
        ("fp32",),
        ("fp32",),
        _optimum,
        optimum_cli,
    ),
    Runtime("OpenVINO", "portable", ("fp32", "int8", "int4"), ("fp32",), _openvino),
    Runtime("ONNX reference evaluator", "portable", ("fp32", "int8"), ("fp32",), _reference),
)
