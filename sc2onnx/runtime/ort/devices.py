"""A device by its name: the processors, or one of the GPUs that CUDA shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from sc2onnx.errors import DeviceError
from sc2onnx.runtime.arguments import shown

_NAMED: Final = re.compile(r"cpu|cuda(?::(\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class Device:
    """A processor, or the ``index``-th GPU that CUDA shows."""

    kind: Literal["cpu", "cuda"] = "cpu"
    index: int = 0

    @classmethod
    def named(cls, name: object) -> Device:
        """``cpu``, ``cuda`` or ``cuda:1``. Raises :class:`DeviceError` for anything else."""
        found = _NAMED.fullmatch(name) if isinstance(name, str) else None
        if found is None:
            raise DeviceError(
                f"device is {shown(name)}, expected 'cpu', 'cuda', 'cuda:1' "
                "(the second GPU) or 'auto'"
            )
        return cls("cpu") if name == "cpu" else cls("cuda", int(found[1] or 0))

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU, with memory of its own."""
        return self.kind != "cpu"

    def __str__(self) -> str:
        """As it is named."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"
