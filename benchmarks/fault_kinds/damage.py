"""Flipped bits and truncations, in every file: an error of ours, or exactly what
the whole bundle answers.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from fault_kinds.children import environment
from fault_kinds.material import (
    FORMS,
    NOTHING_PACKED,
    Fault,
    Material,
    ask,
    packable,
    packed_weights,
    pick,
    runnable,
)
from sc2onnx.errors import Sc2onnxError

_SETTLED = 0.1
"""Seconds after which a file that was just written is remembered."""


def spoil(rng: Random, path: Path) -> str:
    """Flip 1 to 8 bits, cut the file short or make it longer, half of the time with its old
    modification time; says what.
    """
    before, size = path.stat(), path.stat().st_size
    how = rng.choice(["flip", "flip", "flip", "cut", "longer", "zeros"])
    with path.open("r+b") as file:
        if how == "cut":
            file.truncate(rng.choice([0, rng.randrange(size), size - 1]))
        elif how == "longer":
            file.seek(0, os.SEEK_END)
            file.write(rng.randbytes(rng.randint(1, 100)))
        elif how == "zeros":
            place = rng.randrange(size)
            file.seek(place)
            file.write(bytes(min(size - place, rng.randint(1, 4096))))
        else:
            for _ in range(rng.randint(1, 8)):
                place = rng.choice([rng.randrange(size), rng.randrange(min(size, 4096))])
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    if rng.random() < 0.5:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return f"{how} in {path.name}"


def bundle(rng: Random, material: Material, scratch: Path) -> str:
    """A file of a bundle."""
    form = rng.choice(material.forms)
    copy = material.copy(form, scratch / "bundle")
    what = f"{form}: {spoil(rng, pick(rng, copy))}"
    return f"{what}: {expect_refused_or_same(material, form, copy, rng.choice(['full', 'auto']))}"


def expect_refused_or_same(
    material: Material, form: str, copy: Path, check: str, packed: str = "off"
) -> str:
    """Raises :class:`Fault` for another answer."""
    from sc2onnx.runtime.opening.bundle import Bundle

    try:
        if FORMS[form][1] == "genai":
            Bundle.open(copy, check, others=True)  # type: ignore[arg-type]
            if any(
                path.read_bytes() != (copy / path.name).read_bytes()
                for path in material.bundle(form).iterdir()
                if path.suffix == ".data"
            ):
                raise Fault("altered weights were taken for whole")
            return "opened"
        found = ask(copy, packed, check)
    except Sc2onnxError as error:
        return f"refused ({type(error).__name__})"
    if not found.same(material.answer(form)):
        raise Fault(f"another answer: {found.tokens}, expected {material.answer(form).tokens}")
    return "the same answer"


def packed_form(rng: Random, material: Material, scratch: Path) -> str:
    """A file of the cache of packed weights: the bundle runs all the same, with or without it."""
    if not packed_weights(material):
        return NOTHING_PACKED
    form = rng.choice(packable(material))
    copy = material.copy(form, scratch / "bundle")
    cache = Path(shutil.copytree(material.directory / "cache", scratch / "cache"))
    what = f"{form}: {spoil(rng, pick(rng, cache / 'packed'))}"
    with environment(SC2ONNX_CACHE=str(cache)):
        for _ in range(2):  # the second time without it, or with another one
            outcome = expect_refused_or_same(material, form, copy, "auto", "auto")
            if not outcome.startswith("the same"):
                raise Fault(f"a whole bundle is {outcome}")
    return f"{what}: {outcome}"


def memo(rng: Random, material: Material, scratch: Path) -> str:
    """The memo of digests, and files that change after they were checked."""
    form = rng.choice(runnable(material))
    copy = material.copy(form, scratch / "bundle")
    with environment(SC2ONNX_CACHE=str(scratch / "cache")), remembered():
        time.sleep(0.1)  # what just changed is not remembered
        ask(copy, check="auto")
        made = (scratch / "cache").exists() and rng.random() < 0.3
        target = pick(rng, scratch / "cache" if made else copy)
        what = f"{form}: {spoil(rng, target)}"
        return f"{what}: {expect_refused_or_same(material, form, copy, 'auto')}"


@contextmanager
def remembered() -> Iterator[None]:
    """Have the memo hold files of any size: it holds those of full-size models only."""
    from sc2onnx.runtime.opening import stamps

    before: int = stamps.LARGE
    setattr(stamps, "LARGE", 1)  # noqa: B010 - a constant to a type checker
    try:
        yield
    finally:
        setattr(stamps, "LARGE", before)  # noqa: B010


def checkpoint(rng: Random, material: Material, scratch: Path) -> str:
    """A file of a checkpoint: an error of ours, or an export that ends.
    What a weight should have been nobody knows.
    """
    copy = Path(shutil.copytree(material.checkpoint, scratch / "checkpoint"))
    return f"{spoil(rng, pick(rng, copy))}: {expect_refused_or_done(rng, copy, scratch / 'bundle')}"


def expect_refused_or_done(rng: Random, source: Path, out: Path) -> str:
    """Export, and run what came of it: both end well, or with an error of ours."""
    from sc2onnx.export import Calibration, export

    precision = rng.choice(["fp32", "int8"])
    try:
        export(
            source,
            out,
            precision=precision,
            calibration=Calibration(None if precision == "fp32" else False),
        )
    except Sc2onnxError as error:
        left = sorted(path.name for path in out.parent.iterdir() if out.name in path.name)
        if left:
            raise Fault(f"a refused export left {left}") from error
        return f"refused ({type(error).__name__})"
    try:
        ask(out)
    except Sc2onnxError as error:
        return f"exported, then refused ({type(error).__name__})"
    return "exported"
