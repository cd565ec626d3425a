"""As much of protobuf as it takes to say where the weights of an ONNX graph lie: the runtime has no onnx package.

Field numbers are those of onnx.proto: ``ModelProto.graph`` 7, ``GraphProto.initializer`` 5, ``TensorProto.name`` 8 and
``TensorProto.external_data`` 13, which is made of ``StringStringEntryProto`` with ``key`` 1 and ``value`` 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_GRAPH: Final = 7
_INITIALIZER: Final = 5
_NAME: Final = 8
_EXTERNAL: Final = 13
_KEY: Final = 1
_VALUE: Final = 2

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5

Place = Mapping[str, str]
"""Entries of ``external_data``: ``location``, ``offset``, ``length``, and what onnxruntime adds (``prepacked_0``, ...)."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message: ``whole`` as it stands there, tag included; ``payload`` without tag and length."""

    number: int
    whole: memoryview
    payload: memoryview


def places(model: bytes) -> dict[str, Place]:
    """Where the graph's external initializers lie, by name. Raises :class:`ValueError` for what is not protobuf."""
    found: dict[str, Place] = {}

    def keep(name: str, place: Place) -> Place:
        found[name] = place
        return place

    with_places(model, keep)
    return found


def with_places(model: bytes, place: Callable[[str, Place], Place]) -> bytes:
    """The serialised model with every external initializer at ``place(name, where it was)``; all else is copied as it is.

    Raises :class:`ValueError` for what is not protobuf.
    """

    def tensor(payload: memoryview) -> bytes:
        parts = list(_fields(payload))
        entries = [
            {field.number: bytes(field.payload).decode("utf-8", "surrogateescape") for field in _fields(part.payload)}
            for part in parts
            if part.number == _EXTERNAL
        ]
        if not entries:
            return bytes(payload)
        name = next((bytes(part.payload).decode() for part in parts if part.number == _NAME), "")
        moved = place(name, {entry.get(_KEY, ""): entry.get(_VALUE, "") for entry in entries})
        kept = [bytes(part.whole) for part in parts if part.number != _EXTERNAL]
        return b"".join([*kept, *(_message(_EXTERNAL, _text(_KEY, key) + _text(_VALUE, value)) for key, value in moved.items())])

    def graph(payload: memoryview) -> bytes:
        return _rewritten(payload, _INITIALIZER, tensor)

    return _rewritten(memoryview(model), _GRAPH, graph)


def _rewritten(message: memoryview, number: int, rewrite: Callable[[memoryview], bytes]) -> bytes:
    """The message with ``rewrite`` of every field of this number."""
    return b"".join(_message(number, rewrite(field.payload)) if field.number == number else bytes(field.whole) for field in _fields(message))


def _fields(message: memoryview) -> Iterator[_Field]:
    at = 0
    while at < len(message):
        begin = at
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            length, at = _varint(message, at)
            end = at + length
        elif kind == _VARINT:
            _, end = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            end = at + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"byte {begin} of a message begins a field of kind {kind}, expected 0, 1, 2 or 5: this is not an ONNX model")
        if end > len(message):
            raise ValueError(f"a field at byte {begin} ends at {end}, its message at {len(message)}: the model is truncated")
        yield _Field(number, message[begin:end], message[at:end])
        at = end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at ``at``, seven bits a byte, lowest first, and where it ends: ``ac 02`` is 0x2c + (2 << 7) = 300."""
    value = shift = 0
    while at < len(message):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number runs past the end of its message: the model is truncated")


def _number(value: int) -> bytes:
    """The inverse of :func:`_varint`."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _message(number: int, payload: bytes) -> bytes:
    return _number(number << 3 | _BYTES) + _number(len(payload)) + payload


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode("utf-8", "surrogateescape"))  # names of files may be other bytes
