"""ONNX Runtime's telemetry: off before the library is imported, unless the user allows it.

From 1.29 on, its builds for Linux and macOS upload what is loaded and on what machine, keep a
device id and a database in the home directory, and have a thread for it, which a forked child
waits for. They read one environment variable while they are imported; whatever is called
afterwards comes too late.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Container, MutableMapping
from typing import Final, Literal

Telemetry = Literal["off", "allowed", "imported before"]
"""``off``: it was turned off before the import.
``allowed``: the user set :data:`VARIABLE` to 0. ``imported before``: an application imported
onnxruntime before sc2onnx, without turning it off, so it may be on.
"""

VARIABLE: Final = "ORT_DISABLE_TELEMETRY"
"""ONNX Runtime's own: 1 turns its telemetry off. 0 is how a user of sc2onnx allows it;
anything else counts as 1.
"""


def turned_off(
    environment: MutableMapping[str, str] = os.environ,
    modules: Container[str] = sys.modules,
    platform: str = sys.platform,
) -> Telemetry:
    """Turn it off for what is imported next and for child processes; returns what now holds.

    Warns (:class:`UserWarning`) where that comes too late.
    """
    asked, already = environment.get(VARIABLE, ""), "onnxruntime" in modules
    if asked == "0":
        return "allowed"
    environment[VARIABLE] = "1"
    if (
        not already or asked.lower() in ("1", "true", "yes") or platform == "win32"
    ):  # on Windows it is the system's, and can be turned off at any time
        return "off"
    warnings.warn(
        f"onnxruntime was imported before sc2onnx and without {VARIABLE}=1, so its telemetry may "
        f"be on: set {VARIABLE}=1 in the environment, or {VARIABLE}=0 to allow it",
        stacklevel=2,
    )
    return "imported before"
