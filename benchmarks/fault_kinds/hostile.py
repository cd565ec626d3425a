"""Files that somebody wrote to do harm: an error of ours or a result, never another exception, a
hang, a crash or a flood of memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fault_kinds.damage import expect_refused_or_done, expect_refused_or_same
from fault_kinds.material import Material, ask, runnable
from sc2onnx.errors import Sc2onnxError

_RAW = [
    "1e400",
    "-1e400",
    "NaN",
    "9" * 5000,
    "[" * 5000,
    '{"a":' * 3000,
    '"\\ud800"',
    "-0",
    "1e308",
    '"' + "x" * 100_000 + '"',
]
"""JSON that Python values do not give."""


def _value(rng: Random) -> Any:
    return rng.choice(
        [
            None, True, False, 0, -1, 1, 2, 2**31, 2**31 - 1, 2**63, -(2**63), 10**30, 0.5, -1.5,
            1e308, "", "x", "é\x1b[31m", "../../etc/passwd",
            "/dev/zero", [], {}, [[]], {"a": 1}, [1, 2, 3], "1", [0] * 1000, ["x"],
            [None], rng.randrange(2**16),
        ]
    )  # fmt: skip


def mutate(rng: Random, value: Any) -> bytes:
    """JSON like ``value``, with 1 to 3 places changed."""
    holes: dict[str, str] = {}
    for _ in range(rng.randint(1, 3)):
        container, key = _place(rng, value)
        if container is None:
            continue
        how = rng.choice(["value", "value", "value", "remove", "raw", "name", "near", "twice"])
        if how == "remove":
            del container[key]
        elif how == "raw":
            holes[f"hole-{len(holes)}"] = rng.choice(_RAW)
            container[key] = f"hole-{len(holes) - 1}"
        elif how in ("name", "twice") and isinstance(container, dict):
            new = rng.choice(["", "x" * 5000, "../x", "\x1b[2J", "__class__", key.upper()])
            holes[f"hole-{len(holes)}"] = json.dumps(container[key]) + (
                f", {json.dumps(key)}: 1" if how == "twice" else ""
            )
            container[key if how == "twice" else new] = f"hole-{len(holes) - 1}"
        elif how == "near" and isinstance(container[key], int):
            container[key] = container[key] + rng.choice([-1, 1, -container[key], container[key]])
        else:
            container[key] = _value(rng)
    text = json.dumps(value)
    for name, raw in holes.items():
        text = text.replace(json.dumps(name), raw)
    return text.encode()


def _place(rng: Random, value: Any) -> tuple[Any, Any]:
    """Some container and a key in it; every depth has its chance."""
    container, key = None, None
    while isinstance(value, (dict, list)) and value:
        container, key = (
            value,
            rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value)),
        )
        value = container[key]
        if rng.random() < 0.35:
            break
    return container, key


def manifest(rng: Random, material: Material, scratch: Path) -> str:
    """A bundle's manifest. Where it loads, the answer is the whole bundle's."""
    form = rng.choice(runnable(material))
    copy = material.copy(form, scratch / "bundle")
    path = copy / "sc2onnx.json"
    path.write_bytes(mutate(rng, json.loads(path.read_bytes())))
    return f"{form}: {_seen(material, form, copy)}"


def _seen(material: Material, form: str, copy: Path) -> str:
    """Also what only looks at it: ``info``."""
    from sc2onnx.runtime.description import described
    from sc2onnx.runtime.memory_need import memory_need
    from sc2onnx.runtime.opening.bundle import Bundle

    try:
        found = Bundle.open(copy, "size", others=True).manifest
        described(found, memory_need(found))
    except Sc2onnxError:
        pass
    return expect_refused_or_same(material, form, copy, "full")


def checkpoint(rng: Random, material: Material, scratch: Path) -> str:
    """Configurations, an index, a tokenizer or the header of the weights."""
    copy = Path(shutil.copytree(material.checkpoint, scratch / "checkpoint"))
    kinds: dict[str, Callable[[Random, Path], None]] = {
        "header": _header,
        "index": _index,
        "link": _link,
    }
    files = [path.name for path in copy.glob("*.json")]
    what = rng.choice([*files, "config.json", *kinds])
    if what in kinds:
        kinds[what](rng, copy)
    else:
        path = copy / what
        path.write_bytes(mutate(rng, json.loads(path.read_bytes())))
    return f"{what}: {expect_refused_or_done(rng, copy, scratch / 'bundle')}"


def _weights(copy: Path) -> Path:
    return min(copy.glob("*.safetensors"))


def _header(rng: Random, copy: Path) -> None:
    path = _weights(copy)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = mutate(rng, json.loads(data[8 : 8 + length]))
    size = rng.choice(
        [
            len(header),
            len(header),
            len(header),
            0,
            2**63,
            2**64 - 1,
            len(data) * 2,
            rng.randrange(len(header) + 1),
        ]
    )
    path.write_bytes(struct.pack("<Q", size) + header + data[8 + length :])


def _index(rng: Random, copy: Path) -> None:
    path = _weights(copy)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    names = [name for name in json.loads(data[8 : 8 + length]) if name != "__metadata__"]
    index = {
        "metadata": {"total_size": len(data)},
        "weight_map": dict.fromkeys(names, "shard.safetensors"),
    }
    path.rename(copy / "shard.safetensors")
    (copy / "model.safetensors.index.json").write_bytes(mutate(rng, index))


def _link(rng: Random, copy: Path) -> None:
    path = rng.choice(sorted(copy.iterdir()))
    path.unlink()
    path.symlink_to(
        rng.choice(
            [
                "/dev/zero",
                "/etc/hostname",
                path.name,
                "..",
                "/proc/self/mem",
                "absent",
                str(Path(os.devnull)),
            ]
        )
    )


def tokenizer(rng: Random, material: Material, scratch: Path) -> str:
    """A bundle's tokenizer, whose digest the manifest has."""
    copy = material.copy("fp32", scratch / "bundle")
    path = copy / "tokenizer.json"
    if not path.exists():
        return "this checkpoint has none"
    replace(copy, path.name, mutate(rng, json.loads(path.read_bytes())))
    return _outcome(copy)


