"""Graphs of others that are not what they say, or not what their configuration says: named, and no
memory is read as what it is not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sc2onnx.errors import BundleError, InferenceError
from sc2onnx.export import export
from sc2onnx.verify.foreign import Foreign

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
Change = Callable[[onnx.GraphProto], None]


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``optimum-cli`` leaves it: no manifest."""
    out = tmp_path_factory.mktemp("foreign") / "export"
    export(checkpoint, out, target="optimum")
    (out / "sc2onnx.json").unlink()
    return out


def changed(exported: Path, to: Path, change: Change) -> Path:
    shutil.copytree(exported, to)
    model = onnx.load(to / "model.onnx", load_external_data=False)
    change(model.graph)
    (to / "model.onnx").write_bytes(model.SerializeToString())
    return to


def through(
    name: str,
    operator: str,
    data_type: int,
    shape: tuple[int | str, ...] | None,
    *inputs: str,
    **attributes: Any,
) -> Change:
    """The output ``name`` comes through another node, and is said to be of this type and shape."""

    def change(graph: onnx.GraphProto) -> None:
        (output,) = (value for value in graph.output if value.name == name)
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [f"{name}.before" if known == name else known for known in names]
        graph.node.append(
            helper.make_node(operator, [f"{name}.before", *inputs], [name], **attributes)
        )
        output.CopyFrom(helper.make_tensor_value_info(name, data_type, shape))

    return change


def more_inputs(graph: onnx.GraphProto) -> None:
    graph.input.append(
        helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ("batch", "step"))
    )


def fewer_outputs(graph: onnx.GraphProto) -> None:
    del graph.output[-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (more_inputs, "has an input 'token_type_ids', of which nothing is known here"),
        (fewer_outputs, r"has present\.5\.value as nothing, expected tensor\(float\)"),
        (
            through("present.0.key", "Cast", HALF, ("b", 2, "n", 64), to=HALF),
            r"has present\.0\.key as tensor\(float16\) of shape .*, expected tensor\(float\)",
        ),
        (
            through("logits", "Cast", TensorProto.DOUBLE, ("b", "n", 4096), to=TensorProto.DOUBLE),
            r"has logits as tensor\(double\)",
        ),
    ],
)
def test_what_a_graph_says_of_itself(
    exported: Path, tmp_path: Path, change: Change, said: str
) -> None:
    with pytest.raises((BundleError, InferenceError), match=said):
        Foreign.of_export(changed(exported, tmp_path / "changed", change))


def halved(name: str) -> Change:
    """The output has one position, whatever it says."""
    shape = (
        ("batch", "some", "thing", "else")
        if name.startswith("present")
        else ("batch", "some", "thing")
    )

    parts = {"from": 0, "to": 1, "axis": 2 if name.startswith("present") else 1}

    def change(graph: onnx.GraphProto) -> None:
        for label, value in parts.items():
            graph.initializer.append(
                helper.make_tensor(f"{name}.{label}", TensorProto.INT64, (1,), [value])
            )
        through(name, "Slice", FLOAT, shape, f"{name}.from", f"{name}.to", f"{name}.axis")(graph)

    return change


@pytest.mark.parametrize("name", ["present.3.value", "logits"])
def test_what_a_graph_gives(exported: Path, tmp_path: Path, name: str) -> None:
    opened = Foreign.of_export(changed(exported, tmp_path / "changed", halved(name)))
    with (
        opened.sequence() as sequence,
        pytest.raises(
            InferenceError,
            match=rf"the graph gave {name} as tensor\(float\) of shape \(1, .*, expected",
        ),
    ):
        sequence.append(np.array([5, 6, 7], dtype=np.int64))


def test_the_configuration_beside_it(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    settings = json.loads(path.read_text())
    for change, said in (
        ({"num_hidden_layers": 7}, "has a cache of 6 layers, .* says 7"),
        ({"vocab_size": 5000}, r"has logits as .*4096\], expected .*5000\]"),
        ({"num_key_value_heads": 1}, r"has present\.0\.key as"),
    ):
        path.write_text(json.dumps({**settings, **change}))
        with pytest.raises(BundleError, match=said):
            Foreign.of_export(tmp_path / "copy")
    path.write_text("[" * 100_000)
    with pytest.raises(BundleError, match=r"is not JSON that can be used \(it is nested deeper"):
        Foreign.of_export(tmp_path / "copy")
