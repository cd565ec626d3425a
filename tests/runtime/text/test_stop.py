from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sc2onnx.runtime.text.stop import StopScanner


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(alphabet="abc", max_size=30),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_stop_strings_are_found_wherever_the_pieces_end(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    scanner, out, edges = (
        StopScanner(tuple(stops)),
        "",
        sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)}),
    )
    for start, end in pairwise(edges):
        out += scanner.push(text[start:end])
        if scanner.found:
            break
        assert not any(stop in out for stop in stops)
    out += scanner.flush()
    found = [text.find(stop) for stop in stops if stop in text]
    assert scanner.found == bool(found)
    # A stop that ends earlier may be found before a longer one that begins
    # earlier has arrived whole.
    if found:
        assert text.startswith(out)
        assert any(text.startswith(stop, len(out)) for stop in stops)
    else:
        assert out == text


def test_nothing_is_held_back_longer_than_needed() -> None:
    scanner = StopScanner(("\n\n", "def"))
    assert [scanner.push(piece) for piece in ("a\n", "b", "de", "x", "d")] == [
        "a",
        "\nb",
        "",
        "dex",
        "",
    ]
    assert scanner.flush() == "d"
