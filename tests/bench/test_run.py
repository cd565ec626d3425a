from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import sc2onnx
from sc2onnx.bench import Missing, Settings, Task, bench, bench_engines, bundle_opener, rounds, run
from sc2onnx.bench.engine import BundleEngine, Engine, Tokens
from sc2onnx.bench.rounds import interleaved
from sc2onnx.errors import ContextLengthError, RequestError

TINY = Settings(contexts=(16, 300), steps=(1, 2), prefill=(20,), repeat=2, threads=1)


class Fake:
    """Writes down what is asked of it; fails at the ``fails``-th append."""

    weights_read = 1000

    def __init__(self, name: str = "", log: list[str] | None = None, fails: int = -1) -> None:
        self.name, self.log, self.fails, self.appended, self.length = (
            name,
            [] if log is None else log,
            fails,
            0,
            0,
        )

    def place(self, depth: int) -> None:
        self.length = depth
        self.log.append(f"{self.name} at {depth}")

    def append(self, tokens: Tokens) -> None:
        if self.appended == self.fails:
            raise RuntimeError("no more")
        self.appended += 1
        self.length += len(tokens)
        self.log.append(f"{self.name} +{len(tokens)}")
        assert tokens.min() >= 0
        assert tokens.max() < 50

    def rewind(self, count: int) -> None:
        self.length -= count


@contextmanager
def fake(broken: bool = False) -> Iterator[Engine]:
    if broken:
        raise OSError("cannot read '/some/where/model.gguf'")
    yield Fake()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "PAUSE", 0)
    monkeypatch.setattr(run, "read_rate", lambda threads: 1e9)


def test_engines_take_turns_and_every_other_round_goes_backwards() -> None:
    log: list[str] = []
    engines: dict[str, Engine] = {name: Fake(name, log) for name in "abc"}
    found = interleaved(engines, Task("step", 100, 4), 3, 50, {})
    turns = [line[0] for i, line in enumerate(log) if i == 0 or line[0] != log[i - 1][0]]
    assert "".join(turns) == "abc" + "ba" + "bc"  # a b c, c b a, a b c
    assert [line for line in log if " at " in line] == ["a at 96", "b at 96", "c at 96"]
    assert log.count("a +4") == 3 * (1 + 3)  # one of four is not timed
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(isinstance(engine, Fake) and engine.length == 96 for engine in engines.values())


def test_a_prompt_meets_an_empty_sequence_each_time() -> None:
    log: list[str] = []
    interleaved({"a": Fake("a", log)}, Task("prefill", 9, 9), 2, 50, {})
    assert log[1:] == ["a at 0", "a +9"] * 2


def test_the_first_of_a_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 200.0, 201.0, 300.0, 303.0, 400.0, 405.0])
    monkeypatch.setattr("sc2onnx.bench.rounds.time.perf_counter", lambda: next(clock))
    assert interleaved({"a": Fake()}, Task("step", 100, 2), 1, 50, {}) == {"a": (3.0,)}


def test_what_fails_drops_out_and_the_others_go_on() -> None:
    failed: dict[str, Exception] = {}
    found = interleaved({"a": Fake(fails=2), "b": Fake()}, Task("decode", 10, 1), 3, 50, failed)
    assert list(found) == ["b"]
    assert len(found["b"]) == 3
    assert str(failed["a"]) == "no more"


def test_an_engine_that_cannot_be_had_is_missing_with_its_reason() -> None:
    report = bench_engines({"good": fake, "bad": partial(fake, broken=True)}, TINY, 400, 50)
    assert [row.name for row in report.rows] == ["good"]
    assert report.missing == (Missing("bad", "OSError: cannot read 'model.gguf'"),)
    assert set(report.rows[0].seconds) == set(report.tasks)


def test_deepest_first_prompts_last_and_steps_at_one_context() -> None:
    tasks = Settings(contexts=(64, 1024, 4096), steps=(4, 1), prefill=(512,)).tasks(4096)
    assert [str(task) for task in tasks] == [
        "decode at 4,096",
        "decode at 1,024",
        "step of 1 at 1,024",
        "step of 4 at 1,024",
        "decode at 64",
        "prefill of 512",
        "first token of 64",
    ]
    assert [task.depth for task in tasks] == [4095, 1023, 1023, 1020, 63, 0, 0]


