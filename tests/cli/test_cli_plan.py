"""``sc2onnx plan`` as a user runs it, and what its table says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx_ir", reason="needs the export extra")

from sc2onnx.bundle.manifest import Manifest
from sc2onnx.cli import export_options, plan_lines, plan_table
from sc2onnx.cli.main import main
from sc2onnx.cli.plan_table import Machine, PlanTable
from sc2onnx.errors import RequestError
from sc2onnx.export import Calibration, effort, export, hub
from sc2onnx.export.shapes import SHAPES
from sc2onnx.runtime.memory_need import memory_need


def sc2onnx(*arguments: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sc2onnx", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def plan(*arguments: str | Path, directory: Path) -> dict[str, Any]:
    done = sc2onnx("plan", "--json", *arguments, directory=directory)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def with_free(monkeypatch: pytest.MonkeyPatch, memory: int | None, disk: int | None) -> PlanTable:
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: cls(memory, disk)))
    return plan_table.plan_table(None, "3b")


def cells(ahead: PlanTable, precision: str, target: str) -> list[str]:
    """Figures and verdict of one row, as printed."""
    start = re.compile(rf"{re.escape(precision)} +{re.escape(target)} {{2,}}")
    (line,) = [line for line in plan_lines.lines(ahead) if start.match(line)]
    return start.sub("", line).split()


def test_a_checkpoint_takes_what_its_bundles_then_take(checkpoint: Path, tmp_path: Path) -> None:
    found = plan(checkpoint, directory=tmp_path)
    assert (found["checkpoint"], found["model"]["parameters"], found["refused"]) == (
        "starcoder2-mini",
        5_392_896,
        {},
    )
    assert [row["precision"] for row in found["precisions"]] == [
        "fp32",
        "fp16",
        "bf16",
        "int8",
        "int8",
        "int8",
        "int4",
        "int4",
        "int4",
        "int4-fast",
        "int4-fast",
    ]
    for number, row in enumerate(found["precisions"]):
        if row["weights_exact"]:
            uncalibrated = Calibration(wanted=False)  # of the same size
            export(
                checkpoint,
                out := tmp_path / str(number),
                precision=row["precision"],
                target=row["targets"][0],
                calibration=uncalibrated,
            )
            (running,) = row["running"]  # 4,096 tokens are beyond its context
            need = memory_need(Manifest.read(out), 1024)
            assert (running["context"], running["cache"], running["total"]) == (
                1024,
                need.cache,
                need.total,
            )


def test_only_the_configuration_is_needed(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((checkpoint / "config.json").read_text())
    bare, whole = (plan(place, directory=tmp_path)["precisions"] for place in ("bare", checkpoint))
    for row in (*bare, *whole):  # each process measures how fast the machine is
        assert row["export"].pop("calibration_seconds") >= 0
    assert bare == whole


def test_a_published_shape_needs_nothing_at_all(tmp_path: Path) -> None:
    found = plan("--shape", "3b", directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
    by_kind = {(row["precision"], *row["targets"]): row for row in found["precisions"]}
    fp16 = by_kind["fp16", "cuda"]
    assert [running["context"] for running in fp16["running"]] == [1024, 4096, 16384]
    assert [running["cache"] for running in fp16["running"]] == [
        slots * 30 * 2 * 2 * 128 * 2 for slots in (1024, 4096, 16384)
    ]  # every position is kept
    assert (
        by_kind["int8", "portable"]["export"]["memory"]
        > 2 * by_kind["int8", "cpu"]["export"]["memory"]
    )
    assert by_kind["int4", "cpu"]["export"]["disk"] == sum(
        by_kind["int4", "cpu"]["export"][part] for part in ("bundle", "calibration_cache")
    )
    assert [
        row["context"]
        for row in plan("--shape", "3b", "--context", "300", directory=tmp_path)["precisions"][0][
            "running"
        ]
    ] == [300]


def test_of_a_hub_id_only_the_configuration_is_fetched(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any, Any]] = []

    def download(
        repo_id: str, *, revision: str | None, allow_patterns: Any, local_files_only: bool
    ) -> str:
        assert not local_files_only
        asked.append((repo_id, revision, allow_patterns))
        return str(checkpoint)

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "answers", lambda *_: True)
    assert plan_table.plan_table("org/name", revision="v1").name == "org/name"
    # an adapter is told of
    assert asked == [("org/name", "v1", ["config.json", "adapter_config.json"])]


def test_the_table_marks_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = with_free(monkeypatch, 4_000_000_000, 5_000_000_000)
    memory = {
        row.estimate.precision: f"{row.estimate.memory / 1e9:.3f}"
        for row in ahead.rows
        if "cpu" in row.targets
    }
    figures = ["12.130", memory["fp32"], "12.163!", "-", "12.193!", "12.382!", "12.397!", "no"]
    assert cells(ahead, "fp32", "cpu, portable") == figures
    assert cells(ahead, "int8", "cpu")[-1] == "yes"
    assert cells(ahead, "int4", "cpu") == [
        "<=1.844",
        memory["int4"],
        "<=6.037!",
        "<=1.844!",
        "<=1.907",
        "<=2.096",
        "<=2.112",
        "no",
    ]
    assert "Free here: memory 4.0 GB, disk 5.0 GB." in "\n".join(plan_lines.lines(ahead))
    enough = ahead.rows[-1].estimate.memory
    for free, mark, verdict in ((enough, "", "yes"), (enough - 1, "!", "no")):
        shown = cells(with_free(monkeypatch, free, 50_000_000_000), "int4-fast", "cpu")
        assert (shown[1], shown[-1]) == (memory["int4-fast"] + mark, verdict)


def test_the_packed_form_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the weights at most; nothing for floats, for standard
    operators alone, and on a GPU.
    """
    rows = with_free(monkeypatch, 4_000_000_000, 50_000_000_000).figures()["precisions"]
    shares = {
        (row["precision"], row["targets"][0]): round(row["packed"] / row["weights"], 2)
        for row in rows
    }
    assert shares == {
        **{(name, "cuda"): 0.0 for name in ("fp16", "bf16", "int8", "int4")},
        **{
            ("fp32", "cpu"): 0.0,
            ("int8", "cpu"): 1.0,
            ("int8", "portable"): 0.0,
            ("int4", "cpu"): 1.0,
            ("int4", "portable"): 0.0,
            ("int4-fast", "portable"): 0.0,
            ("int4-fast", "cpu"): 1.0,
        },
    }


