"""Where clients are installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent

NODE: Final = Path(os.environ.get("SC2ONNX_CLIENTS", ROOT / "build" / "clients")).resolve() / "node"
"""The packages of Node.js, once ``make clients`` has installed them."""
