"""Disks that fill up in the middle: small file systems in memory, and
limits on the size of a file.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from fault_kinds.children import environment, run
from fault_kinds.damage import remembered
from fault_kinds.kills import export_action, record_action
from fault_kinds.material import Fault, Material, ask, pack, packable, whole


def full(rng: Random, material: Material, scratch: Path, limit: float) -> str:
    """An export, packing, the memo of digests or a record, on a disk that fills up."""
    kinds = {"export": _export, "packing": _packing, "memo": _memo, "record": _record}
    name = rng.choice(sorted(kinds))
    if rng.random() < 0.5:
        if os.geteuid() != 0:
            return "no small file system without root"
        return f"{name} on a {kinds[name](rng, material, scratch, limit, True)}"
    return f"{name} with a {kinds[name](rng, material, scratch, limit, False)}"


@contextmanager
def _disk(
    rng: Random, scratch: Path, most: int, mounted: bool
) -> Iterator[tuple[Path, str, Callable[[], None]]]:
    """A place that takes less than ``most`` bytes, what it is, and what a
    child calls to be limited.
    """
    place = scratch / "disk"
    place.mkdir()
    size = rng.randrange(most + most // 8) + 1
    if not mounted:
        yield (
            place,
            f"limit of {size:,} bytes a file",
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        )
        return
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        yield place, "file system that could not be mounted: skipped", lambda: None
        return
    try:
        yield place, f"disk of {size:,} bytes", lambda: None
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _export(rng: Random, material: Material, scratch: Path, limit: float, mounted: bool) -> str:
    precision = rng.choice(["fp32", "int8"])
    form = precision if precision in material.forms else "fp32"

    with _disk(rng, scratch, _size(material.bundle(form)), mounted) as (place, what, limited):
        out = place / "bundle"

        def action() -> object:
            from sc2onnx.export import writer

            writer.check_space = lambda out, nbytes: None  # another process took the room since
            limited()
            return export_action(material, out, precision, False)()

        status = run(action, scratch / "log", limit)
        left = sorted(path.name for path in place.iterdir())
        if status and left:
            raise Fault(f"{what}: {left} is left")
        if not status and not whole(out):
            raise Fault(f"{what}: half a bundle")
        return f"{what}: {'refused' if status else 'it fitted'}"


def _packing(rng: Random, material: Material, scratch: Path, limit: float, mounted: bool) -> str:
    form = rng.choice(packable(material))
    with _disk(rng, scratch, 2 * _size(material.bundle(form)), mounted) as (place, what, limited):

        def action() -> None:
            from sc2onnx.runtime.ort import packing

            packing.check_room = lambda directory, size: None
            limited()
            pack(material.bundle(form))

        def same() -> None:
            if not ask(material.bundle(form), "auto").same(material.answer(form)):
                raise Fault("another answer")

        with environment(SC2ONNX_CACHE=str(place)):
            status = run(action, scratch / "log", limit)
            if run(same, scratch / "log-after", limit):
                raise Fault(
                    f"{what}: the bundle does not run: {(scratch / 'log-after').read_text()[-800:]}"
                )
        left = [path.name for path in place.glob("packed/.*") if path.is_dir()]
        if left:
            raise Fault(f"{what}: {left} is left")
        return f"{what}: {'refused' if status else 'it fitted'}"


def _memo(rng: Random, material: Material, scratch: Path, limit: float, mounted: bool) -> str:
    form = rng.choice(packable(material))
    with _disk(rng, scratch, 4096 if mounted else 400, mounted) as (place, what, limited):

        def action() -> None:
            limited()
            with remembered():
                for _ in range(2):
                    if not ask(material.bundle(form), check="auto").same(material.answer(form)):
                        raise Fault("another answer")

        with environment(SC2ONNX_CACHE=str(place)):
            if run(action, scratch / "log", limit):
                raise Fault(f"{what}: {(scratch / 'log').read_text()[-800:]}")
        return f"{what}: the same answer"


def _record(rng: Random, material: Material, scratch: Path, limit: float, mounted: bool) -> str:
    form = "int4" if "int4" in material.forms else "fp32"
    with _disk(rng, scratch, _size(material.bundle(form)), mounted) as (place, what, limited):
        source = material.bundle(form)
        if mounted:
            bundle = place / "bundle"
            try:
                material.copy(form, bundle)
            except OSError:
                return f"{what}: no room for the bundle itself"
            with suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        else:
            bundle = material.copy(form, place / "bundle")
            size = rng.randrange(1, 3000)
            what, limited = (
                f"limit of {size} bytes a file",
                lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
            )
        record = record_action(bundle)

        def action() -> None:
            limited()
            record()

        if run(action, scratch / "log", limit):
            raise Fault(f"{what}: {(scratch / 'log').read_text()[-800:]}")
        left = sorted(path.name for path in bundle.iterdir())
        if left != sorted(path.name for path in source.iterdir()) or not whole(bundle):
            raise Fault(f"{what}: the bundle is {left}")
        return f"{what}: the bundle is whole"
