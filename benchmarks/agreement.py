"""Counts the requests whose tokens depend on how they were computed.

    python benchmarks/agreement.py BUNDLE... [--count 150] [--seed 0] [--threads 2] [--text FILE...]

Each request is a piece of real code of random length, before and past the sliding window, computed
plainly and in another way; a request differs if any of its tokens does:

- steps, cut: appended to a sequence, several tokens in one step against steps of one; a prompt in
  two pieces. Logits are compared: bundles of integers bit for bit, fp32 to 1e-4 of the largest.
- reuse: a request whose beginning an earlier request had left computed. Greedy and sampled.
- drafts: with ``speculate=True``, whether or not that is the bundle's default. Greedy and sampled.
- batch: four prompts of different lengths decoded together. Greedy and sampled.
- threads: one thread against the given number.

Prints one row for each bundle, of so many requests that differ.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import sc2onnx
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.text.detokenize import Detokenizer

COLUMNS = (
    "steps",
    "cut",
    "reuse",
    "reuse sampled",
    "drafts",
    "drafts sampled",
    "batch",
    "batch sampled",
    "threads",
)
GREEDY, TOLERANCE = SamplingParameters(), 1e-4
LONGEST_STEP, NEW_TOKENS, BATCH = 32, 32, 4


@dataclass(frozen=True)
class Request:
    """A prompt, the tokens that follow it in its file, and where other
    ways of computing it cut it.
    """

    prompt: list[int]
    following: list[int]
    cut: int
    shared: int
    seed: int

    @property
    def samplings(self) -> tuple[tuple[str, SamplingParameters], ...]:
        """Suffixes of columns, and how tokens are drawn for them."""
        return ("", GREEDY), (" sampled", SamplingParameters(temperature=0.8, seed=self.seed))


def requests(ids: Sequence[int], count: int, longest: int, seed: int) -> Iterator[Request]:
    """So many requests of up to ``longest`` tokens."""
    draw = random.Random(seed)
    for number in range(count):
        length, step = draw.randrange(20, longest), draw.randrange(2, LONGEST_STEP + 1)
        first = draw.randrange(max(1, len(ids) - length - step))
        prompt, cut = list(ids[first : first + length]), draw.randrange(1, length)
        yield Request(
            prompt, list(ids[first + length :][:step]), cut, draw.randrange(5, length), number
        )


class Ways:
    """A bundle, loaded once for each way of computing a request."""

    def __init__(self, bundle: Path, threads: int) -> None:
        def load(**settings: Any) -> sc2onnx.Model:
            plain: dict[str, Any] = {"threads": threads, "speculate": False, "prefix_memory": 0}
            return sc2onnx.load(bundle, packed="off", **{**plain, **settings})

        self.plain, self.reuse = load(), load(prefix_memory=None)
        self.drafts, self.single, self.one_by_one = (
            load(speculate=True),
            load(threads=1),
            load(max_batch=1),
        )
        self.integers = self.plain.manifest.quantization is not None

    def differing(self, request: Request) -> list[str]:
        """Columns in which a request differs."""
        found = [name for name, same in self._logits(request) if not same]
        list(
            self.reuse.generate_tokens(
                request.prompt[: request.shared], max_new_tokens=2, stop_tokens=[]
            )
        )
        for suffix, sampling in request.samplings:
            expected = generated(self.plain, request.prompt, sampling)
            ways = [
                ("reuse", self.reuse),
                ("drafts", self.drafts),
                *([] if suffix else [("threads", self.single)]),
            ]
            found += [
                name + suffix
                for name, model in ways
                if generated(model, request.prompt, sampling) != expected
            ]
        return found

    def differing_together(self, batch: Sequence[Request]) -> list[str]:
        """Columns in which requests differ that are decoded together, once for each that does."""
        prompts, found = [self._text(request.prompt) for request in batch], list[str]()
        settings: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "stop_tokens": ()}
        sampled: dict[str, Any] = {"temperature": 0.8, "seed": batch[0].seed}
        for suffix, options in (("", settings), (" sampled", settings | sampled)):
            together = self.plain.generate(prompts, **options)
            # with each row's own random numbers
            alone = self.one_by_one.generate(prompts, **options)
            found += [
                "batch" + suffix
                for a, b in zip(together, alone, strict=True)
                if a.tokens != b.tokens
            ]
        return found

    def _text(self, tokens: Sequence[int]) -> str:
        detokenizer = Detokenizer(self.plain.codec)
        return "".join([detokenizer.push(token) for token in tokens])

    def _logits(self, request: Request) -> Iterator[tuple[str, bool]]:
        prompt, cut = request.prompt, request.cut
        whole = self._appended([prompt, request.following])
        yield (
            "steps",
            self._same(whole, self._appended([prompt, *([token] for token in request.following)])),
        )
        yield (
            "cut",
            self._same(whole, self._appended([prompt[:cut], prompt[cut:], request.following])),
        )

    def _appended(self, pieces: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        with self.plain.sequence() as sequence:
            return np.concatenate([np.asarray(sequence.append(piece)) for piece in pieces])

    def _same(self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
        return (
            np.array_equal(a, b)
            if self.integers
            else bool(np.abs(a - b).max() <= TOLERANCE * np.abs(a).max())
        )


def generated(
    model: sc2onnx.Model, prompt: Sequence[int], sampling: SamplingParameters
) -> list[int]:
    """The tokens that follow."""
    return [
        token.id
        for token in model.generate_tokens(
            prompt, max_new_tokens=NEW_TOKENS, sampling=sampling, stop_tokens=[]
        )
    ]


def measure(bundle: Path, text: str, count: int, seed: int, threads: int) -> Counter[str]:
    """How many of ``count`` requests differ, by column."""
    ways = Ways(bundle, threads)
    facts = ways.plain.manifest.model
    longest = min(3 * facts.window, facts.context_length - LONGEST_STEP - NEW_TOKENS)
    asked = list(requests(ways.plain.codec.encode(text), count, longest, seed))
    found = Counter(name for request in asked for name in ways.differing(request))
    found.update(
        name
        for first in range(0, count, BATCH)
        for name in ways.differing_together(asked[first : first + BATCH])
    )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--count", type=int, default=150, help="requests (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the requests (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="of all but one column (default: %(default)s)"
    )
    parser.add_argument(
        "--text", type=Path, nargs="+", help="files of code (default: Python's argparse)"
    )
    options = parser.parse_args()
    text = "".join(
        path.read_text(encoding="utf-8") for path in options.text or [Path(argparse.__file__)]
    )
    print(f"| differing of {options.count} |", " | ".join(COLUMNS), "|")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for bundle in options.bundles:
        found = measure(bundle, text, options.count, options.seed, options.threads)
        print(
            f"| {bundle.name} |", " | ".join(str(found[name]) for name in COLUMNS), "|", flush=True
        )


if __name__ == "__main__":
    main()
