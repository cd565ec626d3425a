"""Fine-tunes as people have them, made by the libraries that make theirs: transformers, peft, trl.

Each maker writes a model or an adapter into a directory. None trains well: numbers are random, so
that a wrong scale, row or tie shows at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}You are an exceptionally intelligent coding assistant.\n\n"
    "{% for m in messages %}{% if m['role'] == 'user' %}### Instruction\n{{ m['content'] }}\n\n"
    "{% else %}### Response\n{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response\n{% endif %}"
)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LAYERS = r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|c_fc).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp\.c_proj)"
"""An expression of the kind that unsloth writes."""


@dataclass(frozen=True)
class Made:
    """A model's directory, and adapters of it with their weights.

    ``vocabulary``: tokens that the model is to have before an adapter fits, if not its own.
    ``plain``: the same without what a wrapper put into the names, for who does not know it.
    """

    base: Path
    adapters: tuple[tuple[Path, float], ...] = ()
    vocabulary: int | None = None
    plain: Made | None = None

    def in_torch(self) -> Any:
        """What transformers and peft load, nothing merged."""
        if self.plain:
            return self.plain.in_torch()
        model = loaded(self.base)
        if self.vocabulary:
            model.resize_token_embeddings(self.vocabulary, mean_resizing=False)
        if not self.adapters:
            return model.eval()
        from peft import PeftModel

        for number, (path, _) in enumerate(self.adapters):
            if number == 0:
                model = PeftModel.from_pretrained(model, path, adapter_name="0")
            else:
                model.load_adapter(path, adapter_name=str(number))
        model.base_model.set_adapter([str(number) for number in range(len(self.adapters))])
        for module in model.modules():
            for number, (_, weight) in enumerate(self.adapters):
                if hasattr(module, "set_scale"):
                    module.set_scale(str(number), weight)
        return model.eval()


def loaded(path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def tokenizer(path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path)


def shaken(model: Any, seed: int, by: float = 0.05) -> Any:
    """The model with every parameter that is trained a bit elsewhere."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))
    return model


def adapter(
    out: Path,
    base: Path,
    *,
    seed: int = 1,
    vocabulary: int | None = None,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> Path:
    """An adapter as peft saves it."""
    from peft import LoraConfig, get_peft_model

    model = loaded(base)
    if vocabulary:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    config = LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 6, **settings})
    made = shaken(get_peft_model(model, config), seed)
    made.to(dtype).save_pretrained(out)
    return out


def with_adapter(**settings: Any) -> Callable[[Path, Path], Made]:
    vocabulary = settings.get("vocabulary")

    def make(out: Path, base: Path) -> Made:
        return Made(base, ((adapter(out, base, **settings), 1.0),), vocabulary)

    return make


def two_adapters(**second: Any) -> Callable[[Path, Path], Made]:
    def make(out: Path, base: Path) -> Made:
        first = adapter(out / "first", base, seed=2, target_modules=ATTENTION)
        other = adapter(out / "second", base, seed=3, **second)
        return Made(base, ((first, 0.5), (other, 1.25)))

    return make


def added_tokens(out: Path, base: Path) -> Made:
    model, text = loaded(base), tokenizer(base)
    text.add_tokens(["<think>", "</think>"])
    model.resize_token_embeddings(len(text), mean_resizing=False)
    return saved(out, shaken(model, 4), text)


def padded(out: Path, base: Path) -> Made:
    model, text = loaded(base), tokenizer(base)
    text.add_special_tokens({"pad_token": "<pad>"})
    model.resize_token_embeddings(len(text), pad_to_multiple_of=64, mean_resizing=False)
    return saved(out, shaken(model, 5), text)


def chatml(out: Path, base: Path) -> Made:
    model, text = loaded(base), tokenizer(base)
    text.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    text.add_special_tokens({"eos_token": "<|im_end|>"})
    text.chat_template = CHATML
    model.resize_token_embeddings(len(text), pad_to_multiple_of=8, mean_resizing=False)
    model.config.eos_token_id = model.generation_config.eos_token_id = text.eos_token_id
    return saved(out, shaken(model, 6), text)


def instruct(out: Path, base: Path) -> Made:
    text = tokenizer(base)
    text.chat_template = INSTRUCT
    return saved(out, shaken(loaded(base), 7), text)


def half_shards(out: Path, base: Path) -> Made:
    shaken(loaded(base), 8).half().save_pretrained(out, max_shard_size="200KB")
    tokenizer(base).save_pretrained(out)
    return Made(out)


