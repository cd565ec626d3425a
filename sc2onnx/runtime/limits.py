"""What the control groups of Linux leave to this process: containers and services have
less than the machine shows.

Both versions are read, in the group of the process and in every group above it that can be seen;
the least counts. Sources: the kernel's ``cgroup-v2.rst``, ``cgroup-v1/memory.rst``,
``sched-bwc.rst``, and ``cgroups(7)``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CUSTOMARY: Final = ((2, ""), (2, "unified"), (1, "cpu"), (1, "cpu,cpuacct"), (1, "memory"))
"""Versions and places under the root of hierarchies that the table of mounts does not tell of."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The control groups of a process. ``process``: its directory in ``/proc``; ``root``: where
    hierarchies are by custom.
    """

    process: Path = Path("/proc/self")
    root: Path = Path("/sys/fs/cgroup")

    def of(self, controller: str) -> list[Path]:
        """The directories of the groups that may limit it, by the controller ``cpu`` or
        ``memory``; not all need exist.
        """
        own = self._paths(controller)
        mounts = [
            *self._mounts(controller),
            *((version, "/", self.root / place) for version, place in _CUSTOMARY),
        ]
        return list(
            dict.fromkeys(
                group
                for version, begin, mount in mounts
                for group in _upwards(begin, mount, own.get(version, "/"))
            )
        )

    def _paths(self, controller: str) -> dict[int, str]:
        """The process's path, by the version of the hierarchy: ``0::/a/b`` is of version 2,
        ``4:cpu,cpuacct:/a/b`` of version 1.
        """
        rows = [
            row for line in _lines(self.process / "cgroup") if len(row := line.split(":", 2)) == 3
        ]
        return {
            1 if row[1] else 2: row[2]
            for row in rows
            if row[1] == "" or controller in row[1].split(",")
        }

    def _mounts(self, controller: str) -> Iterator[tuple[int, str, Path]]:
        """Version, group and place: ``ID PARENT DEVICE GROUP PLACE OPTIONS [TAGS] - TYPE
        SOURCE OPTIONS`` (``proc(5)``).
        """
        for line in _lines(self.process / "mountinfo"):
            before, _, after = line.partition(" - ")
            first, last = before.split(), after.split()
            if len(first) < 5 or not last:
                continue
            if last[0] == "cgroup2" or (last[0] == "cgroup" and controller in last[-1].split(",")):
                yield (
                    2 if last[0] == "cgroup2" else 1,
                    _unescaped(first[3]),
                    Path(_unescaped(first[4])),
                )


HERE: Final = Groups()
"""The groups of this process."""


def processors(groups: Groups = HERE) -> int:
    """Processors that this process may use at once: by its affinity, and by quotas,
    rounded down, at least 1.

    Down: a thread more than a quota lets run uses it up before the period ends, and
    then all of them stand still.
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = processor_quota(groups)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def processor_quota(groups: Groups = HERE) -> float | None:
    """Processors' worth of time that the tightest group lets its processes have: 0.5,
    say; None without a quota.
    """
    return min(
        (quota for group in groups.of("cpu") if (quota := _quota(group)) is not None), default=None
    )


def memory_left(groups: Groups = HERE) -> int | None:
    """Bytes that the tightest group lets its processes take beyond what they
    have; None without a limit.

    What a group holds of files does not count as taken: it makes room when asked.
    """
    return min(
        (left for group in groups.of("memory") if (left := _left(group)) is not None), default=None
    )


def _quota(group: Path) -> float | None:
    words = (_lines(group / "cpu.max") or [""])[0].split()  # "50000 100000", "max 100000"
    quota, period = (_number(words[0]), _number(words[1])) if len(words) == 2 else (None, None)
    if quota is None:
        quota, period = _value(group / "cpu.cfs_quota_us"), _value(group / "cpu.cfs_period_us")
    return quota / period if quota is not None and period and quota > 0 else None


def _left(group: Path) -> int | None:
    statistics = {
        words[0]: int(words[1])
        for line in _lines(group / "memory.stat")
        if len(words := line.split()) == 2 and words[1].isdigit()
    }
    limits = [
        _value(group / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
    ]
    # that of groups above which cannot be seen, too
    limits.append(statistics.get("hierarchical_memory_limit"))
    known = [limit for limit in limits if limit is not None and limit < _UNLIMITED]
    if not known:
        return None
    taken = _value(group / "memory.current")
    if taken is None:
        taken = _value(group / "memory.usage_in_bytes") or 0
    return max(0, min(known) - taken + _files(statistics))


_UNLIMITED: Final = 1 << 60
"""Version 1 writes a number close to 2^63 where there is no limit."""


def _files(statistics: dict[str, int]) -> int:
    """Bytes of cached files, those of groups below included; what lies in memory for want of a disk
    (tmpfs) is not among them.
    """
    for prefix in ("total_", ""):  # version 1 counts groups below under names of their own
        if f"{prefix}inactive_file" in statistics:
            return statistics[f"{prefix}inactive_file"] + statistics.get(f"{prefix}active_file", 0)
    return statistics.get("file", 0)


def _upwards(begin: str, mount: Path, path: str) -> Iterator[Path]:
    """A group and those above it, as far as they are mounted: ``begin`` is the group at ``mount``.

    With /docker/x at /sys/fs/cgroup/cpu, /docker/x/a is
    /sys/fs/cgroup/cpu/a, then /sys/fs/cgroup/cpu.
    """
    inside = (
        path.removeprefix(begin.rstrip("/"))
        if path == begin or path.startswith(begin.rstrip("/") + "/")
        else ""
    )
    parts = [part for part in inside.split("/") if part]
    if ".." in parts:  # outside of what this namespace shows
        parts = []
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def _unescaped(field: str) -> str:
    r"""A field of the table of mounts, where a space is ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _value(path: Path) -> int | None:
    return _number((_lines(path) or [""])[0].strip())


def _number(text: str) -> int | None:
    """An integer of the kernel's; None for ``max``, and for what is none."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
