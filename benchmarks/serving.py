"""The server as editors see it: beside the process itself, beside llama-server,
under load, and for an hour.

    python benchmarks/serving.py overhead BUNDLE --threads 2
    python benchmarks/serving.py trace BUNDLE --gguf Q4_0.gguf --llama-server PATH --threads 2
    python benchmarks/serving.py load BUNDLE --editors 32 --minutes 10 --threads 2
    python benchmarks/serving.py soak BUNDLE --minutes 60

``trace`` types 200 keystrokes into two files of 2,000 tokens, pauses between them as people do, and
waits for each completion to its end.
Completions have a fixed number of tokens, all of them the same word, so that they are lines
whatever weights there are. Nothing is drafted, which that would make too easy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import sc2onnx
from editors import soak
from editors.keystrokes import File, Keystroke, keystrokes
from editors.load import load
from editors.servers import Server, Took, body, ours, theirs
from editors.table import milliseconds, ratio
from sc2onnx.errors import Sc2onnxError
from sc2onnx.runtime.text.codec import Codec

SOURCES = Path(__file__).parent.parent / "sc2onnx"
TYPED = (
    "        for place, row in enumerate(self.active):\n            "
    "found.append((place, row.length))\n"
)
LINE = 12
"""Tokens of a line."""


def files(codec: Codec, tokens: int, part: float = 0.5) -> list[File]:
    """Two files of so many tokens, of this project's own code."""
    made = list[File]()
    for folder in ("runtime", "export"):
        code = "\n".join(
            path.read_text(encoding="utf-8") for path in sorted((SOURCES / folder).rglob("*.py"))
        )
        ids = codec.encode(code, special=False)[:tokens]
        text = b"".join(map(codec.token_bytes, ids)).decode("utf-8", errors="ignore")
        made.append(File.opened(f"{folder}.py", text, part))
    return made


def overhead(bundle: Path, threads: int) -> None:
    """The first token after a typed character, the time of a token, and a client that goes."""
    model = sc2onnx.load(bundle, threads=threads, speculate=False)
    file = files(model.codec, 2000)[0]
    with ours(bundle, threads, "--no-speculate", "--no-page") as server:
        _first_tokens(model, server, file)
        _each_token(model, server, file)
        _gone(server, file)


def _local(model: sc2onnx.Model, file: File, tokens: int) -> Took:
    began, times = time.perf_counter(), list[float]()
    options = {"order": "spm", "heal": True, "stop_tokens": (), "max_new_tokens": tokens}
    with model.stream_infill(
        file.before,
        file.after,
        **options,  # type: ignore[arg-type]
    ) as stream:
        times += [time.perf_counter() - began for _ in stream]
        used = stream.usage
    return Took(times[0], times[-1], used.generated, used.reused, used.prompt - used.reused)


def _turns(count: int, asks: Sequence[Callable[[int], Took]]) -> list[list[Took]]:
    """What each takes, in turns, of which another begins each time."""
    found: list[list[Took]] = [[] for _ in asks]
    for number in range(count):
        for place in range(len(asks)):
            which = (number + place) % len(asks)
            found[which].append(asks[which](number))
    return found


def _first_tokens(model: sc2onnx.Model, server: Server, file: File) -> None:
    typed = [file.typed(TYPED[: number + 1]) for number in range(60)]
    server.complete(file, 1), _local(model, file, 1)
    here, there = _turns(
        60, [lambda i: _local(model, typed[i], 1), lambda i: server.complete(typed[i], 1)]
    )
    process, http = [each.first for each in here], [each.first for each in there]
    more = 1e3 * median(b - a for a, b in zip(process, http, strict=True))
    print(
        f"first token after a typed character: {milliseconds(process)} ms in process, "
        f"{milliseconds(http)} over HTTP"
    )
    print(f"  ratio {ratio(http, process)}, {more:.2f} ms a request more")


def _each_token(model: sc2onnx.Model, server: Server, file: File) -> None:
    near = File(file.path, file.before[-400:], file.after[:200])
    here, there = _turns(
        10, [lambda _: _local(model, near, 64), lambda _: server.complete(near, 64)]
    )
    process, http = [
        [(each.last - each.first) / (each.tokens - 1) for each in run] for run in (here, there)
    ]
    more = 1e3 * median(b - a for a, b in zip(process, http, strict=True))
    print(
        f"a token of a stream: {milliseconds(process)} ms in process, {milliseconds(http)} over "
        f"HTTP, {more:.2f} ms more"
    )


