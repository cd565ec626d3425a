"""Nothing reports home: ONNX Runtime's telemetry is off before the library is imported,
unless the user allows it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sc2onnx.runtime.ort.telemetry import VARIABLE, turned_off

RUN = r"""
import os, sys
import sc2onnx
model = sc2onnx.load(sys.argv[1], threads=1)
model.generate("def f(", max_new_tokens=2)
from sc2onnx.cli.doctor import diagnose
print(*(finding.detail for finding in diagnose() if finding.subject == "telemetry"))
print(len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0)
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def ran(bundle: Path, home: Path, before: str = "", **setting: str) -> tuple[list[str], list[Path]]:
    """What the program prints, and the files that it leaves in the home directory."""
    home.mkdir()
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORT_", "XDG_", "CI"))
    }
    environment = {**kept, "HOME": str(home), **setting}
    done = subprocess.run(
        [sys.executable, "-c", before + RUN, str(bundle)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=True,
    )
    return [*done.stdout.splitlines(), done.stderr], [
        path for path in home.rglob("*") if path.is_file()
    ]


def test_a_run_leaves_nothing_in_the_home_directory_and_has_no_thread_more(
    bundle: Path, tmp_path: Path
) -> None:
    (state, threads, variable, warned), files = ran(bundle, tmp_path / "home")
    assert (files, variable, warned) == ([], "1", "")
    assert state.startswith("off")
    quiet, _ = ran(bundle, tmp_path / "quiet", ORT_DISABLE_TELEMETRY="1")
    assert threads == quiet[1]


def test_an_import_before_ours_is_told_of(bundle: Path, tmp_path: Path) -> None:
    # off in fact, unknown to us
    before = (
        f"import os; os.environ['{VARIABLE}'] = 'true'; import onnxruntime; del "
        f"os.environ['{VARIABLE}']\n"
    )
    (state, *_, warned), _ = ran(bundle, tmp_path / "home", before)
    assert state.startswith("may be on")
    assert warned.count("UserWarning: onnxruntime was imported before sc2onnx") == 1


@pytest.mark.parametrize(
    ("set_to", "already", "state", "afterwards"),
    [
        (None, False, "off", "1"),
        ("", False, "off", "1"),  # the library would take it for on
        ("2", False, "off", "1"),
        ("false", False, "off", "1"),
        ("1", False, "off", "1"),
        ("0", False, "allowed", "0"),
        ("0", True, "allowed", "0"),
        ("1", True, "off", "1"),
        ("true", True, "off", "1"),
    ],
)
def test_one_value_allows_it(
    set_to: str | None, already: bool, state: str, afterwards: str
) -> None:
    environment = {} if set_to is None else {VARIABLE: set_to}
    assert turned_off(environment, {"onnxruntime"} if already else (), "linux") == state
    assert environment[VARIABLE] == afterwards


@pytest.mark.parametrize("set_to", [None, "", "no"])
def test_too_late_is_said(set_to: str | None) -> None:
    environment = {} if set_to is None else {VARIABLE: set_to}
    with pytest.warns(
        UserWarning, match="ORT_DISABLE_TELEMETRY=1 in the environment, or ORT_DISABLE_TELEMETRY=0"
    ):
        assert turned_off(environment, {"onnxruntime"}, "linux") == "imported before"
    assert turned_off({}, {"onnxruntime"}, "win32") == "off"
