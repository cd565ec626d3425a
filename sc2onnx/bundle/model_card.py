"""The bundle's model card (``README.md``), rendered from the manifest alone; exporter
and verifier both write it.
"""

from __future__ import annotations

import json
import re
from typing import Final

from sc2onnx.bundle.contract import TOKENIZER_FILE
from sc2onnx.bundle.manifest import Manifest
from sc2onnx.bundle.provenance import Provenance, Verification
from sc2onnx.bundle.targets import GENAI, OPTIMUM
from sc2onnx.bundle.texts import plain_text

PLACE: Final = "PATH/OF/THIS/DIRECTORY"
"""Stands in the card for where the bundle is, which is known when it is pushed."""

_TEXT_USE: Final = r"""print(model.generate("def fib(n):\n", max_new_tokens=64).text)
print(model.infill(prefix="def add(a, b):\n    ", suffix="\n\nprint(add(1, 2))\n").text)"""
_IDS_USE: Final = (
    "print([token.id for token in model.generate_tokens([5, 6, 7], max_new_tokens=64)])  # this "
    "bundle has no tokenizer"
)

_QUIET: Final = """import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the imports, else ONNX Runtime reports home
"""

_GENAI_USE: Final = f"""{_QUIET}import onnxruntime_genai as og

model = og.Model("{PLACE}")
tokenizer = og.Tokenizer(model)
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=128)
generator = og.Generator(model, parameters)
generator.append_tokens(tokenizer.encode("def fib(n):\\n"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))"""

_OPTIMUM_USE: Final = f"""{_QUIET}from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer, pipeline

model = ORTModelForCausalLM.from_pretrained("{PLACE}")
tokenizer = AutoTokenizer.from_pretrained("{PLACE}")
print(pipeline("text-generation", model=model, tokenizer=tokenizer)("def fib(n):\\n", \
max_new_tokens=64, do_sample=False)[0]["generated_text"])"""


def render(manifest: Manifest) -> str:
    """Markdown with the hub's front matter: source, licence, precision, how to run, and
    what verification measured.
    """
    facts, origin = manifest.model, manifest.provenance
    window = f"{facts.sliding_window:,} tokens" if facts.sliding_window else "none (full attention)"
    return f"""---
{_front_matter(origin)}library_name: sc2onnx
pipeline_tag: text-generation
tags:
- code
- onnx
- starcoder2
---

# {_title(origin)}, {_prose(manifest.precision)}, for ONNX Runtime

StarCoder2 as an ONNX graph with a sliding-window key-value cache, exported from {_source(origin)} \
by {_prose(origin.exporter)}.

| | |
|---|---|
| parameters | {facts.parameters:,} |
| precision | {_prose(manifest.precision)}, for {_prose(manifest.target)} |
{_quantization(manifest)}| weights | {manifest.weight_bytes / 1e9:.3f} GB |
| layers, heads, key-value heads, head size | {facts.num_layers}, {facts.num_heads}, \
{facts.num_kv_heads}, {facts.head_dim} |
| context | {facts.context_length:,} tokens |
| sliding window | {window} |
| cache | {_prose(manifest.cache.kind)}, {manifest.cache.dtype}, \
{manifest.cache.bytes_per_token(facts):,} bytes per token |
| ONNX opset | {manifest.opset} |
{_merged(origin)}{_allowed(origin)}
## Use

{_use(manifest)}
## Verification

{_verification(manifest.verification)}
## Licence

{_license(origin)}
"""


def _use(manifest: Manifest) -> str:
    """How to install what runs it, and a program."""
    target = manifest.made_for
    package = target.installed_by(manifest.cache.dtype)
    shown = package if re.fullmatch("[a-z-]+", package) else f'"{package}"'
    where = "In a clone of sc2onnx:\n\n" if target.own else ""
    return f"{where}```\npip install {shown}\n```\n\n```python\n{_program(manifest)}\n```\n"


def _program(manifest: Manifest) -> str:
    """What to write to run it."""
    target = manifest.made_for
    if not target.own:
        return _OTHERS_USE[target.name]
    calls = _TEXT_USE if TOKENIZER_FILE in manifest.files else _IDS_USE
    device = "" if target.device == "cpu" else f', device="{target.device}"'
    return f'import sc2onnx\n\nmodel = sc2onnx.load("{PLACE}"{device})\n{calls}'


_OTHERS_USE: Final = {GENAI.name: _GENAI_USE, OPTIMUM.name: _OPTIMUM_USE}
"""Target that another runtime runs -> a program for that."""


