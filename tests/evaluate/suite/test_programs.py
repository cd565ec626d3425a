"""The programs, and the process that runs them. What is run here is ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from sc2onnx.evaluate.suite.contained import Bounds, passes
from sc2onnx.evaluate.suite.programs import SHAPES, programs

pytest.importorskip("resource")


def test_every_program_passes_with_its_truth_and_fails_without() -> None:
    made = programs(len(SHAPES), seed=1)
    assert {hole.file for hole in made} == {shape.kind for shape in SHAPES}
    for hole in made:
        assert hole.tests is not None
        assert passes(hole.prefix + hole.truth + hole.suffix, hole.tests), hole.file
        assert not passes(hole.prefix + " None" + hole.suffix, hole.tests), hole.file


def test_the_seed_decides_names() -> None:
    assert programs(28, 4) == programs(28, 4)
    assert programs(28, 4) != programs(28, 5)
    assert len({hole.prefix for hole in programs(280, 4)}) > 200


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "while True: pass",
        "text = 'a' * 10**10",
        "import os\nwhile True: os.write(1, b'x' * 1000)",
        "import os; os.close(0); import _socket; _socket.socket()",
        "import os; os.fork()",
        "import os; os.system('true')",
        "import os; os.kill(os.getppid(), 9)",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))",
        "open('made', 'w')",
        "import os; os.mkfifo('made')",
        "def f(): f()\nf()",
    ],
)
def test_what_programs_have_no_need_of_is_refused(code: str) -> None:
    assert not passes(code, "", Bounds(seconds=0.5))


def test_files_stay(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    for code in (f"open({str(kept)!r})", f"import os; os.remove({str(kept)!r})"):
        assert not passes(code, "")
    assert kept.read_text() == "kept"


def test_what_is_printed_or_imported_does_no_harm() -> None:
    assert passes("import math\nprint(math.pi)", "assert math.pi > 3")
