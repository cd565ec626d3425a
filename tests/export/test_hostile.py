"""Checkpoints that mean harm or are damaged: an error of one line, soon, and little memory."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sc2onnx.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    TensorError,
)
from sc2onnx.export import export, hub
from sc2onnx.export.checkpoint import Checkpoint
from sc2onnx.export.estimate import estimates
from sc2onnx.export.progress import Silent
from sc2onnx.export.stored import MOST_HEADER

Make = Callable[..., Path]
INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def _soon_and_small() -> Iterator[None]:
    """Every test here ends within seconds of its own, and takes less memory than its files may."""
    began = time.process_time()
    tracemalloc.start()
    yield
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - began < 10
    assert most < 300e6


def refused(directory: Path, kind: type[CheckpointError] = CorruptCheckpointError) -> str:
    """The message with which it is not opened: one printable line that is not too long."""
    with pytest.raises(kind) as caught:
        Checkpoint.open(directory)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def put_header(directory: Path, header: bytes, data: bytes = bytes(8)) -> Path:
    """A file of weights with this header."""
    path = directory / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return directory


def entry(**changes: Any) -> bytes:
    """A header of one tensor of 8 bytes, changed."""
    return json.dumps(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}
    ).encode()


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"a":' + b"[" * 1_000_000,
        b'{"a":1e400}',
        b'{"a":NaN}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        entry(shape=[2**63]),
        entry(shape=[2**64 + 2]),
        entry(shape=[2**32, 2**32]),
        entry(shape=[2**62, 4]),
        entry(shape=[10**39]),
        entry(shape=[True, 2]),
        entry(shape=[2.5]),
        entry(shape=[-1, -2]),
        entry(shape=[1] * 100_000 + [3]),
        entry(dtype="F64"),
        entry(dtype="BOOL"),
        entry(dtype="F4"),
        entry(dtype="x" * 100_000),
        entry(data_offsets=[0, 2**64]),
        entry(data_offsets=[-(2**63), 8]),
        entry(data_offsets=[2**63, 2**63 + 8]),
        entry(data_offsets=[False, 8.0]),
        b'{"' + b"n" * 1_000_000 + b'": 1}',
        b'{"__metadata__": {"a": 1}, ' + entry()[1:],
        b"{" + b", ".join(b'"%d": %s' % (n, entry()[6:-1]) for n in range(3)) + b"}",
    ],
    ids=lambda header: header[:24].decode() + str(len(header)),
)
def test_a_header_that_lies_is_refused(make_checkpoint: Make, header: bytes) -> None:
    refused(put_header(make_checkpoint(), header))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_beyond_the_file_is_refused(make_checkpoint: Make, length: int) -> None:
    directory = make_checkpoint()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    assert "not a complete safetensors file" in refused(directory)


def test_a_header_that_is_there_but_huge_is_not_read(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate((1 << 40) + 16)  # a file of holes
    assert f"a header of {1 << 40:,} bytes, expected at most {MOST_HEADER:,}" in refused(directory)


def test_an_empty_tensor_is_misshapen(make_checkpoint: Make, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.c_fc.weight"
    directory = make_checkpoint(
        edit=lambda tensors: tensors.update({name: np.zeros((0, 1 << 40), np.float32)})
    )
    with pytest.raises(
        TensorError, match=rf"tensor {name} has shape \(0, {1 << 40}\), expected \(40, 16\)"
    ):
        export(directory, tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**9},
        {"max_position_embeddings": 10**12},
        {"vocab_size": 10**12},
        {"hidden_size": 10**12},
        {"hidden_size": 1 << 62, "num_attention_heads": 1 << 61},
        {"head_dim": 10**30},
        {"sliding_window": 10**30},
        {"num_key_value_heads": 0},
        {"eos_token_id": list(range(100_000))},
        {"rope_theta": 1e308},
        {"layer_types": ["x" * 100] * 10_000},
        {"architectures": "x" * 1_000_000, "hidden_act": "x" * 1_000_000},
        {"k" * 1_000_000: 1},
    ],
    ids=lambda change: next(iter(change))[:30],
)
def test_sizes_of_a_configuration_are_bounded_before_use(
    make_checkpoint: Make, tmp_path: Path, change: dict[str, Any]
) -> None:
    directory = make_checkpoint()
    settings = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**settings, **change}))
    for action in (lambda: export(directory, tmp_path / "out"), lambda: estimates(str(directory))):
        with pytest.raises(CheckpointError) as caught:
            action()
        assert len(str(caught.value)) < 1000
        assert str(caught.value).isprintable()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "data",
    [
        b'{"vocab_size": 1e400}',
        b'{"vocab_size": Infinity}',
        b'{"vocab_size": ' + b"9" * 100_000 + b"}",
        b'{"a": 1, "a": 2}',
        b'{"a": ' * 1000 + b"1" + b"}" * 1000,
        b"{" + b" " * MOST_HEADER + b"}",
        b"\x00" * 1000,
        b'{"\\ud800": 1}',
    ],
    ids=lambda data: data[:16].decode(),
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", INDEX])
def test_json_of_strangers_is_bounded(make_checkpoint: Make, name: str, data: bytes) -> None:
    directory = make_checkpoint(shards=2)
    (directory / name).write_bytes(data)
    assert name in refused(directory)
    if name == "config.json":
        with pytest.raises(CorruptCheckpointError, match=name):
            estimates(str(directory))


def test_an_index_of_a_million_entries_is_not_read(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shards=2)
    entries = '"model.layers.1.weight":"a.safetensors",' * 1_000_000
    (directory / INDEX).write_text(f'{{"weight_map":{{{entries}"a":"b"}}}}')
    assert f"more than {MOST_HEADER:,} bytes" in refused(directory)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside.safetensors", CorruptCheckpointError),
        ("x" * 300, CorruptCheckpointError),
        ("x" * 100_000, CorruptCheckpointError),
        ("a\x00b", CorruptCheckpointError),
        ("\x1b[2J", CorruptCheckpointError),
        ("absent.safetensors", CheckpointNotFoundError),
        ("config.json", CorruptCheckpointError),
    ],
    ids=lambda value: str(value)[:20].encode("unicode_escape").decode(),
)
def test_an_index_names_plain_files_that_are_there(
    make_checkpoint: Make, name: str, kind: type[CheckpointError]
) -> None:
    directory = make_checkpoint(shards=2)
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = name
    (directory / INDEX).write_text(json.dumps(index))
    refused(directory, kind)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


KINDS: list[Callable[[Path], object]] = [
    pipe,
    link_to_a_pipe,
    Path.mkdir,
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path.name),
    lambda path: path.symlink_to("absent"),
]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    "make", KINDS, ids=["pipe", "link to a pipe", "directory", "device", "circle", "nowhere"]
)
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "model.safetensors", INDEX, "SHARD"]
)
def test_what_is_no_file_is_not_opened(
    make_checkpoint: Make, name: str, make: Callable[[Path], object]
) -> None:
    directory = make_checkpoint(shards=0 if name == "model.safetensors" else 2)
    path = directory / ("model-00002-of-00002.safetensors" if name == "SHARD" else name)
    path.unlink(missing_ok=True)
    make(path)
    message = refused(directory)
    assert message.startswith(path.name)
    assert "expected a regular file" in message or "a link that leads to no file" in message


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors"])
def test_what_cannot_be_read_is_named(make_checkpoint: Make, name: str) -> None:
    directory = make_checkpoint()
    (directory / "generation_config.json").write_text("{}")
    (directory / name).chmod(0)
    assert f"{name} cannot be read" in refused(directory)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 5000, "a\x00b", "\x1b[2J"])
def test_a_path_that_cannot_be_is_an_error_of_ours(name: str) -> None:
    with pytest.raises(CheckpointNotFoundError) as caught:
        hub.resolve(name)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_weights_that_are_replaced_meanwhile_are_noticed(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    """By a file of the same size, before the last tensor is read: the bundle would be of both."""
    directory, other = (
        make_checkpoint(),
        make_checkpoint(
            name="other", edit=lambda tensors: [np.negative(a, a) for a in tensors.values()]
        ),
    )

    class Replacing(Silent):
        def advance(self, nbytes: int) -> None:
            if (other / "model.safetensors").exists():
                os.replace(other / "model.safetensors", directory / "model.safetensors")

    with pytest.raises(
        CorruptCheckpointError, match=r"model\.safetensors changed while it was read"
    ):
        export(directory, tmp_path / "out", progress=Replacing())
    assert not (tmp_path / "out").exists()


def test_very_many_small_tensors_are_opened_soon(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    many = {f"model.layers.{number}.x": np.zeros((), np.float32) for number in range(5_000)}
    save_file(many, directory / "model.safetensors")
    assert len(Checkpoint.open(directory).tensors) == 5_000


def test_the_licence_is_not_read_out_of_the_directory(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    directory = make_checkpoint()
    (tmp_path / "card").write_text("---\nlicense: secret\n---\n")
    (directory / "README.md").symlink_to(tmp_path / "card")
    assert Checkpoint.open(directory).license() is None


def test_a_card_is_read_from_its_beginning_only(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    with (directory / "README.md").open("wb") as file:
        file.write(b"---\nlicense: mit\n---\n")
        file.truncate(1 << 40)
    assert Checkpoint.open(directory).license() == "mit"
