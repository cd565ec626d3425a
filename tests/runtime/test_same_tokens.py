"""The same tokens however they were computed, without kernels of our own: bit for bit in int8, and
what int4 and fp32 promise.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.bundle.schemes import Scheme
from sc2onnx.bundle.steps import ANY, EVEN, NONE, agreeing_steps
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.loading import Place, open_model
from sc2onnx.runtime.opening.bundle import Bundle
from tests.runtime.rows import prefilled

CODE = Path(argparse.__file__).read_text(encoding="utf-8")
LENGTH = 600  # the window is 256, the ring has 512 slots
NATS = 1e-4
"""How far log probabilities of fp32 may lie apart; logits of up to 17 are 1.3e-5 apart."""


def load(bundle: Path, **settings: Any) -> sc2onnx.Model:
    plain: dict[str, Any] = {"speculate": False, "prefix_memory": 0, "threads": 2, "kernels": "off"}
    return sc2onnx.load(bundle, packed="off", **{**plain, **settings})


@pytest.fixture(scope="module")
def int8(int8_bundle: Path) -> sc2onnx.Model:
    return load(int8_bundle)


@pytest.fixture(scope="module")
def ids(int8: sc2onnx.Model) -> list[int]:
    return int8.codec.encode(CODE)[:2000]


def logits(model: sc2onnx.Model, tokens: list[int], step: int) -> npt.NDArray[np.float32]:
    """(n, vocab): of all tokens, computed so many at a time."""
    with model.sequence() as sequence:
        return np.concatenate(
            [
                np.asarray(sequence.append(tokens[first : first + step]))
                for first in range(0, len(tokens), step)
            ]
        )


@pytest.fixture(scope="module")
def one_by_one(int8: sc2onnx.Model, ids: list[int]) -> npt.NDArray[np.float32]:
    return logits(int8, ids[:LENGTH], 1)


@pytest.mark.parametrize("step", [2, 16, 17, 33, 65, 256])
def test_int8_steps_of_any_length_are_steps_of_one(
    int8: sc2onnx.Model, ids: list[int], one_by_one: npt.NDArray[np.float32], step: int
) -> None:
    """Steps of 17, 33 and 65 tokens are where ONNX Runtime cuts sums of more than 512, 256 and 128
    slots into shorter parts.
    """
    assert np.array_equal(logits(int8, ids[:LENGTH], step), one_by_one)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_number_of_threads_changes_nothing(
    int8_bundle: Path, precision: str, ids: list[int]
) -> None:
    models = [load(int8_bundle.parent / precision, threads=threads) for threads in (1, 2, 5)]
    for step in (1, 90):
        expected, *others = (logits(model, ids[:300], step) for model in models)
        assert all(np.array_equal(found, expected) for found in others)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.9, "seed": 3}], ids=["greedy", "sampled"]
)
def test_an_int8_row_of_a_batch_is_what_it_is_alone(
    int8: sc2onnx.Model, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 9 to 700 tokens, so some before the window and some past it, in a
    cache of the largest capacity.
    """
    prompts = [
        CODE[first : first + size]
        for first, size in ((0, 30), (900, 700), (5000, 1500), (9000, 2600))
    ]
    rows = int8.generate(prompts, max_new_tokens=12, stop_tokens=(), logprobs=True, **options)
    # each row draws from a stream of its own, so alone is in a batch of one at a time
    if "seed" in options:
        monkeypatch.setattr(int8.engine.lobby, "bounds", replace(int8.engine.bounds, rows=1))
        assert rows == int8.generate(
            prompts, max_new_tokens=12, stop_tokens=(), logprobs=True, **options
        )
        return
    assert rows == [
        int8.generate(prompt, max_new_tokens=12, stop_tokens=(), logprobs=True, **options)
        for prompt in prompts
    ]


