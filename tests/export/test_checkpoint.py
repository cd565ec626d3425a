"""Whatever the files of a checkpoint are, their tensors are read exactly, or
the file at fault is named.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sc2onnx.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    TensorError,
    UnsupportedModelError,
)
from sc2onnx.export import export
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.stored import Readable, StoredTensor

Make = Callable[..., Path]
INDEX = "model.safetensors.index.json"
FIRST, SECOND, THIRD = (f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))


def whole(tensor: Readable) -> npt.NDArray[Any]:
    (array,) = tensor.rows(tensor.shape[0])
    return array


def stored_in(opened: Checkpoint) -> dict[str, StoredTensor]:
    """Its tensors, as none of them is made of others."""
    return {name: each for name, each in opened.tensors.items() if isinstance(each, StoredTensor)}


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def write_raw(path: Path, header: Mapping[str, Any] | bytes, data: bytes = b"") -> None:
    """A safetensors file with any header."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


@pytest.mark.parametrize("shards", [0, 1, 3])
@pytest.mark.parametrize(
    ("dtype", "stored"), [(np.float32, "F32"), (np.float16, "F16"), (ml_dtypes.bfloat16, "BF16")]
)
def test_every_tensor_is_read_as_it_was_saved(
    make_checkpoint: Make,
    random_tensors: Callable[..., dict[str, npt.NDArray[Any]]],
    settings: dict[str, Any],
    shards: int,
    dtype: Any,
    stored: str,
) -> None:
    opened = Checkpoint.open(make_checkpoint(dtype=dtype, shards=shards))
    expected = {name: array.astype(dtype) for name, array in random_tensors(settings).items()}
    assert set(opened.tensors) == set(expected)
    for name, tensor in stored_in(opened).items():
        assert (tensor.dtype, tensor.shape) == (stored, expected[name].shape)
        np.testing.assert_array_equal(whole(tensor), expected[name], strict=True)
    assert opened.config == settings


def test_shards_may_be_of_different_types(make_checkpoint: Make) -> None:
    def half(tensors: dict[str, npt.NDArray[Any]]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)

    opened = Checkpoint.open(make_checkpoint(shards=2, edit=half))
    assert {stored_in(opened)[name].dtype for name in ("model.norm.weight", "model.norm.bias")} == {
        "F16",
        "F32",
    }


def test_a_single_file_wins_over_an_index(make_checkpoint: Make, tmp_path: Path) -> None:
    directory = make_checkpoint(shards=3)
    save_file({"alone": np.zeros(1, np.float32)}, directory / "model.safetensors")
    assert list(Checkpoint.open(directory).tensors) == ["alone"]


@hypothesis.settings(deadline=None)
@given(data=st.data())
def test_rows_are_the_same_whatever_the_chunk(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3), label="shape"))
    at_once = data.draw(st.integers(1, 8), label="rows at once")
    before = data.draw(st.integers(0, 9), label="elements before it in the file")
    array = (
        np.random.default_rng(before)
        .standard_normal(shape)
        .astype(data.draw(st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16])))
    )
    directory = tmp_path_factory.mktemp("rows")
    save_file(
        {"before": np.zeros(before, array.dtype), "it": array}, directory / "model.safetensors"
    )
    (directory / "config.json").write_text("{}")
    chunks = list(Checkpoint.open(directory).tensors["it"].rows(at_once))
    assert all(0 < len(chunk) <= at_once for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate(chunks), array, strict=True)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointNotFoundError,
        match=r"no directory .*absent: give a checkpoint directory or a hub id",
    ):
        Checkpoint.open(tmp_path / "absent")
    with pytest.raises(CheckpointNotFoundError, match=r"has no config\.json"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointNotFoundError,
        match=r"has no weights, expected model\.safetensors or model\.safetensors\.index\.json",
    ):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "consolidated.pth",
        "model.pt",
        "last.ckpt",
    ],
)
def test_pickled_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(
        UnsupportedModelError,
        match=(
            rf"only pickled weights \({name}\), expected safetensors: loading "
            r"a pickle runs its code"
        ),
    ):
        Checkpoint.open(tmp_path)


