"""Greedy completion with onnxruntime-genai (0.18 or later), which keeps the cache itself.

    sc2onnx export CHECKPOINT mini-genai --target genai --precision int4
    pip install onnxruntime-genai
    python complete.py mini-genai "def fib(n):"

A bundle in fp16 or bf16 is for a GPU: pip install onnxruntime-genai-cuda instead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from importlib.metadata import version

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at the import: else it reports home

import numpy as np
import onnxruntime_genai as og


def main() -> None:
    parser = argparse.ArgumentParser(description="Greedy completion with onnxruntime-genai.")
    parser.add_argument("bundle", help="exported with --target genai")
    parser.add_argument("prompt", nargs="?", default="def fib(n):")
    parser.add_argument("--ids", help="the prompt as token ids, 1,2,3")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="0: one for each core, which genai itself does not do",
    )
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--json", action="store_true", help="token ids and times, at the end")
    args = parser.parse_args()

    config = og.Config(args.bundle)
    config.overlay(
        json.dumps(
            {"model": {"decoder": {"session_options": {"intra_op_num_threads": args.threads}}}}
        )
    )
    model = og.Model(config)
    tokenizer = None if args.ids else og.Tokenizer(model)
    prompt = (
        tokenizer.encode(args.prompt)
        if tokenizer
        else np.array([int(id) for id in args.ids.split(",")], dtype=np.int32)
    )

    length = len(prompt) + args.max_new_tokens
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=length, min_length=length if args.ignore_eos else 0)
    generator = og.Generator(model, params)
    generator.append_tokens(prompt)
    stream = tokenizer.create_stream() if tokenizer else None
    tokens, seconds = [], []
    while len(tokens) < args.max_new_tokens and not generator.is_done():
        began = time.perf_counter()
        generator.generate_next_token()
        seconds.append(time.perf_counter() - began)
        tokens.append(int(generator.get_next_tokens()[0]))
        if stream and not args.json:
            print(stream.decode(tokens[-1]), end="", flush=True)
    if args.json:
        found = {
            "tokens": tokens,
            "seconds_per_token": statistics.median(seconds[1:]),
            "runtime": "onnxruntime-genai",
            "version": version("onnxruntime-genai"),
        }
        print(json.dumps(found))
    elif tokenizer is None:
        print(*tokens)


if __name__ == "__main__":
    sys.exit(main())
