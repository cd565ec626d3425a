"""Runs the comparison and writes its outcome into the bundle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle import model_card
from sc2onnx.bundle.contract import CARD_FILE, MANIFEST_FILE
from sc2onnx.bundle.files import TEMPORARY, replace_text
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.provenance import Verification
from sc2onnx.errors import BundleError, InferenceError
from sc2onnx.evaluate.measure import Difference, Floats, Parting, compare, part, pool
from sc2onnx.runtime.arguments import whole_number
from sc2onnx.runtime.ort.kernels import Use
from sc2onnx.verify.criterion import ACTIVATIONS, Criterion, criterion
from sc2onnx.verify.merged import Merged
from sc2onnx.verify.plan import Append, Case, cases, lengths
from sc2onnx.verify.reference import Reference
from sc2onnx.verify.subject import Subject, open_subject
from sc2onnx.verify.text import Sample, sample

_ROWS: Final = 256
"""Positions compared at once, so that full-size logits (200 kB a position)
are never all held twice.
"""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case and how far it was off; it is the ``number``-th of ``total``, from 1."""

    case: Case
    difference: Difference
    number: int = 1
    total: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """Every case, the summary that the bundle keeps, and the manifest of what was compared.

    ``difference``: of all cases together; ``criterion``: what it has to be.
    """

    cases: tuple[CaseResult, ...]
    difference: Difference
    criterion: Criterion
    summary: Verification
    compared: Manifest


