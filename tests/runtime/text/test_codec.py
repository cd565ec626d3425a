from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

import sc2onnx
from sc2onnx.errors import RequestError, TokenizerError
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.detokenize import Detokenizer


@pytest.fixture(scope="module")
def codec(model: sc2onnx.Model) -> Codec:
    return model.codec


@pytest.fixture(scope="module")
def tokenizer(bundle: Path) -> Tokenizer:
    return Tokenizer.from_file(str(bundle / "tokenizer.json"))


def streamed(codec: Codec, tokens: list[int]) -> list[str]:
    detokenizer = Detokenizer(codec)
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


@settings(deadline=None)
@given(text=st.text())
def test_text_survives_the_round_trip_piece_by_piece(codec: Codec, text: str) -> None:
    pieces = streamed(codec, codec.encode(text, special=False))
    assert "".join(pieces) == text


@settings(deadline=None)
@given(tokens=st.lists(st.integers(0, 4095), max_size=40))
def test_any_tokens_give_what_the_tokenizer_decodes(
    codec: Codec, tokenizer: Tokenizer, tokens: list[int]
) -> None:
    assert "".join(streamed(codec, tokens)) == tokenizer.decode(tokens, skip_special_tokens=True)


def test_no_half_character_is_given(codec: Codec) -> None:
    text = "naïve 日本語 🙂 é"
    tokens = codec.encode(text, special=False)
    assert len(tokens) > len(text.split())
    pieces = streamed(codec, tokens)
    assert "\ufffd" not in "".join(pieces)
    assert "" in pieces[:-1]  # some tokens end inside a character and have to wait


def test_a_character_cut_short_becomes_a_replacement_at_the_end(codec: Codec) -> None:
    tokens = codec.encode("🙂", special=False)
    assert len(tokens) > 1
    assert "".join(streamed(codec, tokens[:-1])) == "\ufffd"


def test_special_tokens_spelt_out_are_special_or_text(codec: Codec) -> None:
    assert codec.encode("<fim_prefix>") == [codec.special_id("<fim_prefix>")]
    plain = codec.encode("<fim_prefix>", special=False)
    assert codec.special_id("<fim_prefix>") not in plain
    assert "".join(streamed(codec, plain)) == "<fim_prefix>"


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="has the decoder WordPiece, expected ByteLevel"):
        Codec(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        Codec(tmp_path / "tokenizer.json")


def test_lone_surrogates_are_an_error_that_says_so(codec: Codec) -> None:
    with pytest.raises(
        RequestError, match="a str with lone surrogates, expected a str of Unicode characters"
    ):
        codec.encode("\ud800")
    with pytest.raises(RequestError, match="the text is a int"):
        codec.encode(3)  # type: ignore[arg-type]
