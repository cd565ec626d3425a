"""What a process holds, as Linux tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Holds:
    """Bytes of private memory, threads, and open files."""

    memory: int
    threads: int
    files: int

    @classmethod
    def of(cls, process: int) -> Holds:
        """What it holds now."""
        status = Path(f"/proc/{process}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines())
        memory = 1024 * int(lines["RssAnon"].split()[0])
        files = len(list(Path(f"/proc/{process}/fd").iterdir()))
        return cls(memory, int(lines["Threads"]), files)
