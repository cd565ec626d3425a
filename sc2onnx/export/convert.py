"""An adapter of peft -> one that is taken at run time, by any bundle of its model.

Only products of low rank in the layers are taken at run time. What else an adapter may change, such
as embeddings, is merged at export or not at all, so it is refused by name here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from math import gcd
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sc2onnx import __version__
from sc2onnx.bundle.adapter_facts import MOST_RANK, AdapterFacts
from sc2onnx.bundle.adapters import FACTS_FILE, MATRICES_FILE, MODULES, matrix_name
from sc2onnx.errors import TensorError, UnsupportedModelError
from sc2onnx.export import hub
from sc2onnx.export.adapter_writer import write_adapter
from sc2onnx.export.adapters.change import Change, LowRank, whole
from sc2onnx.export.adapters.noticed import ADAPTER_CONFIG
from sc2onnx.export.adapters.opened import WEIGHTS, Adapter
from sc2onnx.export.config import MODEL_TYPE, Starcoder2Config
from sc2onnx.export.onnx_adapter import onnx_adapter
from sc2onnx.export.shown import name_of
from sc2onnx.export.stored import StoredTensor, is_file, read_header, read_json

_MATRIX: Final = re.compile(
    r".*\blayers\.(?P<layer>\d{1,3})\.(?P<module>(?:self_attn|mlp)\.\w+)\.lora_(?P<which>[AB])"
    r"(?:\.(?!bias$)\w+)?(?:\.weight)?"
)
_MODULES: Final = tuple(module for modules in MODULES.values() for module in modules)
_MERGE: Final = "merge it at export (sc2onnx export BASE OUT --adapter DIR)"


def convert_adapter(
    adapter: str | Path, out: str | Path, *, half: bool = False, overwrite: bool = False
) -> AdapterFacts:
    """Write the directory ``out`` from an adapter that peft has saved (directory or hub id), and
    return what it says of itself.

    LoRA and rsLoRA of any modules of the layers are converted, their scale multiplied in. ``half``:
    in half precision, half as large, as graphs of half precision of other runtimes take it. Raises
    :class:`~sc2onnx.errors.CheckpointError` and its subclasses for what cannot be taken at run
    time, by name, and :class:`~sc2onnx.errors.OutputError`; ``out`` is then as it was before.
    """
    tensors = _tensors(adapter)
    _check_kinds(adapter, tensors)
    opened = Adapter.open(adapter, 1.0, _model_of(tensors))
    matrices = dict(_matrices(opened.changes))
    kind = np.dtype(np.float16 if half else np.float32)
    data = onnx_adapter({name: _rounded(name, each, kind) for name, each in matrices.items()})
    settings = read_json(opened.directory / ADAPTER_CONFIG) or {}
    facts = AdapterFacts(
        rank=max(min(matrix.shape) for matrix in matrices.values()),
        element=kind.name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        kind=opened.record.kind,
        source=opened.record.source,
        base=str(settings.get("base_model_name_or_path") or "")[:256],
        exporter=f"sc2onnx {__version__}",
    )
    files = {MATRICES_FILE: data, FACTS_FILE: facts.to_json().encode()}
    write_adapter(Path(out), files, overwrite=overwrite)
    return facts


def _tensors(adapter: str | Path) -> list[StoredTensor]:
    """Those of an adapter, as they are stored; none where it lacks them, which others tell of."""
    path = Path(adapter)
    place = path.parent if path.name == WEIGHTS else adapter
    file = hub.resolve(place, patterns=(ADAPTER_CONFIG, WEIGHTS)).directory / WEIGHTS
    return list(read_header(file)) if is_file(file) else []


def _check_kinds(adapter: str | Path, tensors: Iterable[StoredTensor]) -> None:
    """Raise :class:`UnsupportedModelError` for tensors that are no products of low rank."""
    for tensor in tensors:
        found = _MATRIX.fullmatch(tensor.name)
        if found is None or found["module"] not in _MODULES:
            raise UnsupportedModelError(
                f"adapter {name_of(str(adapter))} has {name_of(tensor.name)}, expected matrices "
                f"lora_A and lora_B of {', '.join(_MODULES)} alone, which are what is taken at run "
                f"time: {_MERGE}"
            )


def _model_of(tensors: Iterable[StoredTensor]) -> Starcoder2Config:
    """A model that an adapter with these matrices fits: of its sizes, those that matrices tell are
    right. When it is loaded, all of them are compared with the bundle's.
    """
    sizes, layers = dict[tuple[str, str], int](), 1
    for tensor in tensors:
        found = _MATRIX.fullmatch(tensor.name)
        if found is not None and len(tensor.shape) == 2:
            layers = max(layers, int(found["layer"]) + 1)
            which = found["which"]
            sizes[found["module"], which] = tensor.shape[1 if which == "A" else 0]
    ends = [("self_attn.q_proj", "B"), ("self_attn.o_proj", "A"), ("self_attn.o_proj", "B")]
    ends += [(module, "A") for module in ("self_attn.q_proj", "self_attn.k_proj")]
    ends += [("self_attn.v_proj", "A"), ("mlp.c_fc", "A"), ("mlp.c_proj", "B")]
    hidden = _first(sizes, ends, 64)
    keys = _first(sizes, [("self_attn.k_proj", "B"), ("self_attn.v_proj", "B")], hidden)
    head = gcd(hidden, keys)
    raw = {
        "model_type": MODEL_TYPE,
        "vocab_size": 49152,
        "hidden_size": hidden,
        "intermediate_size": _first(sizes, [("mlp.c_fc", "B"), ("mlp.c_proj", "A")], hidden),
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // head,
        "num_key_value_heads": keys // head,
    }
    return Starcoder2Config.from_dict(raw)


def _first(
    sizes: Mapping[tuple[str, str], int], ends: Iterable[tuple[str, str]], usual: int
) -> int:
    return next((sizes[end] for end in ends if end in sizes), usual)


def _matrices(changes: Mapping[str, Change]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """``A`` (inputs, rank) and ``B`` (rank, outputs) by their names, the scale in ``B``."""
    for name, change in changes.items():
        _, _, layer, module = name.removesuffix(".weight").split(".", maxsplit=3)
        assert isinstance(change, LowRank)
        if change.magnitude is not None:
            raise UnsupportedModelError(f"DoRA of {name} is not taken at run time: {_MERGE}")
        left, right = whole(change.left), whole(change.right)
        if len(right) > MOST_RANK:
            found = f"{name} has an adapter of rank {len(right)}, expected at most {MOST_RANK}"
            raise UnsupportedModelError(f"{found}: {_MERGE}")
        yield matrix_name(int(layer), module, "A"), np.ascontiguousarray(right.T)
        scaled = left.T * np.float32(change.scale)
        yield matrix_name(int(layer), module, "B"), np.ascontiguousarray(scaled)


def _rounded(name: str, matrix: npt.NDArray[Any], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        rounded = matrix.astype(kind)
    if not np.isfinite(rounded).all():
        raise TensorError(f"{name} has numbers beyond the range of {kind}: convert without --half")
    return rounded
