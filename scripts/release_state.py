"""What has to hold in a clone before a release is built from it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from changelog import Section, sections

URLS = ("Source", "Issues", "Changelog")
"""Names that ``[project.urls]`` must have for a release."""


def version(root: Path) -> str:
    """The version of the package, as ``sc2onnx/__init__.py`` has it."""
    return _assigned(root / "sc2onnx" / "__init__.py")


def section(root: Path) -> Section:
    """The changelog's section about the package's version. Raises :class:`ValueError`."""
    wanted = version(root)
    found = sections((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    for each in found:
        if each.version == wanted:
            return each
    names = ", ".join(each.version for each in found)
    raise ValueError(f"CHANGELOG.md has sections for {names}, expected one for {wanted}")


def contradictions(root: Path) -> Iterator[str]:
    """Files that disagree about a version; one sentence each."""
    ours, kernels = version(root), _table(root / "native")["project"]["version"]
    library = _assigned(root / "native" / "python" / "sc2onnx_kernels" / "__init__.py")
    if library != kernels:
        yield f"sc2onnx_kernels is {library} and native/pyproject.toml says {kernels}"
    cited = re.search(r"(?m)^version: (.*)$", (root / "CITATION.cff").read_text(encoding="utf-8"))
    if cited is None or cited[1].strip("\"'") != ours:
        yield f"CITATION.cff has {cited[0] if cited else 'no version'}, expected version: {ours}"
    if not introduction(root).is_file():
        yield f"docs/releases/{ours}.md is not there, expected the release's introduction"


def obstacles(root: Path) -> Iterator[str]:
    """What only a release needs, and a rehearsal does without; one sentence each."""
    current = section(root)
    if current.day is None:
        yield f"CHANGELOG.md calls {current.version} {current.date}, expected the day of the release"
    given = _table(root)["project"].get("urls", {})
    if missing := [name for name in URLS if not str(given.get(name, "")).startswith("https://")]:
        yield f"[project.urls] of pyproject.toml has no https address for {', '.join(missing)}"
    if changed := _git(root, "status", "--porcelain", "--untracked-files=no"):
        yield f"{len(changed.splitlines())} files are changed, expected every one committed"


def introduction(root: Path) -> Path:
    """The file that begins the release's notes."""
    return root / "docs" / "releases" / f"{version(root)}.md"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def _assigned(path: Path) -> str:
    found = re.search(r'(?m)^__version__ = "(.*)"$', path.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f'{path} has no line __version__ = "..."')
    return found[1]


def _table(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
