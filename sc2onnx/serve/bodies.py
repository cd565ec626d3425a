"""Bodies of requests, read as far as they may be."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from sc2onnx.serve.refusal import RefusedError
from sc2onnx.serve.settings import Settings


async def body_of(request: Request, settings: Settings) -> bytes:
    """A request's body. Raises :class:`~sc2onnx.serve.refusal.RefusedError` for one that has more
    than ``settings.body_bytes`` or takes longer than ``settings.patience``.
    """
    most, read = settings.body_bytes, bytearray()
    try:
        async with asyncio.timeout(settings.patience):
            async for part in request.stream():
                read += part
                if len(read) > most:
                    raise RefusedError(413, f"the body has more than {most} bytes: send less")
    except TimeoutError:
        late = f"the body took more than {settings.patience:.0f} seconds: send it at once"
        raise RefusedError(408, late) from None
    return bytes(read)
