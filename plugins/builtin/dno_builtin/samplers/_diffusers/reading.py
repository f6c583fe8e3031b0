"""Reading the small files of a model's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dno.plugin import ConfigError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where the file is missing.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", at="model") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object", at="model")
    return value
