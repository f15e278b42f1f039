"""``hf:gpt2``, ``hf:meta-llama/Llama-3.1-8B``, ``hf:path/config.json``: models of transformers.

Built from a configuration, with random weights. Text is the bytes of `bench.workloads.text`.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from bench.workloads import text
from bench.workloads.base import Batch, Code
from bench.workloads.errors import InputError
from bench.workloads.sources import configurations
from bench.workloads.sources.source import SourceWorkload

PREFIX = "hf:"
MOST_TOKENS = 512
"""Of an example, where nothing is said and the model takes more."""
_TASKS = ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_CLASSIFICATION")
_LABELS = "labels"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFaceWorkload(SourceWorkload):
    """A model of transformers with its own loss on a batch of text or images.

    Attributes:
        batch: Examples per step.
        seq: Tokens per example; ``None`` for images.
        layers: Blocks, of each tower; ``None`` where the configuration has no one number.
        vocab: Rows of the embedding.
        positions: The longest ``seq``.
    """

    of_batch: ClassVar[frozenset[str]] = frozenset({"batch"})  # the library's models know of none

    batch: int = 1
    seq: int | None = None
    layers: int | None = None
    vocab: int | None = None
    positions: int | None = None

    @property
    def configuration(self) -> str:
        """Its name, or the path of its file."""
        return self.name.removeprefix(PREFIX)

    def config(self) -> Any:
        """The library's object, with this workload's sizes."""
        fields: Mapping[str, Any] = configurations.fields_of(self.configuration)
        if self.layers is not None:
            fields = configurations.with_layers(fields, self.layers)
        sizes = {common: getattr(self, name) for name, common in configurations.COMMON.items()}
        del sizes["num_hidden_layers"]
        changes = {name: size for name, size in sizes.items() if size is not None}
        return configurations.make(fields, changes)

    def model_class(self) -> type[nn.Module]:
        """The class that the configuration names, or else the one that trains on its task."""
        fields = configurations.fields_of(self.configuration)
        library, auto = (
            configurations.module(""),
            configurations.module(".models.auto.modeling_auto"),
        )
        tables = [getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES") for task in _TASKS]
        tables.append(auto.MODEL_MAPPING_NAMES)
        kind = fields["model_type"]
        choices = [*(fields.get("architectures") or ()), *(t[kind] for t in tables if kind in t)]
        names = [name for name in choices if isinstance(name, str) and hasattr(library, name)]
        if not names:
            raise InputError(f"{self.name}: transformers has no model of kind {kind!r} to train")
        return getattr(library, names[0])  # type: ignore[no-any-return]

    def make_model(self) -> nn.Module:
        """With random weights."""
        return self.model_class()(self.config())

    def default_batch(self) -> Batch:
        """Tokens or images by the names of the model's arguments; labels, if it takes any.

        Raises:
            InputError: it takes something else.
        """
        kind, config = self.model_class(), self.config()
        labelled = _LABELS in inspect.signature(kind.forward).parameters
        asked = str(getattr(kind, "main_input_name", ""))
        if asked == "input_ids" and self.seq is not None:
            ids = text.tokens(self.batch, self.seq, self.seed)[:, :-1] % (self.vocab or 1)
            batch = {asked: ids.contiguous()}
            return {**batch, _LABELS: ids.clone()} if labelled else batch
        if asked == "pixel_values" and isinstance(getattr(config, "image_size", None), int):
            shape = (self.batch, config.num_channels, config.image_size, config.image_size)
            images = text.floats(shape, self.seed)
            classes = text.labels(self.batch, config.num_labels, self.seed + 1)
            return {asked: images, _LABELS: classes} if labelled else {asked: images}
        raise InputError(
            f"{self.name}: {kind.__name__} takes {asked}, for which there is no batch here: name a"
            " function that makes one with --batch"
        )

    def validate(self) -> None:
        """Raise ``ValueError`` when tokens are more than positions."""
        if self.seq and self.positions and self.seq > self.positions:
            raise ValueError(f"seq {self.seq} is more than the {self.positions} positions")

    def arguments(self) -> Mapping[str, Any]:
        """Sizes, too."""
        sizes = {name: getattr(self, name) for name in ("batch", "seq", *configurations.COMMON)}
        return {**{name: v for name, v in sizes.items() if v is not None}, **super().arguments()}

    def asked(self) -> Mapping[str, Any]:
        """Sizes of the batch that are not the usual ones, where a function makes it."""
        return {**self.unusual(named(self.name), "batch", "seq"), **super().asked()}

    def field_names(self) -> tuple[str, ...]:
        """Those that the configuration has."""
        return tuple(name for name in super().field_names() if getattr(self, name) is not None)

    def code(self) -> Code:
        """The configuration and the library's version decide, too."""
        fields = json.dumps(configurations.fields_of(self.configuration), sort_keys=True)
        version = importlib.metadata.version(configurations.LIBRARY)
        code = super().code()
        return code._replace(facts=f"{code.facts} transformers {version} {fields}")


def named(name: str) -> HuggingFaceWorkload:
    """The workload of a configuration.

    Raises:
        ValueError: there is none, or the library is not installed.
    """
    wanted = name.removeprefix(PREFIX)
    if configurations.is_file(wanted):
        name = f"{PREFIX}{Path(wanted).expanduser().absolute()}"
    fields = configurations.fields_of(name.removeprefix(PREFIX))
    sizes = configurations.sizes_of(name.removeprefix(PREFIX))
    seq = min(MOST_TOKENS, sizes["positions"] or MOST_TOKENS) if sizes["vocab"] else None
    return HuggingFaceWorkload(
        name=name,
        summary=f"{fields['model_type']} of transformers",
        scale="real",
        seq=seq,
        layers=sizes["layers"],
        vocab=sizes["vocab"],
        positions=sizes["positions"],
    )
