"""Which files of directories go into an index."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sc2onnx.attribution.sources import Files
from sc2onnx.errors import RequestError


def names(files: Files, root: Path) -> list[str]:
    return [os.path.relpath(file.path, root) for file in files]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, data in {
        "a.py": b"a = 1\n",
        "b.bin": b"\x7fELF\0\0",
        "large.js": b"x" * 101,
        "sub/c.c": b"int c;\n",
        "sub/LICENSE.txt": b"MIT\n",
        "sub/deep/d.py": b"<!-- SPDX-License-Identifier: BSD-3-Clause -->\nd = 1\n",
        "node_modules/e.js": b"e\n",
        ".git/config": b"[core]\n",
        "sub/.hg/x": b"x\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_text_goes_in_by_name_and_other_files_are_counted(root: Path) -> None:
    files = Files([root], most_bytes=100)
    expected = ["a.py", "node_modules/e.js", "sub/LICENSE.txt", "sub/c.c", "sub/deep/d.py"]
    assert names(files, root) == expected
    assert (files.skipped.binary, files.skipped.large, files.skipped.unreadable) == (1, 1, [])


def test_licences_are_what_files_declare_and_what_stands_above_them(root: Path) -> None:
    found = {
        os.path.relpath(file.path, root): (file.licence, file.licence_file)
        for file in Files([root])
    }
    above = f"{root}/sub/LICENSE.txt"
    assert found["a.py"] == (None, None)
    assert found["sub/c.c"] == (None, above)
    assert found["sub/deep/d.py"] == ("BSD-3-Clause", above)


@pytest.mark.parametrize("pattern", ["node_modules", "node*", "*/node_modules", "*.js"])
def test_patterns_leave_files_and_directories_out(root: Path, pattern: str) -> None:
    assert "node_modules/e.js" not in names(Files([root], [pattern]), root)
    assert "sub/c.c" in names(Files([root], [pattern]), root)


def test_a_file_may_be_named_and_a_missing_path_is_refused(root: Path) -> None:
    assert names(Files([root / "sub" / "c.c"]), root) == ["sub/c.c"]
    with pytest.raises(RequestError, match="is not there"):
        list(Files([root / "none"]))


@pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and modes are POSIX's")
def test_links_and_pipes_are_left_out_and_names_are_plain(root: Path) -> None:
    (root / "loop").symlink_to(root)
    (root / "link.py").symlink_to(root / "a.py")
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\x1b.py")).write_bytes(b"x\n")
    found = names(Files([root / "sub", root]), root)
    assert not {"link.py", "pipe"} & set(found)
    assert not any(name.startswith("loop") for name in found)
    assert "\ufffd\ufffd.py" in found


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_what_cannot_be_read_is_told_of(root: Path) -> None:
    (root / "a.py").chmod(0)
    files = Files([root])
    assert "a.py" not in names(files, root)
    assert files.skipped.unreadable == [f"{root}/a.py"]
