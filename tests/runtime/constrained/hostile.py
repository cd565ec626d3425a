"""Constraints of strangers who mean harm, as large as they may be; run by itself: a crash is seen.

Prints for each what became of it, and the seconds and megabytes that it took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sc2onnx.errors import ConstraintError
from sc2onnx.runtime.choose.constraint import MOST_GRAMMAR, MOST_REGEX, MOST_SCHEMA, Kind
from sc2onnx.runtime.choose.grammar import Grammars
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.text.codec import Codec

TOKENS = 60


def _regexes() -> dict[str, str]:
    parts = {
        "optional": "a?",
        "anything": ".?",
        "counted": "(a{0,1000}b?)",
        "classes": r"[\p{L}\p{N}]{0,50}",
        "stars": "(a*)*",
        "dots": ".*",
    }
    found = {name: part * (MOST_REGEX // len(part)) for name, part in parts.items()}
    return found | {
        "deep": "(" * 1000 + "a" + ")" * 1000,
        "powers": "((a{0,1000}){0,1000}){0,1000}",
        "exponential": "(a|b)*a(a|b){200}",
        "far": ".*a.{1000}b",
        "backwards": r"(a)\1",
        "numbers": "|".join(f".*{n}x" for n in range(250)),
    }


def _grammars() -> dict[str, str]:
    """Chains as long as they fit."""

    def chain(rule: Callable[[int], str], name: str, count: int) -> str:
        rules = "".join(f"{name}{n}:{rule(n + 1)}\n" for n in range(count))
        return f'start: {name}0\n{rules}{name}{count}:"x"\n'

    return {
        "long chain": chain(lambda n: f"a{n}", "a", 1350),
        "long chain of terminals": chain(lambda n: f"A{n}", "A", 1350),
        "terminals that may repeat": chain(lambda n: f'(A{n}|"y")+', "A", 290),
        "optional terminals": chain(lambda n: f'"y"? A{n}', "A", 290),
        "doubling": chain(lambda n: f"a{n} a{n}", "a", 40),
        "doubling terminals": chain(lambda n: f"A{n} A{n}", "A", 40),
        "ambiguous": 'start: start start | "a" | ""\n',
        "more ambiguous": 'start: e\ne: e e | e e e | "a" | "b" | "(" e ")"\n',
        "deep": "start: " + "(" * 8000 + '"a"' + ")" * 8000,
        "deep GBNF": "root ::= " + "(" * 8000 + '"a"' + ")" * 8000,
        "long GBNF": "root ::= " + " ".join('"a"' for _ in range(4000)),
        "GBNF of options": "root ::= " + " ".join('"a"?' for _ in range(300)),
        "never ends": 'start: start "a"\n',
        "counted": 'start: a{1000}\na: b{1000}\nb: c{1000}\nc: "x"\n',
        "special tokens": "start: <[1]> <[2-9]>*\n",
        "eight expressions": "start: A\nA: " + " ".join("/" + ".?" * 35 + "/" for _ in range(8)),
    }


def _schemas() -> dict[str, Any]:
    def refer(number: int) -> dict[str, str]:
        return {"$ref": f"#/$defs/{number}"}

    def chain(node: Callable[[int], dict[str, Any]], count: int) -> dict[str, Any]:
        nodes = {str(n): node(n + 1) for n in range(count)}
        return {"$defs": {**nodes, str(count): {"type": "null"}}, **refer(0)}

    nested: dict[str, Any] = {}
    for _ in range(400):
        nested = {"items": nested}
    return {
        "references": chain(refer, 2100),
        "all of references": chain(lambda n: {"allOf": [refer(n)]}, 1500),
        "any of references": chain(lambda n: {"anyOf": [refer(n), {"type": "null"}]}, 1000),
        "lists of references": chain(lambda n: {"items": refer(n), "type": "array"}, 1200),
        "objects": chain(lambda n: {"properties": {"a": refer(n)}, "required": ["a"]}, 950),
        "itself": {"$ref": "#"},
        "doubling": chain(lambda n: {"allOf": [refer(n), refer(n)]}, 30),
        "any of all": {
            "allOf": [
                {"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(6)]} for i in range(12)
            ]
        },
        "properties": {"properties": {f"p{i}": {} for i in range(1000)}},
        "patterns": {"patternProperties": {f"^.*{i}.*$": {} for i in range(200)}},
        "one pattern": {"type": "string", "pattern": ".?" * 1000},
        "long": {"type": "string", "minLength": 10**7, "maxLength": 10**8},
        "many": {"type": "array", "minItems": 10**5, "items": {"enum": list(range(500))}},
        "choice": {"enum": [f"value number {i}" for i in range(2700)]},
        "multiples": {"type": "integer", "multipleOf": 999999937},
        "elsewhere": {"$ref": "http://127.0.0.1:9/a.json"},
        "a file": {"$ref": "file:///etc/passwd"},
        "deep": nested,
        "settings": {"x-guidance": {"whitespace_pattern": "(a|b)*a(a|b){200}", "lenient": True}},
    }


def hostile() -> list[tuple[Kind, str, Any]]:
    """Kind, name and what is given."""
    return [
        *(("regex", name, text) for name, text in _regexes().items()),
        *(("grammar", name, text[:MOST_GRAMMAR]) for name, text in _grammars().items()),
        *(("json_schema", name, given) for name, given in _schemas().items()),
        ("choices", "many", [f"choice {n}" * 3 for n in range(2000)]),
        ("json_schema", "too long", {"enum": ["x" * MOST_SCHEMA]}),
        ("regex", "too long", "a" * (MOST_REGEX + 1)),
    ]


def main(tokenizer: str) -> None:
    """Try them all."""
    codec, random = Codec(Path(tokenizer)), np.random.default_rng(0)
    grammars = Grammars(codec, lambda text: codec.encode(text, special=False), 4096, [0])
    for kind, name, given in hostile():
        began, told = time.perf_counter(), ""
        try:
            constraint = SamplingParameters(**{kind: given}).constraint
            assert constraint is not None
            steering = grammars.steering(constraint, [0])
            told = "compiled"
            for _ in range(TOKENS):
                steering.forced(31)
                steering.take(int(random.choice(steering.allowed())))
        except ConstraintError as error:
            told = f"{told} {error}"
        seconds = time.perf_counter() - began
        peak = _peak() >> 10
        print(json.dumps([f"{kind}: {name}", round(seconds, 2), peak, told]), flush=True)


def _peak() -> int:
    """Most resident memory of this process, kB; getrusage tells that of its parent as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main(sys.argv[1])
