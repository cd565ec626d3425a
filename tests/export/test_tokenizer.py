"""The tokenizer at export: opened, compared with the model, built where it is not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from sc2onnx.bundle.targets import TARGETS
from sc2onnx.errors import CheckpointError, CorruptCheckpointError, TokenizerError
from sc2onnx.export import export
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.end_of_text import united
from sc2onnx.export.quantize import corpus
from sc2onnx.export.small_files import SmallFiles
from sc2onnx.export.text_files import TextFiles, text_files
from sc2onnx.export.tokenizer import open_tokenizer, tokenizers_errors
from sc2onnx.export.tokenizer_build import build_tokenizer
from sc2onnx.runtime.text import tokenizer_file as runtime

CODE = (
    "x =  12\n\n\tfor i in range(10):  # 3.14e-5, v2 2024-01-31\n"
    "    s = 'é 漢字 🙂 \u0661\u00b2'\n<fim_prefix>a<fim_suffix>b<fim_middle><|endoftext|>"
)
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def mini(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the mini checkpoint, to be changed; the weights are a link."""
    made = tmp_path / "mini"
    shutil.copytree(checkpoint, made, ignore=shutil.ignore_patterns("train.py"))
    return made


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text()) if path.exists() else {}
    change(raw)
    path.write_text(json.dumps(raw))


def read(directory: Path, target: str = "cpu") -> TextFiles:
    opened = Checkpoint.open(directory)
    config = Starcoder2Config.from_dict(opened.config)
    small = SmallFiles.read(directory)
    return text_files(small, directory.name, config, opened.generation_config, TARGETS[target])


def add_token(directory: Path, text: str, number: int) -> None:
    token = {"id": number, "content": text, "special": True}
    token |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    edit(directory / "tokenizer.json", lambda raw: raw["added_tokens"].append(token))


def split_in_two(directory: Path) -> dict[str, Any]:
    """Turn tokenizer.json into vocab.json and merges.txt; return its model."""
    model: dict[str, Any] = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = "".join(f"{first} {second}\n" for first, second in model["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{lines}")
    (directory / "tokenizer.json").unlink()
    return model


def test_the_mini_checkpoint_is_taken_as_it_is(checkpoint: Path) -> None:
    for target in ("cpu", "portable", "cuda", "genai", "optimum"):
        taken = read(checkpoint, target)
        assert taken.doubts == ()
        assert taken.eos_token_ids == (0,)
        assert taken.files == {
            name: (checkpoint / name).read_bytes()
            for name in (
                "tokenizer.json",
                "config.json",
                "generation_config.json",
                "tokenizer_config.json",
            )
        }


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 266519\n"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
UNIGRAM = {
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]},
    "decoder": {
        "type": "Metaspace",
        "replacement": "\u2581",
        "prepend_scheme": "always",
        "split": True,
    },
}
WORD_PIECE = {
    "type": "WordPiece",
    "unk_token": "a",
    "vocab": {"a": 0},
    "continuing_subword_prefix": "#",
    "max_input_chars_per_word": 9,
}
EMPTY = {"type": "BPE", "vocab": {}, "merges": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "a pointer of Git LFS.*git lfs pull"),
        ("", "tokenizer.json cannot be read as JSON"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0', "tokenizer.json cannot be read as JSON"),
        ("[1]", "holds a list, expected an object"),
        ("{}", "holds no tokenizer"),
        ('{"model": 1}', "holds no tokenizer"),
        ('{"model": {"type": "Word2Vec"}}', "not a tokenizer that tokenizers"),
        ('{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "not a tokenizer that"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": 1' + "0" * 20 + '}, "merges": []}}',
            "not a tok",
        ),
        ('{"model": {"type": "BPE", "vocab": {"a": 1' + "0" * 50 + '}, "merges": []}}', "digits"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}', "key 'a' twice"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}}',
            "not a tokenizer that",
        ),
        ('{"model": ' + "[" * 100_000, "nested deeper than"),
        (
            '{"model": {"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]}}',
            "not a tokenizer that",
        ),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(mini: Path, content: str, message: str) -> None:
    (mini / "tokenizer.json").write_text(content)
    with pytest.raises(CorruptCheckpointError, match=message):
        read(mini)


