"""Builds and checks a release of sc2onnx, sc2onnx-runtime and sc2onnx-kernels; uploads nothing.

    scripts/release [--rehearsal] [--out DIR]

It needs ``build`` and ``twine``, which the shell script of the same name installs. A rehearsal
builds from a clone that is not ready for a release, and says what stands in the way.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import release_files
import release_state
from changelog import notes

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / "packaging" / "runtime"
KERNELS = ROOT / "native"
PROMPT = "def read(self, path):\n    "


def main(arguments: list[str] | None = None) -> int:
    """Build, check and describe; return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description="Build and check a release; upload nothing.")
    rehearsal = "build although the clone is not ready for a release, and say why it is not"
    parser.add_argument("--rehearsal", action="store_true", help=rehearsal)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist/")
    args = parser.parse_args(arguments)
    wrong = [*release_state.contradictions(ROOT)]
    missing = [*release_state.obstacles(ROOT)]
    if _told("contradictory", wrong) or (_told("not ready", missing) and not args.rehearsal):
        return 1
    if args.out.exists() and any(args.out.iterdir()):
        print(f"release: {args.out} is not empty, expected a new directory", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="sc2onnx-release-") as scratch:
        return _release(Path(scratch), args.out, rehearsal=args.rehearsal)


def _release(scratch: Path, out: Path, *, rehearsal: bool) -> int:
    seconds = release_state.section(ROOT).seconds
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(seconds or 1577836800)}  # 2020
    built = build(scratch / "built", environment)
    wrong = [*release_files.faults(built), *differences(built, scratch / "again", environment)]
    if _told("unfit", wrong):
        return 1
    _run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()))
    try_out(built, scratch / "venv")
    _written(built, out)
    state = "rehearsed; this is no release" if rehearsal else "built and checked"
    print(f"release: {release_state.version(ROOT)} {state}, in {out}; nothing was uploaded")
    return 0


def build(out: Path, environment: Mapping[str, str]) -> Path:
    """Build every archive into a directory: from the source distribution where there is one.

    The runtime has no source distribution, as its wheel is a part of the clone.
    """
    for project, kinds in ((ROOT, ()), (KERNELS, ()), (RUNTIME, ("--wheel",))):
        words = ("-m", "build", "--outdir", out, *kinds, project)
        _run(sys.executable, *words, env=environment)
    return out


def differences(built: Path, again: Path, environment: Mapping[str, str]) -> Iterable[str]:
    """Archives of Python alone that differ when they are built a second time."""
    for project, kinds in ((ROOT, ()), (RUNTIME, ("--wheel",))):
        _run(sys.executable, "-m", "build", "--outdir", again, *kinds, project, env=environment)
    for path in sorted(again.iterdir()):
        if release_files.digest(path) != release_files.digest(built / path.name):
            yield f"{path.name} differs when it is built again, expected the same bytes"


def try_out(built: Path, venv: Path) -> None:
    """Install the wheels in an empty environment; export and run the mini checkpoint there."""
    _run(sys.executable, "-m", "venv", venv)
    python, commands = venv / "bin" / "python", venv / "bin"
    wheels = {path.name.split("-")[0]: path for path in built.glob("*.whl")}
    whole = f"{wheels.pop('sc2onnx')}[cpu,export]"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*pip, whole, *wheels.values())
    _run(python, "-m", "pip", "check")
    bundle = venv / "mini"
    checkpoint = ROOT / "examples" / "starcoder2-mini"
    _run(commands / "sc2onnx", "export", checkpoint, bundle, "--precision", "int8")
    words = ("generate", bundle, PROMPT, "--max-new-tokens", "16", "--kernels", "on")
    texts = {_output(commands / name, *words) for name in ("sc2onnx", "sc2onnx-runtime")}
    if len(texts) != 1 or not "".join(texts).strip():
        raise SystemExit(f"release: sc2onnx and sc2onnx-runtime write {texts}, expected one text")
    _run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "sc2onnx")
    if {_output(commands / "sc2onnx-runtime", *words)} != texts:
        raise SystemExit("release: sc2onnx-runtime fails once sc2onnx is uninstalled")


def _written(built: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(built.iterdir()):
        shutil.copy2(path, out)
        print(f"{path.stat().st_size:>12,}  {path.name}")
    (out / "SHA256SUMS").write_text(release_files.checksums(built), encoding="utf-8")
    text = notes(release_state.section(ROOT), release_state.introduction(ROOT))
    (out / "NOTES.md").write_text(text, encoding="utf-8")


def _told(state: str, sentences: list[str]) -> bool:
    """Say what is wrong; whether anything is."""
    for sentence in sentences:
        print(f"release: {state}: {sentence}", file=sys.stderr)
    return bool(sentences)


def _run(*words: object, env: Mapping[str, str] | None = None) -> None:
    print("$", *words, flush=True)
    clean = {name: value for name, value in (env or os.environ).items() if name != "PYTHONPATH"}
    subprocess.run([*map(str, words)], check=True, env=clean, cwd=ROOT)


def _output(*words: object) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [*map(str, words)]
    done = subprocess.run(command, check=True, env=clean, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
