"""Where weights lie in a graph, read and changed without the onnx package, and compared with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sc2onnx.runtime.opening.protobuf import Place, with_places


def places(model: bytes) -> dict[str, Place]:
    """Where the graph's external initializers lie, by name."""
    found: dict[str, Place] = {}

    def keep(name: str, place: Place) -> Place:
        found[name] = place
        return place

    with_places(model, keep)
    return found


@pytest.fixture
def graph(bundle: Path) -> bytes:
    return (bundle / "model.onnx").read_bytes()


def test_nothing_changes_but_the_places(graph: bytes) -> None:
    onnx = pytest.importorskip("onnx")
    long = "x/" * 200  # its length takes two bytes
    moved = onnx.load_from_string(
        with_places(graph, lambda name, place: {**place, "location": long + name, "extra": "é"})
    )
    expected = onnx.load_from_string(graph)
    assert len(places(graph)) > 10
    for tensor in expected.graph.initializer:
        if tensor.external_data:
            found = {entry.key: entry.value for entry in tensor.external_data}
            assert places(graph)[tensor.name] == found
            del tensor.external_data[:]
            for key, value in {**found, "location": long + tensor.name, "extra": "é"}.items():
                tensor.external_data.add(key=key, value=value)
    assert moved == expected


def test_places_that_stay_give_the_same_model(graph: bytes) -> None:
    again = with_places(graph, lambda _, place: place)
    assert places(again) == places(graph)
    assert with_places(again, lambda _, place: place) == again
    assert len(again) == len(graph)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0b", "a field of kind 3"),
        (b"\x3a\x05\x2a", "ends at 7, its message at 3: the model is truncated"),
        (b"\x3a\x80", "runs past the end"),
        (b"\x09\x00", "truncated"),
    ],
)
def test_what_is_not_a_model(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        places(data)


def test_every_truncation_is_an_error_or_a_model_with_less(graph: bytes) -> None:
    for end in range(0, len(graph) - 1, 97):
        try:
            assert len(places(graph[:end])) <= len(places(graph))
        except ValueError:
            continue


def test_kinds_that_graphs_hardly_have_are_copied() -> None:
    # a number, eight bytes, four bytes, a text
    model = b"\x08\xac\x02\x11" + bytes(8) + b"\x1d" + bytes(4) + b"\x12\x01a"
    assert with_places(model, lambda _, place: place) == model
