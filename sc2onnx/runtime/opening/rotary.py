"""The base of the rotary embedding, as the tables of a bundle have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import BundleIntegrityError
from sc2onnx.runtime.opening.contradictions import REMEDY
from sc2onnx.runtime.opening.onnx_graph import BITS, FLOAT, FLOAT16, Tensor


def check_rotary(path: Path, table: Tensor, facts: ModelFacts) -> None:
    """Raise :class:`BundleIntegrityError` unless the sines in a weights file are
    those of the manifest's base.

    The last position is looked at, of which all frequencies make much.

    Computed and rounded as the exporter does (docs/decisions/0005-rotary-rounding.md), compared to
    within one rounding of the table's type.
    """
    assert table.place is not None
    row = facts.head_dim // 2 * BITS[table.data_type] // 8
    try:
        with path.open("rb") as file:
            file.seek(table.place.end - row)
            found = _floats(file.read(row), table.data_type)
    except OSError as error:
        raise BundleIntegrityError(
            f"{path} cannot be read ({error.strerror}): correct its permissions, "
            "or copy the bundle again"
        ) from error
    exponents = np.arange(0, facts.head_dim, 2, dtype=np.float32) / np.float32(facts.head_dim)
    with np.errstate(over="ignore"):
        powers = np.power(
            np.float64(np.float32(facts.rope_theta)), exponents.astype(np.float64)
        ).astype(np.float32)
    phases = np.float32(facts.context_length - 1) * (np.float32(1) / powers)
    tolerance = {FLOAT: 2e-7, FLOAT16: 3e-4}.get(table.data_type, 2.5e-3)
    if len(found) != len(phases) or not np.allclose(
        found, np.sin(phases.astype(np.float64)), rtol=0, atol=tolerance
    ):
        raise BundleIntegrityError(
            f"the rotary tables in {path.name} are not those of model.rope_theta "
            f"{facts.rope_theta}, which the manifest says: {REMEDY}"
        )


def _floats(data: bytes, data_type: int) -> npt.NDArray[np.float64]:
    """Elements as float64. A bfloat16 is the upper half of a float32."""
    if data_type == FLOAT:
        return np.frombuffer(data, "<f4").astype(np.float64)
    if data_type == FLOAT16:
        return np.frombuffer(data, "<f2").astype(np.float64)
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
