"""Files that end the process, panic or fill the memory of the tokenizers
library are errors of ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sc2onnx
from sc2onnx.errors import RequestError, TokenizerError
from sc2onnx.runtime.text.codec import Codec
from sc2onnx.runtime.text.tokenizer_file import guarded

TEXT = "def add(a, b):\n    return aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab + é\n"


@pytest.fixture(scope="module")
def tokenizer(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "tokenizer.json").read_text(encoding="utf-8")))


def special(**changes: Any) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": 4095, "content": "<x>", "special": True, **flags, **changes}


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "another model": (
        {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
        "its model is 'WordLevel', expected 'BPE'",
    ),
    "no model": ({"model": None}, "its model is None, expected 'BPE'"),
    "a decoder in a sequence": (
        {"decoder": {"type": "Sequence", "decoders": []}},
        "has the decoder Sequence, expected ByteLevel",
    ),
    "characters of its choice": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAP////8="}},
        "has the normalizer Precompiled",
    ),
    "text that grows": (
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Prepend", "prepend": "x" * 9999}],
            }
        },
        "has the normalizer Prepend",
    ),
    "a sequence in a sequence": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}]}],
            }
        },
        "has the pre-tokenizer Metaspace",
    ),
    "a pattern of a megabyte": (
        {"pre_tokenizer": split("a" * 1_000_000)},
        "has a pattern of more than 1,000 characters",
    ),
    "a special token of 2^32": (
        {"added_tokens": [special(id=2**32)]},
        "the token '<x>' has the id 4294967296, expected 0 to 2097151",
    ),
    "a special token of a megabyte": (
        {"added_tokens": [special(content="x" * 1_000_000)]},
        "has 1,000,000 characters, expected 1 to 1,000",
    ),
    "a special token of nothing": ({"added_tokens": [special(content="")]}, "has 0 characters"),
    "special tokens that are none": (
        {"added_tokens": [5]},
        "its added_tokens are not a list of tokens",
    ),
    "a part of a type that is none": (
        {"normalizer": {"type": ["NFC"]}},
        "has the normalizer .'NFC'., expected NFC",
    ),
    "a part that is none": ({"post_processor": ["ByteLevel"]}, "has the post-processor"),
}

MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "an id of 2^32": (
        {"vocab": {"a": 2**32 - 1}},
        "the token 'a' has the id 4294967295, expected 0 to 2097151",
    ),
    "a negative id": ({"vocab": {"a": -1}}, "the token 'a' has the id -1"),
    "an id that is no number": ({"vocab": {"a": "0"}}, "the token 'a' has the id '0'"),
    "one id twice": (
        {"vocab": {"a": 0, "b": 0}, "merges": []},
        "two tokens of its vocabulary have the same id",
    ),
    "no vocabulary": ({"vocab": {}}, "it has no vocabulary"),
    "chance": (
        {"dropout": 0.5},
        "its dropout is 0.5, expected none: the same text would be other tokens each time",
    ),
    "a prefix": ({"continuing_subword_prefix": "é"}, "its pieces have a prefix"),
    "merges of nothing": (
        {"merges": [["qqqqq", "zzzzz"]]},
        "is not a tokenizer that tokenizers can read",
    ),
}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
A = {"Sequence": {"id": "A", "type_id": 0}}
END = {"SpecialToken": {"id": "x", "type_id": 0}}


def template(single: Any, ids: Any = (0,)) -> dict[str, Any]:
    special = {
        "x": {"id": "x", "ids": list(ids) if isinstance(ids, tuple) else ids, "tokens": ["x"]}
    }
    return {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [A],
            "special_tokens": special,
        }
    }


REPEATED: dict[str, tuple[dict[str, Any], str]] = {
    "bytes of bytes": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 12}},
        "its pre-tokenizer has 13 parts.*ByteLevel.* once",
    ),
    "deeper": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [BYTES, {"type": "Sequence", "pretokenizers": [BYTES]}],
            }
        },
        "has 4 parts",
    ),
    "digits": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}] * 16,
            }
        },
        "has 17 parts",
    ),
    "forms": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 99}},
        "its normalizer has 100 parts, expected at most 16",
    ),
    "the text twice": (
        template([A, A]),
        "its post-processor has the text 2 times among 2 pieces, expected once",
    ),
    "a long template": (
        template([END] * 65),
        "has the text 0 times among 65 pieces, expected once and at most 64",
    ),
    "no template": (template("A"), "is not a tokenizer that tokenizers can read"),
    "many ids": (template([A, END], (0,) * 65), "among 65 pieces, expected once and at most 64"),
    "no ids": (template([A, END], None), "is not a tokenizer that tokenizers can read"),
    "two templates": (
        {
            "post_processor": {
                "type": "Sequence",
                "processors": [template([A])["post_processor"]] * 2,
            }
        },
        "its post-processor has 3 parts.* TemplateProcessing once",
    ),
    "a type that is no text": ({"pre_tokenizer": {"type": []}}, "it has the pre-tokenizer"),
}
"""What makes much of a short text: twelve ByteLevels one after the other
thousands of characters of each.
"""


@pytest.mark.parametrize("what", REPEATED)
def test_what_multiplies_texts(tokenizer: dict[str, Any], what: str, tmp_path: Path) -> None:
    change, said = REPEATED[what]
    (tmp_path / "tokenizer.json").write_text(json.dumps({**tokenizer, **change}), encoding="utf-8")
    with pytest.raises(TokenizerError, match=said) as raised:
        Codec(tmp_path / "tokenizer.json")
    assert len(str(raised.value)) < 400 + len(str(tmp_path))


def test_a_template_around_a_text(
    tokenizer: dict[str, Any], tmp_path: Path, model: sc2onnx.Model
) -> None:
    processor = {
        "type": "Sequence",
        "processors": [BYTES, template([END, A, END])["post_processor"]],
    }
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({**tokenizer, "post_processor": processor}), encoding="utf-8"
    )
    assert Codec(tmp_path / "tokenizer.json").encode(TEXT) == [0, *model.codec.encode(TEXT), 0]


@pytest.mark.parametrize("what", [*HOSTILE, *MODELS])
def test_what_the_library_should_not_see(
    tokenizer: dict[str, Any], what: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    change, said = (
        HOSTILE[what]
        if what in HOSTILE
        else ({"model": {**tokenizer["model"], **MODELS[what][0]}}, MODELS[what][1])
    )
    path.write_text(json.dumps({**tokenizer, **change}), encoding="utf-8")
    with pytest.raises(TokenizerError, match=said) as raised:
        Codec(path)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[" * 200_000, "nested deeper"),
        (b'{"model": ' * 200_000, "nested deeper"),
        (b'{"version": ' + b"1" * 100_000 + b"}", "an integer of 100000 digits"),
        (b'{"model": {}, "model": {}}', "the key 'model' twice"),
        (b"\xff\xfe", "can't decode"),
        (b"", "is not a tokenizer"),
        (b"{}", "its model is None"),
        (b" " * (33 << 20), "more than 33,554,432 bytes"),
    ],
)
def test_files_that_are_no_tokenizer(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(TokenizerError, match=said):
        Codec(tmp_path / "tokenizer.json")


PADDING = {
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "x",
}


@pytest.mark.parametrize(
    "change",
    [
        {"padding": {"strategy": {"Fixed": 10**15}, **PADDING}},
        {"padding": {"strategy": "BatchLongest", **PADDING, "pad_to_multiple_of": 10**15}},
        {
            "truncation": {
                "direction": "Right",
                "max_length": 5,
                "strategy": "LongestFirst",
                "stride": 10,
            }
        },
    ],
)
def test_a_tokenizer_neither_truncates_nor_pads_whatever_its_file_says(
    tokenizer: dict[str, Any], change: dict[str, Any], tmp_path: Path, model: sc2onnx.Model
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({**tokenizer, **change}), encoding="utf-8")
    assert Codec(tmp_path / "tokenizer.json").encode(TEXT) == model.codec.encode(TEXT)


def test_panics_are_errors_of_ours(tokenizer: dict[str, Any], tmp_path: Path) -> None:
    """The library's exception for them is no ``Exception``."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**tokenizer, "pre_tokenizer": split("(a+)+$")}), encoding="utf-8")
    with pytest.raises(
        TokenizerError,
        match=(
            r"the tokenizer could not encode the text \(.*retry-limit.*\): export the bundle again"
        ),
    ):
        Codec(path).encode("a" * 40 + "b")


def test_what_is_no_failure_of_the_library_passes() -> None:
    for error in (KeyboardInterrupt, SystemExit, TypeError):
        with pytest.raises(error), guarded("x"):
            raise error
    with pytest.raises(TokenizerError, match=r"^x \(a b\): export"), guarded("x"):
        raise ValueError("a\nb")


def test_an_argument_that_is_no_text_is_still_the_callers(model: sc2onnx.Model) -> None:
    with pytest.raises(RequestError, match="the text is a int, expected a str"):
        model.codec.encode(5)  # type: ignore[arg-type]
