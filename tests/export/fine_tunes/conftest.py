"""The base that fine-tunes are made of: the mini checkpoint's text, few and random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.export.fine_tunes.shapes import Made


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they bring where matrices are as small as these."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    import torch
    import transformers

    from tests.export.fine_tunes.shapes import tokenizer

    out = tmp_path_factory.mktemp("base") / "tiny"
    torch.manual_seed(0)
    config: Any = transformers.Starcoder2Config
    config = config(
        vocab_size=4096, hidden_size=64, intermediate_size=192, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        sliding_window=16, initializer_range=0.15, bos_token_id=0, eos_token_id=0,
        rope_theta=10000.0, use_bias=True, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = transformers.Starcoder2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(out)
    tokenizer(checkpoint).save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def fine_tune(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """``fine_tune(name)``: that shape, made once. Not to be written to."""
    from tests.export.fine_tunes.shapes import SHAPES

    made: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in made:
            made[name] = SHAPES[name](tmp_path_factory.mktemp("fine-tune") / "it", base)
        return made[name]

    return make
