"""How often code of one project is taken for a copy of another's, by the length that counts.

    python benchmarks/attribution.py PROJECT... [--stretches 25] [--seed 0]

Each PROJECT is a directory. Every other one is indexed, and stretches of the rest, as long as a
completion, are looked for in the index. Where two projects do share code, which is so if they have
a stretch of 100 words and symbols or more that stands in five files at most, what one repeats of
the other is left out. What remains is nobody's copy: headers of licences, and what everybody
writes. The table has its share for each length, and for numbers of files beyond which it does not
count.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sc2onnx.attribution.corpus import LEAST, Corpus
from sc2onnx.attribution.lexemes import Codes, Lexemes
from sc2onnx.attribution.repetitions import Rules, repetitions
from sc2onnx.attribution.sources import Files
from sc2onnx.cli.terminal import say, say_all
from sc2onnx.tables import aligned

LENGTHS: Final = (LEAST, 30, 40, 50, 60, 80)
MOST_FILES: Final = (None, 50, 20, 5)

STRETCH: Final = 130
"""Words and symbols of a long completion."""

COPY: Final = Rules(least=100, most_files=5)
"""What two projects have of each other's code."""


@dataclass(frozen=True, slots=True)
class Text:
    """Code, and the number of its project."""

    project: int
    codes: Codes


class Indexed:
    """The code of some projects."""

    def __init__(self, texts: Sequence[Text]) -> None:
        self.corpus = Corpus.of(text.codes for text in texts)
        self._begins = np.flatnonzero(self.corpus.codes == 0)[:-1]
        self._projects = np.array([text.project for text in texts])

    def repeated(self, text: Text, rules: Rules) -> set[int]:
        """The projects that a text repeats."""
        found = set[int]()
        for each in repetitions(text.codes, self.corpus, self._begins, (), rules):
            files = np.searchsorted(self._begins, each.places, "right") - 1
            found |= set(self._projects[files].tolist())
        return found


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("projects", type=Path, nargs="+", metavar="PROJECT")
    options.add_argument("--stretches", type=int, default=25, help="of each project")
    options.add_argument("--most-bytes", type=int, default=3_000_000, help="of each project")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    draw = random.Random(args.seed)
    texts = [list(_texts(*each, args.most_bytes, draw)) for each in enumerate(args.projects)]
    indexed = Indexed([text for project in texts[::2] for text in project])
    stretches = [text for project in texts[1::2] for text in _drawn(project, args.stretches, draw)]
    copies = {(text.project, other) for text in stretches for other in indexed.repeated(text, COPY)}
    say_all(aligned(list(_table(indexed, stretches, copies))))
    say(f"{len(stretches)} stretches; {len(indexed.corpus.codes):,} words and symbols")


def _texts(number: int, project: Path, most: int, draw: random.Random) -> Iterator[Text]:
    """Files of a project in any order, up to a size together."""
    files = list(Files([project]))
    draw.shuffle(files)
    for file in files:
        most -= len(file.data)
        if most < 0:
            return
        yield Text(number, Lexemes.of(file.data).codes)


def _drawn(texts: Sequence[Text], count: int, draw: random.Random) -> Iterator[Text]:
    long = [text for text in texts if len(text.codes) >= STRETCH]
    for text in draw.choices(long, k=count) if long else ():
        begin = draw.randrange(len(text.codes) - STRETCH + 1)
        yield Text(text.project, text.codes[begin : begin + STRETCH])


def _table(
    indexed: Indexed, stretches: Sequence[Text], copies: set[tuple[int, int]]
) -> Iterator[list[str]]:
    yield ["least", *(f"in at most {most or 'any'} files" for most in MOST_FILES)]
    for least in LENGTHS:
        shares = list[str]()
        for most in MOST_FILES:
            rules = Rules(least=least, most_files=most)
            alike = sum(
                any((text.project, other) not in copies for other in indexed.repeated(text, rules))
                for text in stretches
            )
            shares.append(f"{alike / max(1, len(stretches)):.2%}")
        yield [str(least), *shares]


if __name__ == "__main__":
    main()
