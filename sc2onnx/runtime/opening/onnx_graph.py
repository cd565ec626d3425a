"""What an ONNX graph says of itself, read with :mod:`sc2onnx.runtime.opening.protobuf`.

Only what the exporter writes is read: every message has a list of the fields that it may
have, and what is not on it (functions, subgraphs, sparse tensors, other kinds of values, a
field twice) is an error. So nothing that ONNX Runtime would act on goes unseen. Numbers of
fields are those of onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NamedTuple

from sc2onnx.runtime.opening.protobuf import BYTES, FIXED32, VARINT, fields

MOST_BYTES: Final = 8 << 20
"""Bytes that a graph may have. That of the largest StarCoder2 has 0.3 MB:
its weights lie elsewhere.
"""

_MOST_REPEATED: Final = 1 << 16
"""Nodes, initializers and the like that a message may have.
The graph of the largest has 2,000 nodes.
"""

FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16, BFLOAT16, INT4 = 1, 2, 3, 6, 7, 9, 10, 16, 22
"""``TensorProto.DataType`` of what bundles hold."""

BITS: Final[Mapping[int, int]] = {
    FLOAT: 32, UINT8: 8, INT8: 8, INT32: 32, INT64: 64, FLOAT16: 16, BFLOAT16: 16, INT4: 4,
}  # fmt: skip
"""Bits of an element."""

_MOST_INLINE: Final = 16
"""Elements of a constant that lies in the graph: shapes and scalars."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a weight lies: bytes ``start`` to ``end`` of the file ``location``."""

    location: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """An initializer: its bytes in ``raw``, or at ``place`` in another file."""

    name: str
    data_type: int
    shape: tuple[int, ...]
    raw: bytes = b""
    place: Place | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that its elements take; two of 4 bits share one."""
        return (prod(self.shape) * BITS[self.data_type] + 7) // 8

    @property
    def integers(self) -> tuple[int, ...] | None:
        """The values of a constant of 64-bit integers; None for other tensors."""
        if self.place is not None or self.data_type != INT64:
            return None
        return struct.unpack(f"<{len(self.raw) // 8}q", self.raw)


@dataclass(frozen=True, slots=True)
class Node:
    """A node. ``operator``: with its domain, where that is not ONNX's own:
    ``com.microsoft.MatMulNBits``.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, float | bytes | tuple[int, ...]]


class Port(NamedTuple):
    """Type and shape of an input or output; None: a dimension that is known at run time only."""

    data_type: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """A graph: its operator sets by domain, what goes in and out by name, nodes in
    order, initializers by name.
    """

    opsets: Mapping[str, int]
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]


class _Known(NamedTuple):
    name: str
    kind: int
    repeated: bool = False


_Fields = Mapping[int, _Known]

_MODEL: Final[_Fields] = {
    1: _Known("ir_version", VARINT), 2: _Known("producer_name", BYTES),
    3: _Known("producer_version", BYTES),
    7: _Known("graph", BYTES), 8: _Known("opset_import", BYTES, repeated=True),
}  # fmt: skip
_OPSET: Final[_Fields] = {1: _Known("domain", BYTES), 2: _Known("version", VARINT)}
_GRAPH: Final[_Fields] = {
    1: _Known("node", BYTES, repeated=True), 2: _Known("name", BYTES),
    5: _Known("initializer", BYTES, repeated=True),
    11: _Known("input", BYTES, repeated=True), 12: _Known("output", BYTES, repeated=True),
    13: _Known("value_info", BYTES, repeated=True),
}  # fmt: skip
_NODE: Final[_Fields] = {
    1: _Known("input", BYTES, repeated=True), 2: _Known("output", BYTES, repeated=True),
    3: _Known("name", BYTES),
    4: _Known("op_type", BYTES), 5: _Known("attribute", BYTES, repeated=True),
    7: _Known("domain", BYTES),
}  # fmt: skip
_ATTRIBUTE: Final[_Fields] = {
    1: _Known("name", BYTES), 2: _Known("f", FIXED32),
    3: _Known("i", VARINT), 4: _Known("s", BYTES),
    8: _Known("ints", VARINT, repeated=True), 20: _Known("type", VARINT),
}  # fmt: skip
_TENSOR: Final[_Fields] = {
    1: _Known("dims", VARINT, repeated=True), 2: _Known("data_type", VARINT),
    8: _Known("name", BYTES),
    9: _Known("raw_data", BYTES), 13: _Known("external_data", BYTES, repeated=True),
    14: _Known("data_location", VARINT),
}  # fmt: skip
_ENTRY: Final[_Fields] = {1: _Known("key", BYTES), 2: _Known("value", BYTES)}
_VALUE: Final[_Fields] = {1: _Known("name", BYTES), 2: _Known("type", BYTES)}
_TYPE: Final[_Fields] = {1: _Known("tensor", BYTES)}
_TENSOR_TYPE: Final[_Fields] = {1: _Known("elem_type", VARINT), 2: _Known("shape", BYTES)}
_SHAPE: Final[_Fields] = {1: _Known("dim", BYTES, repeated=True)}
_DIMENSION: Final[_Fields] = {1: _Known("value", VARINT), 2: _Known("parameter", BYTES)}

_KINDS: Final = {1: "f", 2: "i", 3: "s", 7: "ints"}
"""``AttributeProto.AttributeType`` -> the field that holds the value."""


