"""Token ids to verify on: real code where the bundle has a tokenizer."""

from __future__ import annotations

import argparse
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sc2onnx.bundle import texts
from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.errors import RequestError
from sc2onnx.verify.subject import Subject


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids (n,), and what they are."""

    tokens: npt.NDArray[np.int64]
    description: str


def sample(model: Subject, count: int, text: Path | None) -> Sample:
    """``count`` tokens: of ``text`` if given, else of this Python's ``argparse.py`` (real code
    that every Python brings).

    Random token ids where the bundle has no tokenizer. Raises :class:`RequestError`
    if the text is too short.
    """
    if text is None and TOKENIZER_FILE not in model.manifest.files:
        ids = np.random.default_rng(0).integers(0, model.manifest.model.vocab_size, count)
        return Sample(
            ids.astype(np.int64), f"{count} random token ids (the bundle has no tokenizer)"
        )
    path = text or Path(argparse.__file__)
    try:
        data = texts.contents(path)
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({error.strerror}), expected a text file to verify on"
        ) from error
    ids = np.array(
        model.codec.encode(data.decode("utf-8", errors="replace"), special=False), dtype=np.int64
    )
    if len(ids) < count:
        ways = "give a longer file with --text, or a smaller --length"
        raise RequestError(f"{path} has {len(ids)} tokens, verification needs {count}: {ways}")
    name = path.name if text else f"{path.name} of Python {platform.python_version()}"
    return Sample(ids[:count], f"{name} (SHA-256 {hashlib.sha256(data).hexdigest()[:16]})")
