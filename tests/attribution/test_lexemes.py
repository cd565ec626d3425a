"""Words, numbers and symbols of a text, without its white space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc2onnx.attribution import lexemes
from sc2onnx.attribution.corpus import grams
from sc2onnx.attribution.lexemes import RULE, Lexemes


def shown(data: bytes) -> list[bytes]:
    found = Lexemes.of(data)
    return [data[begin:end] for begin, end in zip(found.begins, found.ends, strict=True)]


def naive(data: bytes) -> list[bytes]:
    """The same, a byte at a time."""
    found, at = list[bytes](), 0
    while at < len(data):
        end = at + 1
        if data[at] <= 32 or data[at] == 127:
            at = end
            continue
        if word(data[at]):
            while end < len(data) and word(data[end]):
                end += 1
        else:
            while end < len(data) and data[end] == data[at]:
                end += 1
            if end - at < RULE:
                end = at + 1
        found.append(data[at:end])
        at = end
    return found


def word(byte: int) -> bool:
    return byte >= 128 or chr(byte).isalnum() or byte == ord("_")


@given(st.lists(st.sampled_from(list("ab1_ \n\t=-é(")), max_size=60).map("".join))
def test_they_are_those_that_a_loop_over_the_bytes_finds(text: str) -> None:
    assert shown(text.encode()) == naive(text.encode())


@given(st.binary(max_size=200))
def test_any_bytes_have_some(data: bytes) -> None:
    assert shown(data) == naive(data)


@given(st.text("ab=+-_1", max_size=40), st.text("ab=+-_1", max_size=40))
def test_codes_are_equal_where_the_lexemes_are(one: str, other: str) -> None:
    codes = [Lexemes.of(text.encode()).codes.tolist() for text in (one, other)]
    texts = [[ruled(each) for each in shown(text.encode())] for text in (one, other)]
    assert (codes[0] == codes[1]) is (texts[0] == texts[1])
    assert 0 not in codes[0]


def ruled(lexeme: bytes) -> bytes:
    """A rule is the same at any length."""
    return lexeme if word(lexeme[0]) else lexeme[:RULE]


def test_a_copy_that_is_indented_and_broken_elsewhere_has_the_same_codes() -> None:
    one = b"def f(a, b):\n    return [\n        a,\n        b,\n    ]\n"
    other = b"  def f(a,b) :\n\treturn [ a , b,]"
    assert Lexemes.of(one).codes.tolist() == Lexemes.of(other).codes.tolist()
    assert Lexemes.of(b"F(a)").codes.tolist() != Lexemes.of(b"f(a)").codes.tolist()


@pytest.mark.parametrize("size", [7, 16, 64])
def test_blocks_change_nothing_where_lines_are_shorter(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"ab = 1\n----\n  f(x)\n\n" * 9
    whole = Lexemes.of(data)
    monkeypatch.setattr(lexemes, "_BLOCK", size)
    parts = Lexemes.of(data)
    for name in ("codes", "begins", "ends"):
        assert getattr(whole, name).tolist() == getattr(parts, name).tolist()


def test_codes_stay_what_they_are_from_version_to_version() -> None:
    """Files hold them."""
    codes = Lexemes.of(b"def f(x): # ----\n").codes
    assert codes.tolist() == CODES
    assert grams(np.tile(codes, 2), np.array([0])).tolist() == [GRAM_KEY]


CODES = [
    980174139,
    1662404356,
    4062040408,
    1209896723,
    3694074624,
    1900478814,
    1570743758,
    1652700154,
]
GRAM_KEY = 3373647466
