"""A small part of what ``benchmarks/faults.py`` tries, and whether the
harness sees a fault at all.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

import pytest

import faults
from fault_kinds import KINDS, children, damage, kills, trial
from fault_kinds.material import Fault, Material, prepare, whole
from fault_kinds.worker import Outcome

# torch takes longer to load than all of this
QUICK = [name for name in KINDS if name not in ("kill-record", "race-cache")]


@pytest.fixture(scope="module")
def material(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SC2ONNX_CACHE", str(tmp_path_factory.mktemp("cache")))
        return prepare(checkpoint, tmp_path_factory.mktemp("faults") / "material", ("fp32", "int4"))


def test_one_of_each_kind_holds(material: Material) -> None:
    outcomes = list(faults.run(material, [(name, 0) for name in QUICK], seed=20, jobs=1))
    assert [outcome for outcome in outcomes if not outcome.held] == []
    assert len(outcomes) == len(QUICK)


def test_a_trial_is_the_same_whenever_it_is_repeated(material: Material, tmp_path: Path) -> None:
    for name in ("damaged-bundle", "hostile-manifest"):
        notes = []
        for attempt in ("first", "second"):
            scratch = tmp_path / name / attempt
            scratch.mkdir(parents=True)
            notes.append(trial(name, 3, 5, 10.0, material, scratch))
        assert notes[0] == notes[1]


def test_an_answer_that_is_wrong_in_silence_is_a_fault(material: Material, tmp_path: Path) -> None:
    copy = material.copy("fp32", tmp_path / "bundle")
    with pytest.raises(Fault, match="another answer"):
        damage.expect_refused_or_same(material, "int4", copy, "full")


def test_half_a_bundle_a_hang_a_crash_and_a_raw_exception_are_faults(
    material: Material, tmp_path: Path
) -> None:
    copy = material.copy("int4", tmp_path / "bundle")
    assert whole(copy)
    os.truncate(copy / "model.onnx", 10)
    with pytest.raises(Fault, match="half a bundle"):
        kills.check_place(tmp_path, copy, False, signal.SIGKILL, -9)
    with pytest.raises(Fault, match="hang"):
        children.run(lambda: time.sleep(60), tmp_path / "log", 0.3)
    with pytest.raises(Fault, match=r"(?s)raw exception: .*ZeroDivisionError"):
        children.run(lambda: 1 // 0, tmp_path / "log", 20)
    assert (
        children.run(lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path / "log", 20)
        == -signal.SIGKILL
    )


def test_damage_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for seed in range(100):
        path.write_bytes(bytes(range(1, 200)))
        damage.spoil(Random(seed), path)
        changed = path.read_bytes()
        path.write_bytes(bytes(range(1, 200)))
        damage.spoil(Random(seed), path)
        assert path.read_bytes() == changed


def test_a_part_of_the_plan_is_repeated_by_its_kind_and_number() -> None:
    options = faults.parsed(["--count", "60"])
    planned = faults.plan(options)
    assert len(planned) == len(set(planned)) == 60
    assert {kind for kind, _ in planned} == set(KINDS)
    outcome = Outcome("kill-export", 7, False, "")
    command = faults.repeat(outcome, 3).split()
    assert faults.plan(faults.parsed(command[2:])) == [("kill-export", 7)]
