"""The arithmetic of benchmarks/quality.py that needs none of its engines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from peers.gguf_file import gguf_name
from peers.table import YARDSTICK, Row, records, render
from peers.windows import cut, windows
from sc2onnx.bench.report import Missing, one_line


@pytest.mark.parametrize(
    ("tokens", "length", "expected"),
    [
        (600, 256, [256, 256, 88]),
        (530, 256, [256, 256]),
        (544, 256, [256, 256, 32]),
        (31, 256, []),
        (20, 8, [8, 8]),
        (0, 256, []),
    ],
)
def test_windows_follow_one_another_and_short_tails_are_dropped(
    tokens: int, length: int, expected: list[int]
) -> None:
    found = list(cut(np.arange(tokens), length))
    assert [len(window) for window in found] == expected
    assert [window[0] for window in found] == [length * i for i in range(len(expected))]


def test_the_limit_counts_what_is_kept_over_all_files() -> None:
    files = [
        list(range(300)),
        list(range(1000, 1020)),
        list(range(2000, 2300)),
        list(range(3000, 3300)),
    ]
    found = windows(files, 256, 600)
    assert [(window[0], len(window)) for window in found] == [
        (0, 256),
        (256, 44),
        (2000, 256),
        (2256, 44),
    ]
    assert [(window[0], len(window)) for window in windows(files, 256, 290)] == [
        (0, 256),
        (256, 34),
    ]


def test_the_table_divides_by_the_yardstick_and_says_why_a_row_is_missing() -> None:
    rows: list[Row | Missing] = [
        Row("ours", 0.01, 0.95, 2.3, 1_500_000_000, 4.25, (0.008, 0.0125), (0.46, 0.54)),
        Missing("theirs", one_line(ImportError("no module | at all\nsecond line"))),
        Row(YARDSTICK, 0.02, 0.92, 2.31, 1_900_000_000, 5.0),
    ]
    lines = render(rows).splitlines()
    assert lines[2] == (
        "| ours | 0.01000 | 0.00800 to 0.01250 | 0.50 | 0.46 to 0.54 "
        "| 0.9500 | 2.3000 | 4.25 | 1.5 |"
    )
    assert lines[3] == "| theirs | not available: ImportError: no module / at all | | | | | | | |"
    assert lines[4].startswith(f"| {YARDSTICK} | 0.02000 | - | 1.00 | - |")
    assert len({line.count("|") for line in lines}) == 1
    assert render(rows[:1]).splitlines()[2].split(" | ")[3] == "-"
    assert records(rows)[1] == {"name": "theirs", "reason": "ImportError: no module / at all"}
    assert records(rows)[0]["interval"] == [0.008, 0.0125]
    assert records([Row("broken", float("nan"), 0.0, 2.3, 1, 4.0)])[0]["kl"] is None


def test_a_reason_names_no_directory() -> None:
    assert one_line(
        OSError("cannot read '/some/where/f32.gguf' or /a/b, see https://example.org/x")
    ) == ("OSError: cannot read 'f32.gguf' or b, see https://example.org/x")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.bias", "output_norm.bias"),
        ("lm_head.weight", "output.weight"),
        ("model.layers.12.self_attn.o_proj.weight", "blk.12.attn_output.weight"),
        ("model.layers.3.mlp.c_fc.bias", "blk.3.ffn_up.bias"),
    ],
)
def test_names_are_those_of_llama_cpp(name: str, expected: str) -> None:
    assert gguf_name(name) == expected


@pytest.mark.torch
def test_a_window_beyond_the_sliding_window_is_refused(checkpoint: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "quality.py"
    done = subprocess.run(
        [sys.executable, script, checkpoint, __file__, "--length", "257"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "--length is 257, expected 2 to 256" in done.stderr
    assert done.stderr.count("\n") == 1
