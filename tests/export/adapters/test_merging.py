"""What comes out: numbers against the definition, text, provenance; and memory on the way."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sc2onnx.bundle.contract import CARD_FILE
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.cli.main import main
from sc2onnx.errors import BundleError, RequestError
from sc2onnx.export import export
from sc2onnx.export.adapters.change import LowRank, MergedTensor
from sc2onnx.export.stored import read_header
from tests.export.adapters.conftest import WEIGHTS, Tensors, low_rank

Make = Callable[..., Path]
DATA = "model.onnx.data"


def test_two_adapters_give_what_the_definition_says(
    make_checkpoint: Make, make_adapter: Make, tmp_path: Path
) -> None:
    """Byte for byte what a checkpoint gives whose weights were changed beforehand."""
    first = make_adapter({"lora_alpha": 4}, name="first")  # scale 4 / 2
    second = make_adapter({"use_rslora": True}, low_rank(["c_fc", "q_proj"]), name="second")
    second_config = second / "adapter_config.json"
    raw = json.loads(second_config.read_text()) | {"target_modules": ["c_fc", "q_proj"]}
    second_config.write_text(json.dumps(raw))

    def change(tensors: Tensors) -> None:
        for path, scale in ((first, 0.5 * 4 / 2), (second, 2 * 3 / 2**0.5)):
            made = load_file(path / WEIGHTS)
            for name in [name for name in made if "lora_B" in name]:
                own = name.removeprefix("base_model.model.").replace(".lora_B", "")
                product = made[name] @ made[name.replace("lora_B", "lora_A")]
                tensors[own] += product * np.float32(scale)

    export(make_checkpoint(edit=change, name="changed"), tmp_path / "expected")
    weights = {first: 0.5, second: 2.0}
    export(make_checkpoint(), tmp_path / "found", adapters=weights)
    expected, found = ((tmp_path / name / DATA).read_bytes() for name in ("expected", "found"))
    difference = np.frombuffer(expected, np.float32) - np.frombuffer(found, np.float32)
    assert np.abs(difference).max() < 1e-5
    export(make_checkpoint(name="again"), tmp_path / "plain")
    assert (tmp_path / "plain" / DATA).read_bytes() != found


def test_a_merged_matrix_is_never_whole_in_memory(tmp_path: Path) -> None:
    rows, columns, rank = 16_384, 512, 8
    random = np.random.default_rng(0)
    file = tmp_path / "it.safetensors"
    tensors = {"base": (rows, columns), "up": (rows, rank), "down": (rank, columns)}
    made = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in tensors.items()
    }
    save_file(made, file)
    found = {tensor.name: tensor for tensor in read_header(file)}
    change = LowRank(found["up"], found["down"], 0.5)
    merged = MergedTensor("base", found["base"], (change,))
    tracemalloc.start()
    sums = [float(part.sum(dtype=np.float64)) for part in merged.rows(1024)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < rows * columns * 4 / 2
    expected = made["base"] + 0.5 * made["up"] @ made["down"]
    assert sum(sums) == pytest.approx(float(expected.sum(dtype=np.float64)), abs=1)


def test_the_bundle_says_what_was_merged(
    make_checkpoint: Make, make_adapter: Make, tmp_path: Path
) -> None:
    adapter = make_adapter()
    (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    export(make_checkpoint(), out := tmp_path / "bundle", adapters={adapter: -0.5})
    manifest = Manifest.read(out)
    (merged,) = manifest.provenance.adapters
    assert (merged.source, merged.revision, merged.license) == ("it", None, "mit")
    assert (merged.kind, merged.weight) == ("LoRA", -0.5)
    assert len(merged.sha256) == 64
    card = (out / CARD_FILE).read_text()
    assert (
        f"| adapter merged | `it`, LoRA, weight -0.5, licence `mit`, SHA-256 `{merged.sha256}`"
        in card
    )
    assert "# checkpoint + it, fp32" in card
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "change", [{"sha256": "x"}, {"weight": 1e999}, {"other": 1}, {"weight": "1"}], ids=str
)
def test_records_that_no_bundle_has(
    make_checkpoint: Make, make_adapter: Make, tmp_path: Path, change: dict[str, Any]
) -> None:
    export(make_checkpoint(), out := tmp_path / "bundle", adapters=[make_adapter()])
    raw = json.loads((out / "sc2onnx.json").read_text())
    raw["provenance"]["adapters"][0] |= change
    with pytest.raises(BundleError):
        Manifest.from_json(json.dumps(raw))


def test_a_bundle_without_adapters_is_written_as_before(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    export(make_checkpoint(), out := tmp_path / "bundle")
    assert "adapters" not in json.loads((out / "sc2onnx.json").read_text())["provenance"]


def test_the_adapter_of_the_checkpoint_s_own_directory(
    make_checkpoint: Make, make_adapter: Make, tmp_path: Path
) -> None:
    """Which transformers loads with the model."""
    both = make_checkpoint()
    for path in make_adapter().iterdir():
        (both / path.name).write_bytes(path.read_bytes())
    export(both, tmp_path / "beside", adapters=[both])
    export(make_checkpoint(name="alone"), tmp_path / "apart", adapters=[make_adapter()])
    assert (tmp_path / "beside" / DATA).read_bytes() == (tmp_path / "apart" / DATA).read_bytes()


def test_names_of_a_state_that_was_saved_raw(
    make_checkpoint: Make, make_adapter: Make, tmp_path: Path
) -> None:
    raw = {
        name.replace("base_model.model.", "_orig_mod.base_model.model.")
        .replace(".weight", ".default.weight"): array
        for name, array in low_rank().items()
    }  # fmt: skip
    base = make_checkpoint()
    export(base, tmp_path / "raw", adapters=[make_adapter({}, raw, name="raw-adapter")])
    export(base, tmp_path / "plain", adapters=[make_adapter()])
    assert (tmp_path / "raw" / DATA).read_bytes() == (tmp_path / "plain" / DATA).read_bytes()


def tokenizer_with(directory: Path, base: Path, *added: str) -> None:
    raw = json.loads((base / "tokenizer.json").read_text())
    for number, text in enumerate(added, start=3):
        raw["added_tokens"].append({**raw["added_tokens"][0], "id": number, "content": text})
    (directory / "tokenizer.json").write_text(json.dumps(raw))


@pytest.mark.filterwarnings("ignore:.*tokenizer.json:UserWarning")
def test_the_tokenizer_of_an_adapter_counts(
    make_checkpoint: Make, make_adapter: Make, tmp_path: Path
) -> None:
    base, first, second = make_checkpoint(), make_adapter(name="a"), make_adapter(name="b")
    (base / "special_tokens_map.json").write_text('{"eos_token": "a"}')
    tokenizer_with(first, base, "<new>")
    (first / "chat_template.jinja").write_text("{{ messages }}")
    export(base, out := tmp_path / "bundle", adapters=[second, first])
    assert "<new>" in (out / "tokenizer.json").read_text()
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert not (out / "special_tokens_map.json").exists()  # of the other tokenizer
    tokenizer_with(second, base, "<other>")
    with pytest.raises(RequestError, match="adapters b and a bring tokenizers with other tokens"):
        export(base, tmp_path / "out", adapters=[second, first])


@pytest.mark.filterwarnings("ignore:.*tokenizer.json:UserWarning")
def test_a_template_alone_keeps_the_tokenizer(
    make_checkpoint: Make, make_adapter: Make, tmp_path: Path
) -> None:
    adapter = make_adapter()
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    export(make_checkpoint(), out := tmp_path / "bundle", adapters=[adapter])
    assert (out / "tokenizer.json").exists()
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"


def test_new_rows_are_in_every_file(
    make_checkpoint: Make, make_adapter: Make, tmp_path: Path
) -> None:
    name = "base_model.model.model.embed_tokens.weight"
    rows = {name: np.ones((40, 16), np.float32)}
    export(
        make_checkpoint(),
        out := tmp_path / "bundle",
        adapters=[make_adapter({}, low_rank() | rows)],
    )
    assert Manifest.read(out).model.vocab_size == 40
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 40


def test_a_head_apart_is_told_of(make_checkpoint: Make, make_adapter: Make, tmp_path: Path) -> None:
    head = {"base_model.model.lm_head.weight": np.ones((32, 16), np.float32)}
    adapter = make_adapter({"modules_to_save": ["lm_head"]}, low_rank() | head)
    with pytest.warns(UserWarning, match="an adapter changes one of them alone"):
        export(make_checkpoint(), out := tmp_path / "bundle", adapters=[adapter])
    assert not Manifest.read(out).model.tied_embeddings
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_command_line(
    make_checkpoint: Make,
    make_adapter: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, first, second = make_checkpoint(), make_adapter(name="a"), make_adapter(name="b")
    asked = ["export", str(base), str(tmp_path / "bundle"), "--precision", "fp32", "--quiet"]
    asked += ["--adapter", str(first), "--adapter", str(second)]
    assert main([*asked, "--weights", "1"]) == 2
    assert (
        "--weights has 1 numbers for 2 adapters, expected one for each" in capsys.readouterr().err
    )
    assert main([*asked, "--weights", "1", "-0.25"]) == 0
    adapters = Manifest.read(tmp_path / "bundle").provenance.adapters
    assert [(each.source, each.weight) for each in adapters] == [("a", 1), ("b", -0.25)]
    assert main(["info", str(tmp_path / "bundle")]) == 0
    assert "a (LoRA), b (LoRA, weight -0.25), merged" in capsys.readouterr().out


def test_an_adapter_in_a_folder_of_the_checkpoint_is_no_doubt_once_merged(
    make_checkpoint: Make, make_adapter: Make, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    base = make_checkpoint()
    make_adapter().rename(base / "checkpoint-10")
    export(base, tmp_path / "bundle", adapters=[base / "checkpoint-10"])
    assert not [str(each.message) for each in recwarn if "adapter" in str(each.message)]
