"""Free memory, as the operating system and the container tell it;
:mod:`tests.runtime.test_limits` has the containers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sc2onnx.runtime.limits import Groups
from sc2onnx.runtime.memory import available

MEMINFO = (
    "MemTotal:       2000 kB\nMemFree:         100 kB\nMemAvailable:   1000 kB\n"
    "HugePages_Total:       0\n"
)


def container(directory: Path, limit: str, current: int) -> Groups:
    directory.mkdir()
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{current}\n")
    (directory / "memory.stat").write_text("anon 300000\nfile 50000\n")
    return Groups(directory, directory)


@pytest.mark.parametrize(
    ("limit", "current", "expected"),
    [
        ("max", 400_000, 1_024_000),
        ("900000", 400_000, 550_000),
        ("9000000", 400_000, 1_024_000),
        ("300000", 400_000, 0),
    ],
)
def test_a_container_may_have_less_than_the_machine(
    tmp_path: Path, limit: str, current: int, expected: int
) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert (
        available(tmp_path / "meminfo", container(tmp_path / "group", limit, current)) == expected
    )


def test_without_a_container_it_is_the_machines(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert available(tmp_path / "meminfo", Groups(tmp_path, tmp_path / "absent")) == 1_024_000


def test_where_nothing_tells_it_is_not_known(tmp_path: Path) -> None:
    assert available(tmp_path / "absent", container(tmp_path / "group", "900000", 400_000)) is None
