from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2onnx.errors import InferenceError, SamplingError
from sc2onnx.runtime.choose.likelihood import log_probability
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.choose.sampling import Sampler
from sc2onnx.runtime.choose.weights import candidates, cut_to_nucleus, drawn

NO_PROMPT = np.zeros(0, dtype=np.int64)


def logits(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def draws(
    parameters: SamplingParameters, scores: npt.NDArray[np.float32], count: int
) -> npt.NDArray[np.int64]:
    sampler = Sampler(parameters, NO_PROMPT, len(scores))
    return np.array([sampler.draw(scores) for _ in range(count)])


def test_greedy_takes_the_most_likely_and_the_first_of_equals() -> None:
    assert draws(SamplingParameters(), logits(1, 3, 2, 3), 3).tolist() == [1, 1, 1]


def test_sampling_follows_the_softmax() -> None:
    scores = logits(0.0, 1.0, 2.0, -1.0)
    expected = np.exp(scores / 0.7) / np.exp(scores / 0.7).sum()
    counts = np.bincount(
        draws(SamplingParameters(temperature=0.7, seed=3), scores, 40_000), minlength=4
    )
    chi_square = ((counts - 40_000 * expected) ** 2 / (40_000 * expected)).sum()
    assert chi_square < 16.27  # 3 degrees of freedom, p = 0.001


def test_the_seed_decides_and_fresh_entropy_differs() -> None:
    scores = np.zeros(1000, dtype=np.float32)
    first, again = (
        draws(SamplingParameters(temperature=1.0, seed=7), scores, 20).tolist() for _ in range(2)
    )
    assert first == again
    assert draws(SamplingParameters(temperature=1.0, seed=8), scores, 20).tolist() != first
    assert (
        draws(SamplingParameters(temperature=1.0), scores, 20).tolist()
        != draws(SamplingParameters(temperature=1.0), scores, 20).tolist()
    )


def test_top_k_keeps_k_and_its_ties() -> None:
    tokens, probabilities = candidates(
        logits(5, 4, 4, 1), SamplingParameters(temperature=1.0, top_k=2)
    )
    assert tokens.tolist() == [0, 1, 2]
    assert probabilities.sum() == pytest.approx(1.0)


def test_min_p_is_relative_to_the_most_likely() -> None:
    scores = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    assert candidates(scores, SamplingParameters(temperature=1.0, min_p=0.29))[0].tolist() == [
        0,
        1,
        2,
    ]
    assert candidates(scores, SamplingParameters(temperature=1.0, min_p=1.0))[0].tolist() == [0]


@given(
    weights=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=2000).map(np.array),
    top_p=st.floats(0.01, 0.999),
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(
    weights: npt.NDArray[np.float64], top_p: float
) -> None:
    cut = weights.copy()
    cut_to_nucleus(cut, top_p)
    kept = np.flatnonzero(cut)
    total = weights.sum()
    assert weights[kept].sum() >= top_p * total * (1 - 1e-9)
    assert weights[kept].sum() - weights[kept].min() <= top_p * total * (1 + 1e-9)
    if len(kept) < len(weights):
        assert weights[kept].min() >= np.delete(weights, kept).max()


def test_repetition_penalty_counts_prompt_and_output() -> None:
    parameters = SamplingParameters(repetition_penalty=2.0)
    sampler = Sampler(parameters, np.array([0]), 3)
    scores = logits(3.0, 2.0, -1.0)
    assert [sampler.draw(scores) for _ in range(2)] == [1, 0]  # 3/2 < 2, then 2/2 < 3/2
    assert scores.tolist() == [3.0, 2.0, -1.0]
    negative = Sampler(SamplingParameters(repetition_penalty=2.0), np.array([0]), 2)
    assert negative.draw(logits(-1.0, -1.5)) == 1  # -1 * 2 < -1.5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e-3, 1e300])
def test_extreme_but_legal_parameters_draw_a_token(temperature: float, penalty: float) -> None:
    scores = np.random.default_rng(0).standard_normal(4096).astype(np.float32) * 30
    parameters = SamplingParameters(
        temperature=temperature, repetition_penalty=penalty, top_p=0.9, top_k=50, min_p=0.01, seed=1
    )
    token = Sampler(parameters, np.arange(100), 4096).draw(scores)
    assert 0 <= token < 4096
    if temperature < 1e-20 and penalty == 1.0:
        assert token == scores.argmax()


def test_log_probability_is_of_the_unfiltered_model() -> None:
    scores = logits(0.0, 1.0, 2.0)
    assert log_probability(scores, 1) == pytest.approx(
        1.0 - math.log(1 + math.e + math.e**2), abs=1e-7
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(InferenceError, match="not finite"):
        Sampler(SamplingParameters(), NO_PROMPT, 2).draw(logits(0.0, bad))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_k": None},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-40},
        {"repetition_penalty": 1e39},
        {"repetition_penalty": math.inf},
        {"seed": -1},
        {"seed": 1.5},
    ],
)
def test_impossible_parameters_are_named(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(SamplingError, match=re.escape(f"{name} is {value!r}, expected")):
        SamplingParameters(**wrong)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 700])
def test_a_draw_is_where_the_running_sum_passes(size: int) -> None:
    """Also where weights are zero, as those of tokens that must not be drawn, and at either end."""
    random = np.random.default_rng(size)
    for _ in range(50):
        weights = random.random(size) * (random.random(size) < 0.3)
        weights[random.integers(size)] = 1.0
        expected = weights.cumsum()
        for share in (0.0, *random.random(20), np.nextafter(1.0, 0.0), 1.0):
            found = drawn(weights, float(share))
            assert weights[found] > 0
            before, after = expected[found] - weights[found], expected[found]
            assert before - 1e-9 <= share * expected[-1] <= after + 1e-9


@pytest.mark.parametrize("shape", ["flat", "steep", "equal", "few", "tail"])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 0.999])
def test_the_nucleus_of_any_distribution_is_that_of_a_sort(shape: str, top_p: float) -> None:
    random = np.random.default_rng(1)
    weights = {
        "flat": 1 + 0.01 * random.random(20_000),
        "steep": np.exp(-40 * random.random(20_000)),
        "equal": np.ones(20_000),
        "few": np.array([0.5, 1.0, 0.5]),
        "tail": np.concatenate([[1.0], np.full(20_000, 1e-4) * random.random(20_000)]),
    }[shape]
    order = np.argsort(-weights, kind="stable")
    count = int(np.searchsorted(weights[order].cumsum(), top_p * weights.sum())) + 1
    cut = weights.copy()
    cut_to_nucleus(cut, top_p)
    found = np.flatnonzero(cut)
    assert np.array_equal(cut[found], weights[found])
    assert abs(len(found) - count) <= 1  # sums are rounded in another order
    assert weights[found].sum() >= top_p * weights.sum() * (1 - 1e-12)
    assert np.array_equal(found, np.sort(order[: len(found)]))
