"""Where the weights of a bundle come from, and what a verification measured of them."""

from __future__ import annotations

from dataclasses import dataclass

from sc2onnx.bundle.merged import MergedAdapter
from sc2onnx.bundle.texts import make_plain


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the weights come from. ``revision`` is a hub commit, None for a local directory.

    ``allowed_settings`` are settings of ``config.json`` that the exporter does not know; the user
    who exported vouched that they change nothing. ``adapters`` were merged into the weights, in
    order.
    """

    source: str
    revision: str | None
    license: str | None
    exporter: str
    allowed_settings: tuple[str, ...] = ()
    adapters: tuple[MergedAdapter, ...] = ()

    def __post_init__(self) -> None:
        make_plain(self, "source", "revision", "license", "exporter")


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``sc2onnx verify`` measured last, against torch in float32.

    ``longest`` is the number of tokens of the longest sequence compared. The figures are those of
    :class:`sc2onnx.evaluate.measure.Difference`, None where they were not numbers.
    """

    passed: bool
    reference: str
    text: str
    tolerance: float
    longest: int
    positions: int
    max_abs_diff: float | None
    max_rel_diff: float | None
    kl_divergence: float | None
    top1_agreement: float | None
    nll: float | None
    nll_reference: float | None
    greedy_tokens: int
    greedy_match: int

    def __post_init__(self) -> None:
        make_plain(self, "reference", "text")

    def shown(self, name: str, style: str) -> str:
        """Return a figure for a person, formatted in ``style``."""
        value = getattr(self, name)
        return "not a number" if value is None else format(value, style)