def read_graph(data: bytes) -> OnnxGraph:
    """Read a serialised model. Raises :class:`ValueError` for what the exporter does not write."""
    model = _read("model", data, _MODEL)
    graph = _read("graph", model.get("graph", b""), _GRAPH)
    opsets = [_read("opset_import", part, _OPSET) for part in model.get("opset_import", ())]
    return OnnxGraph(
        _by_name(
            "operator set",
            [(_text(part.get("domain", b"")), part.get("version", 0)) for part in opsets],
        ),
        _by_name("input", [_port(part) for part in graph.get("input", ())]),
        _by_name("output", [_port(part) for part in graph.get("output", ())]),
        tuple(_node(part) for part in graph.get("node", ())),
        _by_name(
            "initializer",
            [(tensor.name, tensor) for tensor in map(_tensor, graph.get("initializer", ()))],
        ),
    )


def _read(what: str, data: bytes, known: _Fields) -> dict[str, Any]:
    """Fields of a message by name: numbers, bytes, or lists of them
    where a field may be repeated.
    """
    found: dict[str, Any] = {}
    for number, kind, _, start, end, value in fields(data):
        field = known.get(number)
        if field is None or field.kind != kind:
            raise ValueError(
                f"its {what} has field {number} of kind {kind}, which the exporter never writes"
            )
        content = value if kind == VARINT else data[start:end]
        if field.repeated:
            (parts := found.setdefault(field.name, [])).append(content)
            if len(parts) > _MOST_REPEATED:
                raise ValueError(f"its {what} has more than {_MOST_REPEATED:,} of {field.name}")
        elif field.name in found:
            raise ValueError(f"its {what} has {field.name} twice")
        else:
            found[field.name] = content
    return found


def _by_name(what: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) or (what != "operator set" and "" in found):
        raise ValueError(f"it has an {what} twice, or one without a name")
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8")


def _signed(value: int) -> int:
    """A 64-bit integer that was read without its sign."""
    return value - (1 << 64) if value >> 63 else value


def _node(data: bytes) -> Node:
    node = _read("node", data, _NODE)
    domain, operator = _text(node.get("domain", b"")), _text(node.get("op_type", b""))
    return Node(
        f"{domain}.{operator}" if domain else operator,
        tuple(map(_text, node.get("input", ()))),
        tuple(map(_text, node.get("output", ()))),
        _by_name("attribute", [_attribute(part) for part in node.get("attribute", ())]),
    )


def _attribute(data: bytes) -> tuple[str, float | bytes | tuple[int, ...]]:
    raw = _read("attribute", data, _ATTRIBUTE)
    name, kind = _text(raw.pop("name", b"")), raw.pop("type", 0)
    if kind not in _KINDS or set(raw) - {_KINDS[kind]}:
        raise ValueError(
            f"attribute {name[:80]!r} is of type {kind}, expected a number, numbers or a text"
        )
    value = raw.get(_KINDS[kind])
    if kind == 1:
        return name, struct.unpack("<f", value)[0] if value else 0.0
    if kind == 3:
        return name, value or b""
    return name, tuple(map(_signed, value or ())) if kind == 7 else (_signed(value or 0),)


def _tensor(data: bytes) -> Tensor:
    raw = _read("initializer", data, _TENSOR)
    name, data_type = _text(raw.get("name", b"")), raw.get("data_type", 0)
    shape = tuple(map(_signed, raw.get("dims", ())))
    # with a size of 0, nothing: what no run is told of, an adapter of no ranks
    if data_type not in BITS or len(shape) > 8 or any(not 0 <= size < 1 << 40 for size in shape):
        raise ValueError(f"initializer {name[:80]!r} is of type {data_type} and shape {shape[:9]}")
    external = raw.get("data_location", 0) == 1
    if external == ("raw_data" in raw) or external != ("external_data" in raw):
        raise ValueError(
            f"initializer {name[:80]!r} lies neither in the graph nor in one place outside"
        )
    place = _place(name, raw["external_data"]) if external else None
    tensor = Tensor(name, data_type, shape, raw.get("raw_data", b""), place)
    nbytes = len(tensor.raw) if place is None else place.end - place.start
    if nbytes != tensor.nbytes:
        raise ValueError(
            f"initializer {name[:80]!r} of shape {shape} has {nbytes} bytes, "
            f"expected {tensor.nbytes}"
        )
    if place is None and prod(shape) > _MOST_INLINE:
        raise ValueError(
            f"initializer {name[:80]!r} of shape {shape} lies in the graph, expected at most "
            f"{_MOST_INLINE} elements"
        )
    return tensor


def _place(name: str, entries: list[bytes]) -> Place:
    parts = [_read("external_data", entry, _ENTRY) for entry in entries]
    found = _by_name(
        "entry of external_data",
        [(_text(part.get("key", b"")), _text(part.get("value", b""))) for part in parts],
    )
    sizes = [found.get("offset", "0"), found.get("length", "")]
    if set(found) - {"location", "offset", "length"} or not all(
        size.isascii() and size.isdecimal() and len(size) < 20 for size in sizes
    ):
        raise ValueError(
            f"initializer {name[:80]!r} lies at {str(found)[:200]}, expected a location, "
            "an offset and a length"
        )
    offset, length = map(int, sizes)
    return Place(found.get("location", ""), offset, offset + length)


def _port(data: bytes) -> tuple[str, Port]:
    value = _read("input or output", data, _VALUE)
    tensor = _read(
        "type", _read("type", value.get("type", b""), _TYPE).get("tensor", b""), _TENSOR_TYPE
    )
    dimensions = [
        _read("dimension", part, _DIMENSION)
        for part in _read("shape", tensor.get("shape", b""), _SHAPE).get("dim", ())
    ]
    shape = tuple(_signed(part["value"]) if "value" in part else None for part in dimensions)
    return _text(value.get("name", b"")), Port(tensor.get("elem_type", 0), shape)