def _front_matter(origin: Provenance) -> str:
    lines = [f"license: {_scalar(origin.license)}"] if origin.license else []
    if origin.revision is not None:
        lines.append(f"base_model: {_scalar(origin.source)}")
    return "".join(f"{line}\n" for line in lines)


def _quantization(manifest: Manifest) -> str:
    return (
        ""
        if manifest.quantization is None
        else f"| quantised | {_prose(str(manifest.quantization))} |\n"
    )


def _allowed(origin: Provenance) -> str:
    """A row that names the settings that were vouched for, if there are any."""
    if not origin.allowed_settings:
        return ""
    names = ", ".join(map(_prose, origin.allowed_settings))
    return f"| unknown settings of the checkpoint, vouched for at export | {names} |\n"


def _title(origin: Provenance) -> str:
    """The model's name, with those of adapters behind it: ``starcoder2-3b + sql-lora``."""
    names = (origin.source, *(adapter.source for adapter in origin.adapters))
    return " + ".join(_prose(name.split("/")[-1]) for name in names)


def _merged(origin: Provenance) -> str:
    """A row for each adapter whose change is in the weights."""
    return "".join(
        f"| adapter merged | {_code(adapter.source)}"
        f"{f' at revision {_code(adapter.revision)}' if adapter.revision else ''}, "
        f"{_prose(adapter.kind)}, weight {adapter.weight:g}, licence "
        f"{_code(adapter.license) if adapter.license else 'not stated'}, SHA-256 "
        f"{_code(adapter.sha256)} |\n"
        for adapter in origin.adapters
    )


def _source(origin: Provenance) -> str:
    return _code(origin.source) + (
        f" at revision {_code(origin.revision)}" if origin.revision else " (a local directory)"
    )


def _license(origin: Provenance) -> str:
    terms = _code(origin.license) if origin.license else "not stated by the source checkpoint"
    duty = (
        (
            "The BigCode OpenRAIL-M licence asks whoever passes the model on to pass on its use "
            "restrictions and its attribution with it: keep this card, and name BigCode as the "
            "source of the weights. "
        )
        if origin.license == "bigcode-openrail-m"
        else ""
    )
    graph = "The graph was written by sc2onnx, which is Apache-2.0 and claims nothing of it."
    return f"The weights keep the licence of their source: {terms}. {duty}{graph}"


def _verification(result: Verification | None) -> str:
    if result is None:
        return (
            "Not verified yet: `sc2onnx verify BUNDLE CHECKPOINT` compares it with torch and "
            "writes its figures here.\n"
        )
    outcome = "passed" if result.passed else "**failed**"
    greedy = (
        f"{result.greedy_match} of {result.greedy_tokens}"
        if result.greedy_tokens
        else "not compared"
    )
    return f"""Against {_prose(result.reference)} on {_prose(result.text)}: {outcome}.

| | |
|---|---|
| longest sequence | {result.longest:,} tokens |
| positions compared | {result.positions:,} |
| largest logit difference, of the largest logit | {result.shown("max_rel_diff", ".2e")} \
(tolerance {result.tolerance:.2g}) |
| largest logit difference, absolute | {result.shown("max_abs_diff", ".2e")} |
| KL divergence to the reference, mean | {result.shown("kl_divergence", ".2e")} nats |
| same most likely token | {result.shown("top1_agreement", ".2%")} |
| NLL per token, here and reference | {result.shown("nll", ".4f")}, \
{result.shown("nll_reference", ".4f")} nats |
| greedy tokens equal | {greedy} |
"""


def _prose(text: str) -> str:
    """Text that says what it says, and formats nothing: what Markdown or
    HTML would act on is escaped.
    """
    return re.sub(
        r"([\\`*\[\]<>|&!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", plain_text(text)
    )


def _code(text: str) -> str:
    """Text as a code span, which ends where the text does: behind more
    backticks than it has in a row.
    """
    text = plain_text(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks, space = "`" * (longest + 1), " " if longest else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _scalar(text: str) -> str:
    """Text as a value of YAML: as it is where it can mean nothing else, or between
    quotes, as JSON writes it.
    """
    plain = (
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", text)
        and re.search("[A-Za-z]", text)
        and text.lower() not in _WORDS
    )
    return text if plain and not _NUMBER.match(text) else json.dumps(plain_text(text))


_WORDS: Final = frozenset("true false yes no on off null y n".split())
_NUMBER: Final = re.compile(r"[0-9.]+(e[0-9]+)?$|0[xob]", re.IGNORECASE)
"""What YAML takes for no text: such a word, or such a number. A revision is not written there."""
