from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sc2onnx.bench import Missing, ProcessCost, Report, Row, Task
from sc2onnx.bench.plot import apart, plot
from sc2onnx.bench.table import lines, markdown
from sc2onnx.errors import RequestError

DECODES = (Task("decode", 4096, 1), Task("decode", 64, 1))
PREFILL = Task("prefill", 512, 512)


def row(name: str, seconds: float, cost: ProcessCost | None = None) -> Row:
    rounds = (seconds, 1.1 * seconds, 0.9 * seconds)
    return Row(
        name, 1_700_000_000, cost, {**dict.fromkeys(DECODES, rounds), PREFILL: (10 * seconds,) * 3}
    )


@pytest.fixture
def report() -> Report:
    rows = (
        row("ours-int4", 0.0625, ProcessCost(0.5, 2_000_000_000, 300_000_000)),
        row("ours-int8", 0.1),
        row("theirs Q4_0", 0.125),
    )
    return Report(
        rows,
        (Missing("absent", "ImportError: no module"),),
        (*DECODES, PREFILL),
        2,
        3,
        34e9,
        4096,
        False,
    )


def test_a_row_for_each_measure_and_ratios_to_the_first(report: Report) -> None:
    told = lines(report)
    assert told[0].startswith("2 threads, which read 34.0 GB/s; 3 rounds in turns")
    assert "were placed at their context" in told[0]
    table = {
        re.split(r"\s{2,}", line)[0]: re.split(r"\s{2,}", line.strip())[1:] for line in told if line
    }
    assert table["decode at 64 (ms)"] == [
        "62.5 (59.4 - 65.6)",
        "100.0 (95.0 - 105.0)",
        "125.0 (118.8 - 131.2)",
    ]
    assert table["prefill of 512 (tokens/s)"] == [
        "819.2 (819.2 - 819.2)",
        "512.0 (512.0 - 512.0)",
        "409.6 (409.6 - 409.6)",
    ]
    assert table["load, warm (s)"] == ["0.50", "-", "-"]
    assert table["peak memory at 4,096 (GB)"] == ["2.00", "-", "-"]
    assert any(
        line.split() == ["share", "of", "the", "read", "rate", "80%", "50%", "40%"] for line in told
    )
    assert table["decode at 4,096"] == ["0.62x (0.62 - 0.62)", "0.50x (0.50 - 0.50)"]
    assert told[-1] == "absent: not measured, ImportError: no module"


def test_markdown_compares_each_of_ours(report: Report) -> None:
    told = markdown(report, ours=2)
    assert "| decode at 64 | 1.60x (1.60 - 1.60) | 0.80x (0.80 - 0.80) |" in told
    assert "| time of ours-int8 over that of | ours-int4 | theirs Q4_0 |" in told
    tables = [line for line in told if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 2  # measures have three columns, ratios two


def test_one_engine_is_not_compared(report: Report) -> None:
    assert not any(
        line.startswith("time of") for line in lines(replace(report, rows=report.rows[:1]))
    )
    assert "were computed" in lines(replace(report, real_prefill=True))[0]
    assert lines(replace(report, rows=()))[-1].startswith("absent")


def test_a_plot_names_engines_contexts_and_units(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(report, tmp_path / "s.svg")
    drawn = (tmp_path / "s.svg").read_text(encoding="utf-8")
    wanted = (
        "ours-int4",
        "ours-int8",
        "theirs Q4_0",
        "64",
        "4,096",
        "ms per token",
        "context (tokens)",
        "34.0 GB/s",
    )
    assert [text for text in wanted if f"<!-- {text}" not in drawn and text not in drawn] == []
    plot(report, tmp_path / "s.png")
    data = (tmp_path / "s.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") >= 1000  # pixels across


def test_nothing_measured_is_nothing_to_draw(report: Report, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing to draw"):
        plot(replace(report, rows=()), tmp_path / "s.svg")


def test_names_are_moved_apart() -> None:
    assert apart([0, 1, 30], 10) == [0, 10, 30]
    assert apart([0, 1, 2, 50], 10) == [0, 10, 20, 50]
