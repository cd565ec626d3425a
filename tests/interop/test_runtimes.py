"""Each other runtime gives the greedy tokens of ours, before the window and past it, by the
example that its users copy.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("onnx_ir", reason="exports bundles: install the export extra")

from installed import EXAMPLES, MissingError
from interop import COUNT, LENGTHS, Ours, bundle_for
from runtimes import RUNTIMES, Runtime, cargo, optimum_cli, play
from sc2onnx.bundle.contract import CARD_FILE
from sc2onnx.bundle.model_card import PLACE
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.ort.kernels import Kernels, look
from sc2onnx.runtime.ort.packing import make
from sc2onnx.verify import verify

THREADS = 2
CASES = [(runtime, precision) for runtime in RUNTIMES for precision in runtime.exact]


class Bundles:
    """Bundles by target and precision, made once, and what our runtime makes of them."""

    def __init__(self, checkpoint: Path, directory: Path) -> None:
        self.checkpoint, self._directory = checkpoint, directory
        self._made: dict[tuple[str, str], Path] = {}
        self._ours: dict[tuple[str, bool], Ours] = {}

    def get(self, target: str, precision: str) -> Path:
        if (target, precision) not in self._made:
            self._made[target, precision] = bundle_for(
                self.checkpoint, target, precision, self._directory
            )
        return self._made[target, precision]

    def ours(self, precision: str, *, kernels: bool = False) -> Ours:
        if (precision, kernels) not in self._ours:
            bundle = self.get("cpu", precision)
            self._ours[precision, kernels] = Ours(bundle, LENGTHS, THREADS, kernels=kernels)
        return self._ours[precision, kernels]


@pytest.fixture(scope="module")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return Bundles(checkpoint, tmp_path_factory.mktemp("interop"))


def prepared(runtime: Runtime) -> list[str]:
    try:
        return runtime.prepare()
    except MissingError as reason:
        pytest.skip(f"{runtime}: {reason}")


def kernels() -> Kernels:
    found = look()
    assert isinstance(found, Kernels)  # or no program would be prepared for them
    return found


WINDOW = 256
"""Of the mini model."""

FEW = 8
"""Tokens that are compared where near ties may turn."""


@pytest.mark.parametrize(("runtime", "precision"), CASES, ids=str)
def test_the_same_greedy_tokens(
    runtime: Runtime, precision: str, bundles: Bundles, tmp_path: Path
) -> None:
    command = prepared(runtime)
    bundle = (
        bundles.get(runtime.target, precision)
        if runtime.convert is None
        else runtime.convert(bundles.checkpoint, tmp_path / "converted")
    )
    ours = bundles.ours(precision, kernels=runtime.kernels)
    # ONNX Runtime rounds activations to int8: prompts that are cut otherwise turn near ties
    turns = precision == "int4" and not runtime.kernels
    for prompt, expected in zip(ours.prompts, ours.greedy, strict=True):
        found = play(command, bundle, prompt, COUNT, THREADS)
        alike = FEW if turns and len(prompt) > WINDOW else COUNT
        assert found.tokens[:alike] == expected[:alike], len(prompt)
        assert len(found.tokens) == COUNT
        assert found.seconds_per_token > 0
        assert found.version
        assert ("kernels" in found.runtime) == runtime.kernels


def test_what_optimum_cli_exports_is_verified(checkpoint: Path, tmp_path: Path) -> None:
    """With its window, and the base of its rotary embedding, which transformers 4 does not read
    where transformers 5 writes it.
    """
    try:
        exported = optimum_cli(checkpoint, tmp_path / "exported")
    except MissingError as reason:
        pytest.skip(str(reason))
    summary = verify(exported, checkpoint, greedy_tokens=64).summary
    assert summary.passed
    assert (summary.greedy_match, summary.longest) == (64, 515)


@pytest.mark.parametrize("target", ["genai", "optimum"])
def test_the_program_on_the_card_runs(target: str, bundles: Bundles) -> None:
    """As it stands there, where its runtime is installed, and writes what ours does."""
    runtime = next(runtime for runtime in RUNTIMES if runtime.target == target)
    interpreter, *_ = prepared(runtime)
    bundle = bundles.get(target, "fp32")
    (program,) = re.findall(
        r"```python\n(.*?)```", (bundle / CARD_FILE).read_text(encoding="utf-8"), re.DOTALL
    )
    assert PLACE in program
    done = subprocess.run(
        [interpreter, "-c", program.replace(PLACE, str(bundle))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    expected = bundles.ours("fp32").model.generate("def fib(n):\n", max_new_tokens=24).text
    assert f"def fib(n):\n{expected}" in done.stdout


NATIVE = [
    runtime for runtime in RUNTIMES if runtime.name in ("onnxruntime in C++", "onnxruntime in Rust")
]


@pytest.mark.parametrize("runtime", NATIVE, ids=str)
def test_native_programs_say_what_is_wrong(
    runtime: Runtime, bundles: Bundles, tmp_path: Path
) -> None:
    command = prepared(runtime)
    bundle = bundles.get("cpu", "fp32")
    for arguments, said in (
        ([], "usage: starcoder2 BUNDLE --ids 1,2,3"),
        ([tmp_path, "--ids", "1"], "is not a bundle"),
        (
            [bundles.get("optimum", "fp32"), "--ids", "1"],
            "a cache of kind growing, expected a ring in float32: export it with --target cpu",
        ),
        ([bundle, "--ids", "4096"], "token id 4096, expected 0 to 4095"),
    ):
        done = subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr


@pytest.mark.parametrize("runtime", [one for one in RUNTIMES if one.kernels], ids=str)
def test_the_ring_of_the_kernels_wraps(runtime: Runtime, bundles: Bundles) -> None:
    """Theirs has 768 slots and ours fewer: they wrap at different positions, in other steps."""
    command, ours = prepared(runtime), bundles.ours("int8", kernels=True)
    prompt = ours.ids[:1200]
    found = play(command, bundles.get("cpu", "int8"), prompt, COUNT, THREADS)
    assert found.tokens == ours.tokens(prompt)[0]


@pytest.mark.parametrize("runtime", [one for one in RUNTIMES if one.kernels], ids=str)
def test_a_bundle_without_a_graph_for_the_kernels_runs(runtime: Runtime, bundles: Bundles) -> None:
    command, ours = prepared(runtime), bundles.ours("fp32")
    found = play(command, bundles.get("cpu", "fp32"), ours.prompts[0], COUNT, THREADS)
    assert found.tokens == ours.greedy[0]
    assert "kernels" not in found.runtime


@pytest.mark.parametrize("runtime", [one for one in RUNTIMES if one.kernels], ids=str)
def test_packed_weights_are_for_every_program(runtime: Runtime, bundles: Bundles) -> None:
    """Those that our runtime keeps; another file is refused."""
    command, bundle = [*prepared(runtime), "--packed"], bundles.get("cpu", "int8")
    packed, ours = make(Bundle.open(bundle), kernels()).data, bundles.ours("int8", kernels=True)
    found = play([*command, str(packed)], bundle, ours.prompts[0], COUNT, THREADS)
    assert found.tokens == ours.greedy[0]
    with pytest.raises(RuntimeError, match="it is no file of packed weights"):
        play([*command, str(bundle / "config.json")], bundle, [1], 1, THREADS)


def test_the_rust_examples_own_tests() -> None:
    try:
        cargo("test")
    except MissingError as reason:
        pytest.skip(str(reason))


def test_the_page_has_the_file_of_the_node_example() -> None:
    assert (EXAMPLES / "web" / "starcoder2.mjs").read_bytes() == (
        EXAMPLES / "node" / "starcoder2.mjs"
    ).read_bytes()
