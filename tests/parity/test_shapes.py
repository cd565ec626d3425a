"""fp32 bundles of every shape against torch: all lengths, splits and rewinds, 512 greedy tokens, ragged batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from sc2onnx.runtime.decoder import Decoder
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
    assert report.summary.max_rel_diff <= TOLERANCE, f"{worst.case.length} tokens {worst.case.split}"
    assert (report.summary.greedy_match, report.summary.greedy_tokens) == (GREEDY, GREEDY)
    assert report.summary.passed
    window = exported.shape.config.get("sliding_window", 7)
    assert {result.case.length for result in report.cases} >= ({1, window, min(2 * window + 3, CONTEXT)} if window else {1, 128, 259})


def test_a_ragged_batch_with_rewinds_in_single_rows(exported: Exported) -> None:
    """Rows of different lengths, decoded together in steps of several tokens, rewound one by one, one leaving."""
    model, lengths = exported.model, (3, 150, 71)
    tokens = np.random.default_rng(1).integers(0, model.manifest.model.vocab_size, (len(lengths), 260))
    with Reference(exported.checkpoint) as torch_model:
        expected = torch_model.logits(tokens)
    decoders = [model._decoder() for _ in lengths]
    for row, (decoder, length) in enumerate(zip(decoders, lengths, strict=True)):
        assert_close(decoder.append(tokens[row : row + 1, :length]), expected[row : row + 1, :length])
    batch = decoders[0]
    batch.join(decoders[1:])
    at = np.array(lengths)
    for step, dropped in ((1, (0, 0, 0)), (9, (2, 0, 5)), (4, (1, 4, 0)), (30, (0, 30, 1)), (1, (0, 0, 0))):
        step_tokens = np.stack([tokens[row, at[row] : at[row] + step] for row in range(len(at))])
        step_expected = np.stack([expected[row, at[row] : at[row] + step] for row in range(len(at))])
        assert_close(batch.append(step_tokens), step_expected)
        at += step
        for row, count in enumerate(dropped):
            batch.rewind(count, row)
        at -= dropped
    batch.keep([2, 0])
    at = at[[2, 0]]
    last = np.stack([tokens[row, at[i] : at[i] + 2] for i, row in enumerate((2, 0))])
    assert_close(batch.append(last), np.stack([expected[row, at[i] : at[i] + 2] for i, row in enumerate((2, 0))]))
    batch.close()


def test_padding_a_ragged_step_and_rewinding_it_is_exact(exported: Exported) -> None:
    """Rows that want different numbers of tokens in one step: pad at the end, then rewind the padding."""
    model = exported.model
    tokens = np.random.default_rng(2).integers(0, model.manifest.model.vocab_size, (2, 200))
    with Reference(exported.checkpoint) as torch_model:
        expected = torch_model.logits(tokens)
    first, second = model._decoder(), model._decoder()
    first.append(tokens[:1, :100], logits=None)
    second.append(tokens[1:, :20], logits=None)
    first.join([second])
    step = np.stack([tokens[0, 100:108], np.concatenate([tokens[1, 20:23], np.zeros(5, dtype=np.int64)])])
    logits = first.append(step)
    assert logits is not None
    assert_close(logits[0], expected[0, 100:108])
    assert_close(logits[1, :3], expected[1, 20:23])
    first.rewind(5, row=1)
    following = np.stack([tokens[0, 108:112], tokens[1, 23:27]])
    assert_close(first.append(following), np.stack([expected[0, 108:112], expected[1, 23:27]]))
    first.close()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_attentions_of_torch_agree_with_the_bundle(exported: Exported, attention: str) -> None:
    """The reference itself is cross-checked: transformers masks the window in two different ways."""
    tokens = np.random.default_rng(3).integers(0, exported.model.manifest.model.vocab_size, (1, 150))
    with Reference(exported.checkpoint, attention=attention) as torch_model:
        expected = torch_model.logits(tokens)
    decoder: Decoder = exported.model._decoder()
    assert_close(decoder.append(tokens), expected)
    decoder.close()
