"""A completion of the mini checkpoint, and an index of a file that has it."""

from __future__ import annotations

import pytest

import sc2onnx
from sc2onnx.attribution import Index, Rules

PROMPT = "for i in range(10):\n"
TOKENS = 64
RULES = Rules(least=30)


@pytest.fixture(scope="session")
def completion(model: sc2onnx.Model) -> str:
    return model.generate(PROMPT, max_new_tokens=TOKENS).text


@pytest.fixture(scope="session")
def copied(completion: str, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Of a file whose lines from the third on are the completion."""
    root = tmp_path_factory.mktemp("copied")
    (root / "copy.py").write_text(f"name = 1\n\n{completion}\nother = 2\n")
    return Index.build([root / "copy.py"], root / "copied.index")
