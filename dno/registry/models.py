"""Where a model's weights are: a folder, an installed model's name, or a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from dno.errors import ConfigError
from dno.paths import user_path
from dno.registry.registry import MODELS

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_model(model: str) -> str:
    """What to hand to `from_pretrained` for a model that a user named.

    Args:
        model: an installed model's name (see `dno plugins list`), a folder, or a hub id
            `owner/name`.

    Raises:
        ConfigError: it is none of these.
    """
    installed = sorted(info.name for info in MODELS.infos())
    if model in installed or ":" in model.removeprefix(Path(model).drive):
        return str(MODELS.load(model)().folder())
    folder = user_path(model)
    if folder.is_dir():
        return str(folder)
    if folder.exists():
        raise ConfigError(f'"{model}" is a file; name the folder that holds the model')
    if _HUB_ID.fullmatch(model) and not model.startswith("."):
        return model
    raise ConfigError(
        f'there is no model "{model}": no such folder, and not an installed model '
        f"({', '.join(installed) or 'there are none'}) or a hub id (owner/name)"
    )
