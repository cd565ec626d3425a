"""What the examples of other runtimes need, installed and built once."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
BUILD = Path(os.environ.get("SC2ONNX_INTEROP", ROOT / "build" / "interop"))
"""Where everything is installed and built, once."""

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class MissingError(Exception):
    """Why a runtime cannot be had here, in one line."""


def run(what: str, *command: str | Path, cwd: Path | None = None, compiles: bool = False) -> None:
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


def once(name: str, make: Callable[[Path], None]) -> Path:
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
        run("python -m venv", sys.executable, "-m", "venv", directory)
        for group in installs:
            run(
                f"pip install {' '.join(group)}",
                directory / "bin" / "python",
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                "--no-compile",  # most of it is never imported
                *group,
            )

    return once(name, make) / "bin" / "python"


def npm(name: str) -> Path:
    """A copy of a JavaScript example with its packages."""

    def make(directory: Path) -> None:
        shutil.copytree(EXAMPLES / name, directory, ignore=shutil.ignore_patterns("node_modules"))
        run("npm ci", "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=directory)

    if shutil.which("node") is None:
        raise MissingError("node is not installed")
    directory = once(name, make)
    for path in (EXAMPLES / name).glob("*.*"):
        if path.name != "package-lock.json":
            shutil.copy(path, directory)
    return directory


def headers() -> Path:
    """ONNX Runtime's headers."""

    def make(directory: Path) -> None:
        run("scripts/onnxruntime-headers", ROOT / "scripts" / "onnxruntime-headers", directory)

    return once("include", make)


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
