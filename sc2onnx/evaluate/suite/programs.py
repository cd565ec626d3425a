"""Small programs with a hole and with tests: made of shapes and names, so that there are many.

None stands in a file that a model may have learnt. The truth is an expression, but whatever passes
the tests is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Template
from typing import Final

import numpy as np

from sc2onnx.evaluate.suite.hole import Hole

_NAMES: Final = tuple(
    "name path size value index count offset length width height start stop level limit"
    " total weight score rate port host user text title label key mode depth speed".split()
)
_CLASSES: Final = tuple(
    "Node Entry Record Message Packet Window Request Item Token Buffer Session Account".split()
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of program; ``$a``, ``$b`` and ``$c`` are names, ``$C`` is one of a class."""

    kind: str
    before: str
    truth: str
    after: str
    tests: str


def programs(count: int, seed: int) -> list[Hole]:
    """``count`` programs, the shapes in turn, names drawn; the same for the same seed."""
    random = np.random.default_rng(seed)
    return [_made(SHAPES[number % len(SHAPES)], random) for number in range(count)]


def _made(shape: Shape, random: np.random.Generator) -> Hole:
    drawn = [str(name) for name in random.choice(_NAMES, 3, replace=False)]
    names = {**dict(zip("abc", drawn, strict=True)), "C": str(random.choice(_CLASSES))}
    before, truth, after, tests = (
        Template(text).substitute(names)
        for text in (shape.before, shape.truth, shape.after, shape.tests)
    )
    return Hole("programs", shape.kind, before, truth, after, tests)


SHAPES: Final = (
    Shape(
        "an attribute",
        """class $C:
    def __init__(self, $a, $b, $c):
        self.$a = $a
        self.$b = $b
        self.$c =""",
        " $c",
        "\n",
        "made = $C(1, 2, 3)\nassert (made.$a, made.$b, made.$c) == (1, 2, 3)\n",
    ),
    Shape(
        "an accessor",
        """class $C:
    def __init__(self, $a, $b):
        self.$a = $a
        self.$b = $b

    def get_$a(self):
        return self.$a

    def get_$b(self):
        return""",
        " self.$b",
        "\n",
        "assert $C(1, 2).get_$b() == 2\nassert $C(3, 4).get_$a() == 3\n",
    ),
    Shape(
        "a setter",
        """class $C:
    def __init__(self):
        self.$a = 0
        self.$b = 0

    def set_$a(self, $a):
        self.$a = $a

    def set_$b(self, $b):
        self.$b =""",
        " $b",
        "\n",
        "made = $C()\nmade.set_$b(5)\nassert (made.$a, made.$b) == (0, 5)\n",
    ),
    Shape(
        "equality",
        """class $C:
    def __init__(self, $a):
        self.$a = $a

    def __eq__(self, other):
        return self.$a ==""",
        " other.$a",
        "\n",
        "assert $C(1) == $C(1)\nassert not $C(1) == $C(2)\n",
    ),
    Shape(
        "a sum",
        """def total_$a(${a}s):
    total = 0
    for $a in ${a}s:
        total +=""",
        " $a",
        "\n    return total\n",
        "assert total_$a([1, 2, 5]) == 8\nassert total_$a([]) == 0\n",
    ),
    Shape(
        "a filter",
        """def select_${a}s(${a}s, least):
    result = []
    for $a in ${a}s:
        if $a >= least:
            result.append(""",
        "$a",
        ")\n    return result\n",
        "assert select_${a}s([1, 5, 3], 3) == [5, 3]\n",
    ),
    Shape(
        "a maximum",
        """def largest_$a(${a}s):
    largest = ${a}s[0]
    for $a in ${a}s:
        if $a > largest:
            largest =""",
        " $a",
        "\n    return largest\n",
        "assert largest_$a([3, 9, 2]) == 9\nassert largest_$a([4]) == 4\n",
    ),
    Shape(
        "a counter",
        """def count_${a}s(${a}s):
    counts = {}
    for $a in ${a}s:
        if $a not in counts:
            counts[$a] = 0
        counts[$a] +=""",
        " 1",
        "\n    return counts\n",
        "assert count_${a}s('aab') == {'a': 2, 'b': 1}\n",
    ),
    Shape(
        "a default",
        """def get_$a(table, $a, default=None):
    if $a not in table:
        return""",
        " default",
        "\n    return table[$a]\n",
        "assert get_$a({1: 2}, 1, 3) == 2\nassert get_$a({}, 1, 3) == 3\n",
    ),
    Shape(
        "an empty container",
        """class $C:
    def __init__(self):
        self.${a}s = []

    def add_$a(self, $a):
        self.${a}s.append($a)

    def is_empty(self):
        return len(self.${a}s) ==""",
        " 0",
        "\n",
        "made = $C()\nassert made.is_empty()\nmade.add_$a(1)\nassert not made.is_empty()\n",
    ),
    Shape(
        "a lower bound",
        """def limit_$a($a, low, high):
    if $a < low:
        return low
    if $a > high:
        return""",
        " high",
        "\n    return $a\n",
        "assert [limit_$a(n, 2, 4) for n in (1, 3, 9)] == [2, 3, 4]\n",
    ),
    Shape(
        "a dictionary",
        """class $C:
    def __init__(self, $a, $b):
        self.$a = $a
        self.$b = $b

    def as_dict(self):
        return {'$a': self.$a, '$b':""",
        " self.$b",
        "}\n",
        "assert $C(1, 2).as_dict() == {'$a': 1, '$b': 2}\n",
    ),
    Shape(
        "a call",
        """def make_$a($a, $b):
    return [$a, $b]


def make_${a}s(${a}s, $b):
    return [make_$a($a, $b) for $a in""",
        " ${a}s",
        "]\n",
        "assert make_${a}s([1, 2], 3) == [[1, 3], [2, 3]]\n",
    ),
    Shape(
        "a copy",
        """class $C:
    def __init__(self, $a, $b):
        self.$a = $a
        self.$b = $b

    def copy(self):
        return $C(self.$a,""",
        " self.$b",
        ")\n",
        "made = $C(1, 2).copy()\nassert (made.$a, made.$b) == (1, 2)\n",
    ),
)
