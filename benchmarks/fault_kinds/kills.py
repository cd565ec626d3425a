"""Processes that die, or are told to stop, while they write: what is there afterwards is whole,
and the next try succeeds.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from fault_kinds.children import Child, count_events, die_at, environment, run
from fault_kinds.material import (
    NOTHING_PACKED,
    Fault,
    Material,
    ask,
    pack,
    packable,
    packed_weights,
    whole,
)

_EVENTS: dict[str, int] = {}
"""File-system events of each undisturbed action, counted once a process."""


def export_action(
    material: Material, out: Path, precision: str, overwrite: bool
) -> Callable[[], object]:
    """An export without calibration."""

    def action() -> None:
        from sc2onnx.export import Calibration, export

        calibration = Calibration(None if precision == "fp32" else False)
        export(
            material.checkpoint,
            out,
            precision=precision,
            calibration=calibration,
            overwrite=overwrite,
        )

    return action


def export_command(
    material: Material, out: Path, precision: str, overwrite: bool
) -> Callable[[], object]:
    """The same as a command, which signals end in order."""
    from sc2onnx.cli.main import main

    def action() -> int:
        options = [
            "--precision",
            precision,
            *(["--no-calibration"] if precision != "fp32" else []),
            *(["--overwrite"] if overwrite else []),
        ]
        return main(["export", str(material.checkpoint), str(out), *options])

    return action


def _events(name: str, action: Callable[[], object], log: Path, limit: float) -> int:
    """How many file-system events an action has, which it does undisturbed,
    where that does not matter.
    """
    if name not in _EVENTS:
        _EVENTS[name] = count_events(action, log, limit)
    return _EVENTS[name]


def _struck(
    rng: Random, events: int, action: Callable[[], object], number: int, scratch: Path, limit: float
) -> tuple[int, str]:
    """Do it, with a signal before one of its file-system events or at a moment;
    the exit status, and when.
    """
    if rng.random() < 0.75:
        event = rng.randrange(events)

        def struck() -> object:
            die_at(event, number)
            return action()

        return Child(struck, scratch / "log").wait(limit), f"event {event} of {events}"
    child = Child(action, scratch / "log")
    moment = rng.uniform(0, 0.5)
    status = child.poll(moment)
    if status is None:
        child.kill(number)
        status = child.wait(limit) if number != signal.SIGKILL else -number
        return status, f"{moment:.3f} s"
    return status, "a moment when it was done"


def export_kill(rng: Random, material: Material, scratch: Path, limit: float) -> str:
    """An export that is killed, or told to stop by a signal, over nothing or over an old bundle."""
    overwrite, precision = rng.random() < 0.6, rng.choice(["fp32", "int8"])
    number = rng.choice(
        [
            signal.SIGKILL,
            signal.SIGKILL,
            signal.SIGTERM,
            signal.SIGINT,
            *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
        ]
    )
    place, other = scratch / "place", scratch / "undisturbed"
    out = place / "bundle"
    for directory in (place, other):
        directory.mkdir()
        if overwrite:
            material.copy("int4" if "int4" in material.forms else "fp32", directory / "bundle")
            (directory / "bundle" / "README.md").write_text("old")
    kind = export_action if number == signal.SIGKILL else export_command
    name, undisturbed = (
        f"{kind.__name__} {precision} {overwrite}",
        kind(material, other / "bundle", precision, overwrite),
    )
    events = _events(name, undisturbed, scratch / "log-undisturbed", limit)
    status, when = _struck(
        rng, events, kind(material, out, precision, overwrite), number, scratch, limit
    )
    what = f"{precision}{' over an old bundle' if overwrite else ''}, {number.name} at {when}"
    untouched = [path.name for path in place.iterdir()] == (["bundle"] if overwrite else [])
    struck_early = status == -number and untouched  # before the command was there to be told
    try:
        check_place(place, out, overwrite, signal.SIGKILL if struck_early else number, status)
    except Fault as fault:
        raise Fault(f"{what}: {fault}") from fault
    if run(export_action(material, out, precision, True), scratch / "log-again", limit):
        raise Fault(f"{what}: the next export failed: {(scratch / 'log-again').read_text()[-500:]}")
    names = sorted(path.name for path in place.iterdir())
    if (
        names != ["bundle"]
        or not whole(out)
        or (out / "README.md").read_text() == "old"
        or (out / ".lock").exists()
    ):
        raise Fault(
            f"{what}: after the next export there is {names}, "
            f"{sorted(path.name for path in out.iterdir())}"
        )
    return f"{what}: whole, and the next one succeeded"


def check_place(place: Path, out: Path, overwrite: bool, number: int, status: int) -> None:
    """Raise :class:`Fault` for what an export that ended so must not leave behind."""
    names = sorted(path.name for path in place.iterdir())
    if out.exists() and not whole(out):
        raise Fault(f"half a bundle: {sorted(path.name for path in out.iterdir())}")
    asides = [path for path in place.iterdir() if ".replaced-" in path.name]
    if overwrite and not out.exists() and not any(map(whole, asides)):
        raise Fault(f"the old bundle is lost: {names}")
    if number == signal.SIGKILL or status == 0:
        return
    if status not in (128 + number, 2):  # 2: it was refused for another reason, which the log has
        raise Fault(f"exit status {status} after signal {number}, expected {128 + number}")
    if names not in ([], ["bundle"]) or (overwrite and not out.exists()):
        raise Fault(f"an export that was told to stop left {names}")


def packing_kill(rng: Random, material: Material, scratch: Path, limit: float) -> str:
    """A process that packs weights dies: the bundle runs, packing again succeeds, and
    nothing of the dead one is left.
    """
    if not packed_weights(material):
        return NOTHING_PACKED
    form = rng.choice(packable(material))
    cache = scratch / "cache"

    def packing() -> None:
        pack(material.bundle(form))

    def same() -> None:
        if not ask(material.bundle(form), "auto").same(material.answer(form)):
            raise Fault("another answer")

    with environment(SC2ONNX_CACHE=str(scratch / "undisturbed")):
        events = _events(f"pack {form}", packing, scratch / "log-undisturbed", limit)
    with environment(SC2ONNX_CACHE=str(cache)):
        _, when = _struck(rng, events, packing, signal.SIGKILL, scratch, limit)
        for action, name in (
            (same, "the bundle does not run"),
            (packing, "packing again failed"),
            (same, "the bundle does not run"),
        ):
            if run(action, scratch / "log-after", limit):
                raise Fault(f"{name}: {(scratch / 'log-after').read_text()[-800:]}")
        left = [
            path.name
            for path in (cache / "packed").iterdir()
            if path.is_dir() and path.name.startswith(".")
        ]
        if left:
            raise Fault(f"{when}: {left} is left")
    return f"{form}, SIGKILL at {when}: the same answer"


def record_kill(rng: Random, material: Material, scratch: Path, limit: float) -> str:
    """A verification dies while it records its outcome: the manifest is the old or the new one."""
    bundle = material.copy("fp32", scratch / "bundle")
    before = (bundle / "sc2onnx.json").read_bytes()
    action = record_action(bundle)
    undisturbed = record_action(material.copy("fp32", scratch / "undisturbed"))
    events = _events("record", undisturbed, scratch / "log-undisturbed", limit)
    _, when = _struck(rng, events, action, signal.SIGKILL, scratch, limit)
    if not whole(bundle):
        raise Fault(f"{when}: half a bundle")
    after = (bundle / "sc2onnx.json").read_bytes()
    if after != before and b'"passed": true' not in after:
        raise Fault(f"{when}: the manifest is neither the old nor the new one")
    if run(action, scratch / "log-again", limit):
        raise Fault(f"{when}: recording again failed")
    left = [path.name for path in bundle.iterdir() if path.name.startswith(".")]
    if left or b'"passed": true' not in (bundle / "sc2onnx.json").read_bytes():
        raise Fault(f"{when}: after recording again {left} is left")
    return f"SIGKILL at {when}: old or new, and whole"


def record_action(bundle: Path) -> Callable[[], object]:
    """Record an outcome as ``verify`` does; torch is loaded before the fork, once."""
    import warnings

    import numpy as np

    from sc2onnx.bundle.manifest import Manifest
    from sc2onnx.bundle.provenance import Verification
    from sc2onnx.evaluate.measure import compare
    from sc2onnx.verify.criterion import criterion
    from sc2onnx.verify.run import Report, record

    figures = dict.fromkeys(
        ("max_abs_diff", "max_rel_diff", "kl_divergence", "top1_agreement", "nll", "nll_reference"),
        0.0,
    )
    summary = Verification(
        True, "torch", "text", 1e-5, 8, 8, greedy_tokens=0, greedy_match=0, **figures
    )
    compared = replace(Manifest.read(bundle), verification=None)
    same = compare(logits := np.zeros((1, 2), np.float32), logits, np.zeros(1, np.int64))

    def action() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record(bundle, Report((), same, criterion("fp32", 1), summary, compared))

    return action
