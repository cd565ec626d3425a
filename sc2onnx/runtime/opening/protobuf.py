"""As much of protobuf as it takes to read an ONNX graph, and to say where its weights lie: the
runtime has no onnx package.

Field numbers are those of onnx.proto: ``ModelProto.graph`` 7, ``GraphProto.initializer`` 5,
``TensorProto.name`` 8 and ``TensorProto.external_data`` 13, which is made of
``StringStringEntryProto`` with ``key`` 1 and ``value`` 2. No field is taken to lie beyond its
message, whatever its length says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

_GRAPH: Final = 7
_INITIALIZER: Final = 5
_NAME: Final = 8
_EXTERNAL: Final = 13
_KEY: Final = 1
_VALUE: Final = 2

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

Place = Mapping[str, str]
"""Entries of ``external_data``: ``location``, ``offset`` and ``length``."""


class Field(NamedTuple):
    """A field of a message: where its tag ``begin``s, its payload ``start``s and it ``end``s.

    ``value``: the number that a field of kind :data:`VARINT` holds, from 0 to 2^64 - 1; else 0.
    """

    number: int
    kind: int
    begin: int
    start: int
    end: int
    value: int


def with_places(model: bytes, place: Callable[[str, Place], Place]) -> bytes:
    """The serialised model with every external initializer at ``place(name, where it was)``;
    all else is copied as it is.

    Raises :class:`ValueError` for what is not protobuf.
    """

    def tensor(payload: bytes) -> bytes:
        parts = list(fields(payload))
        entries = [
            _entry(payload[part.start : part.end]) for part in parts if part.number == _EXTERNAL
        ]
        if not entries:
            return payload
        names = [payload[part.start : part.end].decode() for part in parts if part.number == _NAME]
        moved = place(names[-1] if names else "", dict(entries))
        kept = [payload[part.begin : part.end] for part in parts if part.number != _EXTERNAL]
        added = (
            message(_EXTERNAL, _text(_KEY, key) + _text(_VALUE, value))
            for key, value in moved.items()
        )
        return b"".join([*kept, *added])

    return _rewritten(model, _GRAPH, lambda graph: _rewritten(graph, _INITIALIZER, tensor))


def _entry(payload: bytes) -> tuple[str, str]:
    """Key and value of a ``StringStringEntryProto``."""
    parts = {
        field.number: payload[field.start : field.end].decode("utf-8", "surrogateescape")
        for field in fields(payload)
    }
    return parts.get(_KEY, ""), parts.get(_VALUE, "")


def _rewritten(data: bytes, number: int, rewrite: Callable[[bytes], bytes]) -> bytes:
    """The message with ``rewrite`` of every field of this number."""
    parts = []
    for field in fields(data):
        if field.number != number:
            parts.append(data[field.begin : field.end])
            continue
        if field.kind != BYTES:
            raise ValueError(
                f"field {number} is of kind {field.kind}, expected {BYTES}: "
                "this is not an ONNX model"
            )
        parts.append(message(number, rewrite(data[field.start : field.end])))
    return b"".join(parts)


def fields(data: bytes, at: int = 0, stop: int | None = None) -> Iterator[Field]:
    """Yield the fields of the message that lies from ``at`` to ``stop``, by
    default to the end of ``data``.

    No field ends beyond its message. Raises :class:`ValueError` for what is not protobuf: a field
    that does, one without a number, a number of more than 64 bits, and groups, which ONNX has not.
    """
    stop = len(data) if stop is None else stop
    while at < stop:
        begin, value = at, 0
        # nearly all have one byte
        tag, at = (data[at], at + 1) if data[at] < 0x80 else _varint(data, at, stop)
        number, kind = tag >> 3, tag & 7
        start = at
        if kind == BYTES:
            length, start = (
                (data[at], at + 1) if at < stop and data[at] < 0x80 else _varint(data, at, stop)
            )
            at = start + length
        elif kind == VARINT:
            value, at = _varint(data, at, stop)
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(
                f"byte {begin} of a message begins a field of kind {kind}, expected 0, 1, 2 or 5: "
                "this is not an ONNX model"
            )
        if number == 0:
            raise ValueError(
                f"byte {begin} of a message begins a field of number 0: this is not an ONNX model"
            )
        if at > stop:
            raise ValueError(
                f"a field at byte {begin} ends at {at}, its message at {stop}: "
                "the model is truncated"
            )
        # half the time of Field(...)
        yield tuple.__new__(Field, (number, kind, begin, start, at, value))


def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """The number at ``at``, seven bits a byte, lowest first, and where it ends: ``ac 02``
    is 0x2c + (2 << 7) = 300.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise ValueError("a number runs past the end of its message: the model is truncated")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise ValueError(f"a number at byte {at} has more than 64 bits: this is not an ONNX model")


def _number(value: int) -> bytes:
    """The inverse of :func:`_varint`."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(number: int, payload: bytes) -> bytes:
    """A field of this number whose payload is bytes: a text, or another message."""
    return _number(number << 3 | BYTES) + _number(len(payload)) + payload


def _text(number: int, text: str) -> bytes:
    # names of files may be other bytes
    return message(number, text.encode("utf-8", "surrogateescape"))
