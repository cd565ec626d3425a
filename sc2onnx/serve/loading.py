"""The models of a configuration, loaded as a server needs them."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Final

from sc2onnx.errors import ChatTemplateError, TokenizerError
from sc2onnx.runtime.engine.prefix import SEQUENCES
from sc2onnx.runtime.loading import load
from sc2onnx.runtime.memory import available
from sc2onnx.runtime.model import Model
from sc2onnx.serve.configuration import Configuration

LOG: Final = logging.getLogger("sc2onnx.serve")

_CONTINUE: Final = (
    "makes Continue end completions at lines that begin with t: give another (--alias)"
)

_EDITORS: Final = 16
"""Files whose caches a server keeps by default, where memory allows."""

_HOW: Final = (
    "device",
    "threads",
    "kernels",
    "cache_type",
    "max_batch",
    "prefix_memory",
    "speculate",
)


def how(configuration: Configuration) -> dict[str, Any]:
    """How models are loaded: keywords of :func:`sc2onnx.load`."""
    return {name: getattr(configuration, name) for name in _HOW}


def loaded(configuration: Configuration) -> dict[str, Model]:
    """The models by the names that they go by. Raises what :func:`sc2onnx.load` raises."""
    found = dict[str, Model]()
    for name, bundle in configuration.models.items():
        found[name] = load(bundle, **how(configuration))
        with suppress(TokenizerError):  # a bundle without one answers what needs none
            found[name].codec  # noqa: B018 - opened now, and not by the first request
        with suppress(ChatTemplateError):
            found[name].chats.templates  # noqa: B018 - read, and not rendered
        if configuration.prefix_memory is None:
            store = found[name].engine.store
            store.limit = _kept(store.limit, configuration.workers)
        if "starcoder2" in name.lower():
            LOG.warning("the name %s %s", name, _CONTINUE)
    first = next(iter(found.values()), None)
    for name, directory in configuration.adapters.items():
        assert first is not None
        adapter = first.load_adapter(directory, name)
        LOG.info("adapter %s: rank %d, %.1f MB", name, adapter.rank, adapter.nbytes / 1e6)
    return found


def _kept(usual: int, workers: int) -> int:
    """Bytes of finished requests' caches that a server keeps, where one program keeps ``usual``: of
    as many files as a few editors have open, in its share of a quarter of the memory that is free.
    """
    free = available()
    most = usual // SEQUENCES * _EDITORS
    return most if free is None else max(usual, min(most, free // 4 // workers))
