"""The tensors of an adapter, each accounted for: what changes which tensor of the model.

peft leaves out in silence what it has no place for, and begins anew what is missing. Here both are
errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sc2onnx.errors import TensorError
from sc2onnx.export.adapters.change import AddedBias, Change, LowRank, TokenRows
from sc2onnx.export.adapters.settings import LoraSettings
from sc2onnx.export.adapters.targets import EMBEDDING, HEAD, Targets
from sc2onnx.export.config import Starcoder2Config
from sc2onnx.export.names import own_name
from sc2onnx.export.shown import brief, name_of
from sc2onnx.export.stored import StoredTensor
from sc2onnx.export.tying import equal
from sc2onnx.export.weights import checkpoint_shapes, some_tensors

Shape = tuple[int, ...]
Parts = dict[str, StoredTensor]

_NAME: Final = re.compile(
    r"(?P<module>[\w.]+?)\.(?:"
    r"(?P<part>lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)(?:\.(?!weight$|bias$)\w+)?"
    r"(?P<kind>\.weight|\.bias)?"
    r"|token_adapter\.(?P<tokens>trainable_tokens_delta)(?:\.\w+)?"
    r"|(?:(?P<old>original_module\.)|base_layer\.|modules_to_save\.(?:(?!weight$|bias$)\w+\.)?)?"
    r"(?P<own>weight|bias))"
)
"""``MODULE.lora_A.weight``, with the adapter's name in it where a state was saved raw, or what
takes the place of the module's own tensor."""

_TOKENS: Final = "trainable_tokens_delta"


