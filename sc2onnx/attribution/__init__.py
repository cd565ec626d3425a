"""Which files a text repeats: an index of directories, and a search in it. Works offline, and needs
numpy only.
"""

from __future__ import annotations

from sc2onnx.attribution.attribution import Attribution
from sc2onnx.attribution.index import Index
from sc2onnx.attribution.match import Match, Source
from sc2onnx.attribution.repetitions import Rules

__all__ = ["Attribution", "Index", "Match", "Rules", "Source"]