def _gone(server: Server, file: File) -> None:
    """How long after a client has gone something is still computed: a prompt, and a completion."""
    for tokens, what in ((1, "its prompt"), (400, "its completion")):
        left = list[float]()
        for number in range(5):
            fresh = File(file.path, f"# {number} {tokens}\n{file.before}", file.after)
            if tokens > 1:
                fresh = File("", f"# {number}\n{file.before[-200:]}", "\n")
            began = soak.asked_and_gone(server.url, body(fresh, tokens), after=1.0)
            while any(slot["is_processing"] for slot in server.client.get("/slots").json()):
                time.sleep(0.001)
            left.append(time.perf_counter() - began)
        print(f"idle after a client went in the middle of {what}: {milliseconds(left)} ms")


@dataclass(frozen=True)
class Peer:
    """llama-server: the program, its file, and how many of the keystrokes it gets: the first ones,
    as each may take it seconds.
    """

    program: Path
    gguf: Path
    count: int


def trace(bundle: Path, threads: int, peer: Peer | None, count: int) -> None:
    """The same keystrokes at several servers, each of which has the machine for itself."""
    codec = sc2onnx.load(bundle, threads=threads).codec
    typed = list(keystrokes(files(codec, 2000, 0.6), TYPED, count, seed=1))
    kinds = [stroke.kind for stroke in typed]
    print(", ".join(f"{kinds.count(kind)} {kind}" for kind in ("type", "delete", "move", "switch")))
    always = codec.encode("value", special=False)[0]
    with ours(bundle, threads, "--no-speculate") as server:
        mine = _typed(server, typed, always, "sc2onnx")
    if peer is None:
        return
    few = typed[: peer.count]
    for options in (["--spm-infill"], []):
        with theirs(peer.program, peer.gguf, threads, *options) as server:
            name = " ".join(["llama-server", *options])
            _beside(mine[: peer.count], _typed(server, few, always, name))


def _typed(server: Server, typed: Sequence[Keystroke], always: int, name: str) -> list[Took]:
    server.complete(typed[0].file, 1)
    found = list[Took]()
    for stroke in typed:
        time.sleep(stroke.pause)
        found.append(server.complete(stroke.file, LINE, always))
    first, last = [each.first for each in found], [each.last for each in found]
    print(
        f"{name}: {len(found)} keystrokes: first token {milliseconds(first)} ms, line of {LINE} "
        f"tokens {milliseconds(last)} ms"
    )
    for kind in ("type", "delete", "move", "switch"):
        those = [each for each, stroke in zip(found, typed, strict=True) if stroke.kind == kind]
        if those:
            computed = sorted(each.computed for each in those)
            told = f"median {median(computed):.0f}, at most {computed[-1]}"
            print(
                f"  {kind}: first token {milliseconds([each.first for each in those])} ms, tokens "
                f"of the prompt computed: {told}"
            )
    sys.stdout.flush()
    return found


def _beside(mine: Sequence[Took], found: Sequence[Took]) -> None:
    first = ratio([each.first for each in mine], [each.first for each in found])
    line = ratio([each.last for each in mine], [each.last for each in found])
    print(f"  sc2onnx takes {first} times as long to the first token, {line} to a line", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("overhead", "trace", "load", "soak"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", type=Path, help="trace: beside llama-server with this file")
    parser.add_argument("--llama-server", type=Path, help="trace: the program")
    parser.add_argument("--keystrokes", type=int, default=200, help="trace (default: 200)")
    parser.add_argument(
        "--theirs", type=int, default=200, help="trace: of these, at llama-server (default: 200)"
    )
    parser.add_argument("--editors", type=int, default=32, help="load (default: 32)")
    parser.add_argument(
        "--tokens", type=int, default=600, help="load: of each editor's file (default: 600)"
    )
    parser.add_argument(
        "--think", type=float, default=30, help="load: seconds between bursts (default: 30)"
    )
    parser.add_argument("--minutes", type=float, default=10, help="load and soak (default: 10)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    args = _parser().parse_args(argv)
    try:
        if args.what == "overhead":
            overhead(args.bundle, args.threads)
        elif args.what == "trace":
            peer = None
            if args.gguf is not None and args.llama_server is not None:
                peer = Peer(args.llama_server, args.gguf, args.theirs)
            trace(args.bundle, args.threads, peer, args.keystrokes)
        elif args.what == "load":
            load(args.bundle, args.threads, args.editors, args.tokens, args.minutes, args.think)
        else:
            return soak.soak(args.bundle, args.threads, args.minutes)
    except Sc2onnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