def test_pickles_beside_safetensors_are_not_looked_at(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    before = Checkpoint.open(directory)
    (directory / "pytorch_model.bin").write_bytes(b"nonsense")
    assert Checkpoint.open(directory) == before


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", INDEX])
@pytest.mark.parametrize(
    "data", [b"", b"{", b"nonsense", b"[]", b"null", b"1", b'"text"', b"\xff\xfe{}", b"[" * 100_000]
)
def test_a_file_that_is_not_a_json_object_is_named(
    make_checkpoint: Make, name: str, data: bytes
) -> None:
    directory = make_checkpoint(shards=2)
    (directory / name).write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match=name):
        Checkpoint.open(directory)


@pytest.mark.parametrize(
    "value", [..., None, [], "x", {"model.norm.weight": None}, {"model.norm.weight": ["x"]}]
)
def test_an_index_without_a_weight_map_is_refused(make_checkpoint: Make, value: Any) -> None:
    directory = make_checkpoint(shards=3)
    edit_json(
        directory / INDEX,
        lambda raw: raw.pop("weight_map") if value is ... else raw.update(weight_map=value),
    )
    with pytest.raises(CorruptCheckpointError, match="has no weight_map of tensor to file name"):
        Checkpoint.open(directory)


def test_a_missing_shard_is_named(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shards=3)
    (directory / SECOND).unlink()
    with pytest.raises(
        CheckpointNotFoundError, match=rf"shard {SECOND} is missing from .*, expected by {INDEX}"
    ):
        Checkpoint.open(directory)


@pytest.mark.parametrize(
    "path",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "sub/shard.safetensors",
        "..",
        ".",
        "",
        "C:\\shard",
        ".hidden",
        "a\n",
    ],
)
def test_a_shard_outside_the_directory_is_refused(make_checkpoint: Make, path: str) -> None:
    directory = make_checkpoint(shards=3)
    shutil.copy(directory / FIRST, directory.parent / "outside.safetensors")
    edit_json(directory / INDEX, lambda raw: raw["weight_map"].update({"model.norm.weight": path}))
    with pytest.raises(
        CorruptCheckpointError, match="expected a plain file name: do not trust this checkpoint"
    ):
        Checkpoint.open(directory)


def test_an_index_that_points_to_the_wrong_shard_is_refused(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shards=3)
    found = json.loads((directory / INDEX).read_text())["weight_map"]["model.norm.weight"]
    wrong = next(name for name in (FIRST, SECOND) if name != found)
    edit_json(directory / INDEX, lambda raw: raw["weight_map"].update({"model.norm.weight": wrong}))
    with pytest.raises(
        TensorError, match=rf"says that {wrong} holds model\.norm\.weight, but it is in {found}"
    ):
        Checkpoint.open(directory)


def test_an_index_that_promises_a_tensor_that_no_shard_has_is_refused(
    make_checkpoint: Make,
) -> None:
    directory = make_checkpoint(shards=3)
    edit_json(directory / INDEX, lambda raw: raw["weight_map"].update({"model.extra": FIRST}))
    with pytest.raises(
        TensorError, match=rf"says that {FIRST} holds model\.extra, but no shard has it"
    ):
        Checkpoint.open(directory)


def test_a_tensor_in_two_shards_is_refused(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shards=3)
    opened = Checkpoint.open(directory)
    inside = [name for name, tensor in stored_in(opened).items() if tensor.file.name == FIRST]
    other = {
        name: whole(tensor)
        for name, tensor in stored_in(opened).items()
        if tensor.file.name == SECOND
    }
    save_file({**other, inside[0]: np.zeros(1, np.float32)}, directory / SECOND)
    with pytest.raises(
        TensorError, match=f"tensor {inside[0]} is in both {FIRST} and {SECOND}, expected once"
    ):
        Checkpoint.open(directory)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, -1, -1000])
@pytest.mark.parametrize("shards", [0, 3])
def test_a_truncated_file_is_named(make_checkpoint: Make, kept: int, shards: int) -> None:
    directory = make_checkpoint(shards=shards)
    path = directory / (THIRD if shards else "model.safetensors")
    os.truncate(path, kept if kept >= 0 else path.stat().st_size + kept)
    with pytest.raises(
        CorruptCheckpointError, match=rf"{path.name} is {path.stat().st_size} bytes"
    ):
        Checkpoint.open(directory)


