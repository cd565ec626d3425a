"""``serve``: models behind HTTP, for editors."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sc2onnx.cli.bundles import loading
from sc2onnx.cli.outputs import read_keys, read_text
from sc2onnx.cli.process import needing, quiet_warnings
from sc2onnx.cli.terminal import say_all
from sc2onnx.errors import RequestError

if TYPE_CHECKING:
    from sc2onnx.runtime.model import Model
    from sc2onnx.serve.configuration import Configuration, Given
    from sc2onnx.serve.settings import Settings

LOG: Final = logging.getLogger("sc2onnx.serve")


def serve(args: argparse.Namespace) -> int:
    """Run ``serve``."""
    with needing("serve", "serving"):
        from sc2onnx.fleet.run import serve_workers
        from sc2onnx.serve.loading import loaded
        from sc2onnx.serve.logs import set_up
        from sc2onnx.serve.run import serve

    configuration = _configuration(args)
    settings = configuration.settings(read_keys([Path(each) for each in configuration.key_files]))
    found = _checked(configuration, settings)  # before the address is taken
    if args.check:
        say_all(found)
        return 0
    set_up(configuration.log)
    if settings.log_prompts:
        LOG.warning("prompts are logged: whoever reads the log reads the code that clients send")
    with quiet_warnings(lambda line: LOG.warning("%s", line)):
        if configuration.workers > 1:
            serve_workers(configuration, settings.keys)
            return 0
        with_progress = _shown(configuration, lambda: loaded(configuration))
        serve(settings, with_progress, lambda line: LOG.info("%s", line))
    return 0


def _shown(
    configuration: Configuration, load: Callable[[], dict[str, Model]]
) -> Callable[[], dict[str, Model]]:
    """``load``, which tells a terminal how long it takes yet."""

    def loads() -> dict[str, Model]:
        with loading(*(Path(each) for each in configuration.models.values())):
            return load()

    return loads


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
    from sc2onnx.serve.configuration import Configuration, named

    given: Given = {}
    for name in (each.name for each in fields(Configuration)):
        value = getattr(args, _FLAGS.get(name, name), None)
        if value is not None:
            given[name] = tuple(value) if name in _FLAGS else value
    if args.adapter:
        given["adapters"] = named(args.adapter, "--adapter", what="DIR")
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
    from sc2onnx.bundle.adapter_facts import AdapterFacts
    from sc2onnx.bundle.hub import is_id
    from sc2onnx.runtime.load_options import LoadOptions
    from sc2onnx.runtime.opening.bundle import Bundle
    from sc2onnx.serve.loading import how

    LoadOptions(**how(configuration))  # which checks them
    lines = list[str]()
    for name, bundle in configuration.models.items():
        if is_id(bundle) and not Path(bundle).exists():
            lines.append(
                f"{name}: {bundle}, of the hub, which was not asked: there is no such directory"
            )
            continue
        manifest = Bundle.open(bundle, check="size").manifest
        lines.append(f"{name}: {bundle}, for {manifest.target}")
    first = next(iter(configuration.models), "")
    for name, directory in configuration.adapters.items():
        rank = AdapterFacts.read(Path(directory)).rank
        lines.append(f"{name}: adapter {directory} of {first}, of rank {rank}")
    number, files = len(settings.keys), ", ".join(configuration.key_files)
    keys = f"{number} key{'s' * (number > 1)} of {files}" if number else "no key"
    lines.append(f"on {settings.host} port {settings.port}, with {keys}")
    if configuration.workers > 1:
        from sc2onnx.fleet.placement import places

        found = places(configuration.workers, configuration.threads)
        counts = ", ".join(str(place.threads) for place in found)
        lines.append(f"by {len(found)} workers of {counts} threads")
    return lines
