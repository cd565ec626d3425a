"""Logits -> token: bias and repetition penalty first, then the filters of
:mod:`~sc2onnx.runtime.choose.weights`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from sc2onnx.errors import NotFiniteError
from sc2onnx.runtime.choose.parameters import SamplingParameters, check
from sc2onnx.runtime.choose.weights import drawn, surviving_weights

_NOT_FINITE: Final = (
    "the model computed logits that are not finite: the checkpoint holds infinities or NaN, or "
    "overflows in this precision"
)


def finite(token: int) -> int:
    """A token that a device chose. Raises :class:`NotFiniteError` for -1, which stands for
    logits that are not numbers.
    """
    if token < 0:
        raise NotFiniteError(_NOT_FINITE)
    return token


class Sampler:
    """Draws tokens for one sequence: its own random state, and what it has seen
    for the repetition penalty.
    """

    def __init__(
        self,
        parameters: SamplingParameters,
        prompt: npt.NDArray[np.int64],
        vocab: int,
        spawned: tuple[int, ...] = (),
    ) -> None:
        """``spawned``: which of the seed's independent streams of random numbers; () is that of a
        single sample.
        """
        self._parameters = parameters
        self._random = np.random.default_rng(
            np.random.SeedSequence(parameters.seed, spawn_key=spawned)
        )
        bias = dict(parameters.logit_bias)
        self._biased = np.array(list(bias), dtype=np.int64)
        self._bias = np.array(list(bias.values()), dtype=np.float32)
        check(
            "logit_bias",
            parameters.logit_bias,
            not self._biased.size or self._biased.max() < vocab,
            f"token ids below {vocab}",
        )
        self._seen: npt.NDArray[np.bool_] | None = None
        if parameters.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab, dtype=np.bool_)
            self._seen[prompt] = True

    def draw(self, logits: npt.NDArray[np.float32]) -> int:
        """One token from logits (vocab,), which are left alone.
        Raises :class:`NotFiniteError` if they are not numbers.
        """
        if not np.isfinite(logits.max()):
            raise NotFiniteError(_NOT_FINITE)
        scores = self.penalised(logits)
        token = (
            int(scores.argmax()) if self._parameters.temperature == 0.0 else self._sample(scores)
        )
        if self._seen is not None:
            self._seen[token] = True
        return token

    @property
    def greedy(self) -> bool:
        """Whether it takes the most likely token, whatever came before."""
        return self._parameters.temperature == 0.0 and self._seen is None and not self._biased.size

    def _sample(self, scores: npt.NDArray[np.float32]) -> int:
        """Inverse transform sampling over the surviving candidates, in order of token id."""
        return drawn(surviving_weights(scores, self._parameters), self._random.random())

    def penalised(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (vocab,) after their bias, and the repetition penalty
        on the tokens seen so far.
        """
        if self._biased.size:
            logits = logits.copy()
            logits[self._biased] += self._bias
        if self._seen is None:
            return logits
        penalty = np.float32(self._parameters.repetition_penalty)
        seen, scores = np.flatnonzero(self._seen), logits.copy()
        scores[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        return scores
