from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sc2onnx.errors import MissingDependencyError, RequestError
from sc2onnx.evaluate import About, ReferenceScore, Report, Score
from sc2onnx.evaluate.measure import Difference
from sc2onnx.evaluate.plot import plot
from sc2onnx.evaluate.table import lines
from sc2onnx.plotting import check_plot, new_figure


def score(name: str, gigabytes: float, divergence: float | None) -> Score:
    about = About(name, "int4", int(gigabytes * 1e9), 49152, 16384)
    difference = (
        None if divergence is None else Difference(9, 9, 0.1, 0.1, divergence, 0.9, 1.2, 1.1, 0.8)
    )
    return Score(about, 1.2, math.exp(1.2), 0.5, difference, None)


@pytest.fixture
def report() -> Report:
    scores = [
        score("a-int4", 1.7, 3e-2),
        score("b-int4", 1.72, 2.9e-2),
        score("c-int4", 3.1, 1e-3),
        score("d-int4", 12.1, 1e-12),
    ]
    reference = ReferenceScore(
        About("starcoder2-3b", "torch fp32", 12_100_000_000, 49152, 16384), 1.1, 3.0, 0.4, None
    )
    return Report(("x.py", "y.py"), 16384, 50_000, 1024, 0, "psm", tuple(scores), reference)


def test_a_plot_is_a_picture(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(report, tmp_path / "q.png")
    data = (tmp_path / "q.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") >= 1000  # pixels across


def texts(path: Path) -> str:
    """The comments that matplotlib writes above each text of an SVG."""
    return path.read_text(encoding="utf-8")


def test_a_plot_names_every_bundle_the_text_and_the_units(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(report, tmp_path / "q.svg")
    drawn = texts(tmp_path / "q.svg")
    wanted = (
        "a-int4",
        "b-int4",
        "c-int4",
        "d-int4, below 1e-8",
        "weights (GB)",
        "nats per token",
        "2 files, 16,384 positions",
        "starcoder2-3b",
    )
    assert [text for text in wanted if text not in drawn] == []


def test_without_a_reference_it_is_the_likelihood(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    scores = tuple(replace(score, difference=None) for score in report.scores)
    plot(replace(report, scores=scores, reference=None), tmp_path / "q.svg")
    assert "Negative log-likelihood over size" in texts(tmp_path / "q.svg")


def test_what_is_not_finite_is_left_out(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    broken = score("broken-int4", 2, math.nan)
    plot(replace(report, scores=(broken, *report.scores)), tmp_path / "q.svg")
    assert "broken" not in texts(tmp_path / "q.svg")
    with pytest.raises(RequestError, match="nothing to draw"):
        plot(replace(report, scores=(broken,)), tmp_path / "r.svg")


def test_names_do_not_cover_each_other(report: Report) -> None:
    pytest.importorskip("matplotlib")
    from sc2onnx.evaluate.plot import label_points, scale_axes

    figure = new_figure()
    axes = figure.add_subplot()
    points = [(1.0, 1.0), (1.0, 1.02), (1.01, 1.01), (3.0, 2.0)]
    scale_axes(axes, points, logarithmic=False)
    label_points(
        figure,
        axes,
        points,
        [
            "starcoder2-3b-int4",
            "starcoder2-3b-int4-b",
            "starcoder2-3b-int4-c",
            "starcoder2-3b-int8",
        ],
    )
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_mistakes_are_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"--plot is q\.gif, expected a name that ends in \.png"):
        check_plot(Path("q.gif"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        MissingDependencyError,
        match=r'plotting needs the package matplotlib.*: pip install .*"matplotlib>=3',
    ):
        check_plot(Path("q.png"))


def test_the_table_has_a_row_for_each_and_only_columns_with_figures(report: Report) -> None:
    told = lines(report)
    assert told[0] == "on 2 files, 16,384 positions (50,000 bytes) in windows of up to 1,024 tokens"
    headings, *rows = told[2:]
    assert headings.split() == [
        "bundle",
        "precision",
        "GB",
        "NLL",
        "ppl",
        "bits/byte",
        "KL",
        "top-1",
        "top-5",
    ]
    assert rows[0].split() == [
        "a-int4",
        "int4",
        "1.700",
        "1.2000",
        "3.320",
        "0.5000",
        "3.00e-02",
        "90.00%",
        "80.00%",
    ]
    assert rows[-1].startswith("starcoder2-3b (reference)  torch fp32  12.100  1.1000")
    alone = replace(
        report, scores=(replace(report.scores[0], difference=None, nll=math.nan),), reference=None
    )
    assert "KL" not in lines(alone)[2]
    assert "not finite" in lines(alone)[3]
