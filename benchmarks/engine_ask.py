"""What benchmarks of the engine ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import sc2onnx
from sc2onnx.runtime.choose.parameters import SamplingParameters
from sc2onnx.runtime.engine.row import Row
from sc2onnx.runtime.engine.streams import TokenStream
from sc2onnx.runtime.options import GenerationRules

TASKS = Path(__file__).parent / "tasks" / "tasks.jsonl"


STREAMS = 8


@dataclass(frozen=True)
class Ask:
    """What is asked for: prompts of so many tokens, and tokens of each."""

    model: sc2onnx.Model
    prompts: list[list[int]]
    count: int

    def row(self, number: int, *, count: int | None = None, seed: int | None = None) -> Row:
        """A row that never stops by itself."""
        sampling = (
            SamplingParameters()
            if seed is None
            else SamplingParameters(temperature=0.8, top_p=0.95, seed=seed)
        )
        rules = GenerationRules(count or self.count, sampling)
        row = self.model.requests.row(self.prompts[number % len(self.prompts)], rules, "tokens")
        row.drafter = None  # what drafts gain depends on the text
        return row

    def stream(self, number: int) -> TokenStream:
        """A request that is computed while it is read."""
        return TokenStream(self.model.engine, self.row(number))


def prompts(model: sc2onnx.Model, length: int) -> list[list[int]]:
    """The beginnings of the tasks' texts, each of ``length`` tokens."""
    texts = [json.loads(line) for line in TASKS.read_text(encoding="utf-8").splitlines()]
    ids = [
        model.codec.encode(text["prompt"] + text["continuation"], special=False) for text in texts
    ]
    return [each[:length] for each in ids if len(each) >= length][:STREAMS]
