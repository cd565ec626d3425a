"""Runtimes other than ours that run bundles: how each is installed, and the example that drives it.

Every example takes ``BUNDLE --ids 1,2,3 --max-new-tokens N --threads N --ignore-eos --json`` and
prints an object of ``tokens``, ``seconds_per_token``, ``runtime`` and ``version``.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from sc2onnx.runtime.ort.kernels import Missing, look

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
BUILD = Path(os.environ.get("SC2ONNX_INTEROP", ROOT / "build" / "interop"))
"""Where everything is installed and built, once."""

LIBRARY = "SC2ONNX_KERNELS_LIBRARY"
"""Variable that names the kernels' library to the examples; here an option does."""

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class MissingError(Exception):
    """Why a runtime cannot be had here, in one line."""


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


def _run(what: str, *command: str | Path, cwd: Path | None = None, compiles: bool = False) -> None:
    """``compiles``: an example, which is wrong where that fails, unless a part of
    the compiler is not there.
    """
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=900)
    except FileNotFoundError as error:
        raise MissingError(f"{Path(command[0]).name} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"{what} took too long") from error
    except subprocess.CalledProcessError as error:
        if compiles and "libclang" not in error.stderr:
            raise RuntimeError(f"{what} failed:\n{error.stderr[-4000:]}") from error
        said = (error.stderr or error.stdout).strip().splitlines()
        raise MissingError(f"{what} failed: {said[-1] if said else error.returncode}") from error


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """The directory of this name, made by the first who asks; several processes may."""
    directory = BUILD / name
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / f"{name}.lock"):
        if not (directory / ".ready").exists():
            shutil.rmtree(directory, ignore_errors=True)
            make(directory)
            (directory / ".ready").touch()
    return directory


def python(name: str, *installs: Sequence[str]) -> Path:
    """The interpreter of a virtual environment with these packages, each
    group installed by itself.
    """

    def make(directory: Path) -> None:
        _run("python -m venv", sys.executable, "-m", "venv", directory)
        for group in installs:
            _run(
                f"pip install {' '.join(group)}",
                directory / "bin" / "python",
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                *group,
            )

    return _once(name, make) / "bin" / "python"


def npm(name: str) -> Path:
    """A copy of a JavaScript example with its packages."""

    def make(directory: Path) -> None:
        shutil.copytree(EXAMPLES / name, directory, ignore=shutil.ignore_patterns("node_modules"))
        _run("npm ci", "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=directory)

    if shutil.which("node") is None:
        raise MissingError("node is not installed")
    directory = _once(name, make)
    for path in (EXAMPLES / name).glob("*.*"):
        if path.name != "package-lock.json":
            shutil.copy(path, directory)
    return directory


def headers() -> Path:
    """ONNX Runtime's headers."""

    def make(directory: Path) -> None:
        _run("scripts/onnxruntime-headers", ROOT / "scripts" / "onnxruntime-headers", directory)

    return _once("include", make)


def library() -> str:
    """ONNX Runtime's shared library, of the Python package."""
    package = find_spec("onnxruntime")  # found, not imported
    found = (
        glob.glob(os.path.join(os.path.dirname(package.origin), "capi", "libonnxruntime.so.*"))
        if package and package.origin
        else []
    )
    if not found:
        raise MissingError("the onnxruntime package has no shared library of its own here")
    return found[0]


def chromium() -> str:
    """A browser without a window."""
    for name in CHROMIUM:
        if path := shutil.which(name):
            return path
    raise MissingError("there is no Chromium (Debian: apt-get install chromium)")


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
        _run("cmake", "cmake", "-S", EXAMPLES / "cpp", "-B", directory, *where)

    directory = _once("cpp", make)
    with FileLock(BUILD / "cpp.lock"):  # what has changed since is built again
        _run("cmake --build", "cmake", "--build", directory, compiles=True)
    return [str(directory / "starcoder2")]


def cargo(command: str) -> Path:
    """Cargo on the Rust example, with ONNX Runtime's headers and library; where it builds."""
    out = BUILD / "rust"
    os.environ.update(ONNXRUNTIME_INCLUDE=str(headers()), ONNXRUNTIME_LIB=library())
    if shutil.which("bindgen") is None:
        raise MissingError("bindgen is not installed (Debian: apt-get install bindgen libclang1)")
    with FileLock(BUILD / "rust.lock"):
        where = ["--manifest-path", str(EXAMPLES / "rust" / "Cargo.toml"), "--target-dir", str(out)]
        _run(f"cargo {command}", "cargo", command, "--release", "--offline", *where, compiles=True)
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
    _run(
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
