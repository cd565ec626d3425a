"""Adapters of peft, converted and taken at run time: the same logits and tokens as with peft."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sc2onnx
from sc2onnx.bundle.adapter_facts import AdapterFacts
from sc2onnx.bundle.adapters import FACTS_FILE, MATRICES_FILE
from sc2onnx.errors import AdapterError, CheckpointError, OutputExistsError, UnsupportedModelError
from sc2onnx.export.convert import convert_adapter

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPT = "import os\n\nfor name in "
KINDS: Mapping[str, Mapping[str, Any]] = {
    "all": {"target_modules": "all-linear", "r": 4, "lora_alpha": 6},
    "rslora": {"target_modules": ["q_proj", "v_proj"], "r": 8, "use_rslora": True},
    "one": {"target_modules": r".*\.k_proj", "r": 2, "lora_alpha": 9},
    "patterns": {
        "target_modules": ["c_fc", "o_proj"],
        "r": 3,
        "rank_pattern": {"c_fc": 5},
        "alpha_pattern": {"c_fc": 20},
        "layers_to_transform": [0, 3],
    },
}


@pytest.fixture(scope="module")
def base(checkpoint: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


Made = Callable[..., Path]


@pytest.fixture(scope="module")
def made(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Saves an adapter with random matrices, and forgets it."""

    def save(name: str, **settings: Any) -> Path:
        directory = tmp_path_factory.mktemp("peft") / name
        if settings.get("target_modules") == "all-linear":
            settings["target_modules"] = "q_proj k_proj v_proj o_proj c_fc c_proj".split()
        config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
        model = peft.get_peft_model(base, config)
        generator = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(0.08 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(directory)
        model.unload()
        return directory

    return save


@pytest.fixture(scope="module")
def adapters(
    made: Made, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, tuple[Path, Path]]:
    """By kind: as peft saved it, and converted."""
    out, found = tmp_path_factory.mktemp("converted"), {}
    for name, settings in KINDS.items():
        saved = made(name, **settings)
        convert_adapter(saved, out / name)
        found[name] = saved, out / name
    return found


@pytest.fixture(scope="module")
def model(bundle: Path, adapters: Mapping[str, tuple[Path, Path]]) -> sc2onnx.Model:
    loaded = sc2onnx.load(bundle, speculate=False)
    for name, (_, converted) in adapters.items():
        loaded.load_adapter(converted, name)
    return loaded


def test_logits_and_tokens_are_those_of_peft(
    base: Any, model: sc2onnx.Model, adapters: Mapping[str, tuple[Path, Path]]
) -> None:
    """Each alone, and all of them as rows of one batch."""
    ids = model.codec.encode(PROMPT)
    expected = dict[str, list[int]]()
    for name, (saved, _) in adapters.items():
        with torch.no_grad():
            adapted = peft.PeftModel.from_pretrained(base, saved)
            logits = adapted(torch.tensor([ids])).logits[0].numpy()
            tokens = adapted.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
            adapted.unload()
        with model.sequence(adapter=name) as sequence:
            found = np.asarray(sequence.append(ids))
        assert np.abs(found - logits).max() <= 2e-5 * np.abs(logits).max()
        expected[name] = tokens[0, len(ids) :].tolist()
    tasks = {name: model.submit(PROMPT, adapter=name, max_new_tokens=12) for name in adapters}
    together = {name: list(task.result().tokens) for name, task in tasks.items()}
    for name, tokens in expected.items():
        assert together[name] == tokens[: len(together[name])]
        assert len(together[name]) >= len(tokens) - 1  # a stop token is not given


def test_what_it_says_of_itself(adapters: Mapping[str, tuple[Path, Path]]) -> None:
    facts = {name: AdapterFacts.read(out) for name, (_, out) in adapters.items()}
    assert {name: (each.kind, each.rank) for name, each in facts.items()} == {
        "all": ("LoRA", 4),
        "rslora": ("rsLoRA", 8),
        "one": ("LoRA", 2),
        "patterns": ("LoRA", 5),
    }
    assert all(each.source == name for name, each in facts.items())
    assert all(each.base.endswith("starcoder2-mini") for each in facts.values())


def test_in_half_precision_it_is_half_as_large(
    adapters: Mapping[str, tuple[Path, Path]], model: sc2onnx.Model, tmp_path: Path
) -> None:
    saved, whole = adapters["rslora"]
    facts = convert_adapter(saved, tmp_path / "half", half=True)
    assert facts.element == "float16"
    assert facts.size < 0.6 * AdapterFacts.read(whole).size
    model.load_adapter(tmp_path / "half")
    ids = model.codec.encode(PROMPT)
    found = list[Any]()
    for name in ("half", "rslora"):
        with model.sequence(adapter=name) as sequence:
            found.append(np.asarray(sequence.append(ids)))
    model.drop_adapter("half")
    assert 0 < np.abs(found[0] - found[1]).max() <= 5e-3 * np.abs(found[1]).max()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"lora_bias": True}, "lora_B.bias"),
        ({"trainable_token_indices": [1, 2]}, "embed_tokens"),
        ({"bias": "all"}, "bias"),
    ],
    ids=str,
)
def test_what_is_not_taken_at_run_time_is_refused_by_name(
    made: Made, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    saved = made("refused", **{"target_modules": ["q_proj"], "r": 2, **settings})
    with pytest.raises(UnsupportedModelError, match=f"{told}.*merge it at export"):
        convert_adapter(saved, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def saved(adapters: Mapping[str, tuple[Path, Path]], tmp_path: Path) -> Path:
    """A copy of one to be changed."""
    directory = tmp_path / "changed"
    directory.mkdir()
    for file in adapters["one"][0].iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def test_damaged_adapters_are_refused(saved: Path, tmp_path: Path) -> None:
    file, config = saved / "adapter_model.safetensors", saved / "adapter_config.json"
    tensors, settings = load_file(file), json.loads(config.read_text())
    first = next(iter(tensors))
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({first: None}, {}, "lacks"),
        ({first: np.full_like(tensors[first], np.nan)}, {}, "not finite"),
        ({first: tensors[first][:1]}, {}, "shape"),
        ({}, {"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({}, {"r": 3}, "shape"),
        ({}, {"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    ]
    for changed, said, told in cases:
        left = {name: each for name, each in {**tensors, **changed}.items() if each is not None}
        save_file(left, file)
        config.write_text(json.dumps({**settings, **said}))
        with pytest.raises(CheckpointError, match=told):
            convert_adapter(saved, tmp_path / "out")
    config.write_text(json.dumps(settings))
    file.unlink()
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors"):
        convert_adapter(saved, tmp_path / "out")


def test_an_adapter_replaces_an_adapter_alone(
    adapters: Mapping[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    saved, out = adapters["one"][0], tmp_path / "out"
    convert_adapter(saved, out)
    with pytest.raises(OutputExistsError, match="pass --overwrite"):
        convert_adapter(saved, out)
    (out / FACTS_FILE).write_text("{}")
    convert_adapter(saved, out, overwrite=True)
    assert AdapterFacts.read(out).rank == 2
    assert sorted(each.name for each in out.iterdir()) == sorted([FACTS_FILE, MATRICES_FILE])
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputExistsError, match="expected none, or a converted adapter"):
        convert_adapter(saved, tmp_path / "mine", overwrite=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine", "out"]


def test_an_adapter_of_another_model_is_refused(
    model: sc2onnx.Model, adapters: Mapping[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    wide = {}
    for name, tensor in load_file(adapters["one"][0] / "adapter_model.safetensors").items():
        wide[name] = np.repeat(tensor, 2, axis=1) if "lora_A" in name else tensor
    changed = tmp_path / "wide"
    changed.mkdir()
    config = (adapters["one"][0] / "adapter_config.json").read_bytes()
    (changed / "adapter_config.json").write_bytes(config)
    save_file(wide, changed / "adapter_model.safetensors")
    convert_adapter(changed, tmp_path / "out")
    with pytest.raises(
        AdapterError, match=r"are \(512, 2\) and \(2, 128\), expected \(256, rank\)"
    ):
        model.load_adapter(tmp_path / "out")
