"""The adapters of a model by name: loaded, dropped, and found by requests, while others compute."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Final

from sc2onnx.bundle.facts import ModelFacts
from sc2onnx.errors import RequestError
from sc2onnx.runtime.adapter import Adapter
from sc2onnx.runtime.arguments import place_of, shown, text
from sc2onnx.runtime.engine.loop import Engine
from sc2onnx.runtime.memory import not_enough
from sc2onnx.runtime.ort.adapter_file import read_adapter
from sc2onnx.runtime.ort.session import Session

MOST: Final = 64
"""Adapters of a model at a time."""

_NUMBERS: Final = count()


class Adapters(Mapping[str, Adapter]):
    """The adapters of a model. For any thread; what is computed changes between two steps."""

    def __init__(self, facts: ModelFacts, session: Session, engine: Engine) -> None:
        self._facts, self._session, self._engine = facts, session, engine
        self._loaded = dict[str, Adapter]()
        self._lock = threading.Lock()

    def load(self, path: str | Path, name: str | None = None) -> Adapter:
        """See :meth:`sc2onnx.runtime.model.Model.load_adapter`."""
        place = Path(place_of("path", path))
        called = place.resolve().name if name is None else text("name", name)
        with self._lock:
            self._check_free(called)
            described, matrices = read_adapter(place, self._facts)
            try:
                prepared = self._session.adapters.prepared(matrices)
                del matrices
                nbytes = self._session.adapters.bytes_of(prepared)
                adapter = Adapter(
                    called,
                    described.rank,
                    nbytes,
                    place,
                    described.source,
                    described.base,
                    next(_NUMBERS),
                    described.sha256,
                )
                with self._engine.exclusive():
                    self._session.adapt(on=True)
                    self._session.adapters.add(adapter, prepared)
                    self._engine.seats.rebind()
            except MemoryError as error:
                raise not_enough(error) from error
            self._loaded[called] = adapter
        return adapter

    def drop(self, name: str) -> None:
        """See :meth:`sc2onnx.runtime.model.Model.drop_adapter`."""
        with self._lock:
            number = self.called(name).number
            del self._loaded[name]
        self._engine.store.forget(lambda owner: _is_of(owner, number))
        with self._engine.exclusive():
            self._engine.seats.tidy()

    def called(self, name: str) -> Adapter:
        """The adapter of a name. Raises :class:`~sc2onnx.errors.RequestError`."""
        found = self._loaded.get(name)
        if found is None:
            names = ", ".join(sorted(self._loaded)) or "None, since none is loaded"
            raise RequestError(
                f"adapter is {shown(name)}, expected {names}: load it with load_adapter"
            )
        return found

    @property
    def nbytes(self) -> int:
        """Bytes that their matrices take, of those as well that requests under way still have."""
        return self._session.adapters.nbytes

    def _check_free(self, name: str) -> None:
        if not name:
            raise RequestError("the adapter's name is empty, expected one to call it by")
        if name in self._loaded:
            raise RequestError(
                f"there is an adapter {shown(name)} already: drop it first, or give another name"
            )
        if len(self._loaded) >= MOST:
            raise RequestError(
                f"{MOST} adapters are loaded, expected fewer: drop one, or merge some at export"
            )

    def __getitem__(self, name: str) -> Adapter:
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._loaded))

    def __len__(self) -> int:
        return len(self._loaded)


def _is_of(owner: Hashable, number: int) -> bool:
    """Whether caches are of an adapter, see ``GenerationRules.owner``."""
    return isinstance(owner, tuple) and owner[1] == number