def test_the_time_of_a_calibration_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "product_speed", lambda: 400e9)
    ahead = with_free(monkeypatch, 4_000_000_000, 50_000_000_000)
    told = "\n".join(plan_lines.lines(ahead))
    assert "int4 and int4-fast: with calibration, about 49 min on this machine" in told
    assert "--calibration-tokens 8192: 25 min" in told
    seconds = {
        (row.estimate.precision, row.targets[0]): row.figures()["export"]["calibration_seconds"]
        for row in ahead.rows
    }
    assert seconds["int8", "cpu"] == 0
    # what outputs matter for is measured for a GPU as well, though nothing is lifted
    assert 45 * 60 < seconds["int4", "cuda"] == seconds["int4", "cpu"] < 55 * 60


def test_less_text_of_a_calibration_takes_less() -> None:
    usual, less = (plan_table.plan_table(None, "3b", calibration_tokens=n) for n in (None, 8192))
    pairs = zip(usual.rows, less.rows, strict=True)
    for row, other in ((a.estimate, b.estimate) for a, b in pairs):
        if row.calibration_seconds:
            assert other.calibration_seconds < row.calibration_seconds
            assert other.memory < row.memory
        else:
            assert other == row
    assert "--calibration-tokens" not in "\n".join(plan_lines.lines(less))
    with pytest.raises(RequestError, match="calibration is on 3 tokens, expected 512 at least"):
        plan_table.plan_table(None, "3b", calibration_tokens=3)