def test_defaults_end_at_the_models_context_and_wishes_are_refused_beyond() -> None:
    assert [task.context for task in Settings().tasks(2048) if task.kind == "decode"] == [1024, 64]
    assert [task.context for task in Settings(steps=()).tasks(40)] == [40]
    with pytest.raises(
        ContextLengthError,
        match="4096 tokens of context are asked for, the model's context holds 2048",
    ):
        Settings(contexts=(4096,)).tasks(2048)
    with pytest.raises(ContextLengthError, match="3000 tokens"):
        Settings(prefill=(3000,)).tasks(2048)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contexts": (1,)}, "contexts is 1, expected a whole number from 2"),
        ({"contexts": ()}, "contexts is empty"),
        ({"contexts": (64, 64)}, "contexts has a number twice"),
        ({"steps": (0,)}, "steps is 0"),
        ({"prefill": (0,)}, "prefill is 0"),
        ({"repeat": 0}, "repeat is 0"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_settings_check_themselves(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Settings(**arguments)  # type: ignore[arg-type]


def test_a_step_needs_a_context_and_a_ring_that_take_it(bundle: Path) -> None:
    with pytest.raises(RequestError, match="the context is 16 for a step of 16 tokens"):
        Settings(contexts=(16,), steps=(16,)).tasks(2048)
    with pytest.raises(
        RequestError, match="a step of 300 tokens is asked for, expected at most 257"
    ):
        bench(bundle, settings=replace(TINY, contexts=(1024,), steps=(300,)))
    with pytest.raises(RequestError, match="given twice"):
        bench(bundle, also=[bundle], settings=TINY)


@pytest.mark.parametrize("real", [False, True])
def test_a_bundle_goes_where_it_is_told(model: sc2onnx.Model, real: bool) -> None:
    engine = BundleEngine(model, real=real)
    for depth in (300, 10, 0):
        engine.place(depth)
        engine.append(np.array([1, 2, 3]))
        assert engine.sequence is not None
        assert len(engine.sequence) == depth + 3
        engine.rewind(3)
        assert len(engine.sequence) == depth
    noise = np.unique(engine.sequence.seat.cache.buffers[0]).size  # type: ignore[union-attr]
    assert noise > 1
    engine.close()


def test_bundles_from_end_to_end(bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    told: list[str] = []
    report = bench(bundle, also=[other], settings=TINY, tell=told.append)
    assert [row.name for row in report.rows] == [bundle.name, "other"]
    assert report.missing == ()
    assert f"{bundle.name}: alone" in told
    for row in report.rows:
        assert set(row.seconds) == set(report.tasks)
        assert all(len(values) == 2 and min(values) > 0 for values in row.seconds.values())
        assert row.cost is not None
        assert row.cost.load > 0
        if row.cost.peak is not None and row.cost.private is not None:
            assert row.cost.peak > row.cost.private > 10_000_000
    figures = json.loads(json.dumps(report.figures(), allow_nan=False))
    decode = figures["rows"][1]["tasks"][0]
    assert (decode["kind"], decode["context"], len(decode["seconds"])) == ("decode", 300, 2)
    assert decode["low"] <= decode["median"] <= decode["high"]
    assert decode["share_of_read_rate"] == pytest.approx(
        report.rows[1].weights_read / decode["median"] / 1e9
    )
    assert "share_of_read_rate" not in figures["rows"][1]["tasks"][-1]


def test_an_error_of_our_own_bundle_is_raised(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        run, "bundle_opener", lambda *arguments, **options: partial(fake, broken=True)
    )
    with pytest.raises(OSError, match="cannot read"):
        bench(bundle, settings=TINY)


def test_an_opener_can_be_sent_to_a_process(bundle: Path) -> None:
    import pickle

    with pickle.loads(pickle.dumps(bundle_opener(bundle, 1)))() as engine:
        engine.place(5)
        engine.append(np.array([1]))
