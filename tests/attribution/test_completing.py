"""``generate`` and ``infill`` with ``--attribution``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sc2onnx.attribution import Index
from sc2onnx.cli.main import main
from tests.attribution.conftest import PROMPT, RULES, TOKENS

HOW = ["--max-tokens", str(TOKENS), "--least-repeated", str(RULES.least), "--attribution"]


def test_a_line_says_what_a_completion_repeats(
    bundle: Path, copied: Index, completion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(bundle), PROMPT, *HOW, str(copied.path)]) == 0
    told = capsys.readouterr()
    assert told.out == completion
    (match,) = copied.matches(completion, rules=RULES)
    assert told.err.splitlines()[-1] == f"[{match.told}]"
    assert "copy.py, lines 3-" in match.told


def test_nothing_is_said_where_the_prompt_has_it_or_nobody_asks(
    bundle: Path, copied: Index, completion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    repeated = f"{completion}\n\n\n{completion[:100]}"
    assert main(["generate", str(bundle), repeated, *HOW, str(copied.path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["attribution"] == []
    assert main(["generate", str(bundle), PROMPT, *HOW[:2], "--json"]) == 0
    assert "attribution" not in json.loads(capsys.readouterr().out)


def test_json_says_it_of_each_sample(
    bundle: Path, copied: Index, completion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", str(bundle), PROMPT, *HOW, str(copied.path), "--json", "--n", "2"]
    assert main(words) == 0
    first, second = json.loads(capsys.readouterr().out)
    expected = [match.as_json() for match in copied.matches(completion, rules=RULES)]
    assert first["attribution"] == second["attribution"] == json.loads(json.dumps(expected))


def test_infilling_compares_what_is_between(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "main.py").write_text(PROMPT)
    words = ["infill", str(bundle), str(tmp_path / "main.py"), "--line", "2", "--column", "1"]
    how = ["--json", "--max-tokens", str(TOKENS)]
    assert main([*words, *how]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "copy.py").write_text(text)
    index = Index.build([tmp_path / "copy"], tmp_path / "i")
    asked = ["--attribution", str(index.path), "--least-repeated", "23"]
    assert main([*words, *how, *asked]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == text
    assert len(answer["attribution"]) == 1
    others = ["--with", str(tmp_path / "copy" / "copy.py")]
    assert main([*words, *how, *asked, *others]) == 0
    assert json.loads(capsys.readouterr().out)["attribution"] == []


@pytest.mark.parametrize("command", ["generate", "serve", "lsp"])
def test_an_index_that_is_none_is_refused_before_any_work(
    command: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong").write_text("x")
    words = ["x"] if command == "generate" else ["--port", "0"] if command == "serve" else []
    assert main([command, str(bundle), *words, "--attribution", str(tmp_path / "wrong")]) == 2
    assert f"{tmp_path}/wrong is no index of sources" in capsys.readouterr().err
