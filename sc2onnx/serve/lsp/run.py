"""Runs a language server over standard input and output, until they end or an editor ends it."""

from __future__ import annotations

import asyncio

from pygls.io_ import run_async

from sc2onnx.attribution.attribution import Attribution
from sc2onnx.serve.lsp.completer import Completer
from sc2onnx.serve.lsp.features import language_server
from sc2onnx.serve.lsp.options import Options
from sc2onnx.serve.lsp.protocol import quiet
from sc2onnx.serve.lsp.server import Server
from sc2onnx.serve.lsp.stdio import Input, Output, taken


def run(completer: Completer, options: Options, attribution: Attribution | None = None) -> int:
    """Serve the editor at standard input and output, and return the exit status: 0, or 1 where it
    sends ``exit`` without ``shutdown`` before. ``attribution``: the editor's log is told which
    files completions repeat.
    """
    quiet()
    with taken() as (source, sink):
        return asyncio.run(_run(language_server(completer, options, attribution), source, sink))


async def _run(server: Server, source: int, sink: int) -> int:
    protocol = server.protocol
    protocol.set_writer(Output(sink))
    try:
        told = server.report_server_error
        await run_async(protocol.over, Input(source), protocol, error_handler=told)
    finally:
        await server.close()
    return protocol.status