def test_a_tokenizer_that_is_cut_anywhere_is_refused(checkpoint: Path) -> None:
    data = (checkpoint / "tokenizer.json").read_bytes()
    for end in range(0, len(data) - 1, len(data) // 20):
        with pytest.raises(CorruptCheckpointError):
            open_tokenizer(data[:end])


def test_a_panic_of_the_library_is_an_error_of_ours() -> None:
    class PanicException(BaseException):
        pass

    with (
        pytest.raises(CorruptCheckpointError, match=r"not a tokenizer.*index out of bounds"),
        tokenizers_errors("x"),
    ):
        raise PanicException("index out\nof bounds")
    with pytest.raises(KeyboardInterrupt), tokenizers_errors("x"):
        raise KeyboardInterrupt


PIECES = [{"SpecialToken": {"id": "<s>", "type_id": 0}}]
PANICS = {
    "post_processor": {
        "type": "TemplateProcessing",
        "single": PIECES,
        "pair": PIECES,
        "special_tokens": {},
    },
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
}


@pytest.mark.parametrize("part", PANICS)
def test_a_tokenizer_that_panics_is_refused(mini: Path, part: str) -> None:
    edit(mini / "tokenizer.json", lambda raw: raw.update({part: PANICS[part]}))
    with pytest.raises(CorruptCheckpointError, match=r"tokenizer\.json is not a tokenizer that"):
        read(mini)


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_replacements_that_would_fill_the_memory_are_refused(mini: Path, part: str) -> None:
    step = {"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 1000}
    kind = {"normalizer": "normalizers", "decoder": "decoders"}[part]
    chain = {"type": "Sequence", kind: [step] * 3000}
    edit(mini / "tokenizer.json", lambda raw: raw.update({part: chain}))
    with pytest.raises(CorruptCheckpointError, match="more than 1000 characters of one"):
        read(mini)


def test_replacements_of_tokenizers_in_use_are_taken(mini: Path) -> None:
    steps = [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    ]
    chain = {"type": "Sequence", "normalizers": steps}
    edit(mini / "tokenizer.json", lambda raw: raw.update(normalizer=chain))
    (doubt,) = read(mini).doubts
    assert "none that sc2onnx can run (it has the normalizer Prepend" in doubt


REFUSED: dict[str, Callable[[dict[str, Any]], None]] = {
    "dropout": lambda raw: raw["model"].update(dropout=0.1),
    "prefix or a suffix": lambda raw: raw["model"].update(end_of_word_suffix="</w>"),
    "normalizer Lowercase": lambda raw: raw.update(normalizer={"type": "Lowercase"}),
    "pre-tokenizer WhitespaceSplit": lambda raw: raw.update(
        pre_tokenizer={"type": "WhitespaceSplit"}
    ),
    "the special token ''": lambda raw: raw["added_tokens"].append(
        {**raw["added_tokens"][0], "content": "", "id": 9}
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_the_runtime_refuses_is_told_of_at_export(mini: Path, why: str) -> None:
    edit(mini / "tokenizer.json", REFUSED[why])
    (doubt,) = read(mini).doubts
    assert why in doubt
    assert "will take and give token ids, not text" in doubt
    with pytest.raises(TokenizerError, match=why):
        runtime.open_tokenizer(mini / "tokenizer.json")


@pytest.mark.parametrize("nested", [False, True])
def test_a_frame_that_repeats_the_text_is_refused(mini: Path, nested: bool) -> None:
    text = {"Sequence": {"id": "A", "type_id": 0}}
    frame: dict[str, Any] = {
        "type": "TemplateProcessing",
        "single": [text] * 200_000,
        "pair": [],
        "special_tokens": {},
    }
    if nested:
        frame = {"type": "Sequence", "processors": [frame]}
    edit(mini / "tokenizer.json", lambda raw: raw.update(post_processor=frame))
    with pytest.raises(CorruptCheckpointError, match="the text 200,000 times"):
        read(mini)
    with pytest.raises(TokenizerError, match="the text 200,000 times"):
        runtime.open_tokenizer(mini / "tokenizer.json")


def test_padding_without_end_is_not_made(mini: Path) -> None:
    def pad(raw: dict[str, Any]) -> None:
        raw["padding"] = {
            "strategy": {"Fixed": 10**15},
            "direction": "Right",
            "pad_to_multiple_of": None,
        }
        raw["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "a"}

    edit(mini / "tokenizer.json", pad)
    assert read(mini).doubts == ()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (UNIGRAM, r"another kind \(Unigram, decoder Metaspace\)"),
        ({"model": WORD_PIECE}, "another kind .WordPiece"),
        ({"model": EMPTY}, r"another kind \(BPE, decoder NoneType\)"),
        ({"model": EMPTY, "decoder": BYTES}, "no tokens for text"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*eos_token is:UserWarning")
def test_a_tokenizer_of_another_kind_is_said(mini: Path, content: object, found: str) -> None:
    (mini / "tokenizer.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=f"tokenizer.json .*{found}.*expected byte-level BPE"):
        export(mini, mini.parent / "bundle")


def test_tokens_beyond_the_embedding_are_said_with_their_ids(mini: Path) -> None:
    add_token(mini, "<|im_start|>", 4096)
    add_token(mini, "<|im_end|>", 4097)
    (doubt,) = read(mini).doubts
    assert "ids up to 4097, the embedding 4096 rows" in doubt
    assert "'<|im_start|>' (4096), '<|im_end|>' (4097) cannot be used" in doubt
    assert "resize_token_embeddings" in doubt


def test_many_tokens_beyond_the_embedding_are_counted(mini: Path) -> None:
    for number in range(4096, 4106):
        add_token(mini, f"<{number}>", number)
    (doubt,) = read(mini).doubts
    assert "'<4100>' (4100) and 5 more cannot" in doubt


def test_ids_of_a_post_processor_count(mini: Path) -> None:
    def begin(raw: dict[str, Any]) -> None:
        pieces = [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ]
        known = {"<s>": {"id": "<s>", "ids": [5000], "tokens": ["<s>"]}}
        raw["post_processor"] = {
            "type": "TemplateProcessing",
            "single": pieces,
            "pair": pieces,
            "special_tokens": known,
        }

    edit(mini / "tokenizer.json", begin)
    (doubt,) = read(mini).doubts
    assert "ids up to 5000" in doubt


def test_a_vocabulary_smaller_than_the_embedding_is_no_news(
    make_checkpoint: Callable[..., Path],
) -> None:
    assert read(make_checkpoint()).doubts == ()


@pytest.mark.parametrize("where", ["tokenizer_config.json", "added_tokens.json"])
def test_tokens_that_other_files_add_are_said(mini: Path, where: str) -> None:
    if where == "added_tokens.json":
        (mini / where).write_text('{"<|im_end|>": 4000}')
    else:
        tokens = {"0": {"content": "<|endoftext|>"}, "4000": {"content": "<|im_end|>"}}
        edit(mini / where, lambda raw: raw.update(added_tokens_decoder=tokens))
    (doubt,) = read(mini).doubts
    assert f"{where} adds '<|im_end|>' (4000), which tokenizer.json does not have" in doubt


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    "written", ["<fim_middle>", {"__type": "AddedToken", "content": "<fim_middle>"}]
)
def test_the_end_of_the_tokenizer_ends_a_text(mini: Path, name: str, written: Any) -> None:
    edit(mini / name, lambda raw: raw.update(eos_token=written))
    taken = read(mini)
    assert taken.eos_token_ids == (0, 2)
    (doubt,) = taken.doubts
    assert f"2 in {name}" in doubt
    assert "stops at each of 0, 2" in doubt


def test_what_agrees_is_not_said(mini: Path) -> None:
    edit(mini / "generation_config.json", lambda raw: raw.update(eos_token_id=[2, 0]))
    edit(mini / "tokenizer_config.json", lambda raw: raw.update(eos_token="<fim_middle>"))
    taken = read(mini)
    assert (taken.eos_token_ids, taken.doubts) == ((2, 0), ())


def test_an_end_that_the_tokenizer_lacks_is_said(mini: Path) -> None:
    edit(mini / "tokenizer_config.json", lambda raw: raw.update(eos_token="</s>"))
    taken = read(mini)
    assert taken.eos_token_ids == (0,)
    assert (
        "tokenizer_config.json: eos_token is '</s>', which tokenizer.json does not have"
        in taken.doubts[0]
    )


@pytest.mark.parametrize("value", [None, 5, [], {}, {"content": None}, ""])
def test_an_end_that_is_no_text_is_none(mini: Path, value: Any) -> None:
    edit(mini / "tokenizer_config.json", lambda raw: raw.update(eos_token=value))
    taken = read(mini)
    assert (taken.eos_token_ids, taken.doubts) == ((0,), ())


def test_ends_outside_the_vocabulary_are_left_out() -> None:
    union, doubts = united({"a": (0, 99), "b": (0,), "c": ()}, 9)
    assert union == (0,)
    (doubt,) = doubts
    assert "a: the end-of-text [99]" in doubt
    assert "outside the vocabulary of 9 tokens" in doubt
    assert united({}, 9) == ((), ())
    assert united({"a": (), "b": (3,)}, 9) == ((3,), ())


def test_every_target_gets_the_union(mini: Path, tmp_path: Path) -> None:
    edit(mini / "tokenizer_config.json", lambda raw: raw.update(eos_token="<fim_middle>"))
    with pytest.warns(UserWarning, match="stops at each of 0, 2"):
        manifest = export(mini, tmp_path / "bundle", target="genai")
    assert manifest.model.eos_token_ids == (0, 2)
    model = json.loads((tmp_path / "bundle" / "genai_config.json").read_text())["model"]
    assert (model["eos_token_id"], model["bos_token_id"]) == ([0, 2], 0)


@pytest.mark.parametrize("bos", [-1, "0", 4096, None, [], True])
def test_a_beginning_that_is_no_token_does_not_stop_an_export(
    mini: Path, tmp_path: Path, bos: Any
) -> None:
    edit(mini / "config.json", lambda raw: raw.update(bos_token_id=bos))
    export(mini, tmp_path / "bundle", target="genai")
    assert (
        json.loads((tmp_path / "bundle" / "genai_config.json").read_text())["model"]["bos_token_id"]
        == 0
    )


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", [POINTER, "[]", "{", '{"a": NaN}', '{"a": 1, "a": 2}'])
def test_settings_that_are_none_are_refused(mini: Path, name: str, content: str) -> None:
    (mini / name).write_text(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read(mini)


def test_vocabulary_and_merges_make_the_same_tokenizer(mini: Path, checkpoint: Path) -> None:
    split_in_two(mini)
    taken = read(mini)
    assert taken.doubts == ()
    assert "vocab.json" not in taken.files
    own = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    built = Tokenizer.from_buffer(taken.files["tokenizer.json"])
    assert built.get_vocab(with_added_tokens=True) == own.get_vocab(with_added_tokens=True)
    texts = [CODE, *(path.read_text() for path in Path(__file__).parent.glob("*.py"))]
    for text in texts:
        assert built.encode(text).ids == own.encode(text).ids
        assert built.decode(built.encode(text).ids) == own.decode(own.encode(text).ids)
    assert {token.content for token in built.get_added_tokens_decoder().values()} == {
        token.content for token in own.get_added_tokens_decoder().values()
    }


def test_added_tokens_keep_their_ids(mini: Path) -> None:
    split_in_two(mini)
    (mini / "added_tokens.json").write_text('{"<|im_end|>": 4097, "<|im_start|>": 4096}')
    (mini / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')
    edit(mini / "config.json", lambda raw: raw.update(vocab_size=4098))
    built = Tokenizer.from_buffer(build_tokenizer(SmallFiles.read(mini)))
    assert built.encode("<|im_start|>a<|im_end|>").ids[::2] == [4096, 4097]
    assert built.decode([4096, 4097]) == "<|im_start|>"  # only the other is special


def test_numbers_stay_whole_where_merges_join_digits(mini: Path) -> None:
    model = split_in_two(mini)
    (mini / "vocab.json").write_text(json.dumps({**model["vocab"], "12": 4096}))
    with (mini / "merges.txt").open("a") as file:
        file.write("1 2\n")
    ids = Tokenizer.from_buffer(build_tokenizer(SmallFiles.read(mini))).encode("12").ids
    assert ids == [4096]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: os.truncate(path / "merges.txt", 5000),
            "merges.txt.*(makes none of|expected two)",
        ),
        (
            lambda path: (path / "merges.txt").write_text(""),
            "merges.txt makes none of 3,802 tokens",
        ),
        (lambda path: (path / "merges.txt").write_text(POINTER), "pointer of Git LFS"),
        (lambda path: (path / "merges.txt").write_bytes(b"\xff\xfe"), "not text in UTF-8"),
        (lambda path: (path / "merges.txt").write_text("a b c\n"), "merges.txt, line 1: 'a b c'"),
        (lambda path: (path / "vocab.json").write_text("{"), "vocab.json cannot be read"),
        (lambda path: (path / "vocab.json").write_text('{"a": "b"}'), "the id of 'a' is 'b'"),
        (lambda path: (path / "vocab.json").write_text('{"a": 1, "b": 1}'), "an id twice"),
        (
            lambda path: (path / "added_tokens.json").write_text('{"<x>": 5000}'),
            "id 4096, expected 5000",
        ),
        (
            lambda path: (path / "added_tokens.json").write_text('{"<x>": -1}'),
            "the id of a token is -1",
        ),
        (
            lambda path: edit(path / "vocab.json", lambda raw: raw.pop("def")),
            "not a tokenizer that",
        ),
    ],
)
def test_two_files_that_do_not_belong_together_are_refused(
    mini: Path, damage: Callable[[Path], object], message: str
) -> None:
    split_in_two(mini)
    damage(mini)
    with pytest.raises(CorruptCheckpointError, match=message):
        read(mini)


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_one_of_the_two_alone_is_said_with_the_remedy(mini: Path, missing: str) -> None:
    split_in_two(mini)
    (mini / missing).unlink()
    (doubt,) = read(mini).doubts
    assert "has no tokenizer.json (vocab.json would do together with merges.txt)" in doubt
    assert "save_pretrained" in doubt


def test_calibration_reads_text_with_what_two_files_make(mini: Path) -> None:
    split_in_two(mini)
    assert corpus.read(mini, None, corpus.LENGTH, 2048, 0).windows.shape == (1, corpus.LENGTH)


@pytest.mark.parametrize("target", ["genai", "optimum"])
def test_settings_that_other_runtimes_need_are_made(mini: Path, target: str) -> None:
    (mini / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json" not in read(mini).files
    settings = json.loads(read(mini, target).files["tokenizer_config.json"])
    assert settings == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 2048,
        "eos_token": "<|endoftext|>",
    }
    (mini / "special_tokens_map.json").write_text(
        '{"bos_token": {"content": "<pr>"}, "eos_token": "<fim_pad>"}'
    )
    settings = json.loads(read(mini, target).files["tokenizer_config.json"])
    assert (settings["bos_token"], settings["eos_token"]) == ("<pr>", "<fim_pad>")


@pytest.mark.torch
@pytest.mark.parametrize("written", ["GPT2Tokenizer", "GPT2TokenizerFast", None])
def test_transformers_gives_the_tokens_of_the_tokenizer(
    mini: Path, tmp_path: Path, written: str | None
) -> None:
    """Its own class for StarCoder2 builds another tokenizer, without the split of digits."""
    from transformers import AutoTokenizer

    if written is None:
        (mini / "tokenizer_config.json").unlink()
    else:
        edit(mini / "tokenizer_config.json", lambda raw: raw.update(tokenizer_class=written))
    export(mini, tmp_path / "bundle", target="optimum")
    own = Tokenizer.from_file(str(mini / "tokenizer.json"))
    found = AutoTokenizer.from_pretrained(tmp_path / "bundle")
    assert found(CODE)["input_ids"] == own.encode(CODE).ids
    assert set(found(CODE)) == {"input_ids", "attention_mask"}
    assert found.eos_token == "<|endoftext|>"


def test_a_checkpoint_that_names_no_end_of_a_text_is_told_of(mini: Path) -> None:
    edit(mini / "config.json", lambda raw: raw.pop("eos_token_id"))
    edit(mini / "tokenizer_config.json", lambda raw: raw.update(eos_token=None))
    (mini / "generation_config.json").unlink()
    found = read(mini)
    assert found.eos_token_ids == ()
    (doubt,) = found.doubts
    assert "names the end of a text" in doubt