def graph(rng: Random, material: Material, scratch: Path) -> str:
    """One of a bundle's graphs, that for the kernels too, whose digest the manifest has."""
    form = rng.choice(runnable(material))
    copy = material.copy(form, scratch / "bundle")
    path = rng.choice(sorted(copy.glob("*.onnx")))
    replace(copy, path.name, _graph(rng, path.read_bytes()))
    return f"{form}: {_outcome(copy)}"


def replace(bundle: Path, name: str, data: bytes) -> None:
    """Write a file and say so in the manifest."""
    (bundle / name).write_bytes(data)
    path = bundle / "sc2onnx.json"
    manifest = json.loads(path.read_bytes())
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def _outcome(copy: Path) -> str:
    """Whatever it answers is what its author wants; it ends, and in an error of ours or none."""
    try:
        ask(copy)
    except Sc2onnxError as error:
        return f"refused ({type(error).__name__})"
    return "answered"


def _graph(rng: Random, data: bytes) -> bytes:
    import onnx

    if rng.random() < 0.25:  # bytes of the message itself
        place = rng.randrange(len(data))
        return data[:place] + rng.randbytes(rng.randint(1, 8)) + data[place + rng.randint(0, 8) :]
    model = onnx.load_from_string(data)
    for _ in range(rng.randint(1, 3)):
        _change(rng, model.graph)
    return bytes(model.SerializeToString())


def _change(rng: Random, graph: Any) -> None:
    number = rng.choice([0, -1, 1, 3, 2**31 - 1, 2**40, 2**62, -(2**62)])
    part = rng.choice(
        ["place", "place", "dims", "attribute", "input", "operator", "output", "values", "remove"]
    )
    node = rng.choice(graph.node)
    if part in ("place", "dims") and graph.initializer:
        tensor = rng.choice(graph.initializer)
        if part == "dims" or not tensor.external_data:
            tensor.dims[:] = [*list(tensor.dims)[:-1], number]
        else:
            entry = rng.choice(tensor.external_data)
            entry.value = rng.choice(
                [
                    str(number),
                    "",
                    "x",
                    "1e9",
                    "../../../etc/passwd",
                    "/dev/zero",
                    "model.onnx",
                    "9" * 40,
                ]
            )
    elif part == "attribute" and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i, attribute.f = number, float(number)
    elif part == "operator":
        node.op_type, node.domain = rng.choice(
            [
                ("Identity", ""),
                ("Loop", ""),
                ("NoSuch", "x"),
                (rng.choice(graph.node).op_type, node.domain),
            ]
        )
    elif part == "values":
        shape = rng.choice([*graph.input, *graph.output]).type.tensor_type.shape
        if shape.dim:
            rng.choice(shape.dim).dim_value = abs(number)
    elif part == "output" and node.output:
        node.output[0] = rng.choice([node.input[0] if node.input else "x", "x", ""])
    elif part == "remove":
        graph.node.remove(node)
    elif node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(
            ["", "absent", rng.choice(graph.node).output[0]]
        )