@pytest.mark.parametrize("seed", [None, 5], ids=["greedy", "sampled"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_log_probabilities_with_reuse_and_drafts(
    bundle: Path, int8_bundle: Path, ids: list[int], precision: str, seed: int | None
) -> None:
    """int8: equal to the last bit. fp32: the same tokens, the log
    probabilities within 1e-4 nats.
    """
    directory = bundle if precision == "fp32" else int8_bundle
    plain, fast = load(directory), load(directory, speculate=True, prefix_memory=None)
    sampling = (
        SamplingParameters() if seed is None else SamplingParameters(temperature=0.7, seed=seed)
    )
    for end in (30, 250, 600):  # each finds the one before
        prompt = ids[:end] + ids[:20]
        found = [
            list(
                model.generate_tokens(
                    prompt, max_new_tokens=24, sampling=sampling, stop_tokens=(), logprobs=True
                )
            )
            for model in (plain, fast)
        ]
        assert [token.id for token in found[1]] == [token.id for token in found[0]]
        values = np.array([[token.logprob for token in tokens] for tokens in found])
        assert np.abs(values[1] - values[0]).max() <= (NATS if precision == "fp32" else 0)


def test_int4_prompts_agree_however_much_was_reused(int4_bundle: Path, ids: list[int]) -> None:
    """A prompt is computed in even steps, whatever is left of it; what was generated, in steps
    of one, is not taken over.
    """
    plain, reuse = load(int4_bundle), load(int4_bundle, prefix_memory=None)
    reused = 0
    for end in (3, 1, 40, 41, 43, 301, 600, 601, 640):
        prompt = ids[:end]
        assert np.array_equal(prefilled(reuse, prompt)[0], prefilled(plain, prompt)[0])
        generated = [
            token.id for token in reuse.generate_tokens(prompt, max_new_tokens=5, stop_tokens=())
        ]
        assert generated == [
            token.id for token in plain.generate_tokens(prompt, max_new_tokens=5, stop_tokens=())
        ]
        longer = prompt + generated + ids[end : end + 3]
        found, count = prefilled(reuse, longer)
        assert np.array_equal(found, prefilled(plain, longer)[0])
        assert count <= end
        reused += count
    assert reused > 1000


def test_int4_prompts_that_leave_no_room_for_another_token(
    int4_bundle: Path, ids: list[int]
) -> None:
    model = load(int4_bundle)
    full = model.manifest.model.context_length
    prompt = (ids * 2)[: full - 1]
    assert len(list(model.generate_tokens(prompt, max_new_tokens=3, stop_tokens=()))) == 2
    assert len(list(model.generate_tokens([*prompt, 5], max_new_tokens=3, stop_tokens=()))) == 1
    # past the window, steps of one
    tight = load(int4_bundle, cache_capacity=model.manifest.model.window)
    assert len(list(tight.generate_tokens(ids[:301], max_new_tokens=2, stop_tokens=()))) == 2


def test_int4_rewinds_as_far_as_promised_after_an_odd_prompt(
    int4_bundle: Path, ids: list[int]
) -> None:
    model = load(int4_bundle)
    with model.sequence() as sequence:
        sequence.append(ids[:701], None)
        sequence.rewind(model.rewindable)


@pytest.mark.parametrize(
    ("schemes", "sizes", "expected"),
    [
        ({Scheme(8, 64), Scheme(8, 32)}, (24, 2, 128), ANY),
        ({Scheme(4, 32)}, (4, 2, 64), ANY),
        ({Scheme(4, 128), Scheme(8, 256)}, (24, 2, 128), EVEN),
        ({Scheme(8, 64), Scheme(4, 64)}, (24, 2, 128), EVEN),
        ({Scheme(8, 16)}, (24, 2, 128), NONE),
        ({Scheme(8, 64)}, (24, 24, 128), NONE),
        ({Scheme(8, 64)}, (24, 2, 256), NONE),
    ],
)
def test_which_steps_agree(
    schemes: set[Scheme], sizes: tuple[int, int, int], expected: str
) -> None:
    assert agreeing_steps(schemes, *sizes) == expected


def test_a_manifest_is_not_taken_at_its_word(int4_bundle: Path, int8_bundle: Path) -> None:
    for directory, claim in ((int4_bundle, ANY), (int8_bundle, EVEN), (int8_bundle, NONE)):
        opened = Bundle.open(directory)
        claimed = open_model(
            replace(opened, manifest=replace(opened.manifest, agreeing_steps=claim)),
            place=Place(kernels="off"),
        )
        assert not claimed.speculates
        assert not claimed.engine.bounds.even
