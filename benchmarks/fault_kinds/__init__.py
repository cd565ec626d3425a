"""Kinds of fault that ``benchmarks/faults.py`` tries, one file for each sort."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fault_kinds import damage, disks, hostile, kills, races


@dataclass(frozen=True)
class Kind:
    """One kind: a trial, and how often it is tried among others.

    ``forks``: it runs in a process that never loads ONNX Runtime, because it forks children, and
    takes the time limit for each of them. ``exports``, ``loads``: how many of these a trial takes.
    """

    trial: Callable[..., str]
    share: int = 1
    forks: bool = False
    exports: int = 0
    loads: int = 1


KINDS: Mapping[str, Kind] = {
    "damaged-bundle": Kind(damage.bundle, 4),
    "damaged-packed": Kind(damage.packed_form, 3, loads=2),
    "damaged-memo": Kind(damage.memo, 2, loads=2),
    "damaged-checkpoint": Kind(damage.checkpoint, 3, exports=1),
    "hostile-manifest": Kind(hostile.manifest, 4),
    "hostile-checkpoint": Kind(hostile.checkpoint, 4, exports=1),
    "hostile-tokenizer": Kind(hostile.tokenizer, 3),
    "hostile-graph": Kind(hostile.graph, 4),
    "kill-export": Kind(kills.export_kill, 4, True, exports=2, loads=0),
    "kill-packing": Kind(kills.packing_kill, 2, True, loads=4),
    "kill-record": Kind(kills.record_kill, 1, True, loads=0),
    "full-disk": Kind(disks.full, 3, True, exports=1, loads=2),
    "race-cache": Kind(races.cache, 1, True, loads=6),
    "race-exports": Kind(races.exports, 1, True, exports=4, loads=0),
    "race-requests": Kind(races.requests, 1, loads=4),
}


def trial(name: str, seed: int, number: int, limit: float, material: Any, scratch: Any) -> str:
    """Do one trial, which is the same whenever it is repeated; what happened.
    Raises :class:`fault_kinds.material.Fault`.
    """
    from random import Random

    kind, rng = KINDS[name], Random(f"{seed} {name} {number}")
    return (
        kind.trial(rng, material, scratch, limit)
        if kind.forks
        else kind.trial(rng, material, scratch)
    )
