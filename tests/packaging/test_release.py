"""The cheap parts of scripts/release: versions, the changelog, and what archives hold."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

import release_files
import release_state
import sc2onnx
from changelog import KINDS, kinds, notes, sections
from tests.conftest import ROOT

CHANGELOG = """# Changelog

## [0.2.0] - Unreleased

### Added

- More.

## [0.1.0] - 2026-01-31

### Fixed

- Less.
"""

STATE = (
    "CHANGELOG.md",
    "CITATION.cff",
    "pyproject.toml",
    "sc2onnx/__init__.py",
    "native/pyproject.toml",
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that say which version this is, committed."""
    library = "native/python/sc2onnx_kernels/__init__.py"
    for name in (*STATE, library, f"docs/releases/{sc2onnx.__version__}.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "x")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def rewrite(path: Path, old: str, new: str) -> None:
    found = path.read_text(encoding="utf-8")
    assert old in found
    path.write_text(found.replace(old, new), encoding="utf-8")


def test_a_changelog_is_read() -> None:
    newest, first = sections(CHANGELOG)
    assert (newest.version, newest.day, newest.seconds) == ("0.2.0", None, None)
    assert (first.version, str(first.day), first.seconds) == ("0.1.0", "2026-01-31", 1769817600)
    assert kinds(first) == ["Fixed"]


@pytest.mark.parametrize("heading", ["0.1.0 (unreleased)", "[0.1] - 2026-01-31", "[0.1.0] - soon"])
def test_another_form_of_heading_is_refused(heading: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"has the heading {heading!r}, expected")):
        sections(f"# Changelog\n\n## {heading}\n\n- x\n")


def test_the_changelog_of_this_clone_has_the_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = sections(text)
    assert found[0].version == sc2onnx.__version__ or found[0].day is None
    assert all(set(kinds(each)) <= set(KINDS) for each in found)
    assert max(map(len, text.splitlines())) <= 100


def test_notes_are_the_introduction_and_the_changes() -> None:
    introduction = release_state.introduction(ROOT)
    text = notes(release_state.section(ROOT), introduction)
    assert text.startswith(f"# sc2onnx {sc2onnx.__version__}\n")
    assert "\n## Changes\n\n" in text
    assert release_state.section(ROOT).text in text


def test_this_clone_agrees_with_itself() -> None:
    assert [*release_state.contradictions(ROOT)] == []


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        (
            "CITATION.cff",
            "version: 0.1.0",
            "version: 0.0.9",
            "CITATION.cff has version: 0.0.9, expected version: 0.1.0",
        ),
        (
            "native/pyproject.toml",
            'version = "0.1.0"',
            'version = "0.3.0"',
            "sc2onnx_kernels is 0.1.0 and native/pyproject.toml says 0.3.0",
        ),
    ],
)
def test_versions_that_differ_are_told(
    clone: Path, name: str, old: str, new: str, said: str
) -> None:
    rewrite(clone / name, old, new)
    assert [*release_state.contradictions(clone)] == [said]


def test_a_version_without_a_section_or_an_introduction_is_told(clone: Path) -> None:
    rewrite(clone / "sc2onnx/__init__.py", '__version__ = "0.1.0"', '__version__ = "9.0.0"')
    assert "docs/releases/9.0.0.md is not there" in "".join(release_state.contradictions(clone))
    with pytest.raises(ValueError, match=r"sections for 0\.1\.0, expected one for 9\.0\.0"):
        release_state.section(clone)


def test_a_release_takes_a_day_addresses_and_a_clean_clone(clone: Path) -> None:
    told = [*release_state.obstacles(clone)]
    assert [sentence for sentence in told if "0.1.0 Unreleased, expected the day" in sentence]
    assert [
        sentence
        for sentence in told
        if "no https address for Source, Issues, Changelog" in sentence
    ]
    rewrite(clone / "CHANGELOG.md", "[0.1.0] - Unreleased", "[0.1.0] - 2026-01-31")
    urls = "\n".join(f'{name} = "https://a.example/"' for name in release_state.URLS)
    rewrite(
        clone / "pyproject.toml",
        "[project.scripts]",
        f"[project.urls]\n{urls}\n\n[project.scripts]",
    )
    assert [*release_state.obstacles(clone)] == [
        "2 files are changed, expected every one committed"
    ]


def wheel(path: Path, names: dict[str, int]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, size in names.items():
            archive.writestr(name, b"\0" * size)


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Five archives without a fault."""
    for name in ("sc2onnx", "sc2onnx_runtime", "sc2onnx_kernels"):
        wheel(
            tmp_path / f"{name}-0.1.0-py3-none-any.whl",
            {f"{name}/__init__.py": 9, f"{name}-0.1.0.dist-info/licenses/LICENSE": 9},
        )
    for name in ("sc2onnx", "sc2onnx_kernels"):
        with tarfile.open(tmp_path / f"{name}-0.1.0.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo(f"{name}-0.1.0/LICENSE")
            archive.addfile(member, io.BytesIO())
    return tmp_path


def test_archives_without_a_fault_pass(archives: Path) -> None:
    assert [*release_files.faults(archives)] == []
    lines = release_files.checksums(archives).splitlines()
    assert len(lines) == 5
    assert all(re.fullmatch(r"[0-9a-f]{64}  sc2onnx\S+", line) for line in lines)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            {"sc2onnx/__init__.py": 9, "x/LICENSE": 9},
            "sc2onnx/__init__.py is in sc2onnx-0.1.0-py3-none-any.whl and in",
        ),
        (
            {"x/LICENSE": 9, "sc2onnx_runtime/big.bin": 2_000_000},
            "sc2onnx_runtime/big.bin in sc2onnx_runtime-0.1.0-py3-none-any.whl has 2,000,000",
        ),
        (
            {"x/LICENSE": 9, "sc2onnx_runtime/__pycache__/a.pyc": 9},
            "expected nothing of __pycache__",
        ),
        ({"sc2onnx_runtime/a.py": 9}, "sc2onnx_runtime-0.1.0-py3-none-any.whl has no LICENSE"),
    ],
)
def test_faults_of_archives_are_told(archives: Path, names: dict[str, int], said: str) -> None:
    wheel(archives / "sc2onnx_runtime-0.1.0-py3-none-any.whl", names)
    assert said in "\n".join(release_files.faults(archives))


def test_an_archive_that_is_missing_is_told(archives: Path) -> None:
    (archives / "sc2onnx-0.1.0.tar.gz").unlink()
    assert [*release_files.faults(archives)] == [
        "0 archives are called sc2onnx-*.tar.gz, expected one"
    ]


def test_copies_of_the_licence_are_the_licence() -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    for folder in ("native", "packaging/runtime"):
        assert (ROOT / folder / "LICENSE").read_bytes() == licence
