"""Runs the comparison and writes its outcome into the bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx import card
from sc2onnx.errors import CheckpointError, RequestError
from sc2onnx.manifest import CARD_FILE, MANIFEST_FILE, Verification, replace_text
from sc2onnx.runtime.model import Model, load
from sc2onnx.verify.measure import Difference, Floats, compare, pool
from sc2onnx.verify.plan import Append, Case, cases, lengths
from sc2onnx.verify.reference import Reference
from sc2onnx.verify.text import sample

TOLERANCE: Final = 1e-5
"""Largest logit difference of an fp32 bundle, of the largest logit; torch's own error against float64 is about 1e-6."""

_ROWS: Final = 256
"""Positions compared at once, so that full-size logits (200 kB a position) are never all held twice."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case and how far it was off."""

    case: Case
    difference: Difference


@dataclass(frozen=True, slots=True)
class Report:
    """Every case, and the summary that the bundle keeps."""

    cases: tuple[CaseResult, ...]
    summary: Verification


def verify(
    bundle: str | Path,
    checkpoint: str | Path,
    *,
    text: Path | None = None,
    max_length: int | None = None,
    greedy_tokens: int = 256,
    tell: Callable[[CaseResult], None] = lambda result: None,
) -> Report:
    """Compare a bundle with torch in float32, teacher-forced on real code, and write the summary into the bundle.

    ``max_length`` leaves out longer lengths (a 3B model token by token past its window takes hours on a CPU); ``tell`` is
    told of each case as it ends. Peak memory is the larger of the two models, one after the other, and one set of logits.
    Raises :class:`~sc2onnx.errors.BundleError`, :class:`~sc2onnx.errors.CheckpointError` and :class:`RequestError`.
    """
    directory = Path(bundle)
    model = load(directory)
    facts = model.manifest.model
    if greedy_tokens < 0 or (max_length is not None and max_length < 1):
        raise RequestError(f"greedy_tokens is {greedy_tokens} and max_length {max_length}, expected 0 or more and 1 or more")
    limit = min(facts.context_length, max_length or facts.context_length)
    longest = max(lengths(facts.sliding_window, limit))
    greedy_tokens = min(greedy_tokens, facts.context_length - 1)
    chosen = sample(model, directory, min(longest + 1, facts.context_length), text)
    prompt = chosen.tokens[: min(32, facts.context_length - greedy_tokens)]
    origin = model.manifest.provenance
    revision = origin.revision if str(checkpoint) == origin.source else None
    del model  # its weights are mapped, but the reference may need all the memory there is

    with Reference(checkpoint, revision) as torch_model:
        reference = torch_model.logits(chosen.tokens[None, :longest])[0]
        expected = torch_model.greedy(prompt, greedy_tokens)
        described = torch_model.description
    if reference.shape[-1] != facts.vocab_size:
        raise CheckpointError(
            f"{checkpoint} has {reference.shape[-1]} tokens in its vocabulary, the bundle {facts.vocab_size}: give the bundle's own checkpoint"
        )

    model = load(directory)
    results = []
    for case in cases(facts.sliding_window, limit, rewindable=min(64, model.rewindable)):
        results.append(CaseResult(case, run_case(model, case, chosen.tokens, reference)))
        tell(results[-1])
    matched = _greedy_match(model, prompt, expected)
    total = pool([result.difference for result in results])
    summary = Verification(
        passed=total.max_rel_diff <= TOLERANCE and matched == len(expected),
        reference=described,
        text=chosen.description,
        tolerance=TOLERANCE,
        positions=total.positions,
        max_abs_diff=total.max_abs_diff,
        max_rel_diff=total.max_rel_diff,
        kl_divergence=total.kl_divergence,
        top1_agreement=total.top1_agreement,
        nll=total.nll,
        nll_reference=total.nll_reference,
        greedy_tokens=len(expected),
        greedy_match=matched,
    )
    _write(directory, model, summary)
    return Report(tuple(results), summary)


def run_case(model: Model, case: Case, tokens: npt.NDArray[np.int64], reference: Floats) -> Difference:
    """Play one case and compare every position that it computes, also those that it rewinds later.

    tokens: (n,); reference: (m, vocab) logits of the first m of them.
    """
    return pool(list(_differences(model, case, tokens, reference)))


def _differences(model: Model, case: Case, tokens: npt.NDArray[np.int64], reference: Floats) -> Iterator[Difference]:
    with model.sequence() as sequence:
        for action in case.actions:
            if not isinstance(action, Append):
                sequence.rewind(action.count)
                continue
            ours = sequence.append(tokens[action.start : action.stop])
            assert ours is not None
            for first in range(action.start, action.stop, _ROWS):
                stop = min(first + _ROWS, action.stop)
                rows = slice(first - action.start, stop - action.start)
                yield compare(ours[rows], reference[first:stop], tokens[first + 1 : stop + 1])


def _greedy_match(model: Model, prompt: npt.NDArray[np.int64], expected: list[int]) -> int:
    """How many greedy tokens agree before the first that does not."""
    if not expected:
        return 0
    ours = [token.id for token in islice(model.generate_tokens(prompt, max_new_tokens=len(expected), stop_tokens=()), len(expected))]
    return next((i for i, pair in enumerate(zip(ours, expected, strict=True)) if pair[0] != pair[1]), len(expected))


def _write(directory: Path, model: Model, summary: Verification) -> None:
    manifest = model.manifest.verified(summary)
    replace_text(directory / CARD_FILE, card.render(manifest))
    replace_text(directory / MANIFEST_FILE, manifest.to_json())
