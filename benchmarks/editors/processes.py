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


def below(root: int, title: str) -> list[int]:
    """Processes with that in their command, which descend from one."""
    parents, titles = dict[int, int](), dict[int, str]()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            titles[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue

    def descends(process: int) -> bool:
        while process > 1 and process != root:
            process = parents.get(process, 0)
        return process == root

    return [process for process, found in titles.items() if title in found and descends(process)]