@dataclass(slots=True)
class Contents:
    """What an adapter's tensors are, once each was found to have a place.

    ``whose`` names the adapter in errors. ``replaced``: tensor of the model -> what takes its
    place. ``apart``: which of embedding and head become modules of their own.
    """

    whose: str
    settings: LoraSettings
    targets: Targets
    shapes: Mapping[str, Shape]
    low_rank: dict[str, Parts] = field(default_factory=dict)
    tokens: Parts = field(default_factory=dict)
    replaced: Parts = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        whose: str,
        settings: LoraSettings,
        tensors: Iterable[StoredTensor],
        config: Starcoder2Config,
    ) -> Contents:
        """Sort the tensors of an adapter of the model that ``config`` describes.

        Raises :class:`TensorError` for tensors that are left over, missing, or of another shape,
        and :class:`~sc2onnx.errors.UnsupportedModelError`.
        """
        shapes = checkpoint_shapes(config)
        shapes.setdefault(f"{HEAD}.weight", shapes[f"{EMBEDDING}.weight"])
        modules = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) > 1]
        norms = [name.removesuffix(".weight") for name in shapes if name.endswith("norm.weight")]
        targets = Targets.of(settings, modules, norms, tied=config.tie_word_embeddings)
        contents = cls(whose, settings, targets, shapes)
        contents._sort(tensors)
        contents._check_complete()
        contents._check_shapes()
        return contents

    @property
    def apart(self) -> frozenset[str]:
        """Tensors of the pair of embedding and head that peft gives a module of their own."""
        own = {*self.low_rank, *(self.targets.saved & {EMBEDDING, HEAD})}
        own |= {HEAD} & self.tokens.keys()
        return frozenset(f"{name}.weight" for name in own & {EMBEDDING, HEAD})

    @property
    def whole(self) -> list[str]:
        """Tensors of the model, or rows of them, that the adapter puts others in the place of."""
        return [*self.replaced, *(f"{name}.weight" for name in self.tokens)]

    def changes(self, weight: float) -> dict[str, Change]:
        """Tensor of the model -> what is done to it; ``weight`` multiplies products."""
        made: dict[str, Change] = {
            f"{name}.weight": TokenRows(self.targets.tokens[name], tensor)
            for name, tensor in self.tokens.items()
            if self.targets.tokens[name]
        }
        for name, parts in self.low_rank.items():
            scale = weight * self.targets.scales[name]
            left, right = self._pair(name)
            magnitude = parts.get("lora_magnitude_vector")
            made[f"{name}.weight"] = LowRank(
                parts[left], parts[right], scale, name == EMBEDDING, magnitude
            )
            if bias := parts.get("lora_B.bias"):
                made[f"{name}.bias"] = AddedBias(bias, scale)
        return made

    def _sort(self, tensors: Iterable[StoredTensor]) -> None:
        """Put each tensor where it belongs. Raises :class:`TensorError` for what has no place."""
        extra = []
        for tensor in tensors:
            found = _NAME.fullmatch(own_name(tensor.name))
            if found is None or not self._placed(found, tensor):
                extra.append(tensor.name)
        if extra:
            raise TensorError(
                f"{self.whose} has {some_tensors(extra)}, for which this model and its "
                "adapter_config.json have no place: it is of another model or kind, or "
                "adapter_config.json is of another adapter"
            )

    def _placed(self, found: re.Match[str], tensor: StoredTensor) -> bool:
        """Whether a tensor has a place, where it is then. Raises :class:`TensorError` for two."""
        module = found["module"]
        if found["tokens"]:
            here, key, fits = self.tokens, module, module in self.targets.tokens
        elif found["old"]:
            return module in self.targets.saved  # what was there before, which nothing reads
        elif found["own"]:
            key = f"{module}.{found['own']}"
            here, fits = self.replaced, key in self.shapes
        else:
            key = found["part"] + (found["kind"] if found["kind"] == ".bias" else "")
            fits = module in self.targets.ranks and key in self._wanted(module)
            here = self.low_rank.setdefault(module, {}) if fits else {}
        if not fits:
            return False
        if key in here and not equal(here[key], tensor):  # some are saved under two names
            raise TensorError(
                f"{self.whose} has {some_tensors([here[key].name, tensor.name])} for one thing, "
                "which differ, expected one: save the adapter again with peft"
            )
        here[key] = tensor
        return True

    def _pair(self, module: str) -> tuple[str, str]:
        """Names of the two matrices: the first has the module's rows."""
        if module == EMBEDDING:
            return "lora_embedding_A", "lora_embedding_B"
        return "lora_B", "lora_A"

    def _wanted(self, module: str) -> dict[str, Shape]:
        """Part -> shape, of the product of low rank at a module."""
        rank, (rows, columns) = self.targets.ranks[module], self._shape(f"{module}.weight")
        left, right = self._pair(module)
        shapes: dict[str, Shape] = {left: (rows, rank), right: (rank, columns)}
        if module == EMBEDDING:
            shapes = {name: shape[::-1] for name, shape in shapes.items()}
        if self.settings.use_dora:
            shapes["lora_magnitude_vector"] = (columns if module == EMBEDDING else rows,)
        if self.settings.lora_bias:
            shapes["lora_B.bias"] = (rows,)
        return shapes

    def _shape(self, name: str) -> Shape:
        """Shape of a tensor of the model, of the pair as the adapter saved it: it may have rows for
        new tokens.
        """
        pair = (f"{EMBEDDING}.weight", f"{HEAD}.weight")
        saved = [self.replaced[other] for other in (name, *pair) if other in self.replaced]
        if name in pair and saved and saved[0].shape[1:] == self.shapes[name][1:]:
            return saved[0].shape
        return self.shapes[name]

    def _check_complete(self) -> None:
        """Raise :class:`TensorError` unless everything is there that the settings name."""
        missing = [
            f"{module}.{part}"
            for module in self.targets.ranks
            for part in self._wanted(module)
            if part not in self.low_rank.get(module, {})
        ]
        missing += [
            name
            for module in sorted(self.targets.saved)
            for name in (f"{module}.weight", f"{module}.bias")
            if name in self.shapes and name not in self.replaced
        ]
        missing += [f"{name}.{_TOKENS}" for name in self.targets.tokens if name not in self.tokens]
        if missing:
            raise TensorError(
                f"{self.whose} lacks {some_tensors(missing)}, expected by its adapter_config.json: "
                "save it again whole (parts of DeepSpeed's or FSDP's are to be gathered first)"
            )

    def _check_shapes(self) -> None:
        """Raise :class:`TensorError` for shapes that do not fit the model, or the rank."""
        for module, parts in self.low_rank.items():
            for part, shape in self._wanted(module).items():
                self._check(parts[part], shape, f"rank {self.targets.ranks[module]}")
        for name, tensor in self.replaced.items():
            self._check(tensor, self._shape(name), "its base")
        for module, tensor in self.tokens.items():
            rows, columns = self._shape(f"{module}.weight")
            ids = self.targets.tokens[module]
            self._check(tensor, (len(ids), columns), f"{len(ids)} tokens")
            if beyond := [number for number in ids if number >= rows]:
                raise TensorError(
                    f"{self.whose}: trainable_token_indices has {brief(beyond[0])}, expected ids "
                    f"below {rows}, the rows of the embedding: it is an adapter of another model"
                )

    def _check(self, tensor: StoredTensor, shape: Shape, by: str) -> None:
        if tensor.shape != shape:
            raise TensorError(
                f"{self.whose}: tensor {name_of(tensor.name)} has shape {brief(tensor.shape)}, "
                f"expected {shape} by {by}: give the model that it was trained on as the base"
            )
