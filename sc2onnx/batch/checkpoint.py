"""How far a job is: what of its output is on the disk for good."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sc2onnx.bundle import records
from sc2onnx.bundle.files import replace_text
from sc2onnx.errors import OutputError

_STATES = ("under way", "ending", "done")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """So many ``rows`` are done, ``errors`` of them in vain; their lines take ``nbytes``.

    ``tokens``: that they took; ``sums``: of other figures. ``state``: ``"ending"``: all rows are
    done, and the output gets its name; ``"done"``: it has it.
    """

    rows: int = 0
    errors: int = 0
    nbytes: int = 0
    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    state: str = "under way"

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """That of a file; where there is none, nothing is done. Raises :class:`OutputError`."""
        try:
            found = records.record(cls, _plain(records.read(path)))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            raise OutputError(
                f"{path} says no more how far the job is ({error}): begin it anew (--restart)"
            ) from error
        if found.state not in _STATES or min(found.rows, found.nbytes, found.errors) < 0:
            raise OutputError(
                f"{path} says {found}, which no job has written: begin it anew (--restart)"
            )
        return found

    def write(self, path: Path) -> None:
        """Keep it. Raises :class:`OSError`, and leaves the one before."""
        replace_text(path, json.dumps(asdict(self)) + "\n")

    def with_row(
        self, nbytes: int, tokens: int, sums: Mapping[str, float], *, failed: bool
    ) -> Checkpoint:
        """With one row more."""
        total = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        return replace(
            self,
            rows=self.rows + 1,
            errors=self.errors + failed,
            nbytes=self.nbytes + nbytes,
            tokens=self.tokens + tokens,
            sums={**self.sums, **total},
        )

    def now(self, state: str) -> Checkpoint:
        """In another state."""
        assert state in _STATES
        return replace(self, state=state)


def _plain(raw: dict[str, Any]) -> dict[str, Any]:
    """Sums as floats, of which JSON may have made integers."""
    sums = raw.get("sums")
    return (
        {**raw, "sums": {name: float(value) for name, value in sums.items()}}
        if isinstance(sums, dict)
        else raw
    )
