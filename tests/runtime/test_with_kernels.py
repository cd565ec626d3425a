"""On kernels of our own every step agrees with every other, to the last bit: cuts, batches,
threads, drafts and reuse.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.bench.depth import placed
from sc2onnx.errors import InferenceError, RequestError
from sc2onnx.evaluate import Settings, evaluate
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.description import on_kernels
from sc2onnx.runtime.loading import Place, open_model
from sc2onnx.runtime.memory_need import memory_need
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.ort.session import Session
from tests.runtime.rows import prefilled

pytestmark = pytest.mark.kernels

CODE = Path(argparse.__file__).read_text(encoding="utf-8")
LENGTH = 560  # the window is 256, the ring has 512 slots


def load(bundle: Path, **settings: Any) -> sc2onnx.Model:
    plain: dict[str, Any] = {"prefix_memory": 0, "threads": 2, "kernels": "on", "packed": "off"}
    return sc2onnx.load(bundle, **{**plain, **settings})


@pytest.fixture(
    scope="module", params=[("int4", "int8"), ("int4", "float32"), ("int8", "int8")], ids="-".join
)
def kind(request: pytest.FixtureRequest, int4_bundle: Path) -> tuple[Path, str]:
    """A bundle, and what is kept of keys and values."""
    return int4_bundle.parent / request.param[0], request.param[1]


@pytest.fixture(scope="module")
def model(kind: tuple[Path, str]) -> sc2onnx.Model:
    return load(kind[0], cache_type=kind[1], speculate=False)


@pytest.fixture(scope="module")
def ids(int4_bundle: Path) -> list[int]:
    return load(int4_bundle).codec.encode(CODE)[:2000]


def logits(model: sc2onnx.Model, tokens: list[int], steps: list[int]) -> npt.NDArray[np.float32]:
    """(n, vocab): of all tokens, computed in steps of these sizes, over and over."""
    parts, done = list[npt.NDArray[np.float32]](), 0
    with model.sequence() as sequence:
        while done < len(tokens):
            size = steps[len(parts) % len(steps)]
            parts.append(np.asarray(sequence.append(tokens[done : done + size])))
            done += size
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def one_by_one(model: sc2onnx.Model, ids: list[int]) -> npt.NDArray[np.float32]:
    return logits(model, ids[:LENGTH], [1])


@pytest.mark.parametrize(
    "steps", [[2], [3, 4, 5, 6, 7, 8, 9], [16], [17], [23, 1], [32], [64], [256], [257]], ids=str
)
def test_steps_of_any_length(
    model: sc2onnx.Model, ids: list[int], one_by_one: npt.NDArray[np.float32], steps: list[int]
) -> None:
    assert np.array_equal(logits(model, ids[:LENGTH], steps), one_by_one)


OTHER = """
import sys
import numpy as np
import sc2onnx
from sc2onnx.runtime.ort.kernels import look
model = sc2onnx.load(sys.argv[1], cache_type=sys.argv[2], kernels="on", packed="off", \
prefix_memory=0)
with model.sequence() as sequence:
    tokens = np.load(sys.argv[3])
    parts = [sequence.append(part) for part in np.split(tokens, [7, 8])]
