"""``serve``: models behind HTTP, for editors."""

from __future__ import annotations

import argparse
import logging
import os
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sc2onnx.cli.outputs import read_keys, read_text
from sc2onnx.cli.process import quiet_warnings
from sc2onnx.cli.terminal import say_all
from sc2onnx.errors import MissingDependencyError, RequestError, TokenizerError
from sc2onnx.hints import install

if TYPE_CHECKING:
    from sc2onnx.runtime.model import Model
    from sc2onnx.serve.configuration import Configuration, Given
    from sc2onnx.serve.settings import Settings

LOG: Final = logging.getLogger("sc2onnx.serve")

_CONTINUE: Final = "makes Continue end completions at lines that begin with t: give another (--alias)"


def serve(args: argparse.Namespace) -> int:
    """Run ``serve``."""
    try:
        from sc2onnx.serve.logs import set_up
        from sc2onnx.serve.run import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sc2onnx"):
            raise
        raise MissingDependencyError(f"serving needs {error.name}: {install('serve')}") from error

    configuration = _configuration(args)
    settings = configuration.settings(read_keys([Path(each) for each in configuration.key_files]))
    if args.check:
        say_all(_checked(configuration, settings))
        return 0
    set_up(configuration.log)
    if settings.log_prompts:
        LOG.warning("prompts are logged: whoever reads the log reads the code that clients send")
    with quiet_warnings(lambda line: LOG.warning("%s", line)):
        serve(settings, lambda: _loaded(configuration), lambda line: LOG.info("%s", line))
    return 0


def _configuration(args: argparse.Namespace) -> Configuration:
    from sc2onnx.serve.configuration import PREFIX, configured, of_environment, of_file

    named = args.config or os.environ.get(f"{PREFIX}CONFIG")
    file = of_file(Path(named), read_text(Path(named)), os.environ) if named else {}
    found = configured(_flags(args), of_environment(os.environ), file)
    if not found.models:
        remedy = "give a BUNDLE, or a file with models (--config FILE)"
        raise RequestError(f"there is nothing to serve: {remedy}")
    return found


_FLAGS: Final = {"key_files": "key_file", "allowed_hosts": "allowed_host", "origins": "origin"}
"""Fields of the configuration whose flag, which is repeated, has another name."""


def _flags(args: argparse.Namespace) -> Given:
    """What the command line says, without what it leaves out."""
    from sc2onnx.serve.configuration import Configuration

    given: Given = {}
    for name in (each.name for each in fields(Configuration)):
        value = getattr(args, _FLAGS.get(name, name), None)
        if value is not None:
            given[name] = tuple(value) if name in _FLAGS else value
    models = _named(args)
    return {**given, "models": models} if models else given


def _named(args: argparse.Namespace) -> dict[str, str]:
    """Bundles by the names that they go by."""
    from sc2onnx.serve.configuration import named

    if args.alias and args.bundle is None:
        found = f"--alias is {args.alias!r} without a BUNDLE"
        raise RequestError(f"{found} that it could name: give one")
    first = dict[str, str]()
    if args.bundle is not None:
        first[args.alias or Path(args.bundle).resolve().name] = args.bundle
    return named(args.model or (), "--model", first)


def _checked(configuration: Configuration, settings: Settings) -> list[str]:
    """What would be served and where. Raises :class:`~sc2onnx.errors.BundleError`."""
    from sc2onnx.bundle.hub import is_id
    from sc2onnx.runtime.load_options import LoadOptions
    from sc2onnx.runtime.opening.bundle import Bundle

    LoadOptions(**_how(configuration))  # which checks them
    lines = list[str]()
    for name, bundle in configuration.models.items():
        if is_id(bundle) and not Path(bundle).exists():
            lines.append(f"{name}: {bundle}, of the hub, which was not asked: there is no such directory")
            continue
        manifest = Bundle.open(bundle, check="size").manifest
        lines.append(f"{name}: {bundle}, for {manifest.target}")
    number, files = len(settings.keys), ", ".join(configuration.key_files)
    keys = f"{number} key{'s' * (number > 1)} of {files}" if number else "no key"
    lines.append(f"on {settings.host} port {settings.port}, with {keys}")
    return lines


_EDITORS: Final = 16
"""Files whose caches a server keeps by default, where memory allows."""


def _kept(usual: int) -> int:
    """Bytes of finished requests' caches that a server keeps, where one program keeps ``usual``: of
    as many files as a few editors have open, in a quarter of the memory that is free.
    """
    from sc2onnx.runtime.engine.prefix import SEQUENCES
    from sc2onnx.runtime.memory import available

    free = available()
    most = usual // SEQUENCES * _EDITORS
    return most if free is None else max(usual, min(most, free // 4))


_HOW: Final = ("device", "threads", "kernels", "cache_type", "max_batch", "prefix_memory", "speculate")


def _how(configuration: Configuration) -> dict[str, Any]:
    """How models are loaded."""
    return {name: getattr(configuration, name) for name in _HOW}


def _loaded(configuration: Configuration) -> dict[str, Model]:
    from sc2onnx.runtime.loading import load

    found = dict[str, "Model"]()
    for name, bundle in configuration.models.items():
        found[name] = load(bundle, **_how(configuration))
        with suppress(TokenizerError):  # a bundle without one answers what needs none
            found[name].codec  # noqa: B018 - opened now, and not by the first request
        if configuration.prefix_memory is None:
            found[name].engine.store.limit = _kept(found[name].engine.store.limit)
        if "starcoder2" in name.lower():
            LOG.warning("the name %s %s", name, _CONTINUE)
    return found
