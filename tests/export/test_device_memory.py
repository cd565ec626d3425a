"""What the runtime does for a device with memory of its own, with the processors'
memory in the part of it.

Values that stay where they are, buffers that are used again, tokens chosen on the
device: all but the copies over the bus and the captured graphs themselves, which
tests/cuda looks at where there is a GPU.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sc2onnx
from sc2onnx.bundle.contract import GREEDY_IDS
from sc2onnx.errors import InferenceError, SequenceStateError
from sc2onnx.export import export
from sc2onnx.runtime.loading import Place, open_model
from sc2onnx.runtime.model import Model
from sc2onnx.runtime.opening.bundle import Bundle
from sc2onnx.runtime.ort.binding import Step
from sc2onnx.runtime.ort.devices import Device
from sc2onnx.runtime.ort.storage import DeviceBuffer
from tests.runtime.rows import cache_of

PROMPTS = [
    "def add(a, b):\n",
    "import os\nimport sys\n\nfor path in sys.argv:\n",
    "class Stack:\n    def push(self, item):\n",
]

pytestmark = pytest.mark.filterwarnings("ignore:.*for cuda:UserWarning")


@dataclass(frozen=True)
class StandIn(Device):
    """The processors' memory, as if it were a GPU's."""

    @property
    def on_gpu(self) -> bool:
        return True


@pytest.fixture(scope="module")
def gpu_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "bundle"
    export(checkpoint, out, precision="fp16", target="cuda")
    return out


@pytest.fixture(scope="module")
def staged(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "bundle"
    export(checkpoint, out, precision="fp16", target="cuda", stages=2)
    return out


def on_device(bundle: Path, *, cuda_graphs: bool = True, count: int = 1) -> Model:
    return open_model(
        Bundle.open(bundle), place=Place((StandIn(),) * count, 2, cuda_graphs=cuda_graphs)
    )


@pytest.fixture
def there(gpu_bundle: Path) -> Model:
    return on_device(gpu_bundle)


@pytest.fixture(scope="module")
def here(gpu_bundle: Path) -> Model:
    return sc2onnx.load(gpu_bundle)


def test_logits_are_the_same_however_the_sequence_grows_and_is_rewound(
    there: Model, here: Model
) -> None:
    tokens = np.random.default_rng(0).integers(0, 4096, 700)
    with there.sequence() as ours, here.sequence() as theirs:
        for first, stop, back in (
            (0, 1, 0),
            (1, 60, 0),
            (60, 130, 20),
            (110, 600, 250),
            (350, 351, 0),
            (351, 700, 0),
        ):
            np.testing.assert_array_equal(
                ours.append(tokens[first:stop]), theirs.append(tokens[first:stop])
            )
            ours.rewind(back)
            theirs.rewind(back)
        assert all(isinstance(buffer, DeviceBuffer) for buffer in cache_of(ours).buffers)
        assert ours.rewindable == ours.length  # every position is kept


@pytest.mark.parametrize(
    "sampled",
    [
        {},
        {"temperature": 0.8, "seed": 3},
        {"repetition_penalty": 1.2},
        {"logprobs": True},
        {"heal": True},
    ],
    ids=str,
)
def test_completions_are_the_same(there: Model, here: Model, sampled: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        here.forget()  # what is reused is computed in other steps, and each rounds in its own way
        assert there.generate(prompt, max_new_tokens=40, **sampled) == here.generate(
            prompt, max_new_tokens=40, **sampled
        )


def test_batches_of_which_rows_end_and_enter_are_the_same(gpu_bundle: Path, here: Model) -> None:
    prompts = [*PROMPTS, "x = [", "# a comment\n"]
    together = open_model(Bundle.open(gpu_bundle), place=Place((StandIn(),), 2))
    here.forget()  # what is reused is computed in other steps
    assert together.generate(prompts, max_new_tokens=20, stop="\n\n") == here.generate(
        prompts, max_new_tokens=20, stop="\n\n"
    )
    found, expected = (
        model.generate(prompts, max_new_tokens=8, logprobs=True) for model in (together, here)
    )
    # prompts are cut as time has it, and each cut rounds in its own way
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=0.02)


def test_a_beginning_that_was_kept_is_used_again(there: Model, here: Model) -> None:
    text = "import argparse\n" * 12
    here.forget()
    for model in (there, here):
        model.generate(text, max_new_tokens=4)
    for prompt in (text + "x", text[:150] + "other", text):
        found, expected = (model.generate(prompt, max_new_tokens=16) for model in (there, here))
        assert found.reused_tokens == expected.reused_tokens > 16
        assert found.tokens == expected.tokens


def test_greedy_tokens_are_chosen_there_and_logits_stay(
    there: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = Step.run, list[bool]()

    def watched(
        self: Step,
        tokens: object,
        past: object,
        num_logits: int,
        *,
        ids: bool = False,
        **_: object,
    ) -> object:
        asked.append(ids)
        return real(self, tokens, past, num_logits, ids=ids)  # type: ignore[arg-type]

    monkeypatch.setattr(Step, "run", watched)
    there.generate(PROMPTS[0], max_new_tokens=6, stop_tokens=())
    there.generate(PROMPTS, max_new_tokens=6, stop_tokens=())
    assert all(asked)
    asked.clear()
    there.generate(PROMPTS[0], max_new_tokens=6, temperature=1.0, stop_tokens=())
    there.generate(PROMPTS[0], max_new_tokens=6, logprobs=True, stop_tokens=())
    assert not any(asked)


def test_logits_that_are_no_numbers_are_noticed_there(checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.numpy import load_file, save_file

    broken = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    tensors = {
        name: tensor.copy() for name, tensor in load_file(broken / "model.safetensors").items()
    }
    tensors["model.norm.weight"][:] = 3e4
    tensors["model.embed_tokens.weight"][7] *= 3e4  # overflows as an output, not as a weight
    save_file(tensors, broken / "model.safetensors")
    export(broken, tmp_path / "bundle", precision="fp16", target="cuda")
    with pytest.raises(InferenceError, match="logits that are not finite"):
        on_device(tmp_path / "bundle").generate("def", max_new_tokens=3)
    assert on_device(tmp_path / "bundle").memory_footprint().cache == 0


def test_buffers_are_used_again_and_so_are_the_graphs_that_belong_to_them(there: Model) -> None:
    for _ in range(4):
        there.generate(PROMPTS[0], max_new_tokens=5, stop_tokens=())
        there.forget()
        gc.collect()
    (graph,) = there.session.graphs
    assert len(graph.captured) == 1
    with there.sequence() as one, there.sequence() as two:
        for sequence in (one, two):
            sequence.append([5, 6, 7])
            sequence.append([8])
        addresses = [
            {buffer.address for buffer in cache_of(sequence).buffers} for sequence in (one, two)
        ]
        assert not addresses[0] & addresses[1]  # two that live share nothing
    numbers = [resident.number for resident in graph.captured.values()]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))  # one graph each


def test_no_more_graphs_are_captured_than_there_may_be(
    gpu_bundle: Path, here: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sc2onnx.runtime.ort.graph.MOST_CAPTURED", 2)
    model = on_device(gpu_bundle)
    sequences = [model.sequence() for _ in range(4)]
    for sequence in sequences:
        sequence.append([1, 2, 3])
        ours = sequence.append([4])
    (graph,) = model.session.graphs
    assert len(graph.captured) == 2
    with here.sequence() as other:
        other.append([1, 2, 3])
        np.testing.assert_array_equal(ours, other.append([4]))


def test_without_graphs_nothing_is_captured(gpu_bundle: Path) -> None:
    model = on_device(gpu_bundle, cuda_graphs=False)
    model.generate(PROMPTS[0], max_new_tokens=5)
    assert not model.session.graphs[0].captured


def test_stages_hand_their_hidden_states_on(staged: Path) -> None:
    ours, theirs = on_device(staged, count=2), sc2onnx.load(staged)
    assert GREEDY_IDS in ours.session.graphs[1].outputs
    # what is handed on lies somewhere else in every step
    assert not any(graph.captures for graph in ours.session.graphs)
    for prompt in PROMPTS:
        assert ours.generate(prompt, max_new_tokens=30) == theirs.generate(
            prompt, max_new_tokens=30
        )
    mixed = open_model(Bundle.open(staged), place=Place((StandIn(), Device()), 2))
    assert mixed.generate(PROMPTS[0], max_new_tokens=30) == theirs.generate(
        PROMPTS[0], max_new_tokens=30
    )
    with mixed.sequence() as sequence:
        sequence.append([1, 2])
        kinds = [type(buffer) for buffer in cache_of(sequence).buffers]
        half = 2 * staged_layers(staged)[0]
        assert kinds == [DeviceBuffer] * half + [np.ndarray] * (len(kinds) - half)


def staged_layers(bundle: Path) -> tuple[int, ...]:
    return Bundle.open(bundle).manifest.stages


def test_a_closed_sequence_stays_closed(there: Model) -> None:
    sequence = there.sequence()
    sequence.append([1, 2, 3])
    sequence.close()
    with pytest.raises(SequenceStateError):
        sequence.append([4])
