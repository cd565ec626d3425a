"""Several at once: loaders and packers of one cache, exports to one path, requests of one model."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from fault_kinds.children import Child, environment, run
from fault_kinds.damage import spoil
from fault_kinds.kills import export_action
from fault_kinds.material import (
    NOTHING_PACKED,
    Fault,
    Material,
    ask,
    pack,
    packable,
    packed_weights,
    pick,
    whole,
)


def cache(rng: Random, material: Material, scratch: Path, limit: float) -> str:
    """Processes load and pack while forms are removed and damaged: every
    answer is the whole bundle's.
    """
    if not packed_weights(material):
        return NOTHING_PACKED
    form = rng.choice(packable(material))
    place = Path(shutil.copytree(material.directory / "cache", scratch / "cache")) / "packed"
    seeds = [rng.random() for _ in range(3)]

    def worker(seed: float) -> None:
        from sc2onnx.errors import Sc2onnxError

        own = Random(seed)
        for _ in range(2):
            with suppress(Sc2onnxError):
                if own.random() < 0.4:
                    pack(material.bundle(form), wait=own.random() < 0.5)
            if not ask(material.bundle(form), "auto").same(material.answer(form)):
                raise Fault("another answer")

    def vandal() -> None:
        own = Random(seeds[2])
        for _ in range(8):
            with suppress(OSError, IndexError, ValueError):
                if own.random() < 0.3:
                    shutil.rmtree(own.choice([path for path in place.iterdir() if path.is_dir()]))
                else:
                    # written anew, as another program would: bytes that are mapped do not
                    # change under their reader
                    path = pick(own, place)
                    shutil.copy2(path, scratch / "damaged")
                    spoil(own, scratch / "damaged")
                    os.replace(scratch / "damaged", path)
            time.sleep(own.uniform(0, 0.2))

    with environment(SC2ONNX_CACHE=str(place.parent)):
        children = [
            Child(
                lambda seed=seed: worker(seed),  # type: ignore[misc]
                scratch / f"log-{seed}",
            )
            for seed in seeds[:2]
        ]
        vandal()
        _all_well(children, 3 * limit)
    return f"{form}: every answer the same"


def exports(rng: Random, material: Material, scratch: Path, limit: float) -> str:
    """Exports to one path: each succeeds or is refused, and one of their bundles
    is there, whole and alone.
    """
    place = scratch / "place"
    place.mkdir()
    out, overwrite = place / "bundle", rng.random() < 0.5
    if overwrite:
        material.copy("int4" if "int4" in material.forms else "fp32", out)
    actions = [
        export_action(material, out, rng.choice(["fp32", "int8"]), overwrite) for _ in range(3)
    ]
    children = []
    for number, action in enumerate(actions):
        children.append(Child(action, scratch / f"log-{number}"))
        time.sleep(rng.choice([0, 0, 0.05, 0.2]))
    statuses = _all_well(children, 3 * limit)
    names = sorted(path.name for path in place.iterdir())
    # one that gave way leaves nothing; what a crash would leave, the next one removes
    if names != ["bundle"]:
        raise Fault(f"{statuses}: there is {names}")
    if not whole(out) or (0 not in statuses and not overwrite):
        raise Fault(f"{statuses}: no whole bundle")
    if run(export_action(material, out, "fp32", True), scratch / "log-again", limit) or not whole(
        out
    ):
        raise Fault("the next export failed")
    return f"{statuses.count(0)} of {len(statuses)} succeeded"


def _all_well(children: list[Child], limit: float) -> list[int]:
    statuses, faults = [], []
    for child in children:
        try:
            status = child.wait(limit)
            statuses.append(status)
            if status not in (0, 2):
                faults.append(f"exit status {status}: {child.said()}")
        except Fault as fault:
            faults.append(str(fault))
    if faults:
        raise Fault("; ".join(faults))
    return statuses


def requests(rng: Random, material: Material, scratch: Path) -> str:
    """Threads generate, and close streams at random moments: what is finished is
    right, and nothing else breaks.
    """
    from sc2onnx.errors import CancelledError, SequenceStateError

    form = rng.choice([form for form in ("fp32", "int8", "int4") if form in material.forms])
    model = _model(material, form)
    prompts = [
        [1 + (rng.randrange(1000) % 97) for _ in range(rng.randint(1, 40))] for _ in range(4)
    ]
    expected = [_tokens(model, prompt) for prompt in prompts]
    wrong: list[str] = []

    def ask_for(prompt: list[int], want: tuple[int, ...], cut: int | None) -> None:
        found: list[int] = []
        try:
            stream: Any = model.generate_tokens(prompt, max_new_tokens=16, stop_tokens=())
            for token in stream:
                found.append(token.id)
                if len(found) == cut:
                    threading.Timer(0.0, stream.close).start() if hasattr(stream, "close") and len(
                        found
                    ) % 2 else stream.close()
            if cut is None and tuple(found) != want:
                wrong.append(f"{found}, expected {list(want)}")
        except (CancelledError, SequenceStateError):
            pass
        except ValueError as error:
            # "generator already executing": a generator of Python closed by another thread
            if "already executing" not in str(error):
                wrong.append(repr(error))
        except Exception as error:
            wrong.append(repr(error))
        if tuple(found) != want[: len(found)]:
            wrong.append(f"{found}, expected the beginning of {list(want)}")

    threads = [
        threading.Thread(
            target=ask_for,
            args=(prompt, want, rng.choice([None, None, rng.randint(1, 15)])),
            daemon=True,
        )
        for prompt, want in zip(prompts * 2, expected * 2, strict=True)
    ]
    for thread in threads:
        thread.start()
        time.sleep(rng.choice([0, 0.01]))
    for thread in threads:
        thread.join(60)
    if wrong:
        raise Fault("; ".join(wrong)[:1000])
    if any(thread.is_alive() for thread in threads):
        raise Fault("hang: a request does not end")
    return f"{form}: {len(threads)} requests right"


_MODELS: dict[Path, Any] = {}


def _model(material: Material, form: str) -> Any:
    from sc2onnx.runtime.loading import load

    directory = material.bundle(form)
    if directory not in _MODELS:
        _MODELS[directory] = load(directory, packed="off", speculate=False)
    return _MODELS[directory]


def _tokens(model: Any, prompt: list[int]) -> tuple[int, ...]:
    return tuple(
        token.id for token in model.generate_tokens(prompt, max_new_tokens=16, stop_tokens=())
    )
