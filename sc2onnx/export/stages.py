"""Where a model too large for one device is cut: layers to stages, balanced by bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from sc2onnx.bundle.targets import Target
from sc2onnx.errors import RequestError
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.weights import EMBEDDING, LazyWeight


def check_stages(stages: object, config: Starcoder2Config, target: Target) -> None:
    """Raise :class:`RequestError` unless each stage gets a layer at least, or where the
    target takes one graph only.
    """
    if stages != 1 and not target.own:
        raise RequestError(
            f"stages is {stages!r} for target {target.name!r}, which takes a model of one "
            "graph: leave --stages out"
        )
    if (
        not isinstance(stages, int)
        or isinstance(stages, bool)
        or not 1 <= stages <= config.num_hidden_layers
    ):
        raise RequestError(
            f"stages is {stages!r}, expected a whole number from 1 to "
            f"{config.num_hidden_layers}, the model's layers"
        )


def stages_of(
    weights: Mapping[str, LazyWeight], config: Starcoder2Config, stages: int
) -> tuple[int, ...]:
    """Layers of each stage, by the bytes of their weights; none for a
    single one, which is no stage.

    The first also holds the embedding and the last the head: on two
    devices, a tied one counts twice.
    """
    if stages == 1:
        return ()
    sizes, first, last = [0] * config.num_hidden_layers, 0, 0
    for name, weight in weights.items():
        if name.startswith("model.layers."):
            sizes[int(name.split(".")[2])] += weight.nbytes
        elif name.startswith("lm_head") and not config.tie_word_embeddings:
            last += weight.nbytes
        elif name.startswith(EMBEDDING):
            first += weight.nbytes
    sizes[0] += first
    sizes[-1] += first if config.tie_word_embeddings else last
    return balanced(sizes, stages)


def balanced(sizes: Sequence[int], parts: int) -> tuple[int, ...]:
    """How many neighbours to put into each of ``parts``, none empty, so that the heaviest is as
    light as can be; of equals the most even.

    Six of weight 1 and a first of 4, in two parts: 2 and 5, of weights 5 and 5.
    """
    # (first, parts) -> (heaviest, sum of squares), counts
    best: dict[tuple[int, int], tuple[tuple[int, int], tuple[int, ...]]] = {}
    for left in range(1, parts + 1):
        for first in range(len(sizes) - left + 1):
            rest = sizes[first:]
            if left == 1:
                best[first, 1] = (sum(rest), sum(rest) ** 2), (len(rest),)
                continue
            found = []
            for count in range(1, len(rest) - left + 2):
                (heaviest, squares), counts = best[first + count, left - 1]
                weight = sum(rest[:count])
                found.append(((max(weight, heaviest), squares + weight**2), (count, *counts)))
            best[first, left] = min(found)
    return best[0, parts][1]


def ranges(counts: Sequence[int]) -> Iterator[range]:
    """2 and 5 layers: 0 to 1, 2 to 6."""
    ends = [0]
    for count in counts:
        ends.append(ends[-1] + count)
    return (range(*pair) for pair in pairwise(ends))
