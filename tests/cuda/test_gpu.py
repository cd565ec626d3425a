"""On a GPU: every precision against torch's logits, at every length and split, captured or not,
alone, together and in stages.

The bundles are exported, or taken from ``SC2ONNX_FIXTURE`` where
``scripts/make_fixture.py OUT --gpu`` put them, for a machine without the exporter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.runtime.ort.storage import DeviceBuffer
from tests.conftest import fixture_maker
from tests.runtime.rows import cache_of

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore:.*for cuda:UserWarning")]

PRECISIONS = ("fp16", "bf16", "int8", "int4")
WINDOW = 256
PROMPTS = [
    "def add(a, b):\n",
    "import os\nimport sys\n\nfor path in sys.argv:\n",
    "class Stack:\n    def push(self, item):\n",
]


@pytest.fixture(scope="session")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = os.environ.get("SC2ONNX_FIXTURE")
    if made and (Path(made) / "gpu").is_dir():
        return Path(made).resolve() / "gpu"
    return Path(fixture_maker().for_gpu(tmp_path_factory.mktemp("gpu") / "made"))


@pytest.fixture(scope="session", params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def there(bundles: Path, precision: str) -> sc2onnx.Model:
    """Loaded: so no node that computes was left to the CPU."""
    return sc2onnx.load(bundles / precision, device="cuda")


def tolerance(precision: str) -> float:
    """As :func:`sc2onnx.verify.criterion.half_tolerance`, of six layers."""
    return 8 * 0.425 * (2.0**-8 if precision == "bf16" else 2.0**-11) * sqrt(6 + 10)


def expected(
    bundles: Path, precision: str, reference: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.float32]:
    """Torch's logits; for integers those of the CPU provider, which has the same weights."""
    if precision in ("fp16", "bf16"):
        return np.asarray(reference["logits"], dtype=np.float32)
    with sc2onnx.load(bundles / precision).sequence() as sequence:
        logits = sequence.append(reference["tokens"])
    assert logits is not None
    return logits


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3])
@pytest.mark.parametrize(
    "sizes",
    [(600,), (1,), (1, 2, 3, 5, 8, 13, 21, 34, 1, 55, 89, 144)],
    ids=["at once", "token by token", "uneven"],
)
def test_logits(
    there: sc2onnx.Model,
    bundles: Path,
    precision: str,
    reference: Mapping[str, npt.NDArray[Any]],
    length: int,
    sizes: Sequence[int],
) -> None:
    tokens, logits = reference["tokens"][:length], expected(bundles, precision, reference)[:length]
    found, done, turn = list[Any](), 0, 0
    with there.sequence() as sequence:
        while done < length:
            stop = min(length, done + sizes[turn % len(sizes)])
            found.append(sequence.append(tokens[done:stop]))
            done, turn = stop, turn + 1
    assert (
        np.abs(np.concatenate(found) - logits).max() <= tolerance(precision) * np.abs(logits).max()
    )


def test_rewinds(
    there: sc2onnx.Model, bundles: Path, precision: str, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    tokens, logits = reference["tokens"], expected(bundles, precision, reference)
    with there.sequence() as sequence:
        sequence.append(tokens[:500], None)
        for back, ahead in ((1, 1), (7, 3), (300, 40), (200, 400)):
            sequence.rewind(back)
            start = sequence.length
            found = sequence.append(tokens[start : start + ahead])
            assert found is not None
            assert (
                np.abs(found - logits[start : start + ahead]).max()
                <= tolerance(precision) * np.abs(logits).max()
            )


def test_a_captured_step_is_the_step(
    bundles: Path, precision: str, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    """To the last bit, past the window, over growing buffers, and again for a second
    sequence in the same ones.
    """
    tokens = reference["tokens"]
    found = []
    for cuda_graphs in (True, False):
        model = sc2onnx.load(
            bundles / precision, device="cuda", cuda_graphs=cuda_graphs, prefix_memory=0
        )
        rows = list[Any]()
        for _ in range(2):
            with model.sequence() as sequence:
                sequence.append(tokens[:40], None)
                rows += [sequence.append(tokens[i : i + 1]) for i in range(40, 400)]
        found.append(np.concatenate(rows))
        assert bool(model.session.graphs[0].captured) == cuda_graphs
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_greedy_tokens_are_torchs(
    bundles: Path, cuda_graphs: bool, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    model = sc2onnx.load(bundles / "fp16", device="cuda", cuda_graphs=cuda_graphs)
    found = [
        token.id
        for token in model.generate_tokens(
            reference["tokens"][:40], max_new_tokens=64, stop_tokens=()
        )
    ]
    assert found == reference["greedy"][:64].tolist()


def test_rows_together_and_alone(there: sc2onnx.Model) -> None:
    together = there.generate(PROMPTS, max_new_tokens=24, logprobs=True)
    alone = [there.generate(prompt, max_new_tokens=24, logprobs=True) for prompt in PROMPTS]
    for one, other in zip(together, alone, strict=True):
        same = [a == b for a, b in zip(one.tokens, other.tokens, strict=False)]
        # a near tie may go the other way: each batch size has kernels of its own
        first = same.index(False) + 1 if False in same else len(same)
        assert one.logprobs is not None
        assert other.logprobs is not None
        np.testing.assert_allclose(one.logprobs[:first], other.logprobs[:first], atol=0.2)


def test_the_cache_is_on_the_device_and_updated_there(there: sc2onnx.Model) -> None:
    with there.sequence() as sequence:
        sequence.append([1, 2, 3])
        buffers = cache_of(sequence).buffers
        assert all(
            isinstance(buffer, DeviceBuffer) and buffer.value.device_name() == "cuda"
            for buffer in buffers
        )
        addresses = [buffer.address for buffer in buffers]
        sequence.append([4])
        assert [buffer.address for buffer in cache_of(sequence).buffers] == addresses
        assert all(
            buffer[:, :, :4].any() and not buffer[:, :, 4:].any()
            for buffer in cache_of(sequence).by_slot
        )


def test_stages_on_the_gpu_and_beside_it(
    bundles: Path, reference: Mapping[str, npt.NDArray[Any]]
) -> None:
    tokens, logits = reference["tokens"][:300], reference["logits"][:300]
    for devices in (["cuda", "cuda"], ["cuda", "cpu"], ["cpu", "cuda"]):
        with sc2onnx.load(bundles / "staged", device_map=devices).sequence() as sequence:
            found = [
                sequence.append(tokens[:290]),
                sequence.append(tokens[290:291]),
                sequence.append(tokens[291:]),
            ]
        assert (
            np.abs(np.concatenate([part for part in found if part is not None]) - logits).max()
            <= tolerance("fp16") * np.abs(logits).max()
        )


def test_verify_compares_what_the_gpu_computes(
    bundles: Path, checkpoint: Path, precision: str
) -> None:
    verification = pytest.importorskip("sc2onnx.verify")
    before = (bundles / precision / "sc2onnx.json").read_bytes()
    summary = verification.verify(
        bundles / precision, checkpoint, max_length=300, greedy_tokens=16, device="cuda"
    ).summary
    assert summary.passed
    assert (bundles / precision / "sc2onnx.json").read_bytes() == before
