"""fp32 bundles of every shape against torch: all lengths, splits and rewinds, 512
greedy tokens, ragged batches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.runtime.engine.seats import Run
from sc2onnx.verify import TOLERANCE, verify
from sc2onnx.verify.reference import Reference
from tests.parity.conftest import Exported
from tests.parity.shapes import CONTEXT

GREEDY = 512


def assert_close(ours: npt.NDArray[np.float32] | None, expected: npt.NDArray[np.float32]) -> None:
    assert ours is not None
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_every_length_split_and_rewind_and_512_greedy_tokens(exported: Exported) -> None:
    report = verify(exported.bundle, exported.checkpoint, greedy_tokens=GREEDY)
    worst = max(report.cases, key=lambda result: result.difference.max_rel_diff)
    assert report.summary.max_rel_diff is not None
    assert report.summary.max_rel_diff <= TOLERANCE, (
        f"{worst.case.length} tokens {worst.case.split}"
    )
    assert (report.summary.greedy_match, report.summary.greedy_tokens) == (GREEDY, GREEDY)
    assert report.summary.passed
    window = exported.shape.config.get("sliding_window", 7)
    assert {result.case.length for result in report.cases} >= (
        {1, window, min(2 * window + 3, CONTEXT)} if window else {1, 128, 259}
    )


def test_a_ragged_batch_with_rewinds_in_single_rows(exported: Exported) -> None:
    """Rows of different lengths, decoded together in steps of other sizes,
    rewound one by one, one leaving.
    """
    model, lengths = exported.model, (3, 150, 71)
    seats = model.engine.seats
    tokens = np.random.default_rng(1).integers(
        0, model.manifest.model.vocab_size, (len(lengths), 260)
    )
    with Reference(exported.checkpoint) as torch_model:
        expected = torch_model.logits(tokens)
    rows = [seats.new() for _ in lengths]

    def step(sizes: dict[int, int]) -> None:
        runs = []
        for row, size in sizes.items():
            first = rows[row].length
            runs.append(Run(rows[row], tokens[row, first : first + size], size))
        for (row, size), found in zip(sizes.items(), seats.forward(runs), strict=True):
            first = rows[row].length - size
            assert_close(found, expected[row, first : first + size])

    with model.engine.exclusive():
        for row, length in enumerate(lengths):
            step({row: length})
        for sizes, dropped in (
            ((1, 1, 1), (0, 0, 0)),
            ((9, 2, 5), (2, 0, 5)),
            ((4, 4, 1), (1, 4, 0)),
            ((1, 30, 8), (0, 30, 1)),
            ((1, 1, 1), (0, 0, 0)),
        ):
            step(dict(enumerate(sizes)))
            for row, count in enumerate(dropped):
                rows[row].rewind(count)
        rows[1].clear()
        step({2: 2, 0: 2})
        step({0: 1})
        rows[1] = seats.new()
        step({1: 40})
        step({2: 1, 1: 3, 0: 2})
        for seat in rows:
            seat.clear()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_attentions_of_torch_agree_with_the_bundle(exported: Exported, attention: str) -> None:
    """The reference itself is cross-checked: transformers masks the
    window in two different ways.
    """
    tokens = np.random.default_rng(3).integers(
        0, exported.model.manifest.model.vocab_size, (1, 150)
    )
    with Reference(exported.checkpoint, attention=attention) as torch_model:
        expected = torch_model.logits(tokens)
    with exported.model.sequence() as sequence:
        assert_close(sequence.append(tokens[0]), expected[0])
