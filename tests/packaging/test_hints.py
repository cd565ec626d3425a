"""What we say to install can be installed today: by the names of packages, as
this project is in no index.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from sc2onnx.hints import EXTRAS, install

ROOT = Path(__file__).parent.parent.parent


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["optional-dependencies"]
    assert dict(EXTRAS) == {
        name: tuple(declared[name])
        for name in declared
        if name not in ("test", "browser", "dev", "docs")
    }


def test_a_package_that_two_extras_list_is_named_once() -> None:
    assert install("cpu") == 'pip install "onnxruntime>=1.32"'
    assert install("cpu", upgrade=True) == 'pip install --upgrade "onnxruntime>=1.32"'
    assert install("export", "verify").count("ml_dtypes") == 1


def test_no_hint_names_this_project_as_if_it_were_in_an_index() -> None:
    files = [*(ROOT / "sc2onnx").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = re.compile(r"pip install [^\n`#]*?[\"' ]sc2onnx(-runtime)?\b")
    assert [file.name for file in files if named.search(file.read_text(encoding="utf-8"))] == []
