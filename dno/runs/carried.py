"""The configuration that a picture carries, read back; whoever made the picture is not trusted."""

from __future__ import annotations

import io
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dno.errors import ConfigError
from dno.files import read_file
from dno.paths import user_path
from dno.runs.config_files import check_size
from dno.runs.making import FORMAT, KEYWORD, LARGEST, PARAMETERS
from dno.runs.portable import portable
from dno.wording import named, reason, said, short

LARGEST_PICTURE: Final = 256 * 2**20
"""Bytes of a picture."""
_MOST_LOCAL: Final = 100


@dataclass(frozen=True)
class Carried:
    """What a picture tells of its making."""

    source: str
    """The picture, as messages call it."""
    values: dict[str, Any]
    """A configuration's fields: none of who looks on, no path, no address."""
    local: Mapping[str, str]
    """What options were called, by dotted place, that have to be named anew on this machine."""


def read_carried(picture: str | Path) -> Carried:
    """The configuration in a PNG picture that a run wrote; no pixel is decoded.

    Plugins are those that are installed here; paths and addresses in it are taken out, and so is
    what would look on.

    Raises:
        ConfigError: it is no PNG picture, carries no configuration, or one that cannot be read.
    """
    path = user_path(picture, source="--from")
    source = named(path)
    info = _texts(path, source)
    text = info.get(KEYWORD)
    if not isinstance(text, str):
        hint = ""
        if PARAMETERS in info:
            hint = ", only what another program wrote or left"
        raise ConfigError(
            f"carries no configuration of dno{hint}; take the picture as the run wrote it, or the "
            "run's folder: --config RUN/run.toml",
            source=source,
        )
    if len(text.encode(errors="replace")) > LARGEST:
        raise ConfigError(
            f"carries a configuration larger than {LARGEST // 2**20} MB, which no run wrote",
            source=source,
        )
    return _carried(text, source)


def _texts(path: Path, source: str) -> Mapping[Any, Any]:
    """The texts before a picture's pixels, by keyword."""
    # Importing it takes a while.
    from PIL import Image, UnidentifiedImageError

    try:
        data = read_file(path, limit=LARGEST_PICTURE)
    except FileNotFoundError:
        raise ConfigError("there is no such file", source=source) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {reason(error)}", source=source) from None

    try:
        # Of a size that Pillow warns of, nothing is decoded.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=["PNG"]) as opened,
        ):
            return dict(opened.info)
    except UnidentifiedImageError:
        raise ConfigError(
            "is no PNG picture, or a damaged one; what runs are made of is in their best.png, and "
            "a configuration goes to --config",
            source=source,
        ) from None
    # What it raises of a hostile file is of many kinds.
    except Exception as error:
        raise ConfigError(f"is damaged: {said(error)}", source=source) from None


def _carried(text: str, source: str) -> Carried:
    try:
        content = tomllib.loads(text)
        check_size(content)
    except RecursionError:
        raise _damaged(source, "its values are nested too deeply") from None
    except ValueError as error:
        raise _damaged(source, said(error)) from None

    if content.get("format") != FORMAT:
        raise ConfigError(
            f"carries a configuration of format {short(content.get('format'), 40)}, this dno reads "
            f"{FORMAT}; use the dno that wrote it",
            source=source,
        )
    values = content.get("run")
    local = content.get("local", {})
    if not isinstance(values, dict) or not _is_local(local):
        raise _damaged(source, "it has no tables `run` and `local` as runs write them")

    own = portable(values)
    return Carried(source, own.values, {**local, **own.local})


def _is_local(local: object) -> bool:
    if not isinstance(local, dict) or len(local) > _MOST_LOCAL:
        return False
    return all(isinstance(value, str) for value in local.values())


def _damaged(source: str, why: str) -> ConfigError:
    return ConfigError(f"carries a configuration that cannot be read: {why}", source=source)
