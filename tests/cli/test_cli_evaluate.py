"""``sc2onnx evaluate`` as a user runs it."""

from __future__ import annotations

import json
import queue
import shutil
from pathlib import Path

import pytest

from sc2onnx.cli.main import main
from tests.cli.test_cli import refused, sc2onnx, succeeded

SOURCE = Path(queue.__file__)
QUICK = ("--length", "40", "--score-tokens", "60")


def test_bundles_against_a_bundle_in_a_table_a_file_and_a_picture(
    bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rapidfuzz")
    pytest.importorskip("matplotlib")
    shutil.copytree(bundle, tmp_path / "other")
    files = ("--save", "e.json", "--plot", "e.png")
    done = sc2onnx(
        "evaluate",
        bundle,
        SOURCE,
        "--also",
        "other",
        "--against",
        bundle,
        *QUICK,
        "--infill",
        "3",
        "--order",
        "spm",
        *files,
        directory=tmp_path,
    )
    table = succeeded(done)
    assert [line.split()[0] for line in table.splitlines()[3:]] == [
        "bundle",
        bundle.name,
        "other",
        bundle.name,
    ]
    assert "FIM exact" in table
    assert b"60 of 60 positions" in done.stderr
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["positions"] == 60
    assert figures["order"] == "spm"
    assert "(seed 0, spm)" in table
    assert figures["scores"][1]["about"]["precision"] == "fp32"
    assert figures["scores"][1]["difference"]["kl_divergence"] == 0
    assert len(figures["reference"]["infill"]["answers"]) == 3
    assert (tmp_path / "e.png").stat().st_size > 10_000


def test_against_a_checkpoint_in_torch(
    bundle: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("rapidfuzz")
    options = (*QUICK, "--infill", "2", "--seed", "4", "--save", str(tmp_path / "e.json"))
    # in this process: importing torch takes long
    assert main(["evaluate", str(bundle), str(SOURCE), "--against", str(checkpoint), *options]) == 0
    assert "starcoder2-mini (reference)  torch fp32" in capsys.readouterr().out
    figures = json.loads((tmp_path / "e.json").read_text())
    score, reference = figures["scores"][0], figures["reference"]
    assert 0 < abs(score["difference"]["kl_divergence"]) < 1e-9
    assert score["difference"]["top1_agreement"] == 1
    assert score["nll"] == pytest.approx(reference["nll"], abs=1e-5)
    assert score["infill"] == reference["infill"]  # greedily the same, token for token
    assert reference["about"]["weight_bytes"] == 4 * 5_392_896  # the tied head once


def test_a_checkpoint_with_another_tokenizer_is_refused(
    bundle: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:50]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert main(["evaluate", str(bundle), str(SOURCE), "--against", str(other), *QUICK]) == 2
    assert "the tokenizer of other cuts the files into other tokens" in capsys.readouterr().err


def test_without_torch_a_checkpoint_is_refused_by_name(
    bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    done = sc2onnx("evaluate", bundle, SOURCE, "--against", checkpoint, directory=tmp_path)
    assert 'needs the package torch: pip install "onnxruntime>=1.32" "torch>=2.6"' in refused(done)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent", "f.py"), "no bundle at absent"),
        (("BUNDLE", "absent.py"), "absent.py cannot be read"),
        (("BUNDLE", "binary"), "binary is not UTF-8 text"),
        (("BUNDLE", "empty"), "empty is empty"),
        (("BUNDLE", "f.py", "--length", "0"), "length is 0"),
        (("BUNDLE", "f.py", "--infill", "9"), "--infill needs"),
        (("BUNDLE", "f.py", "--plot", "f.gif"), "--plot is f.gif"),
        (("BUNDLE", "f.py", "--save", "absent/f.json"), "absent cannot be written to"),
        (("BUNDLE", "f.py", "--plot", "absent/f.png"), "absent cannot be written to"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "f.py").write_text("value = 1\nb\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").touch()
    named = [str(bundle) if argument == "BUNDLE" else argument for argument in arguments]
    assert message in refused(sc2onnx("evaluate", *named, directory=tmp_path))
