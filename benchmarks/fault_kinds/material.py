"""What every trial starts from: a checkpoint, whole bundles of it, and what they answer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

FORMS = {
    "fp32": ("fp32", "cpu"),
    "int8": ("int8", "cpu"),
    "int4": ("int4", "cpu"),
    "portable": ("int8", "portable"),
    "genai": ("fp32", "genai"),
}
"""Precision and target of each bundle.
Others than our runtime run the last one: it is opened, not run.
"""

TOKENS = 12
"""Greedy tokens that are compared, beside the logits of the prompt."""


class Fault(Exception):  # noqa: N818 - what is told of, not an error of a program
    """The product did what it must not; the message says what."""


@dataclass(frozen=True)
class Answer:
    """Greedy tokens, and logits (n, vocab) of the prompt."""

    tokens: tuple[int, ...]
    logits: npt.NDArray[np.float32]

    def same(self, other: Answer) -> bool:
        """Whether another load gave the same, but for rounding in float32."""
        if self.tokens != other.tokens or self.logits.shape != other.logits.shape:
            return False
        return bool(np.abs(self.logits - other.logits).max() <= 1e-4 * np.abs(self.logits).max())


@dataclass(frozen=True)
class Material:
    """A directory with ``checkpoint``, a bundle for each of :data:`FORMS`, ``packed`` (a cache of
    packed weights) and answers.
    """

    directory: Path

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that the bundles are of."""
        return self.directory / "checkpoint"

    def bundle(self, form: str) -> Path:
        """A whole bundle. Not to be written to."""
        return self.directory / form

    @property
    def forms(self) -> list[str]:
        """The bundles that there are."""
        return [form for form in FORMS if self.bundle(form).is_dir()]

    @property
    def costs(self) -> Mapping[str, float]:
        """Seconds that an export and a load with an answer took."""
        found: dict[str, float] = json.loads((self.directory / "costs.json").read_text())
        return found

    def answer(self, form: str) -> Answer:
        """What the whole bundle answers."""
        with np.load(self.directory / f"{form}.npz") as kept:
            return Answer(tuple(kept["tokens"].tolist()), kept["logits"])

    def copy(self, form: str, to: Path) -> Path:
        """A copy of a bundle that may be written to."""
        return Path(shutil.copytree(self.bundle(form), to))


def ask(directory: Path, packed: str = "off", check: str = "full") -> Answer:
    """Load a bundle and let it answer."""
    from sc2onnx.runtime.loading import load

    model: Any = load(directory, packed=packed, check=check, threads=1)  # type: ignore[arg-type]
    vocabulary = model.manifest.model.vocab_size
    prompt = [1 + (7 * number) % (vocabulary - 1) for number in range(16)]
    with model.sequence() as sequence:
        logits = sequence.append(prompt)
    tokens = tuple(
        token.id for token in model.generate_tokens(prompt, max_new_tokens=TOKENS, stop_tokens=())
    )
    if model.manifest.files.get("tokenizer.json"):
        tokens += tuple(model.generate("def f(x):\n", max_new_tokens=4).tokens)
    return Answer(tokens, logits)


def prepare(checkpoint: Path, directory: Path, forms: Sequence[str] = tuple(FORMS)) -> Material:
    """Export and pack some of :data:`FORMS` once, fp32 among them, and ask each bundle."""
    from sc2onnx.bundle.targets import TARGETS
    from sc2onnx.errors import Sc2onnxError
    from sc2onnx.export import Calibration, export

    material = Material(directory)
    shutil.copytree(checkpoint, material.checkpoint)
    os.environ["SC2ONNX_CACHE"] = str(directory / "cache")
    costs = {"export": 0.0, "load": 0.0}
    for form in forms:
        precision, target = FORMS[form]
        began = time.perf_counter()
        calibration = Calibration(None if precision == "fp32" else False)
        try:
            export(
                material.checkpoint,
                material.bundle(form),
                precision=precision,
                target=target,
                calibration=calibration,
            )
        except Sc2onnxError as error:
            if form == "fp32":
                raise
            print(f"no {form} bundle of this checkpoint: {error}")
            continue
        costs["export"] = max(costs["export"], time.perf_counter() - began)
        if not TARGETS[target].own:
            continue
        pack(material.bundle(form))
        began = time.perf_counter()
        found = ask(material.bundle(form))
        costs["load"] = max(costs["load"], time.perf_counter() - began)
        np.savez(directory / f"{form}.npz", tokens=np.array(found.tokens), logits=found.logits)
    (directory / "costs.json").write_text(json.dumps(costs))
    return material


def runnable(material: Material) -> list[str]:
    """Bundles that our runtime runs."""
    return [form for form in material.forms if FORMS[form][1] != "genai"]


def packable(material: Material) -> list[str]:
    """Bundles whose weights are kept packed, where the kernels are installed that read them so."""
    return [
        form for form in runnable(material) if FORMS[form][0] != "fp32" and FORMS[form][1] == "cpu"
    ]


def pack(bundle: Path, *, wait: bool = True) -> bool:
    """Keep a bundle's weights packed. False: nothing packs them, as it is of floats or the
    kernels are not installed.
    """
    from sc2onnx.runtime.opening.bundle import Bundle
    from sc2onnx.runtime.ort.kernels import usable
    from sc2onnx.runtime.ort.packing import make

    opened = Bundle.open(bundle)
    if (kernels := usable("auto", opened.manifest)) is None:
        return False
    make(opened, kernels, wait=wait)
    return True


NOTHING_PACKED = "nothing was packed: sc2onnx-kernels are not installed"
"""Outcome of a trial of packed weights without them."""


def packed_weights(material: Material) -> bool:
    """Whether there are any."""
    return (material.directory / "cache" / "packed").is_dir()


def whole(bundle: Path) -> bool:
    """Whether a bundle is there with every file that its manifest lists, unaltered."""
    try:
        listed = json.loads((bundle / "sc2onnx.json").read_bytes())["files"]
        return all(
            hashlib.sha256((bundle / name).read_bytes()).hexdigest() == entry["sha256"]
            for name, entry in listed.items()
        )
    except (OSError, ValueError):
        return False


def pick(rng: Random, directory: Path) -> Path:
    """One of a directory's files, none of them empty."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)
    return rng.choice(files)
