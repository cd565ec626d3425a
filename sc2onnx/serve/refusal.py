"""Requests that are not answered: with which status, and in which words."""

from __future__ import annotations

from sc2onnx.errors import (
    BusyError,
    ChatTemplateError,
    ContextLengthError,
    MissingDependencyError,
    OutOfMemoryError,
    RequestError,
    Sc2onnxError,
    TokenizerError,
)


class RefusedError(Exception):
    """A request that is not answered, and what its client is told: ``kind`` in the words that
    OpenAI's and llama.cpp's clients know, ``param``: the field that is to be corrected,
    ``retry_after``: seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.retry_after = param, retry_after


def refusal_of(error: BaseException) -> RefusedError:
    """What a client is told of an error: ours in their words, of others that there was one."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, ContextLengthError):
        return RefusedError(400, str(error), "exceed_context_size_error", param="prompt")
    if isinstance(error, RequestError):
        return RefusedError(400, str(error))
    if isinstance(error, BusyError):
        return RefusedError(429, str(error), "rate_limit_error", retry_after=2)
    if isinstance(error, OutOfMemoryError):
        return RefusedError(503, str(error), "unavailable_error", retry_after=5)
    if isinstance(error, TokenizerError | ChatTemplateError | MissingDependencyError):
        return RefusedError(501, str(error), "not_supported_error")
    told = str(error) if isinstance(error, Sc2onnxError) else "an error that is in the server's log"
    return RefusedError(500, told, "server_error")