def untied(out: Path, base: Path) -> Made:
    """With a head of its own, as trainers with ZeRO leave one under a config that ties them."""
    saved(out, loaded(base), tokenizer(base))
    tensors = load_file(out / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 0.01
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return Made(out)


def merged_by_peft(out: Path, base: Path) -> Made:
    from peft import PeftModel

    path = adapter(out / "adapter", base, target_modules="all-linear")
    model = PeftModel.from_pretrained(loaded(base), path).merge_and_unload()
    return saved(out / "merged", model.bfloat16(), tokenizer(base))


def renamed(prefix: str) -> Callable[[Path, Path], Made]:
    """Saved inside a wrapper: ``prefix`` is in front of every name."""

    def make(out: Path, base: Path) -> Made:
        plain = saved(out / "plain", shaken(loaded(base), 9, 0.01), tokenizer(base))
        wrapped = shutil.copytree(plain.base, out / "wrapped")
        tensors = {
            prefix + name: value for name, value in load_file(model_file(plain.base)).items()
        }
        save_file(tensors, model_file(wrapped), metadata={"format": "pt"})
        return Made(wrapped, plain=plain)

    return make


def compiled_adapter(out: Path, base: Path) -> Made:
    """Of a model that torch.compile wraps, which stands in the names."""
    plain = adapter(out / "plain", base, target_modules=ATTENTION)
    wrapped = shutil.copytree(plain, out / "wrapped") / "adapter_model.safetensors"
    old, new = "base_model.model.model", "base_model.model._orig_mod.model"
    tensors = {name.replace(old, new): value for name, value in load_file(wrapped).items()}
    save_file(tensors, wrapped)
    return Made(base, ((wrapped.parent, 1.0),), plain=Made(base, ((plain, 1.0),)))


def new_tokens_adapter(out: Path, base: Path) -> Made:
    """ChatML by an adapter: embedding and head saved whole, the tokenizer beside them."""
    text = tokenizer(base)
    text.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    text.chat_template = CHATML
    size = -(-len(text) // 64) * 64
    pair = ["embed_tokens", "lm_head"]
    path = adapter(out, base, vocabulary=size, target_modules=ATTENTION, modules_to_save=pair)
    text.save_pretrained(path)
    return Made(base, ((path, 1.0),), size)


def trained_by_trl(out: Path, base: Path) -> Made:
    return Made(_trained(out, base, None))


def adapter_by_trl(out: Path, base: Path) -> Made:
    from peft import LoraConfig

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    return Made(base, ((_trained(out, base, config), 1.0),))


def _trained(out: Path, base: Path, config: Any) -> Path:
    """What trl's supervised fine-tuning leaves after two steps on a conversation."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    text = tokenizer(base)
    text.chat_template = CHATML
    text.pad_token = text.eos_token
    turns = [
        {"role": "user", "content": "add two numbers"},
        {"role": "assistant", "content": "def add(a, b):\n    return a + b\n"},
    ]
    arguments = SFTConfig(
        output_dir=str(out), max_steps=2, per_device_train_batch_size=2, learning_rate=0.002,
        report_to="none", use_cpu=True, bf16=False, save_strategy="no", logging_steps=100,
        max_length=64, disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=loaded(base), args=arguments, processing_class=text, peft_config=config,
        train_dataset=Dataset.from_list([{"messages": turns}] * 4),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(out))
    return out


def saved(out: Path, model: Any, text: Any) -> Made:
    model.save_pretrained(out)
    text.save_pretrained(out)
    return Made(out)


def model_file(path: Path) -> Path:
    return path / "model.safetensors"


def edited(path: Path, **changes: Any) -> None:
    """Change settings of an adapter."""
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


SHAPES: dict[str, Callable[[Path, Path], Made]] = {
    # whole models
    "added tokens": added_tokens,
    "padded vocabulary": padded,
    "ChatML": chatml,
    "instruct template": instruct,
    "fp16 shards": half_shards,
    "untied head": untied,
    "merged by peft, bf16": merged_by_peft,
    "trl, whole": trained_by_trl,
    "torch.compile": renamed("_orig_mod."),
    "FSDP": renamed("_fsdp_wrapped_module."),
    "DDP in torch.compile": renamed("_orig_mod.module."),
    # adapters
    "attention": with_adapter(target_modules=ATTENTION),
    "all products": with_adapter(target_modules="all-linear", dtype=torch.bfloat16),
    "rsLoRA, patterns": with_adapter(
        target_modules=r".*\.(?:q_proj|c_fc)", use_rslora=True,
        rank_pattern={"layers.1.mlp.c_fc": 2, r".*[02].*q_proj": 8}, alpha_pattern={"c_fc": 3},
    ),
    "DoRA": with_adapter(target_modules="all-linear", use_dora=True),
    "saved head and norms": with_adapter(
        target_modules=["c_fc"], modules_to_save=["lm_head", "norm"]
    ),
    "two adapters": two_adapters(target_modules=["v_proj", "c_proj"]),
    "two adapters, one DoRA": two_adapters(target_modules=["q_proj", "c_fc"], use_dora=True),
    "new tokens": new_tokens_adapter,
    "resized, saved by itself": with_adapter(target_modules=ATTENTION, vocabulary=4100),
    "embedding": with_adapter(target_modules=["q_proj", "embed_tokens"]),
    "embedding, DoRA": with_adapter(target_modules=["embed_tokens"], use_dora=True),
    "embedding, tied": with_adapter(
        target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True
    ),
    "token rows": with_adapter(target_modules=["q_proj"], trainable_token_indices=[3, 4000, 7]),
    "biases": with_adapter(target_modules=["q_proj"], bias="all", lora_bias=True),
    "some layers": with_adapter(
        target_modules=["q_proj", "c_fc"], layers_to_transform=[1], layers_pattern="layers",
        exclude_modules=r".*\.1\.mlp\..*",
    ),
    "unsloth's expression": with_adapter(target_modules=LAYERS),
    "trl, adapter": adapter_by_trl,
    "torch.compile, adapter": compiled_adapter,
}  # fmt: skip
