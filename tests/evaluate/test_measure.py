"""The measures against sums written out in plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.evaluate.measure import Difference, compare, pool, token_nll
from sc2onnx.evaluate.score import bits_per_byte, perplexity

Array = npt.NDArray[Any]


def softmax(row: Array) -> list[float]:
    total = math.fsum(math.exp(value) for value in row.tolist())
    return [math.exp(value) / total for value in row.tolist()]


def five(row: Array) -> set[int]:
    return set(sorted(range(len(row)), key=lambda i: -row[i])[:5])


@pytest.fixture
def logits() -> tuple[Array, Array, Array]:
    """Ours (7, 30), the reference's near them, and what follows each position."""
    random = np.random.default_rng(2)
    ours = (random.standard_normal((7, 30)) * 3).astype(np.float32)
    return (
        ours,
        (ours + random.standard_normal((7, 30))).astype(np.float32),
        random.integers(0, 30, 7),
    )


def test_every_figure_is_what_its_definition_gives(logits: tuple[Array, Array, Array]) -> None:
    ours, reference, following = logits
    found = compare(ours, reference, following)
    q, p = [softmax(row) for row in ours], [softmax(row) for row in reference]
    divergence = [
        sum(a * math.log(a / b) for a, b in zip(*pair, strict=True))
        for pair in zip(p, q, strict=True)
    ]
    assert found.kl_divergence == pytest.approx(sum(divergence) / 7, rel=1e-6)
    assert found.kl_divergence > 0.05
    assert found.nll == pytest.approx(
        sum(-math.log(q[i][token]) for i, token in enumerate(following)) / 7, rel=1e-6
    )
    assert found.nll_reference == pytest.approx(
        sum(-math.log(p[i][token]) for i, token in enumerate(following)) / 7, rel=1e-6
    )
    same = [int(a.argmax()) == int(b.argmax()) for a, b in zip(ours, reference, strict=True)]
    assert found.top1_agreement == pytest.approx(sum(same) / 7)
    shared = [len(five(a) & five(b)) / 5 for a, b in zip(ours, reference, strict=True)]
    assert found.top5_overlap == pytest.approx(sum(shared) / 7)
    assert 0.2 < found.top5_overlap < 1


def test_kl_divergence_is_from_the_reference_to_ours(logits: tuple[Array, Array, Array]) -> None:
    ours, reference, following = logits
    assert compare(ours, reference, following).kl_divergence != pytest.approx(
        compare(reference, ours, following).kl_divergence, rel=1e-3
    )


def test_pieces_pool_to_the_whole(logits: tuple[Array, Array, Array]) -> None:
    whole = compare(*logits)
    pieces = pool(
        [
            compare(*(array[part] for array in logits))
            for part in (slice(0, 3), slice(3, 4), slice(4, 7))
        ]
    )
    for name in ("kl_divergence", "top1_agreement", "top5_overlap", "nll", "nll_reference"):
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name))
    assert pieces.positions == 7


def test_the_nll_of_each_token_is_that_of_compare(logits: tuple[Array, Array, Array]) -> None:
    ours, reference, following = logits
    each = token_nll(ours, following)
    assert each.shape == (7,)
    assert each.mean() == pytest.approx(compare(ours, reference, following).nll)
    assert each[3] == pytest.approx(-math.log(softmax(ours[3])[following[3]]), rel=1e-6)


def test_small_divergences_are_not_lost() -> None:
    """Logits apart by 1e-3 are about 1e-7 nats apart, of which half
    precision would leave nothing.
    """
    random = np.random.default_rng(0)
    reference = random.standard_normal((200, 500)).astype(np.float32)
    noise = random.standard_normal((200, 500)).astype(np.float32) * np.float32(1e-3)
    found = compare(reference + noise, reference, np.zeros(200, np.int64)).kl_divergence
    # half the variance, as the second-order expansion has it
    assert found == pytest.approx(0.5e-6, rel=0.05)


def test_what_is_not_a_number_makes_no_good_figure() -> None:
    good = np.arange(20, dtype=np.float32).reshape(2, 10)
    bad = good.copy()
    bad[1, 3] = np.nan
    for ours, reference in ((bad, good), (good, bad)):
        found = compare(ours, reference, np.array([1, 2]))
        assert math.isnan(found.kl_divergence)
        assert math.isnan(found.top5_overlap)
        assert found.top1_agreement < 1
    good_one, bad_one = (
        Difference(1, 1, value, value, value, value, value, value, value)
        for value in (1e-7, math.nan)
    )
    assert math.isnan(pool([good_one, bad_one]).top5_overlap)


def test_a_vocabulary_below_five_agrees_with_itself() -> None:
    logits = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    assert compare(logits, -logits, np.array([0])).top5_overlap == 1


def test_perplexity_and_bits() -> None:
    assert perplexity(math.log(8)) == pytest.approx(8)
    assert perplexity(1e6) == math.inf
    assert math.isnan(perplexity(math.nan))
    # Ten tokens of three bits each over six bytes.
    assert bits_per_byte(3 * math.log(2), 10, 6) == pytest.approx(5)
