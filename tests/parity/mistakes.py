"""Graphs that are wrong in a small way, which verification must notice:
each patches the exporter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph import attention
from sc2onnx.export.graph.layers import rotary
from sc2onnx.export.graph.ops import Recorder
from sc2onnx.runtime.opening import bundle


def let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open bundles whose graphs the exporter never writes: opening refuses some mistakes before
    they are compared with anything.
    """
    monkeypatch.setattr(bundle, "check_agreement", lambda directory, manifest: None)


def slot_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    let_in(monkeypatch)
    real = attention.ring_step

    def wrong(op: Recorder, *arguments: Any) -> attention.RingStep:
        step = real(op, *arguments)
        one = op.ints(1)
        # what is left to do with them: write
        return dataclasses.replace(
            step, past=op.Add(step.past, one), positions=op.Add(step.positions, one)
        )

    monkeypatch.setattr(attention, "ring_step", wrong)


def window_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    let_in(monkeypatch)
    real = attention.ring_step

    def wrong(op: Recorder, config: Starcoder2Config, *arguments: Any) -> attention.RingStep:
        assert config.sliding_window is not None
        return real(
            op, dataclasses.replace(config, sliding_window=config.sliding_window + 1), *arguments
        )

    monkeypatch.setattr(attention, "ring_step", wrong)


def softmax_scaled_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    let_in(monkeypatch)
    real = Recorder.scalar
    monkeypatch.setattr(
        Recorder,
        "scalar",
        lambda self, value, dtype: real(self, value**2 if value == 16**-0.5 else value, dtype),
    )


def heads_turned_the_wrong_way(monkeypatch: pytest.MonkeyPatch) -> None:
    let_in(monkeypatch)
    monkeypatch.setattr(
        "sc2onnx.export.graph.attention.rotary",
        lambda op, heads, cos, sin: rotary(op, heads, cos, op.Neg(sin)),
    )


MISTAKES = (slot_off_by_one, window_off_by_one, softmax_scaled_twice, heads_turned_the_wrong_way)


def gqa_window_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _change_attribute(monkeypatch, "local_window_size", lambda window: window + 1)


def gqa_unscaled_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    _change_attribute(monkeypatch, "scale", lambda scale: 1.0)


def gqa_heads_not_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    _change_attribute(monkeypatch, "do_rotary", lambda turned: 0)


def gqa_position_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    let_in(monkeypatch)
    real = Recorder.contrib_outputs

    def wrong(self: Recorder, operator: str, outputs: int, *inputs: Any, **attributes: Any) -> Any:
        last = self.Add(inputs[5], self.scalar(1, np.int32))
        return real(self, operator, outputs, *inputs[:5], last, *inputs[6:], **attributes)

    monkeypatch.setattr(Recorder, "contrib_outputs", wrong)


def _change_attribute(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Any], Any]
) -> None:
    let_in(monkeypatch)
    real = Recorder.contrib_outputs

    def wrong(self: Recorder, operator: str, outputs: int, *inputs: Any, **attributes: Any) -> Any:
        assert operator == "GroupQueryAttention"
        return real(
            self, operator, outputs, *inputs, **{**attributes, name: change(attributes.get(name))}
        )

    monkeypatch.setattr(Recorder, "contrib_outputs", wrong)


GQA_MISTAKES = (
    gqa_window_off_by_one,
    gqa_unscaled_scores,
    gqa_heads_not_turned,
    gqa_position_off_by_one,
)
