from __future__ import annotations

import math

import numpy as np
import pytest

from sc2onnx.evaluate.interval import Draws, Groups


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(1).standard_normal(400)
    found = Draws(Groups.by_file(range(400), "items"), seed=0).mean(list(values))
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_groups_are_drawn_whole_so_copies_add_nothing() -> None:
    values = [float(n) for n in range(20)]
    once = Draws(Groups.by_file(range(20), "items"), seed=3).mean(values)
    often = [value for value in values for _ in range(50)]
    copied = Draws(Groups.by_file([int(v) for v in often], "items"), seed=3).mean(often)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_files_are_drawn_where_there_are_ten_of_them() -> None:
    few = Groups.by_file([0, 0, 1, 1, 1], "windows")
    assert (few.unit, few.count) == ("windows", 5)
    many = Groups.by_file([*range(10), 3, 3], "windows")
    assert (many.unit, many.count, many.of[-1]) == ("files", 10, 3)


def test_what_is_compared_sees_the_same_draws() -> None:
    random = np.random.default_rng(2)
    base = list(random.uniform(1, 9, 60))
    draws = Draws(Groups.by_file(range(60), "windows"), seed=0)
    ratio = draws.ratio([value / 2 for value in base], base)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    above = draws.difference([value + 1 for value in base], base)
    assert (above.low, above.high) == pytest.approx((1, 1))
    assert draws.mean(base).high - draws.mean(base).low > 0.5


def test_weights_count_positions() -> None:
    draws = Draws(Groups.by_file(range(2), "windows"), seed=0)
    assert draws.mean([1.0, 4.0], [2, 1]).value == pytest.approx(2)


def test_nothing_is_said_of_one_group_or_of_no_number() -> None:
    assert math.isnan(Draws(Groups.by_file([0], "windows"), 0).mean([1.0]).low)
    assert math.isnan(Draws(Groups.by_file([0, 1], "windows"), 0).mean([1.0, math.nan]).low)


def test_the_seed_decides() -> None:
    groups, values = Groups.by_file(range(30), "windows"), [float(n) for n in range(30)]
    assert Draws(groups, 5).mean(values) == Draws(groups, 5).mean(values)
    assert Draws(groups, 5).mean(values) != Draws(groups, 6).mean(values)
