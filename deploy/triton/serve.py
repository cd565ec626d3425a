"""Serves a bundle by NVIDIA's Triton Inference Server, through PyTriton.

    pip install ".[cpu]" nvidia-pytriton
    python deploy/triton/serve.py BUNDLE --name starcoder-3b

Requests are computed together by one engine, as many as there are instances. It needs a Python of
which there is a shared library (libpython), such as Debian's. There are no keys: it listens on this
machine only, unless told otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pytriton.exceptions import PyTritonInvalidOperationError
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

import sc2onnx

INPUTS = (
    Tensor(name="text_input", dtype=bytes, shape=(1,)),
    Tensor(name="suffix", dtype=bytes, shape=(1,), optional=True),
    Tensor(name="max_tokens", dtype=np.int32, shape=(1,), optional=True),
    Tensor(name="temperature", dtype=np.float32, shape=(1,), optional=True),
)
OUTPUTS = (Tensor(name="text_output", dtype=bytes, shape=(1,)),)

Inference = Callable[[Sequence[Any]], list[dict[str, np.ndarray]]]


def inference(model: sc2onnx.Model) -> Inference:
    """What an instance computes: a completion, or the middle where there is a suffix."""

    def completed(request: Any) -> dict[str, np.ndarray]:
        given = {
            name: request[name].item()
            for name in ("text_input", "suffix", "max_tokens", "temperature")
            if name in request
        }
        options = {
            "max_new_tokens": given.get("max_tokens", 20),
            "temperature": given.get("temperature", 0.0),
        }
        prompt, suffix = (
            given.get(name, b"").decode("utf-8", "replace") for name in ("text_input", "suffix")
        )
        try:
            done = (
                model.infill(prompt, suffix, order="spm", heal=True, **options)
                if suffix
                else model.generate(prompt, **options)
            )
        except sc2onnx.Sc2onnxError as error:
            raise PyTritonInvalidOperationError(str(error)) from error
        return {"text_output": np.array([done.text.encode()], dtype=object)}

    return lambda requests: [completed(request) for request in requests]


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", help="directory or hub id")
    parser.add_argument(
        "--name", default="starcoder", help="what the model is called (default: starcoder)"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="of HTTP; the next one is that of gRPC (default: 8000)",
    )
    parser.add_argument(
        "--instances", type=int, default=8, metavar="N", help="requests at a time (default: 8)"
    )
    args = parser.parse_args()
    model = sc2onnx.load(args.bundle, max_batch=args.instances)
    model.start()
    listens = {
        "http_address": args.host,
        "http_port": args.port,
        "grpc_address": args.host,
        "grpc_port": args.port + 1,
    }
    try:
        with Triton(config=TritonConfig(**listens, allow_metrics=False)) as triton:
            triton.bind(
                model_name=args.name,
                infer_func=[inference(model)] * args.instances,
                inputs=INPUTS,
                outputs=OUTPUTS,
                config=ModelConfig(batching=False),
                strict=True,
            )
            triton.serve()
    finally:
        model.stop()


if __name__ == "__main__":
    main()
