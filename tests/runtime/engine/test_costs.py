"""What mixed steps are thought to cost, by what was measured."""

from __future__ import annotations

import pytest

from sc2onnx.runtime.engine.costs import MixedCosts, StepCosts


def measured(costs: MixedCosts, decoding: list[int], entering: int, seconds: float) -> None:
    for _ in range(3):
        costs.add(decoding, entering, seconds)


def test_in_one_pass_all_tokens_cost_alike() -> None:
    costs = MixedCosts(StepCosts(), together=True)
    measured(costs, [1], 0, 0.035)
    measured(costs, [1, 1], 6, 0.056)
    assert costs.seconds(3, 5) == pytest.approx(0.056)
    assert costs.seconds(4, 0) == pytest.approx(0.035 + 3 * 0.003)


def test_prompts_of_their_own_pass_are_measured_apart_from_steps() -> None:
    costs = MixedCosts(StepCosts(), together=False)
    measured(costs, [], 64, 0.004)
    measured(costs, [1], 0, 0.003)
    measured(costs, [1], 500, 0.003 + 0.010)
    assert costs.seconds(1, 0) == pytest.approx(0.003)
    assert costs.seconds(0, 64) == pytest.approx(0.004)
    assert costs.seconds(1, 512) == pytest.approx(0.003 + 0.010 * 512 / 500)
    assert 0.003 + 0.004 < costs.seconds(1, 256) < costs.seconds(1, 512)


def test_before_any_prompt_was_measured_steps_say_what_one_costs() -> None:
    costs = MixedCosts(StepCosts(0.5), together=False)
    measured(costs, [1], 0, 1.0)
    assert costs.seconds(1, 3) == pytest.approx(1.0 + 1.0 + 2 * 0.5)


def test_a_mixed_step_tells_nothing_before_steps_alone_are_known() -> None:
    costs = MixedCosts(StepCosts(), together=False)
    costs.add([1], 64, 5.0)
    assert costs.seconds(0, 64) == StepCosts().seconds(64)
