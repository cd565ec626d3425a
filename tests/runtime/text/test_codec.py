from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

import sc2onnx
from sc2onnx.errors import EmptyPromptError, RequestError, TokenizerError
from sc2onnx.runtime.text.codec import Codec, Detokenizer, StopScanner, around_cursor, fim_prompt


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
def test_any_tokens_give_what_the_tokenizer_decodes(codec: Codec, tokenizer: Tokenizer, tokens: list[int]) -> None:
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


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(alphabet="abc", max_size=30),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_stop_strings_are_found_wherever_the_pieces_end(text: str, stops: list[str], cuts: list[int]) -> None:
    scanner, out, edges = StopScanner(tuple(stops)), "", sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    for start, end in pairwise(edges):
        out += scanner.push(text[start:end])
        if scanner.found:
            break
        assert not any(stop in out for stop in stops)
    out += scanner.flush()
    found = [text.find(stop) for stop in stops if stop in text]
    assert scanner.found == bool(found)
    # A stop that ends earlier may be found before a longer one that begins earlier has arrived whole.
    if found:
        assert text.startswith(out)
        assert any(text.startswith(stop, len(out)) for stop in stops)
    else:
        assert out == text


def test_nothing_is_held_back_longer_than_needed() -> None:
    scanner = StopScanner(("\n\n", "def"))
    assert [scanner.push(piece) for piece in ("a\n", "b", "de", "x", "d")] == ["a", "\nb", "", "dex", ""]
    assert scanner.flush() == "d"


def test_fim_prompts_follow_the_training_format(codec: Codec) -> None:
    sep, prefix, suffix, middle, repo = (
        codec.special_id(f"<{name}>") for name in ("file_sep", "fim_prefix", "fim_suffix", "fim_middle", "repo_name")
    )

    def ids(text: str) -> list[int]:
        return codec.encode(text, special=False)

    assert fim_prompt(codec, "a = ", "\nb") == [sep, prefix, *ids("a = "), suffix, *ids("\nb"), middle]
    assert fim_prompt(codec, "a", "b", path="x.py") == [sep, prefix, *ids("x.py\na"), suffix, *ids("b"), middle]
    assert fim_prompt(codec, "a", "b", "x.py", "me/repo", {"y.py": "c = 1\n"}) == [
        *(repo, *ids("me/repo"), sep, *ids("y.py\nc = 1\n")),
        *(sep, prefix, *ids("x.py\na"), suffix, *ids("b"), middle),
    ]


def test_fim_prompts_with_the_suffix_first(codec: Codec) -> None:
    def ids(text: str) -> list[int]:
        return codec.encode(text, special=True)

    assert fim_prompt(codec, "a = ", "\nb", order="spm") == [
        *ids("<file_sep><fim_prefix><fim_suffix>"),
        *ids("\nb"),
        *ids("<fim_middle>"),
        *ids("a = "),
    ]
    assert fim_prompt(codec, "a", "b", "x.py", "me/repo", {"y.py": "c\n"}, order="spm") == [
        *(*ids("<repo_name>"), *ids("me/repo"), *ids("<file_sep>"), *ids("y.py\nc\n")),
        *(*ids("<file_sep><fim_prefix><fim_suffix>"), *ids("b"), *ids("<fim_middle>"), *ids("x.py\na")),
    ]
    with pytest.raises(RequestError, match="order is 'mps', expected 'psm' or 'spm'"):
        fim_prompt(codec, "a", "b", order="mps")  # type: ignore[arg-type]


def test_special_tokens_in_code_to_be_infilled_stay_text(codec: Codec) -> None:
    ids = fim_prompt(codec, 'END = "<|endoftext|>"', "<fim_middle>")
    assert ids.count(codec.special_id("<fim_middle>")) == 1
    assert codec.special_id("<|endoftext|>") not in ids


def test_an_empty_cursor_position_is_refused_but_context_is_enough(codec: Codec) -> None:
    with pytest.raises(EmptyPromptError, match="prefix and suffix are both empty"):
        fim_prompt(codec, "", "")
    assert fim_prompt(codec, "", "", files={"a.py": "x"})


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
    with pytest.raises(RequestError, match="a str with lone surrogates, expected a str of Unicode characters"):
        codec.encode("\ud800")
    with pytest.raises(RequestError, match="the text is a int"):
        codec.encode(3)  # type: ignore[arg-type]


@settings(deadline=None)
@given(prefix=st.text(alphabet="ab 日\n"), suffix=st.text(alphabet="ab 日\n"), budget=st.integers(1, 60))
def test_what_is_kept_around_a_cursor_is_nearest_to_it_and_fits(codec: Codec, prefix: str, suffix: str, budget: int) -> None:
    before, after = around_cursor(codec, prefix, suffix, budget)
    assert prefix.endswith(before)
    assert suffix.startswith(after)
    if len(codec.encode(prefix, special=False)) + len(codec.encode(suffix, special=False)) <= budget:
        assert (before, after) == (prefix, suffix)
    # Cutting inside a word may tokenize what is left into a few tokens more.
    assert len(codec.encode(before, special=False)) + len(codec.encode(after, special=False)) <= budget + 4


def test_a_cut_around_a_cursor_falls_on_lines_and_shares_the_budget(codec: Codec) -> None:
    lines = "".join(f"x{i} = {i}\n" for i in range(100))
    before, after = around_cursor(codec, lines, lines, 200)
    assert before.startswith("x")
    assert after.endswith("\n")
    assert 2 < len(before) / len(after) < 4
    assert around_cursor(codec, "a\n", lines, 100)[0] == "a\n"
    assert len(around_cursor(codec, "a\n", lines, 100)[1]) > len(after)
