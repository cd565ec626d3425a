"""Greedy completion with OpenVINO, the ring cache (docs/bundle.md) kept here.

sc2onnx export CHECKPOINT mini-portable --target portable --precision int8
pip install openvino tokenizers
python complete.py mini-portable "def fib(n):"
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov

CHUNK = 64
"""Tokens of a prompt computed at once; the ring has room for the window and one chunk."""


class Completer:
    """A portable bundle in OpenVINO, and the cache of one sequence."""

    def __init__(self, bundle: Path, threads: int) -> None:
        manifest = json.loads((bundle / "sc2onnx.json").read_text(encoding="utf-8"))
        if manifest["target"] != "portable":
            sys.exit(
                f"{bundle} is for target {manifest['target']!r}, expected 'portable': export it "
                "with --target portable"
            )
        facts = manifest["model"]
        self.eos, self.past = set(facts["eos_token_ids"]), 0
        # Floats stay float32, as in ONNX Runtime: OpenVINO would round them to bfloat16
        # where the processor has that.
        how = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        }
        model = ov.Core().compile_model(bundle / "model.onnx", "CPU", how)
        self.request = model.create_infer_request()
        window = min(facts["sliding_window"] or facts["context_length"], facts["context_length"])
        capacity = min(window + CHUNK - 1, facts["context_length"])
        shapes = {
            "key": (1, facts["num_kv_heads"], capacity, facts["head_dim"]),
            "value": (1, facts["num_kv_heads"], facts["head_dim"], capacity),
        }
        layers = range(facts["num_layers"])
        self.cache = {
            f"past_key_values.{layer}.{kind}": np.zeros(shape, np.float32)
            for layer in layers
            for kind, shape in shapes.items()
        }

    def append(self, tokens: Sequence[int]) -> int:
        """Compute these tokens; the most likely next one."""
        for first in range(0, len(tokens), CHUNK):
            part = np.array([tokens[first : first + CHUNK]], dtype=np.int64)
            inputs = {"input_ids": part, "past_lengths": np.array([self.past]), **self.cache}
            results = self.request.infer(inputs, share_inputs=True)
            self.cache = {
                name: results[name.replace("past_key_values", "present")] for name in self.cache
            }
            self.past += part.shape[1]
        return int(results["logits"][0, -1].argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description="Greedy completion with OpenVINO.")
    parser.add_argument("bundle", type=Path, help="exported with --target portable")
    parser.add_argument("prompt", nargs="?", default="def fib(n):")
    parser.add_argument("--ids", help="the prompt as token ids, 1,2,3")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="0: OpenVINO's choice")
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--json", action="store_true", help="token ids and times, at the end")
    args = parser.parse_args()

    completer, tokenizer = Completer(args.bundle, args.threads), None
    if args.ids:
        prompt = [int(id) for id in args.ids.split(",")]
    else:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(args.bundle / "tokenizer.json"))
        prompt = tokenizer.encode(args.prompt).ids
    tokens, seconds = [completer.append(prompt)], []
    while len(tokens) < args.max_new_tokens and (
        args.ignore_eos or tokens[-1] not in completer.eos
    ):
        began = time.perf_counter()
        tokens.append(completer.append(tokens[-1:]))
        seconds.append(time.perf_counter() - began)
    if args.json:
        print(
            json.dumps(
                {
                    "tokens": tokens,
                    "seconds_per_token": statistics.median(seconds),
                    "runtime": "OpenVINO",
                    "version": ov.__version__.split("-")[0],
                }
            )
        )
    else:
        print(tokenizer.decode(tokens) if tokenizer else " ".join(map(str, tokens)))


if __name__ == "__main__":
    sys.exit(main())
