"""An adapter that a model has loaded, and how a request uses one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Adapter:
    """An adapter that a model has loaded, as ``model.load_adapter`` gives it.

    ``name``: what requests call it. ``rank``: the largest of a module. ``nbytes``: that its
    matrices take in memory. ``path``: of the directory that it was read from. ``source``: what that
    was converted from; ``base``: the model that its makers name, which nobody checks. ``number``:
    which of all that the process has loaded. ``sha256``: of the file with its matrices.
    """

    name: str
    rank: int
    nbytes: int
    path: Path
    source: str
    base: str
    number: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Adapted:
    """With which adapter a sequence is computed. ``scale``: what its part is multiplied by."""

    adapter: Adapter
    scale: float = 1.0

    @property
    def key(self) -> tuple[int, float]:
        """What tells its caches from those of others."""
        return self.adapter.number, self.scale
