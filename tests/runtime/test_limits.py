"""Control groups: of both versions, nested, in namespaces and without; on trees
that are made for the test.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from sc2onnx.runtime.limits import Groups, memory_left, processor_quota, processors

V2 = "31 23 0:28 / {root} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def made(
    tmp_path: Path, files: Mapping[str, str], cgroup: str = "0::/\n", mountinfo: str = ""
) -> Groups:
    """Groups under ``root`` with these files, and a process that is in them."""
    process, root = tmp_path / "process", tmp_path / "root"
    process.mkdir()
    root.mkdir()
    (process / "cgroup").write_text(cgroup)
    (process / "mountinfo").write_text(mountinfo.format(root=root))
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return Groups(process, root)


V1 = "4:cpu,cpuacct:/a/b\n3:memory:/a/b\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("files", "cgroup", "mountinfo", "expected"),
    [
        pytest.param({}, "", "", None, id="no groups"),
        pytest.param({"cpu.max": "50000 100000"}, "0::/\n", "", 0.5, id="v2, in a namespace"),
        pytest.param({"cpu.max": "max 100000"}, "0::/\n", "", None, id="v2, without a quota"),
        pytest.param(
            {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"},
            "0::/a/b\n",
            V2,
            1.5,
            id="v2, of a group above",
        ),
        pytest.param(
            {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"},
            "0::/a/b\n",
            V2,
            2.0,
            id="v2, nested",
        ),
        pytest.param(
            {"c/cpu.max": "50000 100000"}, "0::/a/b\n", V2, None, id="v2, of another group"
        ),
        pytest.param(
            {"cpu.max": "50000 100000"}, "0::/../../x\n", "", 0.5, id="v2, outside of the namespace"
        ),
        pytest.param(
            {"cpu.max": "50000 100000"},
            "0::/docker/x\n",
            V2.replace("0:28 /", "0:28 /docker/x"),
            0.5,
            id="v2, mounted from within",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            V1,
            "",
            None,
            id="v1, without a quota",
        ),
        pytest.param(
            {
                "cpu/a/cpu.cfs_quota_us": "25000",
                "cpu/a/cpu.cfs_period_us": "100000",
                "cpu/a/b/cpu.cfs_quota_us": "-1",
            },
            V1,
            "",
            0.25,
            id="v1, nested",
        ),
        pytest.param(
            {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "50000"},
            "4:cpu,cpuacct:/docker/x\n",
            "33 31 0:30 /docker/x {root}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
            2.0,
            id="v1, mounted from within",
        ),
        pytest.param(
            {"odd place/cpu.max": "70000 100000"},
            "0::/\n",
            "31 23 0:28 / {root}/odd\\040place rw - cgroup2 cgroup2 rw\n",
            0.7,
            id="a place with a space",
        ),
        pytest.param({"cpu.max": "a lot"}, "0::/\n", "", None, id="not understood"),
        pytest.param({"cpu.max": "50000 0"}, "0::/\n", "", None, id="no period"),
    ],
)
def test_a_quota_is_the_tightest(
    tmp_path: Path, files: dict[str, str], cgroup: str, mountinfo: str, expected: float | None
) -> None:
    assert processor_quota(made(tmp_path, files, cgroup, mountinfo)) == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("50000", 1),
        ("150000", 1),
        ("200000", 2),
        ("290000", 2),
        ("9900000", 4),
        ("max", 4),
        ("1000", 1),
    ],
)
def test_threads_by_default_are_the_quota_rounded_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert processors(made(tmp_path, {"cpu.max": f"{quota} 100000"})) == expected


STAT = "anon 300000\nfile 90000\nshmem 40000\ninactive_file 20000\nactive_file 30000"
STAT_V1 = (
    "cache 90000\ninactive_file 1\nactive_file 1\ntotal_inactive_file 20000\n"
    "total_active_file 30000"
)


@pytest.mark.parametrize(
    ("files", "cgroup", "expected"),
    [
        pytest.param(
            {"memory.max": "max", "memory.current": "400000", "memory.stat": STAT},
            "0::/\n",
            None,
            id="v2, without a limit",
        ),
        pytest.param(
            {"memory.max": "900000", "memory.current": "400000", "memory.stat": STAT},
            "0::/\n",
            550_000,
            id="v2",
        ),
        pytest.param(
            {"memory.max": "900000", "memory.high": "500000", "memory.current": "400000"},
            "0::/\n",
            100_000,
            id="v2, slowed before",
        ),
        pytest.param(
            {"memory.max": "300000", "memory.current": "400000"}, "0::/\n", 0, id="v2, full"
        ),
        pytest.param(
            {
                "a/memory.max": "900000",
                "a/memory.current": "850000",
                "a/b/memory.max": "800000",
                "a/b/memory.current": "100000",
            },
            "0::/a/b\n",
            50_000,
            id="v2, the group above has less",
        ),
        pytest.param(
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "1",
            },
            "3:memory:/\n",
            None,
            id="v1, without a limit",
        ),
        pytest.param(
            {
                "memory/a/memory.limit_in_bytes": "900000",
                "memory/a/memory.usage_in_bytes": "400000",
                "memory/a/memory.stat": STAT_V1,
            },
            "3:memory:/a/b\n",
            550_000,
            id="v1, nested",
        ),
        pytest.param(
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "400000",
                "memory/memory.stat": "hierarchical_memory_limit 700000",
            },
            "3:memory:/\n",
            300_000,
            id="v1, of a group that cannot be seen",
        ),
    ],
)
def test_memory_left_is_that_of_the_tightest_group(
    tmp_path: Path, files: dict[str, str], cgroup: str, expected: int | None
) -> None:
    assert memory_left(made(tmp_path, files, cgroup)) == expected


def test_this_process_has_a_processor() -> None:
    assert 1 <= processors() <= (os.cpu_count() or 1)