def verify(
    bundle: str | Path,
    checkpoint: str | Path,
    *,
    adapters: Sequence[str | Path] = (),
    text: Path | None = None,
    max_length: int | None = None,
    greedy_tokens: int = 256,
    kernels: Use = "off",
    device: str = "cpu",
    tell: Callable[[CaseResult], None] = lambda result: None,
    keep: bool = True,
) -> Report:
    """Compare a bundle with torch in float32, teacher-forced on real code, and write
    the summary into the bundle.

    ``bundle`` may also be what ``optimum-cli export onnx`` wrote, which has
    nowhere to keep a summary. ``adapters``: those that were merged into the bundle, directories or
    hub ids in the same order; torch computes with them through peft, and their weights are those
    of the bundle's manifest.

    What passes depends on the precision (:mod:`sc2onnx.verify.criterion`); half precisions are
    computed as :mod:`sc2onnx.verify.emulate` says. Where weights are integers, torch computes
    with what these stand for: whether the bundle does what it should is asked here, what rounding
    cost in quality is a question for :mod:`sc2onnx.evaluate`. ``max_length`` takes the place of
    longer lengths (a 3B model token by token past its window takes hours on a CPU); ``tell`` is
    told of each case as it ends. ``kernels``: ``on`` compares the graph for ``sc2onnx-kernels``
    instead of the one that every runtime reads, which is what a bundle's summary is of, so
    nothing is written then. ``device``: a GPU, such as ``cuda``, computes a bundle for one as it
    will be used, and nothing is written either. ``keep``: whether the summary is written, which
    :func:`record` does otherwise. Peak memory is the larger of the two models, one after the
    other, and one set of logits. Raises :class:`~sc2onnx.errors.BundleError`,
    :class:`~sc2onnx.errors.CheckpointError` and :class:`~sc2onnx.errors.RequestError`, with a
    ``device`` also :class:`~sc2onnx.errors.DeviceError`. Warns (:class:`UserWarning`) where the
    summary cannot be written.
    """
    directory, wanted = Path(bundle), _Wanted(text, max_length, greedy_tokens, kernels, device)
    material = _material(directory, wanted)
    expected = _expected(directory, checkpoint, adapters, material)
    report = _compared(directory, wanted, material, expected, tell)
    if keep and wanted.is_usual:
        record(directory, report)
    return report


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What :func:`verify` is asked for, beside the two models. Raises :class:`RequestError`."""

    text: Path | None
    max_length: int | None
    greedy_tokens: int
    kernels: Use
    device: str

    def __post_init__(self) -> None:
        greedy_tokens = whole_number("greedy_tokens", self.greedy_tokens, 0)
        object.__setattr__(self, "greedy_tokens", greedy_tokens)
        if self.max_length is not None:
            max_length = whole_number("max_length", self.max_length, 1)
            object.__setattr__(self, "max_length", max_length)

    @property
    def is_usual(self) -> bool:
        """Whether the graph that every runtime reads is compared, on the CPU."""
        return self.kernels == "off" and self.device == "cpu"


@dataclass(frozen=True, slots=True)
class _Material:
    """What both models compute: ``text`` at ``lengths``, greedy tokens after ``prompt`` (n,)."""

    manifest: Manifest
    lengths: Sequence[int]
    text: Sample
    prompt: npt.NDArray[np.int64]
    greedy_tokens: int


@dataclass(frozen=True, slots=True)
class _Expected:
    """What torch made of it.

    ``logits``: (longest length, vocab), of the text. ``tokens``: n greedy ones, chosen by the
    logits ``chosen_by`` (n, vocab). ``reference``: what computed.
    """

    logits: Floats
    tokens: Sequence[int]
    chosen_by: Floats
    reference: str


def _material(directory: Path, wanted: _Wanted) -> _Material:
    """Open the bundle for its facts and its tokenizer.

    It is closed again: its weights are mapped, but the reference may need all the memory there is.
    """
    model = open_subject(directory, wanted.kernels, wanted.device)
    facts = model.manifest.model
    chosen = lengths(facts.sliding_window, facts.context_length, wanted.max_length)
    greedy_tokens = min(wanted.greedy_tokens, facts.context_length - 1)
    text = sample(model, min(max(chosen) + 1, facts.context_length), wanted.text)
    prompt = text.tokens[: min(32, facts.context_length - greedy_tokens)]
    return _Material(model.manifest, chosen, text, prompt, greedy_tokens)


def _expected(
    directory: Path, checkpoint: str | Path, adapters: Sequence[str | Path], material: _Material
) -> _Expected:
    """What torch computes with the checkpoint, or with the integers that were made of it."""
    origin, quantization = material.manifest.provenance, material.manifest.quantization
    revision = origin.revision if str(checkpoint) == origin.source else None
    merged = Merged.of(adapters, material.manifest, checkpoint)
    with Reference(checkpoint, revision) as torch_model:
        torch_model.merge(merged)
        torch_model.check_same_model(material.manifest.model)
        if quantization is not None:
            torch_model.take_weights(directory, quantization.rounding == "calibrated")
        logits = torch_model.logits(material.text.tokens[None, : max(material.lengths)])[0]
        tokens, chosen_by = torch_model.greedy(material.prompt, material.greedy_tokens)
        return _Expected(logits, tokens, chosen_by, torch_model.description)


def _compared(
    directory: Path,
    wanted: _Wanted,
    material: _Material,
    expected: _Expected,
    tell: Callable[[CaseResult], None],
) -> Report:
    """Play every case on the bundle, and generate with it."""
    model = open_subject(directory, wanted.kernels, wanted.device)
    results = []
    planned = list(cases(material.lengths, rewindable=min(64, model.rewindable)))
    for number, case in enumerate(planned, 1):
        difference = run_case(model, case, material.text.tokens, expected.logits)
        results.append(CaseResult(case, difference, number, len(planned)))
        tell(results[-1])
    ours = _greedy(model, material.prompt, len(expected.tokens))
    parting = part(ours, expected.tokens, expected.chosen_by)
    total = pool([result.difference for result in results])
    rule = _criterion(model.manifest)
    summary = _summary(rule, material, expected, total, parting)
    return Report(tuple(results), total, rule, summary, model.manifest)


def _criterion(manifest: Manifest) -> Criterion:
    quantised = manifest.quantization is not None
    return criterion(ACTIVATIONS[manifest.cache.dtype], manifest.model.num_layers, quantised)


def _summary(
    rule: Criterion,
    material: _Material,
    expected: _Expected,
    total: Difference,
    parting: Parting | None,
) -> Verification:
    """What the bundle keeps of it, and whether that passes."""
    count = len(expected.tokens)
    return Verification(
        passed=rule.passes(total, parting),
        reference=expected.reference,
        text=material.text.description,
        tolerance=rule.tolerance,
        longest=max(material.lengths),
        positions=total.positions,
        greedy_tokens=count,
        greedy_match=count if parting is None else parting.after,
        **total.figures(),
    )


def run_case(
    model: Subject, case: Case, tokens: npt.NDArray[np.int64], reference: Floats
) -> Difference:
    """Play one case and compare every position that it computes, also those that it rewinds later.

    tokens: (n,); reference: (m, vocab) logits of the first m of them.
    """
    return pool(list(_differences(model, case, tokens, reference)))


def _differences(
    model: Subject, case: Case, tokens: npt.NDArray[np.int64], reference: Floats
) -> Iterator[Difference]:
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


def _greedy(model: Subject, prompt: npt.NDArray[np.int64], count: int) -> Iterator[int]:
    """Up to ``count`` greedy tokens; none after logits that are not numbers."""
    if count:
        with suppress(InferenceError):
            yield from (
                token.id
                for token in model.generate_tokens(prompt, max_new_tokens=count, stop_tokens=())
            )


def record(bundle: str | Path, report: Report) -> bool:
    """Write the summary into the bundle's manifest and model card, and return whether it is there.

    Warns (:class:`UserWarning`) where it cannot be written, or another bundle has taken its place.
    What optimum wrote has no place for it.
    """
    directory = Path(bundle)
    if not (directory / MANIFEST_FILE).exists():
        return False
    try:
        if replace(Manifest.read(directory), verification=None) != replace(
            report.compared, verification=None
        ):
            raise BundleError("another bundle has taken its place meanwhile: verify that one")
        for left in directory.glob(f"{TEMPORARY}*"):  # of a verification that was killed here
            left.unlink(missing_ok=True)
        manifest = report.compared.verified(report.summary)
        replace_text(directory / CARD_FILE, model_card.render(manifest))
        replace_text(directory / MANIFEST_FILE, manifest.to_json())
    except (OSError, BundleError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        warnings.warn(f"the outcome is not recorded in {directory} ({reason})")
        return False
    return True
