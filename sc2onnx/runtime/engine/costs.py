"""What steps cost, as measured while they are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import log2
from statistics import median
from typing import Final

FLAT: Final = 0.1
"""What a further token of a step costs on the kernels, of a step of one."""


class StepCosts:
    """Seconds of a step by its number of tokens, as measured: medians of the latest.
    Shared by the requests of a model.

    What was measured while the machine was busy must not stay true for ever: of lengths that are
    not used, because they seemed dear, the oldest measurement is forgotten now and then, until they
    are thought to cost what is assumed and tried again.
    """

    _KEPT: Final = 9
    _ENOUGH: Final = 3
    _FORGET: Final = 64
    """Steps of one token after which each other length forgets a measurement."""

    def __init__(self, per_token: float = 0.4) -> None:
        """``per_token``: what each further token costs, of a step of one, until it is measured
        (docs/decisions/0009-speculation.md).
        """
        self._per_token = per_token
        self._measured: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._singles = 0

    def add(self, size: int, seconds: float) -> None:
        """A step of ``size`` tokens took so long."""
        times = self._measured.setdefault(size, deque(maxlen=self._KEPT))
        times.append(seconds)
        self._medians[size] = median(list(times))  # a copy: another thread may be adding
        self._singles += size == 1
        if self._singles >= self._FORGET:
            self._singles = 0
            self._forget()

    def _forget(self) -> None:
        for size, times in list(self._measured.items()):
            if size == 1:
                continue
            if len(times) > 1:
                times.popleft()
                self._medians[size] = median(list(times))
            else:
                del self._measured[size]
                self._medians.pop(size, None)

    def sizes(self) -> list[int]:
        """Numbers of tokens that were measured."""
        return list(self._medians)

    @property
    def known(self) -> bool:
        """Whether steps were measured often enough: the first one after
        loading also reads the weights.
        """
        return any(len(times) >= self._ENOUGH for times in list(self._measured.values()))

    def seconds(self, size: int) -> float:
        """Of a step of ``size`` tokens; between and beyond measured sizes by straight lines.

        Before any was measured, in steps of one token.
        """
        medians = dict(self._medians)
        if 1 not in medians:
            least = min(medians, default=1)
            medians[1] = medians.get(least, 1.0) / (1 + self._per_token * (least - 1))
        if size in medians:
            return medians[size]
        below = max(known for known in medians if known < size)
        above = min((known for known in medians if known > size), default=None)
        if above is None:
            slope = (
                self._per_token * medians[1]
                if below == 1
                else (medians[below] - medians[1]) / (below - 1)
            )
        else:
            slope = (medians[above] - medians[below]) / (above - below)
        return medians[below] + max(slope, 0.0) * (size - below)


class MixedCosts:
    """Seconds of a step in which rows decode and prompts enter.

    ``together``: all are one pass. Else each prompt is a pass of its own, which costs what passes
    of about its size have cost.
    """

    _MOST: Final = 64
    """Tokens of a pass that tell what steps cost: longer ones are prompts."""

    def __init__(self, steps: StepCosts, together: bool) -> None:
        self.steps, self._together = steps, together
        self._prompts = StepCosts()

    def seconds(self, decoding: int, entering: int) -> float:
        """Of a step with the next token of so many rows, and so many tokens of a prompt."""
        if self._together or not entering:
            return self.steps.seconds(decoding + entering)
        prompts = self._prompts if self._prompts.sizes() else self.steps
        return (self.steps.seconds(decoding) if decoding else 0.0) + prompts.seconds(entering)

    def add(self, decoding: Sequence[int], entering: int, seconds: float) -> None:
        """A step took so long: ``decoding``, tokens of each row that decoded, and
        ``entering``, tokens of prompts.
        """
        if self._together:
            if not entering or sum(decoding) + entering <= self._MOST:
                self.steps.add(sum(decoding) + entering, seconds)
        elif not entering:
            self.steps.add(len(decoding) * max(decoding), seconds)  # all are as long as the longest
        elif not decoding or self.steps.known:
            own = seconds - (self.steps.seconds(len(decoding)) if decoding else 0.0)
            near = 2 ** round(log2(entering))  # so that sizes meet again
            self._prompts.add(near, max(own, 0.0) * near / entering)
