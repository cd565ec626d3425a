"""Prints the base64 of the graphs that ``runtime/ort/probe.py`` tries execution providers
and measures devices with.
"""

from __future__ import annotations

import base64

import onnx_ir as ir

from sc2onnx.export.graph.ops import CUDA_OPSET, IR_VERSION, Recorder


def probe() -> bytes:
    """One TensorScatter, serialized."""
    op = Recorder("probe", {})
    past = op.input("past", ir.DataType.FLOAT, (1, 1, 4, 1))
    update = op.input("update", ir.DataType.FLOAT, (1, 1, 1, 1))
    slot = op.input("slot", ir.DataType.INT64, (1,))
    op.output(
        op.TensorScatter(past, update, slot, axis=-2, mode="circular"),
        "present",
        ir.DataType.FLOAT,
        (1, 1, 4, 1),
    )
    return _serialized(op)


def copy() -> bytes:
    """One Identity, serialized."""
    op = Recorder("copy", {}, CUDA_OPSET)
    op.output(
        op.Identity(op.input("source", ir.DataType.FLOAT, ("size",))),
        "target",
        ir.DataType.FLOAT,
        ("size",),
    )
    return _serialized(op)


def _serialized(op: Recorder) -> bytes:
    return bytes(
        ir.to_proto(ir.Model(op.graph, ir_version=IR_VERSION)).SerializeToString(deterministic=True)
    )


if __name__ == "__main__":
    for graph in (probe(), copy()):
        print(base64.b64encode(graph).decode())
