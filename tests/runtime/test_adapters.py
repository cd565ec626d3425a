"""Adapters at run time: one base, several adapters, in one batch, on every kind of graph."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sc2onnx
from sc2onnx.errors import RequestError
from tests.adapters import ATTENTION, four, matrices, random_adapter, write

PROMPTS = [
    "def fib(n):\n    ",
    "import os\n\nfor name in ",
    "class Stack:\n    def push(self, ",
    "# the sum of squares\n",
]
KINDS = ["fp32", "int8", pytest.param("int4-kernels", marks=pytest.mark.kernels)]


@dataclass(frozen=True)
class Adapted:
    """A model with four adapters. ``exact``: whether a row is the same to the bit in any batch."""

    model: sc2onnx.Model
    paths: dict[str, Path]
    exact: bool


@pytest.fixture(scope="module")
def load(bundle: Path) -> Callable[..., sc2onnx.Model]:
    def loaded(kind: str, **options: Any) -> sc2onnx.Model:
        precision, _, kernels = kind.partition("-")
        place = bundle if precision == "fp32" else bundle.parent / precision
        return sc2onnx.load(place, kernels="on" if kernels else "off", packed="off", **options)

    return loaded


@pytest.fixture(scope="module", params=KINDS)
def adapted(
    request: pytest.FixtureRequest,
    load: Callable[..., sc2onnx.Model],
    tmp_path_factory: pytest.TempPathFactory,
) -> Adapted:
    model = load(request.param)
    paths = four(tmp_path_factory.mktemp("adapters"), model.manifest.model)
    for name, path in paths.items():
        model.load_adapter(path, name)
    return Adapted(model, paths, request.param.endswith("kernels"))


@pytest.fixture
def fresh(load: Callable[..., sc2onnx.Model]) -> sc2onnx.Model:
    """One in float32 without an adapter."""
    return load("fp32")


@pytest.fixture
def one(fresh: sc2onnx.Model, tmp_path: Path) -> Path:
    return random_adapter(tmp_path / "one", fresh.manifest.model, 8, seed=5)


def logits(model: sc2onnx.Model, adapter: str | None = None) -> npt.NDArray[np.float32]:
    with model.sequence(adapter=adapter) as sequence:
        return np.asarray(sequence.append(model.codec.encode(PROMPTS[0])))


def test_eight_rows_with_four_adapters_are_what_they_are_alone(adapted: Adapted) -> None:
    """In integers on ONNX Runtime's own kernels the last bit of a sum may decide how an activation
    is rounded: there one row of eight may part from its run alone.
    """
    model, names = adapted.model, [None, *adapted.paths]
    rows = [(PROMPTS[number % 4], names[number % 5]) for number in range(8)]
    model.forget()
    alone = [model.generate(text, adapter=name, max_new_tokens=16) for text, name in rows]
    model.forget()
    tasks = [model.submit(text, adapter=name, max_new_tokens=16) for text, name in rows]
    together = [task.result().tokens for task in tasks]
    same = [mine == other.tokens for mine, other in zip(together, alone, strict=True)]
    quantised = model.manifest.quantization is not None and not adapted.exact
    assert sum(same) >= (7 if quantised else 8)
    assert len({done.tokens for done in alone}) > 4


@pytest.mark.kernels
def test_on_the_kernels_a_row_is_the_same_to_the_bit(adapted: Adapted) -> None:
    if not adapted.exact:
        pytest.skip("on other kernels a step of several rows sums in another order")
    model, names = adapted.model, [None, *adapted.paths]

    def asked(name: str | None) -> sc2onnx.runtime.engine.task.Task:
        return model.submit(PROMPTS[1], adapter=name, max_new_tokens=12, logprobs=True)

    model.forget()
    alone = [asked(name).result().logprobs for name in names]
    model.forget()
    assert [task.result().logprobs for task in [asked(name) for name in names]] == alone


def test_a_row_without_an_adapter_is_not_changed_by_others(
    adapted: Adapted, load: Callable[..., sc2onnx.Model]
) -> None:
    model = adapted.model
    kind = model.manifest.precision
    plain = load(f"{kind}-kernels" if adapted.exact else kind, prefix_memory=0)
    np.testing.assert_array_equal(logits(model), logits(plain))
    assert np.abs(logits(model, "all") - logits(plain)).max() > 0.1


def test_a_scale_multiplies_what_an_adapter_adds(adapted: Adapted, tmp_path: Path) -> None:
    model = adapted.model
    found = matrices(model.manifest.model, 4, ATTENTION, seed=9)
    twice = {name: 2 * each if name.endswith("B") else each for name, each in found.items()}
    model.load_adapter(write(tmp_path / "once", found))
    model.load_adapter(write(tmp_path / "twice", twice))
    try:
        options: dict[str, Any] = {"max_new_tokens": 12}
        doubled = model.generate(PROMPTS[0], adapter="once", adapter_scale=2, **options)
        of_twice = model.generate(PROMPTS[0], adapter="twice", **options).tokens
        # in integers on ONNX Runtime's own kernels, as above, until a near tie turns
        quantised = model.manifest.quantization is not None and not adapted.exact
        sure = 4 if quantised else len(of_twice)
        assert doubled.tokens[:sure] == of_twice[:sure]
        without = model.generate(PROMPTS[0], adapter="once", adapter_scale=0, **options)
        assert without.tokens == model.generate(PROMPTS[0], **options).tokens
    finally:
        model.drop_adapter("once")
        model.drop_adapter("twice")


def test_every_way_to_ask_takes_an_adapter(adapted: Adapted) -> None:
    model = adapted.model
    chosen: dict[str, Any] = {"adapter": "large", "max_new_tokens": 8}
    expected = model.generate(PROMPTS[0], **chosen)
    with model.stream(PROMPTS[0], **chosen) as stream:
        assert tuple(token for piece in stream for token in piece.tokens) == expected.tokens
    ids = model.codec.encode(PROMPTS[0])
    stops = model.codec.stop_ids()
    tokens = model.generate_tokens(ids, stop_tokens=stops, **chosen)
    assert tuple(token.id for token in tokens) == expected.tokens
    assert [each.tokens for each in model.generate([PROMPTS[0]] * 2, n=1, **chosen)[1]] == [
        expected.tokens
    ]
    infilled = model.infill("def f(", "):\n    return a + b\n", **chosen)
    plainly = model.infill("def f(", "):\n    return a + b\n", max_new_tokens=8)
    assert infilled.tokens != plainly.tokens
    scored = model.generate(PROMPTS[0], logprobs=True, prompt_logprobs=True, **chosen)
    plain = model.generate(PROMPTS[0], logprobs=True, prompt_logprobs=True, max_new_tokens=8)
    assert scored.prompt is not None
    assert plain.prompt is not None
    assert [each.logprob for each in scored.prompt] != [each.logprob for each in plain.prompt]


def test_caches_of_one_adapter_serve_no_other(adapted: Adapted) -> None:
    model, text = adapted.model, PROMPTS[0] * 8
    model.forget()

    def reused(name: str | None, **options: Any) -> int:
        done: sc2onnx.Completion = model.generate(text, adapter=name, max_new_tokens=2, **options)
        return done.reused_tokens

    assert reused("all") == 0
    assert reused(None) == 0
    assert reused("large") == 0
    assert reused("all", adapter_scale=0.5) == 0
    assert min(reused("all"), reused(None), reused("large")) > 20


def test_a_dropped_adapter_serves_what_is_under_way(fresh: sc2onnx.Model, one: Path) -> None:
    fresh.load_adapter(one)
    expected = fresh.generate(PROMPTS[0], adapter="one", max_new_tokens=24)
    plain = fresh.generate(PROMPTS[0], max_new_tokens=24)
    fresh.forget()
    stream = fresh.stream(PROMPTS[0], adapter="one", max_new_tokens=24)
    pieces = [next(stream)]
    fresh.drop_adapter("one")
    assert fresh.memory_footprint().adapters > 0
    assert fresh.generate(PROMPTS[0], max_new_tokens=24).tokens == plain.tokens
    pieces += stream
    assert tuple(token for piece in pieces for token in piece.tokens) == expected.tokens
    with pytest.raises(RequestError, match="adapter is 'one', expected None, since none is loaded"):
        fresh.generate(PROMPTS[0], adapter="one")
    stream.close()
    del stream
    fresh.forget()
    assert fresh.memory_footprint().adapters == 0


def test_an_adapter_of_the_same_name_takes_over_no_cache(
    fresh: sc2onnx.Model, one: Path, tmp_path: Path
) -> None:
    text = PROMPTS[0] * 8
    fresh.load_adapter(one, "mine")
    fresh.generate(text, adapter="mine", max_new_tokens=2)
    with pytest.raises(RequestError, match="there is an adapter 'mine' already: drop it first"):
        fresh.load_adapter(one, "mine")
    fresh.drop_adapter("mine")
    assert not fresh.engine.store.sequences
    other = random_adapter(tmp_path / "other", fresh.manifest.model, 8, seed=6)
    fresh.load_adapter(other, "mine")
    assert fresh.generate(text, adapter="mine", max_new_tokens=2).reused_tokens == 0


def test_adapters_come_and_go_while_others_are_computed(fresh: sc2onnx.Model, one: Path) -> None:
    expected = fresh.generate(PROMPTS[0], max_new_tokens=40).tokens
    fresh.load_adapter(one, "stays")
    stays = fresh.generate(PROMPTS[0], adapter="stays", max_new_tokens=40).tokens
    fresh.start()
    try:
        ended, wrong = threading.Event(), list[object]()

        def ask(name: str | None, tokens: tuple[int, ...]) -> None:
            while not ended.is_set():
                done = fresh.generate(PROMPTS[0], adapter=name, max_new_tokens=40)
                if done.tokens != tokens:
                    wrong.append((name, done))

        threads = [
            threading.Thread(target=ask, args=each) for each in ((None, expected), ("stays", stays))
        ]
        for thread in threads:
            thread.start()
        for number in range(6):
            fresh.load_adapter(one, f"passing{number}")
            fresh.generate(PROMPTS[1], adapter=f"passing{number}", max_new_tokens=4)
            fresh.drop_adapter(f"passing{number}")
        ended.set()
        for thread in threads:
            thread.join()
        assert not wrong
    finally:
        fresh.stop()
    assert list(fresh.adapters) == ["stays"]


def test_what_adapters_take_is_told(fresh: sc2onnx.Model, one: Path) -> None:
    before = fresh.memory_footprint()
    loaded = fresh.load_adapter(one)
    assert dict(fresh.adapters) == {"one": loaded}
    assert (loaded.name, loaded.rank, loaded.path) == ("one", 8, one)
    after = fresh.memory_footprint()
    assert after.adapters == loaded.nbytes == after.total - before.total
    fresh.drop_adapter("one")
    assert not fresh.adapters
    del loaded
    fresh.forget()
    assert fresh.memory_footprint().adapters == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"adapter": 3}, "adapter is 3, expected a str"),
        ({"adapter": "x"}, "adapter is 'x', expected None, since none is loaded"),
        ({"adapter_scale": "1"}, "adapter_scale is '1', expected a number up to 100"),
        ({"adapter_scale": float("nan")}, "adapter_scale is nan, expected a number up to 100"),
        ({"adapter_scale": True}, "adapter_scale is True, expected a number up to 100"),
    ],
)
def test_a_request_for_an_adapter_that_is_none(
    fresh: sc2onnx.Model, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(RequestError, match=told):
        fresh.generate(PROMPTS[0], **options)
