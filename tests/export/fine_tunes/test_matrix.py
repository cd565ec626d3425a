"""Every shape of fine-tune exports, verifies, and gives the tokens that transformers with peft
gives, where nothing is merged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("peft", reason="it has no wheel for this Python, or dev is not installed")
pytest.importorskip("trl")

import torch

import sc2onnx
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.export import export
from sc2onnx.verify import verify
from tests.export.fine_tunes.shapes import CHATML, INSTRUCT, SHAPES, Made, tokenizer

pytestmark = pytest.mark.torch

PROMPT = list(range(60, 100))
TOKENS = 40

UNTIED = {"untied head", "saved head and norms", "new tokens", "embedding", "embedding, DoRA"}
"""Shapes whose head is not their embedding."""


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.filterwarnings("ignore")
def test_shape(name: str, fine_tune: Callable[[str], Made], tmp_path: Path) -> None:
    made, out = fine_tune(name), tmp_path / "bundle"
    adapters = dict(made.adapters)
    manifest = export(made.base, out, adapters=adapters)
    assert manifest.model.tied_embeddings == (name not in UNTIED)
    report = verify(out, made.base, adapters=list(adapters), max_length=20, greedy_tokens=TOKENS)
    assert report.summary.passed, report.summary
    assert report.summary.greedy_match == TOKENS
    expected = greedy(made)
    given = sc2onnx.load(out, threads=1).generate_tokens(
        PROMPT, max_new_tokens=TOKENS, stop_tokens=()
    )
    assert [token.id for token in given] == expected
    assert len(set(expected)) > 4  # not one token over and over


def greedy(made: Made) -> list[int]:
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        model = made.in_torch()
        ids = torch.tensor([PROMPT])
        return [
            int(
                (ids := torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1))[
                    0, -1
                ]
            )
            for _ in range(TOKENS)
        ]


def test_no_adapter_changes_nothing(base: Path, tmp_path: Path) -> None:
    """All of the above would pass, were adapters as small as roundings."""
    export(base, tmp_path / "bundle")
    tokens = sc2onnx.load(tmp_path / "bundle").generate_tokens(PROMPT, max_new_tokens=TOKENS)
    assert Manifest.read(tmp_path / "bundle").provenance.adapters == ()
    assert [token.id for token in tokens]


@pytest.mark.parametrize(
    ("name", "template", "end"),
    [
        ("ChatML", CHATML, "<|im_end|>"),
        ("new tokens", CHATML, None),
        ("trl, whole", CHATML, None),
        ("trl, adapter", CHATML, None),
        ("instruct template", INSTRUCT, None),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_text(
    name: str, template: str, end: str | None, fine_tune: Callable[[str], Made], tmp_path: Path
) -> None:
    """The tokenizer of whoever trained last is the bundle's, with its template and its end."""
    made, out = fine_tune(name), tmp_path / "bundle"
    manifest = export(made.base, out, adapters=dict(made.adapters))
    theirs = tokenizer(made.adapters[-1][0] if made.adapters else made.base)
    turn = [{"role": "user", "content": "add  12 numbers"}]
    text = theirs.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    codec = sc2onnx.load(out, threads=1).codec
    assert list(codec.encode(text)) == theirs(text, add_special_tokens=False).input_ids
    assert (out / "chat_template.jinja").read_text() == template
    if end is not None:
        assert theirs.convert_tokens_to_ids(end) in manifest.model.eos_token_ids
