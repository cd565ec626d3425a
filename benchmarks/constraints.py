"""What constraints cost: compiling them, and saying before each token what may come.

::

    python benchmarks/constraints.py tokenizer.json --count 200 --save constraints.json

Texts are drawn at random among what is allowed, so no model is needed; a real one would write texts
that are easier to follow. The schemas are those of the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from sc2onnx.errors import ConstraintError  # noqa: E402
from sc2onnx.runtime.choose.constrained import only  # noqa: E402
from sc2onnx.runtime.choose.constraint import Constraint  # noqa: E402
from sc2onnx.runtime.choose.grammar import Grammars  # noqa: E402
from sc2onnx.runtime.text.codec import Codec  # noqa: E402
from tests.runtime.constrained.schemas import schema  # noqa: E402

MOST = 200
"""Tokens of a text."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tokenizer", type=Path, help="a tokenizer.json")
    parser.add_argument("--count", type=int, default=200, help="random schemas (default: 200)")
    parser.add_argument("--save", type=Path, help="write the figures to a file, as JSON")
    args = parser.parse_args()
    size = Tokenizer.from_file(str(args.tokenizer)).get_vocab_size()
    figures = measured(Codec(args.tokenizer), size, args.count)
    for name, value in figures.items():
        print(f"{name:32s} {value:10.4g}")
    if args.save is not None:
        args.save.write_text(json.dumps(figures, indent=1) + "\n")


def measured(codec: Codec, size: int, count: int) -> dict[str, float]:
    """Milliseconds and counts."""
    began = time.perf_counter()
    grammars = Grammars(codec, lambda text: codec.encode(text, special=False), size, [0])
    grammars.steering(Constraint("regex", "a"), [0])
    first = time.perf_counter() - began
    compiled, masks, others, random = list[float](), list[float](), list[float](), _random()
    refused = 0
    for seed in range(count):
        text = json.dumps(schema(seed))
        began = time.perf_counter()
        try:
            steering = grammars.steering(Constraint("json_schema", text), [0])
        except ConstraintError:
            refused += 1
            continue
        compiled.append(time.perf_counter() - began)
        logits = random.standard_normal(size).astype(np.float32)
        for _ in range(MOST):
            began = time.perf_counter()
            steering.forced(31)
            allowed = steering.allowed()
            masks.append(time.perf_counter() - began)
            began = time.perf_counter()
            only(logits, allowed)
            token = int(random.choice(allowed))
            steering.take(token)
            others.append(time.perf_counter() - began)
            if token == 0 or steering.complete:
                break
    return {
        "vocabulary": size,
        "schemas": len(compiled),
        "refused": refused,
        "tokens": len(masks),
        "first constraint, ms": 1e3 * first,
        **_quantiles("compiling, ms", compiled),
        **_quantiles("what is allowed, ms", masks),
        **_quantiles("applying and going on, ms", others),
        "mean of a token, ms": 1e3 * float(np.mean(masks) + np.mean(others)),
    }


def _random() -> Any:
    return np.random.default_rng(0)


def _quantiles(name: str, seconds: list[float]) -> dict[str, float]:
    found = 1e3 * np.quantile(seconds, [0.5, 0.99, 1.0])
    return dict(
        zip((f"{name}: median", f"{name}: 99 %", f"{name}: most"), found.tolist(), strict=True)
    )


if __name__ == "__main__":
    main()
