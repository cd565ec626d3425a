"""Each other runtime gives the greedy tokens of ours, before the window and past it, by the example that its users copy."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("onnx_ir", reason="exports bundles: install the export extra")

import sc2onnx
from runtimes import EXAMPLES, RUNTIMES, MissingError, Runtime, cargo, optimum_cli, play
from sc2onnx.card import PLACE
from sc2onnx.export import Calibration, export
from sc2onnx.manifest import CARD_FILE
from sc2onnx.verify import verify

COUNT, THREADS = 64, 2
CASES = [(runtime, precision) for runtime in RUNTIMES for precision in runtime.exact]


class Ours:
    """Bundles by target and precision, made once, and what our runtime makes of them."""

    def __init__(self, checkpoint: Path, directory: Path) -> None:
        self.checkpoint, self.directory = checkpoint, directory
        self._greedy: dict[tuple[str, int], list[int]] = {}

    def bundle(self, target: str, precision: str) -> Path:
        out = self.directory / f"{target}-{precision}"
        if not out.exists():
            export(self.checkpoint, out, target=target, precision=precision, calibration=None if precision == "fp32" else Calibration(wanted=False))
        return out

    def expected(self, precision: str, length: int) -> tuple[list[int], list[int]]:
        """The prompt and its greedy tokens."""
        model = sc2onnx.load(self.bundle("cpu", precision), threads=THREADS, speculate=False)
        prompt = model.codec.encode(Path(argparse.__file__).read_text(encoding="utf-8"), special=False)[:length]
        if (precision, length) not in self._greedy:
            self._greedy[precision, length] = [token.id for token in model.generate_tokens(prompt, max_new_tokens=COUNT, stop_tokens=())]
        return prompt, self._greedy[precision, length]


@pytest.fixture(scope="module")
def ours(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return Ours(checkpoint, tmp_path_factory.mktemp("interop"))


def prepared(runtime: Runtime) -> list[str]:
    try:
        return runtime.prepare()
    except MissingError as reason:
        pytest.skip(f"{runtime}: {reason}")


@pytest.mark.parametrize(("runtime", "precision"), CASES, ids=str)
def test_the_same_greedy_tokens(runtime: Runtime, precision: str, ours: Ours, tmp_path: Path) -> None:
    command = prepared(runtime)
    bundle = ours.bundle(runtime.target, precision) if runtime.convert is None else runtime.convert(ours.checkpoint, tmp_path / "converted")
    for length in (40, 700):  # the window is 256
        prompt, expected = ours.expected(precision, length)
        found = play(command, bundle, prompt, COUNT, THREADS)
        assert found.tokens == expected, length
        assert found.seconds_per_token > 0
        assert found.version


def test_what_optimum_cli_exports_is_verified(checkpoint: Path, tmp_path: Path) -> None:
    """With its window, and the base of its rotary embedding, which transformers 4 does not read where transformers 5 writes it."""
    try:
        exported = optimum_cli(checkpoint, tmp_path / "exported")
    except MissingError as reason:
        pytest.skip(str(reason))
    summary = verify(exported, checkpoint, greedy_tokens=64).summary
    assert summary.passed
    assert (summary.greedy_match, summary.longest) == (64, 515)


@pytest.mark.parametrize("target", ["genai", "optimum"])
def test_the_program_on_the_card_runs(target: str, ours: Ours) -> None:
    """As it stands there, where its runtime is installed, and writes what ours does."""
    runtime = next(runtime for runtime in RUNTIMES if runtime.target == target)
    interpreter, *_ = prepared(runtime)
    bundle = ours.bundle(target, "fp32")
    (program,) = re.findall(r"```python\n(.*?)```", (bundle / CARD_FILE).read_text(encoding="utf-8"), re.DOTALL)
    assert PLACE in program
    done = subprocess.run([interpreter, "-c", program.replace(PLACE, str(bundle))], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = sc2onnx.load(ours.bundle("cpu", "fp32"), speculate=False).generate("def fib(n):\n", max_new_tokens=24).text
    assert f"def fib(n):\n{expected}" in done.stdout


NATIVE = [runtime for runtime in RUNTIMES if runtime.name in ("onnxruntime in C++", "onnxruntime in Rust")]


@pytest.mark.parametrize("runtime", NATIVE, ids=str)
def test_native_programs_say_what_is_wrong(runtime: Runtime, ours: Ours, tmp_path: Path) -> None:
    command = prepared(runtime)
    bundle = ours.bundle("cpu", "fp32")
    for arguments, said in (
        ([], "usage: starcoder2 BUNDLE --ids 1,2,3"),
        ([tmp_path, "--ids", "1"], "is not a bundle"),
        ([ours.bundle("optimum", "fp32"), "--ids", "1"], "a cache of kind growing, expected a ring in float32: export it with --target cpu"),
        ([bundle, "--ids", "4096"], "token id 4096, expected 0 to 4095"),
    ):
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr


def test_the_rust_examples_own_tests() -> None:
    try:
        cargo("test")
    except MissingError as reason:
        pytest.skip(str(reason))


def test_the_page_has_the_file_of_the_node_example() -> None:
    assert (EXAMPLES / "web" / "starcoder2.mjs").read_bytes() == (EXAMPLES / "node" / "starcoder2.mjs").read_bytes()