def test_the_memory_of_a_gpu_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = with_free(monkeypatch, 4_000_000_000, 50_000_000_000)
    assert cells(ahead, "bf16", "cuda")[2:] == ["6.099", "-", "6.096", "6.191", "6.568", "export"]
    (row,) = [row for row in ahead.figures()["precisions"] if row["precision"] == "bf16"]
    assert {running["fits"] for running in row["running"]} == {None}
    assert cells(with_free(monkeypatch, 4_000_000_000, 1), "bf16", "cuda")[-1] == "no"


def test_what_is_not_known_is_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = with_free(monkeypatch, None, 50_000_000_000)
    assert cells(ahead, "int8", "cpu")[2:] == ["3.175", "3.141", "3.204", "3.393", "3.409", "?"]
    assert "memory not known, disk 50.0 GB" in "\n".join(plan_lines.lines(ahead))


def test_what_cannot_be_exported_is_named_with_the_reason(checkpoint: Path, tmp_path: Path) -> None:
    settings = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "hidden_size": 192}))
    found = plan(".", directory=tmp_path)
    assert [row["precision"] for row in found["precisions"]] == [
        "fp32",
        "fp16",
        "bf16",
        "int8",
        "int8",
        "int8",
        "int4",
    ]
    assert found["precisions"][-1]["targets"] == ["cuda"]  # in blocks of 32
    reason = "model.embed_tokens.weight has 192 inputs, which blocks of 128 do not divide"
    assert set(found["refused"]) == {"int4", "int4-fast"}
    assert found["refused"]["int4"].startswith(reason)
    assert f"int4: {reason}" in sc2onnx("plan", ".", directory=tmp_path).stdout


def test_rows_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, over, *table = plan_lines.lines(with_free(monkeypatch, 4_000_000_000, 5_000_000_000))[:10]
    assert len({len(line) for line in table}) == 1
    assert over.index("to export") > table[0].index("weights") + len("weights")
    assert over.index("memory to run") > table[0].index("disk") + len("disk")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no checkpoint: give a directory, a hub id, or --shape 3b|7b|15b"),
        (("--shape", "3b", "CHECKPOINT"), "--shape 3b is itself a checkpoint's: leave out"),
        (("--shape", "3b", "--revision", "main"), "leave out --revision"),
        (("BUNDLE",), "is a bundle, exported already: see `sc2onnx info "),
        (("absent",), "no directory absent: give a checkpoint directory or a hub id"),
        ((".",), "has no config.json"),
        (("org/absent",), "the hub cannot be reached nor does its local cache hold it"),
        (("CHECKPOINT", "--revision", "main"), "it has no revision 'main'"),
        (("CHECKPOINT", "--context", "4096"), "the context is 4096, expected 1 to 2048"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    checkpoint: Path, bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    named = [
        {"CHECKPOINT": str(checkpoint), "BUNDLE": str(bundle)}.get(argument, argument)
        for argument in arguments
    ]
    done = sc2onnx("plan", *named, directory=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert message in done.stderr


def test_the_command_line_offers_every_shape() -> None:
    assert set(export_options.SHAPES) == set(SHAPES)


def test_a_context_below_the_first_column_has_one_of_its_own(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 512}))
    assert main(["plan", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {running["context"] for row in found["precisions"] for running in row["running"]} == {
        512
    }


def test_targets_that_take_the_same_share_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = with_free(monkeypatch, None, None)
    assert [(row.estimate.precision, row.targets) for row in ahead.rows] == [
        ("fp32", ("cpu", "portable")),
        ("fp16", ("cuda",)),
        ("bf16", ("cuda",)),
        ("int8", ("cpu",)),
        ("int8", ("portable",)),
        ("int8", ("cuda",)),
        ("int4", ("cpu",)),
        ("int4", ("portable",)),
        ("int4", ("cuda",)),
        ("int4-fast", ("cpu",)),
        ("int4-fast", ("portable",)),
    ]
