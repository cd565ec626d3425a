"""``sc2onnx bench`` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.test_cli import refused, sc2onnx, succeeded

QUICK = (
    "--context",
    "16",
    "300",
    "--steps",
    "1",
    "3",
    "--prefill",
    "20",
    "--repeat",
    "2",
    "--threads",
    "1",
)


def test_bundles_in_a_table_a_file_and_a_picture(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(bundle, tmp_path / "other")
    done = sc2onnx(
        "bench",
        bundle,
        "--also",
        "other",
        *QUICK,
        "--save",
        "s.json",
        "--plot",
        "s.png",
        directory=tmp_path,
    )
    table = succeeded(done)
    for text in (
        "decode at 300 (ms)",
        "step of 3 at 300 (ms)",
        "prefill of 20 (tokens/s)",
        "first token of 64 (ms)",
        f"time of {bundle.name} over",
    ):
        assert text in table
    assert b"threads read" in done.stderr
    figures = json.loads((tmp_path / "s.json").read_text())
    assert [row["name"] for row in figures["rows"]] == [bundle.name, "other"]
    assert figures["threads"] == 1
    assert (tmp_path / "s.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent",), "no bundle at absent"),
        (("BUNDLE", "--context", "1"), "contexts is 1"),
        (("BUNDLE", "--context", "4096"), "the model's context holds 2048"),
        (("BUNDLE", "--repeat", "0"), "repeat is 0"),
        (("BUNDLE", "--also", "BUNDLE"), "given twice"),
        (("BUNDLE", "--plot", "f.gif"), "--plot is f.gif"),
        (("BUNDLE", "--save", "absent/f.json"), "absent cannot be written to"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    named = [str(bundle) if argument == "BUNDLE" else argument for argument in arguments]
    assert message in refused(sc2onnx("bench", *named, directory=tmp_path))
