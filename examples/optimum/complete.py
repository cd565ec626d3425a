"""Greedy completion with optimum's ``ORTModelForCausalLM`` and transformers'
``generate`` and ``pipeline``.

    sc2onnx export CHECKPOINT mini-optimum --target optimum --precision int8
    pip install "optimum-onnx[onnxruntime]" torch
    python complete.py mini-optimum "def fib(n):"

What ``optimum-cli export onnx`` writes runs too, with the plug-in in plugins/optimum.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at the import: else it reports home

import onnxruntime as ort
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer, StoppingCriteria, StoppingCriteriaList, pipeline

with suppress(ImportError):  # a bundle does without it; what optimum-cli wrote does not
    import sc2onnx_optimum  # noqa: F401


class Clock(StoppingCriteria):
    """Told of each token; notes when."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool)


def main() -> None:
    parser = argparse.ArgumentParser(description="Greedy completion with optimum and onnxruntime.")
    parser.add_argument("bundle", help="exported with --target optimum")
    parser.add_argument("prompt", nargs="?", default="def fib(n):")
    parser.add_argument("--ids", help="the prompt as token ids, 1,2,3")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--json", action="store_true", help="token ids and times, at the end")
    args = parser.parse_args()

    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.log_severity_level = 3
    model = ORTModelForCausalLM.from_pretrained(args.bundle, session_options=options)
    if not args.ids:
        tokenizer = AutoTokenizer.from_pretrained(args.bundle)
        print(
            pipeline("text-generation", model=model, tokenizer=tokenizer)(
                args.prompt, max_new_tokens=args.max_new_tokens, do_sample=False
            )[0]["generated_text"]
        )
        return
    prompt = torch.tensor([[int(id) for id in args.ids.split(",")]])
    clock = Clock()
    ids = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=args.max_new_tokens,
        min_new_tokens=args.max_new_tokens if args.ignore_eos else 0,
        stopping_criteria=StoppingCriteriaList([clock]),
        pad_token_id=0,
    )
    tokens = ids[0, prompt.shape[1] :].tolist()
    if not args.json:
        print(*tokens)
        return
    steps = [after - before for before, after in zip(clock.times, clock.times[1:])]
    print(
        json.dumps(
            {
                "tokens": tokens,
                "seconds_per_token": statistics.median(steps),
                "runtime": "optimum-onnx",
                "version": version("optimum-onnx"),
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
