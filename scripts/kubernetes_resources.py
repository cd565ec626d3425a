"""Prints what a bundle's engine needs in Kubernetes, as a patch of its
StatefulSet (docs/deploy.md).

    python scripts/kubernetes_resources.py BUNDLE --processors 4 > resources.yaml
    python scripts/kubernetes_resources.py --shape 3b --precision int4 --processors 4

The figures are those of ``sc2onnx info BUNDLE`` and ``sc2onnx plan``: weights, and a cache of
full length for each request of a step and for each file that is kept.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sc2onnx.errors import RequestError
from sc2onnx.runtime.cache.slots import SlotType
from sc2onnx.runtime.memory_need import MemoryNeed, memory_ahead, memory_need

PROGRAM: Final = 1 << 30
"""Bytes beside weights and caches: interpreter, libraries, a step's activations."""

STEP: Final = 1 << 28
"""Memory is given in quarters of a gibibyte."""


SLOTS: Final[SlotType] = "int8"
"""What the kernels keep of keys and values, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Figures:
    """``need``: of one sequence of full length. ``packed``: bytes of weights that are kept packed
    on disk. ``batch``: requests of a step; ``files``: whose caches are kept.
    """

    need: MemoryNeed
    packed: int
    batch: int
    files: int

    @property
    def kept(self) -> int:
        """Bytes of caches of finished requests."""
        return self.files * self.need.cache

    @property
    def memory(self) -> int:
        """Bytes of memory, in whole steps."""
        wanted = PROGRAM + self.need.weights + self.batch * self.need.cache + self.kept
        return STEP * math.ceil(wanted / STEP)

    @property
    def disk(self) -> int:
        """Bytes of the cache directory: a new file is written beside an old one."""
        return STEP * math.ceil((2 * self.packed + STEP) / STEP)


def of_bundle(bundle: Path, batch: int, files: int) -> Figures:
    """The figures of a bundle as this machine would run it: on the
    kernels, if they are installed.
    """
    from sc2onnx.runtime.description import on_kernels
    from sc2onnx.runtime.opening.bundle import Bundle

    manifest = Bundle.open(bundle, check="size").manifest
    kept, _ = on_kernels(manifest)
    packed = manifest.weight_bytes if kept else 0
    return Figures(memory_need(manifest, None, kept), packed, batch, files)


def of_shape(shape: str, precision: str, batch: int, files: int) -> Figures:
    """The figures of a published shape for the CPU, at most, on the kernels where these run it."""
    from sc2onnx.export.estimate import estimates, facts

    found = estimates(None, shape)
    chosen = [
        each for each in found.of_variants if (each.precision, each.target) == (precision, "cpu")
    ]
    if not chosen:
        expected = ", ".join(
            sorted({each.precision for each in found.of_variants if each.target == "cpu"})
        )
        raise RequestError(f"precision is {precision!r}, expected one of {expected}")
    (ahead,) = chosen
    model, kept = facts(found.config), SLOTS if ahead.packed else None
    need = memory_ahead(model, ahead.cache, ahead.weights, None, kept)
    return Figures(need, ahead.packed, batch, files)


def patch(figures: Figures, processors: int) -> str:
    """A strategic merge patch. Requests are limits: the pod is of the class Guaranteed."""
    size = f'{{cpu: "{processors}", memory: {_shown(figures.memory)}}}'
    resources = f"resources: {{requests: {size}, limits: {size}}}"
    return f"""\
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: sc2onnx-engine
spec:
  template:
    spec:
      initContainers:
        - name: warm
          {resources}
      containers:
        - name: engine
          {resources}
          env:
            - {{name: SC2ONNX_SERVE_MAX_BATCH, value: "{figures.batch}"}}
            - {{name: SC2ONNX_SERVE_PREFIX_MEMORY, value: "{figures.kept}"}}
      volumes:
        - name: cache
          emptyDir: {{sizeLimit: {_shown(figures.disk)}}}
"""


def _shown(nbytes: int) -> str:
    """A multiple of :data:`STEP` as Kubernetes writes it: 1280Mi."""
    return f"{nbytes >> 20}Mi"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--shape", help="a published StarCoder2 instead of a bundle: 3b, 7b or 15b")
    parser.add_argument("--precision", default="int4", help="with --shape (default: int4)")
    for name, usual, told in (
        ("--processors", 4, "of an engine"),
        ("--max-batch", 8, "requests of a step"),
        ("--files", 16, "whose caches are kept"),
    ):
        parser.add_argument(
            name, type=int, default=usual, metavar="N", help=f"{told} (default: {usual})"
        )
    args = parser.parse_args()
    if (args.bundle is None) == (args.shape is None):
        parser.error("give a BUNDLE or --shape")
    how = args.max_batch, args.files
    made = (
        of_bundle(args.bundle, *how) if args.bundle else of_shape(args.shape, args.precision, *how)
    )
    print(patch(made, args.processors), end="")


if __name__ == "__main__":
    main()
