from __future__ import annotations

import pytest

from sc2onnx.bench import Quartiles
from sc2onnx.bench.bandwidth import read_rate
from sc2onnx.bench.quartiles import ratio


def test_median_and_quartiles() -> None:
    assert Quartiles.of([100, 1, 4, 3, 2]) == Quartiles(3, 2, 4)
    assert Quartiles.of([1, 2]) == Quartiles(1.5, 1.25, 1.75)
    assert Quartiles.of([7]) == Quartiles(7, 7, 7)


def test_ratios_are_taken_round_by_round() -> None:
    ours, theirs = [1.0, 10.0, 3.0], [2.0, 20.0, 3.0]  # the second round was slow for both
    assert ratio(ours, theirs) == Quartiles(0.5, 0.5, 0.75)
    # what a ratio of medians would have said
    assert Quartiles.of(ours).median / Quartiles.of(theirs).median == 1.0
    with pytest.raises(ValueError, match="shorter"):
        ratio(ours, theirs[:2])


@pytest.mark.parametrize("threads", [1, 3])
def test_the_read_rate_is_that_of_a_memory(threads: int) -> None:
    assert 1e8 < read_rate(threads, nbytes=8 << 20, passes=3) < 1e13
