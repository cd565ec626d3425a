"""What each command is for, in a line and in a paragraph, with examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Command:
    """``summary`` is for the list of commands, ``text`` for the help of one.

    ``examples`` are command lines that can be typed as they are, once the files are there.
    """

    summary: str
    text: str
    examples: tuple[str, ...]

    @property
    def description(self) -> str:
        """The text in one line, for whoever wraps it."""
        return " ".join(self.text.split())

    @property
    def shown(self) -> str:
        """The examples, as help ends with them."""
        return "\n".join(["example:", *(f"  {example}" for example in self.examples)])


COMMANDS: Final[dict[str, Command]] = {
    "export": Command(
        "turn a checkpoint into a bundle",
        """Turn a StarCoder2 checkpoint into a bundle: a directory with the graph, the weights and
        the tokenizer. int8 takes a minute for the 3B model and predicts as fp32 does. int4 is
        half as large and decodes faster, and calibrating it takes an hour or two. `sc2onnx
        plan` tells time, memory and disk before.""",
        (
            "sc2onnx export bigcode/starcoder2-3b starcoder2-3b",
            "sc2onnx export checkpoint starcoder2-int4 --precision int4 --calibration a.py b.py",
            "sc2onnx export bigcode/starcoder2-3b mine --adapter sql --adapter go --weights 1 0.5",
        ),
    ),
    "plan": Command(
        "what exporting a checkpoint takes, and running what it makes",
        """Tell before any work, for each precision and target, how large the weights are and what
        the export takes in memory, disk and time. Tell what running takes in memory, and whether
        that is free on this machine.""",
        (
            "sc2onnx plan bigcode/starcoder2-3b",
            "sc2onnx plan --shape 15b --context 16384",
        ),
    ),
    "verify": Command(
        "compare a bundle with torch, and record the outcome in it",
        """Compare the logits of a bundle with torch's on real code, below, at and past the sliding
        window, and record the outcome in the bundle. The exit status is 1 if it fails. Needs
        torch.""",
        ("sc2onnx verify starcoder2-3b bigcode/starcoder2-3b --length 160",),
    ),
    "evaluate": Command(
        "how well bundles predict and infill code",
        """Measure how well bundles predict code, how far they are from a reference, and how well
        they infill. With --suite they fill holes that have a right answer, beside servers of other
        engines.""",
        (
            "sc2onnx evaluate starcoder2-3b *.py",
            "sc2onnx evaluate int4 *.py --also int8 --against fp32 --infill 60 --save quality.json",
            "sc2onnx evaluate int4 *.py --suite --server http://127.0.0.1:8080",
        ),
    ),
    "bench": Command(
        "how fast bundles are",
        """Measure how fast bundles load, read a prompt and decode over context, and the memory
        that they take.""",
        ("sc2onnx bench starcoder2-3b --context 64 4096 --save speed.json",),
    ),
    "batch": Command(
        "complete, infill, score or evaluate the rows of files",
        """Do with each row of files what other commands do with one text. The same command goes on
        where an interrupted one ended.""",
        ("sc2onnx batch starcoder2-3b prompts.jsonl --output completions.jsonl",),
    ),
    "generate": Command(
        "continue a prompt",
        "Continue a prompt. The text is printed as it comes.",
        (
            'sc2onnx generate starcoder2-3b "def fib(n):" --max-new-tokens 64',
            "sc2onnx generate starcoder2-3b --file head.py --temperature 0.2 --seed 7 --json",
            'sc2onnx generate starcoder2-3b "config = " --json-schema config.schema.json',
        ),
    ),
    "infill": Command(
        "complete at a cursor in a file",
        """Complete at a cursor in a file, from the code before and after it. Of a long file, what
        is nearest to the cursor goes into the prompt.""",
        ("sc2onnx infill starcoder2-3b main.py --line 10 --column 12 --with util.py",),
    ),
    "chat": Command(
        "talk with an instruct model",
        """Talk with an instruct model, by the chat template of its checkpoint: on a terminal, or
        with what is piped in. Needs the package jinja2.""",
        (
            "sc2onnx chat starcoder2-15b-instruct",
            'sc2onnx chat starcoder2-15b-instruct "Sort a list of pairs by the second." --json',
        ),
    ),
    "serve": Command(
        "answer editors and SDKs over HTTP",
        """Answer editors and SDKs over HTTP, as OpenAI, llama.cpp, Ollama, Mistral and Tabby do.
        The flags may also be keys of a file, or variables of the environment (docs/serving.md).""",
        ("sc2onnx serve starcoder2-3b --alias code --port 8012",),
    ),
    "route": Command(
        "one address for several servers",
        "Pass requests on to servers, each file's to the one that has its cache.",
        ("sc2onnx route --member http://engine-{0..3}:8012 --port 8012",),
    ),
    "lsp": Command(
        "complete in editors, as a language server",
        """Speak the language server protocol over standard input and output, with a model of its
        own or by asking a server. Editors start it.""",
        (
            "sc2onnx lsp starcoder2-3b",
            "sc2onnx lsp --server http://127.0.0.1:8012",
        ),
    ),
    "attribution": Command(
        "which files a text repeats",
        """Index the files of directories, and check what of a text stands in them: generated code
        that repeats somebody's needs their licence. `generate`, `infill`, `serve` and `lsp` check
        what they complete with `--attribution INDEX`. The exit status of a check is 1 if the text
        repeats something.""",
        (
            "sc2onnx attribution index ~/src/project --output sources.index",
            "sc2onnx attribution check sources.index completion.py",
        ),
    ),
    "adapter": Command(
        "make an adapter loadable at run time, or say what one is",
        """Convert a LoRA adapter that peft has saved, so that generate, infill, batch and serve
        take it beside a bundle (--adapter). To have an adapter in a bundle's weights instead,
        export with it.""",
        (
            "sc2onnx adapter convert peft-adapter sql-adapter",
            "sc2onnx adapter info sql-adapter",
        ),
    ),
    "info": Command(
        "what a bundle is, and the memory it needs",
        """Tell what a bundle was made from and how, whether it is verified, and the memory that
        running it takes.""",
        ("sc2onnx info starcoder2-3b --context 4096",),
    ),
    "warm": Command(
        "make the next start of a quantised bundle fast",
        """Keep a quantised bundle's weights as sc2onnx-kernels read them, in the cache directory,
        so that it starts fast and processes share them.""",
        ("sc2onnx warm starcoder2-3b",),
    ),
    "push": Command(
        "put a bundle on the Hugging Face hub",
        "Check a bundle and put it on the Hugging Face hub, with its model card.",
        ("sc2onnx push starcoder2-3b me/starcoder2-3b-onnx --private",),
    ),
    "doctor": Command(
        "what works on this machine, and what is missing",
        """Look at what sc2onnx needs on this machine, and tell what to install. The exit status is
        1 if bundles cannot run.""",
        ("sc2onnx doctor",),
    ),
    "completion": Command(
        "complete commands and options in a shell",
        "Print a script for a shell, which then completes sc2onnx's commands and options.",
        (
            "sc2onnx completion bash > ~/.local/share/bash-completion/completions/sc2onnx",
            "sc2onnx completion fish > ~/.config/fish/completions/sc2onnx.fish",
        ),
    ),
}
"""Command -> what its help says, in the order in which help lists them."""
