"""Configurations from files: TOML, JSON or YAML, in whatever way an editor saved the text."""

from __future__ import annotations

import codecs
import importlib
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from dno.errors import ConfigError
from dno.files import read_file
from dno.wording import named, reason, said, short

LARGEST: Final = 10 * 2**20
"""Bytes of a configuration; ten thousand prompts are less than one million."""
_DEEPEST: Final = 32
_MOST_VALUES: Final = 200_000

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_values(path: Path) -> dict[str, Any]:
    """The values of a configuration file, of the kind that its name ends in; others are TOML.

    Raises:
        ConfigError: the file is missing, unreadable, too large or too deep, or not of its kind.
    """
    source = named(path)
    try:
        data = read_file(path, limit=LARGEST)
    except FileNotFoundError:
        raise ConfigError("there is no such file", source=source) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {reason(error)}", source=source) from None

    kind, parse = _KINDS.get(path.suffix.lower(), ("TOML", _from_toml))
    try:
        values = parse(_text(data))
    except ConfigError as error:
        raise error.inside("", source) from None
    except RecursionError:
        raise ConfigError(
            f"is not valid {kind}: its values are nested too deeply", source=source
        ) from None
    # A number of too many digits is no error of the format's own.
    except ValueError as error:
        raise ConfigError(f"is not valid {kind}: {said(error)}", source=source) from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"should hold a table of options, such as prompts and rewards; got {short(values)}",
            source=source,
        )
    try:
        check_size(values)
    except ValueError as error:
        raise ConfigError(str(error), source=source) from None
    return values


def _text(data: bytes) -> str:
    """Text as editors save it: UTF-8, or UTF-16 where a mark at its beginning says so."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"cannot be read: it is no text in UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None


def _from_toml(text: str) -> Any:
    return tomllib.loads(text)


def _from_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{short(twice, 60)} is there twice")
    return table


def _from_yaml(text: str) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise ConfigError("YAML needs the package PyYAML; try: pip install PyYAML") from None

    try:
        # It makes plain values alone, whatever the file asks for.
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _refuse_doubles(root)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(said(error)) from None


def _refuse_doubles(root: Any) -> None:
    """Raise `ValueError` for a table that has a key twice: YAML itself takes the last."""
    seen: set[int] = set()
    open_nodes = [root]
    while open_nodes:
        node = open_nodes.pop()
        # An alias leads to a node that was seen, or to one that it is in.
        if id(node) in seen:
            continue
        seen.add(id(node))
        if not isinstance(node.value, list):
            continue
        pairs = [pair for pair in node.value if isinstance(pair, tuple)]
        keys = [key.value for key, _ in pairs if isinstance(key.value, str)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"{short(twice, 60)} is there twice")
        open_nodes.extend(value for _, value in pairs)
        open_nodes.extend(one for one in node.value if not isinstance(one, tuple))


_KINDS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    ".json": ("JSON", _from_json),
    ".yaml": ("YAML", _from_yaml),
    ".yml": ("YAML", _from_yaml),
}


def check_size(values: dict[str, Any]) -> None:
    """Raise `ValueError` for values that are nested too deeply, or are too many, or have a key
    that is no text.

    In YAML a few lines can stand for more values than memory holds, or for one that holds itself.
    """
    count = 0
    open_ones: list[tuple[Any, int]] = [(values, 0)]
    while open_ones:
        value, depth = open_ones.pop()
        count += 1
        if depth > _DEEPEST:
            raise ValueError(f"its values are nested more than {_DEEPEST} deep")
        if count > _MOST_VALUES:
            raise ValueError(f"it stands for more than {_MOST_VALUES:,} values")
        inner: Any = ()
        if isinstance(value, dict):
            inner = value.values()
            odd = [key for key in value if not isinstance(key, str)]
            if odd:
                raise ValueError(f"keys should be text, got {short(odd[0], 60)}")
        elif isinstance(value, (list, tuple, set)):
            inner = value
        open_ones.extend((one, depth + 1) for one in inner)
