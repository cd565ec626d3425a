"""Graphs that are wrong in a small way, which verification must notice: each patches the exporter."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.graph import attention
from sc2onnx.export.graph.layers import rotary
from sc2onnx.export.graph.ops import Recorder


def slot_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = attention.ring_step

    def wrong(op: Recorder, *arguments: Any) -> attention.RingStep:
        step = real(op, *arguments)
        return dataclasses.replace(step, write_slots=op.Mod(op.Add(step.write_slots, op.ints(1)), step.capacity))

    monkeypatch.setattr(attention, "ring_step", wrong)


def window_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = attention.ring_step

    def wrong(op: Recorder, config: Starcoder2Config, *arguments: Any) -> attention.RingStep:
        assert config.sliding_window is not None
        return real(op, dataclasses.replace(config, sliding_window=config.sliding_window + 1), *arguments)

    monkeypatch.setattr(attention, "ring_step", wrong)


def softmax_scaled_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Recorder.scalar
    monkeypatch.setattr(Recorder, "scalar", lambda self, value, dtype: real(self, value**2 if value == 16**-0.5 else value, dtype))


def heads_turned_the_wrong_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sc2onnx.export.graph.attention.rotary", lambda op, heads, cos, sin: rotary(op, heads, cos, op.Neg(sin)))


MISTAKES = (slot_off_by_one, window_off_by_one, softmax_scaled_twice, heads_turned_the_wrong_way)