@pytest.mark.parametrize("extra", [b"\0", b"x" * 4096])
def test_a_padded_file_is_named(make_checkpoint: Make, extra: bytes) -> None:
    directory = make_checkpoint()
    path = directory / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + extra)
    with pytest.raises(
        CorruptCheckpointError,
        match=(
            f"is {size + len(extra)} bytes, its header promises {size}: it is truncated or padded"
        ),
    ):
        Checkpoint.open(directory)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xff\xff\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        {"a": None},
        {"a": []},
        {"a": {}},
        {"a": {**ENTRY, "dtype": 7}},
        {"a": {**ENTRY, "dtype": ["F32"]}},
        {"a": {**ENTRY, "dtype": "F33"}},
        {"a": {**ENTRY, "shape": None}},
        {"a": {**ENTRY, "shape": "2"}},
        {"a": {**ENTRY, "shape": [3]}},
        {"a": {**ENTRY, "shape": [-2]}},
        {"a": {**ENTRY, "shape": [2.0]}},
        {"a": {**ENTRY, "shape": [[2]]}},
        {"a": {**ENTRY, "data_offsets": None}},
        {"a": {**ENTRY, "data_offsets": []}},
        {"a": {**ENTRY, "data_offsets": [8]}},
        {"a": {**ENTRY, "data_offsets": [0, 8, 8]}},
        {"a": {**ENTRY, "data_offsets": [0, "8"]}},
        {"a": {**ENTRY, "data_offsets": [0, None]}},
        {"a": {**ENTRY, "data_offsets": [0, 8.0]}},
        {"a": {**ENTRY, "data_offsets": [8, 0]}},
        {"a": {**ENTRY, "data_offsets": [-8, 8]}},
        {"a": {**ENTRY, "data_offsets": [4, 8]}},
        {"a": {**ENTRY, "surprise": [0, 8], "data_offsets": [4, 12]}},
        {"a": ENTRY, "b": ENTRY},
        {
            "a": {**ENTRY, "shape": [1], "data_offsets": [0, 4]},
            "b": {**ENTRY, "shape": [1], "data_offsets": [5, 8]},
        },
    ],
)
def test_a_malformed_header_names_the_file(tmp_path: Path, header: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_raw(tmp_path / "model.safetensors", header, bytes(8))
    with pytest.raises(CorruptCheckpointError, match=r"^model\.safetensors "):
        Checkpoint.open(tmp_path)


def test_a_header_length_beyond_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(
        CorruptCheckpointError,
        match=r"model\.safetensors is 10 bytes and not a complete safetensors file",
    ):
        Checkpoint.open(tmp_path)


def test_one_name_for_two_tensors_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    entries = [
        f'"a": {json.dumps({**ENTRY, "data_offsets": [start, start + 8]})}' for start in (0, 8)
    ]
    write_raw(tmp_path / "model.safetensors", f"{{{', '.join(entries)}}}".encode(), bytes(16))
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors"):
        Checkpoint.open(tmp_path)


@hypothesis.settings(deadline=None)
@given(data=st.data())
def test_any_damage_to_a_header_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Never another exception, and never a tensor that cannot be read in full."""
    directory = tmp_path_factory.mktemp("damage")
    save_file(
        {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float16)},
        directory / "model.safetensors",
    )
    (directory / "config.json").write_text("{}")
    damaged = bytearray((directory / "model.safetensors").read_bytes())
    (length,) = struct.unpack("<Q", damaged[:8])
    place = data.draw(st.integers(0, 8 + length - 1), label="place")
    replacement = data.draw(
        st.one_of(st.sampled_from(b'0123456789"[]{},:-.eFBI \x00\xff'), st.integers(0, 255)),
        label="byte",
    )
    damaged[place] = replacement
    (directory / "model.safetensors").write_bytes(damaged)
    try:
        opened = Checkpoint.open(directory)
    except CheckpointError:
        return
    for tensor in opened.tensors.values():
        assert whole(tensor).shape == tensor.shape


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(np.float64, "F64"), (np.int64, "I64"), (np.int8, "I8"), (np.bool_, "BOOL")],
)
def test_an_unsupported_type_is_named(make_checkpoint: Make, dtype: Any, stored: str) -> None:
    def change(tensors: dict[str, npt.NDArray[Any]]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(dtype)

    with pytest.raises(
        TensorError,
        match=rf"tensor model\.norm\.weight is stored as {stored}, expected one of BF16, F16, F32",
    ):
        Checkpoint.open(make_checkpoint(edit=change))


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        (np.int8, "quantiser"),
        (np.uint8, "quantiser"),
        (np.int32, "quantiser"),
        (np.uint32, "quantiser"),
        (ml_dtypes.float8_e4m3fn, "quantiser"),
        (np.float64, "convert the checkpoint"),
        (np.bool_, "convert the checkpoint"),
    ],
)
def test_packed_weights_are_told_from_other_types(
    make_checkpoint: Make, dtype: Any, remedy: str
) -> None:
    def change(tensors: dict[str, npt.NDArray[Any]]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(dtype)

    with pytest.raises(TensorError, match=remedy):
        Checkpoint.open(make_checkpoint(edit=change))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs_is_named(make_checkpoint: Make, name: str) -> None:
    directory = make_checkpoint()
    (directory / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(
        CorruptCheckpointError, match=rf"{name} is a pointer of Git LFS.*git lfs pull"
    ):
        Checkpoint.open(directory)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("model.fp16.safetensors", r"rename it to model\.safetensors"),
        ("model-00001-of-00002.safetensors", r"download model\.safetensors\.index\.json"),
        ("consolidated.safetensors", "another layout"),
        ("starcoder2.Q4_K_M.gguf", "for llama"),
        ("zero_to_fp32.py", "--safe_serialization"),
        ("global_step10", "zero_to_fp32"),
        ("pytorch_model_fsdp_0", "accelerate merge-weights"),
        ("flax_model.msgpack", "Flax"),
        ("model.onnx", "exported already"),
        ("\x1b[2J.gguf", r"'\\x1b\[2J\.gguf'"),
    ],
)
def test_other_forms_of_a_model_are_named(make_checkpoint: Make, name: str, remedy: str) -> None:
    directory = make_checkpoint()
    (directory / "model.safetensors").unlink()
    (directory / name).touch()
    with pytest.raises(
        CheckpointNotFoundError, match=rf"has no weights, expected .*; it has .*{remedy}"
    ):
        Checkpoint.open(directory)


def test_a_checkpoint_in_a_folder_is_named(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    (directory.parent / "above").mkdir()
    directory.rename(directory.parent / "above" / "checkpoint-100")
    with pytest.raises(
        CheckpointNotFoundError,
        match=r"has no config\.json.*; there is a checkpoint in checkpoint-100",
    ):
        Checkpoint.open(directory.parent / "above")


def test_a_file_that_shrinks_while_it_is_read_is_noticed(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    opened = Checkpoint.open(directory)
    os.truncate(
        directory / "model.safetensors", (directory / "model.safetensors").stat().st_size - 4
    )
    last = max(stored_in(opened).values(), key=lambda tensor: tensor.start)
    with pytest.raises(
        CorruptCheckpointError, match="ended 4 bytes early: it changed while it was read"
    ):
        whole(last)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (None, None),
        ("", None),
        ("# A model\n\nlicense: mit\n", None),
        (
            "---\nlicense: bigcode-openrail-m\nlibrary_name: transformers\n---\n# Card\n",
            "bigcode-openrail-m",
        ),
        ("---\r\nlibrary_name: transformers\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlibrary_name: transformers\n---\nlicense: mit\n", None),
        ("---\nbase:\n  license: mit\n---\n", None),
        ("---\nlicense_name: mine\n---\n", None),
        ("---\nlicense: mit  # as ever\n---\n", "mit"),
        ('---\nlicense: "bigcode-openrail-m"\n---\n', "bigcode-openrail-m"),
        ("---\nlicense: 'mit'\n---\n", "mit"),
        ("---\nlicense:\nlibrary_name: transformers\n---\n", None),
    ],
)
def test_the_licence_is_that_of_the_model_card(
    make_checkpoint: Make, card: str | None, expected: str | None
) -> None:
    directory = make_checkpoint()
    if card is not None:
        (directory / "README.md").write_bytes(card.encode())
    assert Checkpoint.open(directory).license() == expected


def test_a_card_that_cannot_be_read_is_named_before_anything_is_written(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_checkpoint()
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")
    before = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == "README.md":
            raise PermissionError(13, "Permission denied", str(path))
        assert ".partial-" not in str(path)
        return before(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)  # root reads whatever the permissions say
    with pytest.raises(
        CorruptCheckpointError, match=r"README\.md cannot be read \(Permission denied\)"
    ):
        export(directory, tmp_path / "out")


def test_a_list_of_licences_is_not_read_as_its_dash(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    (directory / "README.md").write_text("---\nlicense:\n- mit\nlibrary_name: transformers\n---\n")
    assert Checkpoint.open(directory).license() in ("mit", None)