np.save(sys.argv[4], np.concatenate(parts))
print(look().instructions)
"""


@pytest.mark.parametrize("instructions", ["portable", "avx2", "avx-vnni", "neon-dot"])
def test_every_instruction_set(
    kind: tuple[Path, str],
    ids: list[int],
    one_by_one: npt.NDArray[np.float32],
    instructions: str,
    tmp_path: Path,
) -> None:
    """Of this processor: where it lacks one the library takes its best."""
    np.save(tmp_path / "tokens.npy", ids[:LENGTH])
    command = [
        sys.executable,
        "-c",
        OTHER,
        str(kind[0]),
        kind[1],
        str(tmp_path / "tokens.npy"),
        str(tmp_path / "logits.npy"),
    ]
    environment = {**os.environ, "SC2ONNX_KERNELS": instructions}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if instructions == "portable":
        assert done.stdout.strip() == "portable"
    assert np.array_equal(np.load(tmp_path / "logits.npy"), one_by_one)


@pytest.mark.parametrize(
    "settings",
    [
        {"cache_capacity": 256},
        {"cache_capacity": 300, "prefill_chunk": 37},
        {"cache_capacity": 2048},
    ],
    ids=str,
)
def test_the_slots_change_nothing(
    kind: tuple[Path, str],
    ids: list[int],
    one_by_one: npt.NDArray[np.float32],
    settings: dict[str, int],
) -> None:
    other = load(kind[0], cache_type=kind[1], **settings)
    assert other.cache_shape.capacity % 16 == 0
    assert np.array_equal(logits(other, ids[:LENGTH], [500]), one_by_one)


def test_the_number_of_threads_changes_nothing(
    kind: tuple[Path, str], ids: list[int], one_by_one: npt.NDArray[np.float32]
) -> None:
    for threads in (1, 5):
        assert np.array_equal(
            logits(load(kind[0], cache_type=kind[1], threads=threads), ids[:LENGTH], [90]),
            one_by_one,
        )


def test_rewinding(
    model: sc2onnx.Model, ids: list[int], one_by_one: npt.NDArray[np.float32]
) -> None:
    with model.sequence() as sequence:
        sequence.append(ids[:LENGTH], None)
        sequence.rewind(model.rewindable)
        sequence.append([5] * 13, None)
        sequence.rewind(13)
        found = sequence.append(ids[LENGTH - model.rewindable : LENGTH])
    assert np.array_equal(np.asarray(found), one_by_one[LENGTH - model.rewindable :])


def test_a_row_of_a_batch_is_what_it_is_alone(model: sc2onnx.Model) -> None:
    """Rows of 9 to 700 tokens, so some before the window and some past it; one ends
    early, and one enters late.
    """
    prompts = [
        CODE[first : first + size]
        for first, size in ((0, 30), (900, 700), (5000, 1500), (9000, 2600))
    ]
    rows = model.generate(
        [*prompts, *prompts, "x ="], max_new_tokens=12, stop_tokens=(), logprobs=True
    )
    assert rows == [
        model.generate(prompt, max_new_tokens=12, stop_tokens=(), logprobs=True)
        for prompt in [*prompts, *prompts, "x ="]
    ]


def test_what_was_generated_is_taken_over_too(
    kind: tuple[Path, str], model: sc2onnx.Model, ids: list[int]
) -> None:
    reuse = load(kind[0], cache_type=kind[1], prefix_memory=None)
    for end in (3, 40, 43, 301, 555):
        prompt = ids[:end]
        assert np.array_equal(prefilled(reuse, prompt)[0], prefilled(model, prompt)[0])
        generated = [
            token.id for token in reuse.generate_tokens(prompt, max_new_tokens=5, stop_tokens=())
        ]
        longer = prompt + generated + ids[end : end + 3]
        found, count = prefilled(reuse, longer)
        assert np.array_equal(found, prefilled(model, longer)[0])
        assert count == end + 4  # the last one was drawn, not computed


def test_a_copied_beginning(kind: tuple[Path, str], model: sc2onnx.Model, ids: list[int]) -> None:
    """Of any number of tokens, whole tiles or not, beside the sequence that it is a copy of."""
    reuse = load(kind[0], cache_type=kind[1], prefix_memory=None)
    first = ids[:430]
    prefilled(reuse, first)
    for shared in (300, 159, 48, 33, 17):
        prompt = ids[:shared] + ids[1000 : 1000 + 80]
        found, count = prefilled(reuse, prompt)
        assert count >= shared
        assert np.array_equal(found, prefilled(model, prompt)[0])
    assert np.array_equal(prefilled(reuse, [*first, 7])[0], prefilled(model, [*first, 7])[0])


@pytest.mark.parametrize("seed", [None, 5], ids=["greedy", "sampled"])
def test_drafts_are_on_and_change_nothing(
    kind: tuple[Path, str], model: sc2onnx.Model, ids: list[int], seed: int | None
) -> None:
    fast = load(kind[0], cache_type=kind[1], prefix_memory=None)
    assert fast.speculates
    sampling = (
        SamplingParameters() if seed is None else SamplingParameters(temperature=0.7, seed=seed)
    )
    for end in (30, 250, 550):
        prompt = ids[:end] + ids[:20]
        found = [
            list(each.generate_tokens(prompt, max_new_tokens=24, sampling=sampling, stop_tokens=()))
            for each in (model, fast)
        ]
        assert found[0] == found[1]


def test_their_cache_is_counted(
    kind: tuple[Path, str], model: sc2onnx.Model, ids: list[int]
) -> None:
    facts = model.manifest.model
    with model.sequence() as sequence:
        sequence.append(ids[:LENGTH], None)
        width = facts.head_dim + 4 if kind[1] == "int8" else 4 * facts.head_dim
        assert (
            model.memory_footprint().cache
            == 2 * facts.num_layers * facts.num_kv_heads * 512 * width
        )
        kept, said = on_kernels(model.manifest)
        assert "runs here" in said
        if kept == kind[1]:
            assert memory_need(model.manifest, kept=kept).cache == model.memory_footprint().cache


def test_a_placed_sequence_computes_numbers(model: sc2onnx.Model) -> None:
    with placed(model, 300) as sequence:
        found = sequence.append([7, 8])
    assert found is not None
    assert np.isfinite(found).all()


def test_stages_are_the_whole(checkpoint: Path, tmp_path: Path, ids: list[int]) -> None:
    exporting = pytest.importorskip("sc2onnx.export")
    for stages in (1, 2):
        exporting.export(
            checkpoint,
            tmp_path / str(stages),
            precision="int4",
            stages=stages,
            calibration=exporting.Calibration(False),
        )
    whole, cut = (load(tmp_path / str(stages)) for stages in (1, 2))
    assert np.array_equal(logits(whole, ids[:300], [40]), logits(cut, ids[:300], [7]))


def test_kernels_that_refuse_a_bundle_are_told_of(
    int4_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(int4_bundle)
    begin = Session.__init__

    def refusing(session: Session, *arguments: Any, **options: Any) -> None:
        if options.get("kernels"):
            raise InferenceError("it does not fit")
        begin(session, *arguments, **options)

    monkeypatch.setattr(Session, "__init__", refusing)
    with pytest.warns(
        UserWarning, match="runs without sc2onnx-kernels, which refuse it: it does not fit"
    ):
        model = open_model(opened)
    assert not model.kernels
    with pytest.raises(InferenceError, match="it does not fit"):
        open_model(opened, place=Place(kernels="on"))


def test_measuring_them_beside_what_has_no_graph_for_them(int4_bundle: Path, bundle: Path) -> None:
    code = Path(argparse.__file__)
    ways = [
        Settings(max_tokens=600, kernels="on"),
        Settings(max_tokens=600, kernels="on", cache_type="float32"),
        Settings(max_tokens=600, kernels="off"),
    ]
    measured = [
        evaluate(int4_bundle, [code], against=bundle, settings=settings).scores[0].nll
        for settings in ways
    ]
    assert len(set(measured)) == 3
    assert max(measured) - min(measured) < 0.02
    with pytest.raises(RequestError, match="no graph for them"):
        evaluate(bundle, [code], settings=Settings(max_tokens=600, kernels="on"))
