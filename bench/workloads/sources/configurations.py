"""Configurations of transformers models: published ones, the library's defaults, a user's file.

Nothing is downloaded. ``configurations.json`` holds what decides a model's shape, with its source
and the published number of parameters, which a test counts.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARY = "transformers"
_IGNORED = ("dtype", "torch_dtype", "_name_or_path", "transformers_version", "use_cache")
"""Numbers' format is the cell's, and caches are of no use in training."""
COMMON = {
    "layers": "num_hidden_layers",
    "vocab": "vocab_size",
    "positions": "max_position_embeddings",
}
"""The library's common names of sizes."""
_SIDES = ("num_hidden_layers", "decoder_layers", "num_decoder_layers")
"""Of an encoder and of a decoder beside it, under whatever name a kind of model has for it."""


@functools.cache
def published() -> dict[str, dict[str, Any]]:
    """Source, parameter count, sizes and configuration of each shipped model, by name."""
    text = Path(__file__).with_suffix(".json").read_text()
    return json.loads(text)  # type: ignore[no-any-return]


def is_file(name: str) -> bool:
    """Whether a name is that of a user's configuration file."""
    return name.endswith(".json")


def fields_of(name: str) -> dict[str, Any]:
    """A configuration's fields.

    Args:
        name: of a published model, of a kind of model (its defaults), or the path of a file.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if is_file(name):
        fields = _read(Path(name))
    elif name in published():
        fields = published()[name]["config"]
    elif name in kinds():
        fields = {"model_type": name}
    else:
        raise ValueError(_unknown(name))
    return {key: value for key, value in fields.items() if key not in _IGNORED}


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise ValueError(f"{path}:{line}: this is no JSON: {error}") from error
    if not isinstance(fields, dict) or fields.get("model_type") not in kinds():
        raise ValueError(f"{path}:1: a configuration names a model_type that {LIBRARY} has")
    return fields


def _unknown(name: str) -> str:
    names = [*published(), *kinds()]
    close = difflib.get_close_matches(name, names, n=1) or [
        one for one in published() if one.rpartition("/")[2].lower() == name.lower()
    ]
    hint = f" Did you mean hf:{close[0]}?" if close else ""
    return (
        f"no configuration of {name!r} is shipped.{hint} There are those of `list models`, the"
        f" kinds of {LIBRARY} with its defaults (hf:llama), and files (hf:path/config.json)"
    )


def module(name: str) -> Any:
    """A module of the library, whose parts take seconds to import.

    Raises:
        ValueError: it is not installed.
    """
    check_installed()
    return importlib.import_module(f"{LIBRARY}{name}")


def check_installed() -> None:
    """Look for the library, and import nothing.

    Raises:
        ValueError: it is not installed.
    """
    if importlib.util.find_spec(LIBRARY) is None:
        raise ValueError(
            f"hf: models need {LIBRARY}, which is not installed: pip install {LIBRARY}"
        )


@functools.cache
def kinds() -> Mapping[str, str]:
    """Every kind of model that the library has, and its configuration's class."""
    names: Mapping[str, str] = module(".models.auto.configuration_auto").CONFIG_MAPPING_NAMES
    return names


def make(fields: Mapping[str, Any], changes: Mapping[str, int] | None = None) -> Any:
    """The library's object for a configuration.

    Args:
        fields: see `fields_of`.
        changes: sizes by the library's common names, such as ``num_hidden_layers``.

    Raises:
        ValueError: the library refuses it.
    """
    kind = getattr(module(""), kinds()[fields["model_type"]])
    names = {name: kind.attribute_map.get(name, name) for name in changes or {}}
    fields = {**fields, **{names[name]: size for name, size in (changes or {}).items()}}
    try:
        config = kind.from_dict(dict(fields))
    except Exception as error:
        text = str(error).split("\n", maxsplit=1)[0]
        raise ValueError(f"{LIBRARY} refuses the configuration: {text}") from error
    if getattr(config, "use_cache", None):
        config.use_cache = False
    return config


def sizes_of(name: str) -> dict[str, int | None]:
    """Layers, vocabulary and positions; ``None`` where a configuration has no one number.

    Of a shipped model without the library, whose import takes a second.

    Args:
        name: see `fields_of`.

    Raises:
        ValueError: there is no such configuration, or the library is not installed.
    """
    if name in published():
        check_installed()
        return dict(published()[name]["sizes"])
    return sizes(make(fields_of(name)))


def sizes(config: Any) -> dict[str, int | None]:
    """Of the library's object, by `COMMON`."""
    known = {name: getattr(config, common, None) for name, common in COMMON.items()}
    return {n: size if isinstance(size, int) and size > 0 else None for n, size in known.items()}


def with_layers(fields: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """A configuration of so many layers, of a decoder beside an encoder too; lists follow."""
    config = make(fields)
    before = config.num_hidden_layers
    names = {config.attribute_map.get(name, name) for name in _SIDES}
    changed = {name: layers for name in names if getattr(config, name, None) is not None}
    lists = {key: v for key, v in fields.items() if isinstance(v, list) and len(v) == before}
    cut = {key: [v[index % before] for index in range(layers)] for key, v in lists.items()}
    return {**fields, **changed, **cut}
