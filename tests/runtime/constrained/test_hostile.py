"""Constraints of strangers end in an error or in a text: no crash, in little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.constrained.hostile import hostile

pytest.importorskip("llguidance")

ROOT = Path(__file__).parents[3]

SECONDS = 20
"""Of each, on a machine that others use as well; alone it is one at most."""

MEGABYTES = 500
"""Of all of them in one process, its libraries included."""


def test_hostile_constraints_take_little_time_and_memory(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.constrained.hostile", str(bundle / "tokenizer.json")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(hostile())
    told = {name: said for name, _, _, said in rows}
    assert not [row for row in rows if row[1] > SECONDS or row[2] > MEGABYTES]
    assert "no text satisfies it" in told["json_schema: itself"]
    assert "too many expressions" in told["regex: powers"]
    assert "expected at most 2048" in told["regex: too long"]
    for name in ("elsewhere", "a file"):
        assert "retrieving it failed" in told[f"json_schema: {name}"]
